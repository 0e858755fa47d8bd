"""One face for every SAE: worked by hand, against the formula, and the same whichever way it is asked."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import jaxtyping
import pytest
import torch
from conftest import D_MODEL, D_SAE, K, topk_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sae_analysis.errors import FitError, SAEFormatError
from sae_analysis.sae_interface import (
    AbsTopK,
    Centring,
    ConstantNorm,
    Gated,
    GroupMax,
    JumpReLU,
    LayerNorm,
    MatchingPursuit,
    Origin,
    Pursuit,
    ReLU,
    SparseAutoencoder,
    SparseCode,
    TopK,
    UnifiedSAEInterface,
)

WEIGHTS = {
    "W_enc": torch.tensor([[1.0, 2.0], [0.0, -1.0]]),
    "b_enc": torch.tensor([0.5, -1.0]),
    "W_dec": torch.tensor([[2.0, 0.0], [1.0, 1.0]]),
    "b_dec": torch.tensor([1.0, 2.0]),
}


def by_hand(rule, *, subtract_b_dec=True):
    return UnifiedSAEInterface(SparseAutoencoder(**WEIGHTS, rule=rule, subtract_b_dec=subtract_b_dec))


D_IN, N_FEATURES = 6, 10


def drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


def random_sae(rule, seed=0, **options):
    draw = drawn(seed)
    weights = {
        "W_enc": draw(D_IN, N_FEATURES),
        "b_enc": draw(N_FEATURES),
        "W_dec": draw(N_FEATURES, D_IN),
        "b_dec": draw(D_IN),
    }
    return UnifiedSAEInterface(SparseAutoencoder(**weights, rule=rule, **{"subtract_b_dec": True} | options))


def pursuing(seed=0, **options):
    draw = drawn(seed)
    rows = nn.functional.normalize(draw(N_FEATURES, D_IN), dim=1)
    rule = Pursuit(**{"most": None, "tolerance": 0.3, "stop_on_repeat": True} | options)
    return UnifiedSAEInterface(MatchingPursuit(W_dec=rows, b_dec=draw(D_IN), rule=rule, subtract_b_dec=True))


def vectors(seed=99):
    draw = drawn(seed)
    return lambda: draw(N_FEATURES)


# Every rule, and every way of treating the input; some have a state of their own, so each test makes them anew.
SEPARABLE = {
    "ReLU": lambda: random_sae(ReLU()),
    "JumpReLU, one threshold": lambda: random_sae(JumpReLU(torch.tensor(0.5))),
    "JumpReLU, thresholds": lambda: random_sae(JumpReLU(vectors()().abs())),
    "Gated": lambda: random_sae(Gated(*(vectors(seed)() for seed in (7, 8, 9)))),
    "no subtraction": lambda: random_sae(ReLU(), subtract_b_dec=False),
    "layer norm": lambda: random_sae(ReLU(), input_norm=LayerNorm()),
    "constant norm": lambda: random_sae(JumpReLU(torch.tensor(0.5)), input_norm=ConstantNorm()),
    "skip": lambda: random_sae(ReLU(), W_skip=drawn(3)(D_IN, D_IN)),
    "centred": lambda: random_sae(ReLU()).reread(centred=True),
}
OTHERS = {
    "TopK": lambda: random_sae(TopK(3)),
    "TopK, all": lambda: random_sae(TopK(N_FEATURES)),
    "TopK, by weights": lambda: random_sae(TopK(3, rank_by=vectors()().abs())),
    "AbsTopK": lambda: random_sae(AbsTopK(3)),
    "GroupMax": lambda: random_sae(GroupMax(5)),
    "TopK after layer norm": lambda: random_sae(TopK(3), input_norm=LayerNorm()),
    "matching pursuit": pursuing,
    "foreign": lambda: UnifiedSAEInterface(Plain(drawn(4), lambda acts: acts)),
}
ALL = SEPARABLE | OTHERS


@pytest.fixture
def unchecked_shapes():
    """Outside the tests nothing checks annotations, so the code itself must refuse shapes that do not fit."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# --- worked by hand ------------------------------------------------------------------------------------------------

X = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
# minus b_dec: [2, 2] and [-1, 0]; times W_enc: [2, 2] and [-1, -2]; plus b_enc:
PRE = [[2.5, 1.0], [-0.5, -3.0]]


def test_relu_by_hand():
    out = by_hand(ReLU()).encode(X)
    assert out.pre_activation.tolist() == PRE
    assert out.sparse_features.tolist() == [[2.5, 1.0], [0.0, 0.0]]
    assert out.top_values.tolist() == [[2.5, 1.0], [0.0, 0.0]]
    assert out.top_indices[0].tolist() == [0, 1]


def test_decoding_by_hand():
    sae = by_hand(ReLU())
    assert sae.decode(torch.tensor([[2.5, 1.0], [0.0, 0.0]])).tolist() == [[7.0, 3.0], [1.0, 2.0]]


def test_without_subtraction_by_hand():
    out = by_hand(ReLU(), subtract_b_dec=False).encode(X)
    assert out.pre_activation.tolist() == [[3.5, 1.0], [0.5, -3.0]]


def test_topk_by_hand_keeps_the_pre_activations_of_what_it_silences():
    out = by_hand(TopK(1)).encode(X)
    assert out.sparse_features.tolist() == [[2.5, 0.0], [0.0, 0.0]]
    assert out.pre_activation.tolist() == PRE
    assert out.top_values.tolist() == [[2.5], [0.0]]
    assert out.top_indices.tolist()[0] == [0]


def test_sizes_and_weights_have_the_promised_orientation(sae):
    assert (sae.activation_dim, sae.dict_size, sae.k) == (D_MODEL, D_SAE, K)
    assert sae.encoder_weights.shape == (D_MODEL, D_SAE)
    assert sae.decoder_weights.shape == (D_SAE, D_MODEL)
    assert torch.equal(sae.encoder_weights, topk_weights()["encoder.weight"].T)
    assert torch.equal(sae.decoder_weights, topk_weights()["decoder.weight"].T)


def test_information_for_reports(sae):
    assert sae.get_info() == {
        "format": "dictionary_learning AutoEncoderTopK",
        "reason": "dict_class in config.json",
        "rule": f"TopK(k={K})",
        "dict_size": D_SAE,
        "activation_dim": D_MODEL,
        "output_dim": D_MODEL,
        "is_transcoder": False,
        "k": K,
    }
    assert by_hand(ReLU()).rule_name == "ReLU"
    assert by_hand(ReLU()).k is None


# --- against the formula, and every way against every other -----------------------------------------------------


def test_topk_follows_the_formula(sae):
    weights = topk_weights()
    x = torch.randn(200, D_MODEL)
    pre = (x - weights["b_dec"]) @ weights["encoder.weight"].T + weights["encoder.bias"]
    threshold = pre.sort(dim=-1, descending=True).values[:, K - 1 : K]
    expected = torch.where(pre >= threshold, pre.relu(), 0.0)
    out = sae.encode(x)
    torch.testing.assert_close(out.pre_activation, pre)
    torch.testing.assert_close(out.sparse_features, expected)
    torch.testing.assert_close(out.top_values, pre.topk(K).values.relu())


inputs = st.integers(0, 10_000).map(lambda seed: 2 * drawn(seed)(5, D_IN))


def dense(code, tokens=5):
    full = torch.zeros(tokens, N_FEATURES)
    full[code.token, code.feature] = code.value
    return full


FEW = settings(max_examples=12)  # for each of many SAEs


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
@FEW
@given(x=inputs)
def test_sparse_and_dense_ways_agree(make, x):
    sae = make()
    out, code = sae.encode(x), sae.encode_sparse(x)
    assert torch.equal(dense(code), out.sparse_features)
    assert (code.value != 0).all()
    assert (code.token.diff() >= 0).all(), "ordered by token"
    if not isinstance(sae.model, nn.Module) or hasattr(sae.model, "decode"):
        torch.testing.assert_close(sae.decode_sparse(code, x), sae.decode(out.sparse_features, x))
    rebuilt = torch.zeros(5, N_FEATURES).scatter(1, out.top_indices, out.top_values)
    assert torch.equal(rebuilt, out.sparse_features)
    assert (out.top_values.abs().diff(dim=-1) <= 0).all(), "largest first"
    assert out.top_values.shape[-1] == (sae.k or (out.sparse_features != 0).sum(-1).max())


# --- features alone ------------------------------------------------------------------------------------------------

chosen = st.lists(st.integers(0, N_FEATURES - 1), max_size=N_FEATURES)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
@FEW
@given(x=inputs, features=chosen)
def test_features_encoded_alone_are_as_among_all(make, x, features):
    sae = make()
    code = sae.encoder_of(features)(x)
    expected = torch.zeros(5, N_FEATURES)
    expected[:, features] = sae.encode(x).sparse_features[:, features]
    torch.testing.assert_close(dense(code), expected, atol=1e-5, rtol=1e-5)
    assert (code.value != 0).all()
    assert (code.token.diff() >= 0).all(), "ordered by token"
    assert set(code.feature.tolist()) <= set(features)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
@FEW
@given(x=inputs, features=chosen.filter(len))
def test_a_probe_gives_activations_and_where_a_feature_is_silent_what_it_lacks(make, x, features):
    sae = make()
    out = sae.encode(x)
    is_ours = isinstance(sae.model, SparseAutoencoder)
    margin = sae.model.rule.margin(out.pre_activation) if is_ours else out.pre_activation
    expected = torch.where(out.sparse_features > 0, out.sparse_features, margin.clamp(max=0.0))[:, features]
    probed = sae.probe_of(features)(x.requires_grad_())
    torch.testing.assert_close(probed, expected, atol=1e-5, rtol=1e-5)
    assert probed.requires_grad


class Widths(torch.overrides.TorchFunctionMode):
    """Notes how many columns every matrix product has."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, function, _types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if getattr(function, "__name__", "") in ("addmm", "matmul", "mm", "__matmul__", "linear"):
            self.seen.add(result.shape[-1])
        return result


@pytest.mark.parametrize("make", SEPARABLE.values(), ids=SEPARABLE)
def test_what_is_separable_computes_the_columns_asked_for_and_no_others(make):
    sae, x = make(), drawn(1)(5, D_IN)
    assert sae.is_separable
    for few in (sae.encoder_of([7, 2, 2]), sae.probe_of([7, 2])):
        with Widths() as widths:
            few(x)
        assert widths.seen == {2}
    with Widths() as widths:
        sae.encode_sparse(x)
    assert widths.seen == {N_FEATURES}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_what_sets_features_against_each_other_is_not_separable(make):
    assert not make().is_separable


@pytest.mark.parametrize("make", [ALL["JumpReLU, thresholds"], ALL["TopK"], ALL["foreign"]])
def test_no_feature_at_all_gives_no_activation(make):
    code = make().encoder_of([])(drawn(1)(5, D_IN))
    assert [len(part) for part in code] == [0, 0, 0]
    assert [part.dtype for part in code] == [torch.int64, torch.int64, torch.float32]


@pytest.mark.parametrize("name", ["ReLU", "TopK"])
def test_features_alone_also_refuse_a_wrong_width(name):
    for few in (ALL[name]().encoder_of([1]), ALL[name]().probe_of([1])):
        with pytest.raises(FitError, match="reads activations of width 6, but was given width 5"):
            few(torch.zeros(3, 5))


# --- rules, worked by hand -----------------------------------------------------------------------------------------

ROW = torch.tensor([[0.5, -3.0, 2.0, 1.0]])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (ReLU(), [0.5, 0.0, 2.0, 1.0]),
        (JumpReLU(torch.tensor(1.0)), [0.0, 0.0, 2.0, 0.0]),
        (JumpReLU(torch.tensor([0.4, 0.0, 2.0, 0.9])), [0.5, 0.0, 0.0, 1.0]),
        (JumpReLU(torch.full((4,), -9.0)), [0.5, 0.0, 2.0, 1.0]),
        (TopK(2), [0.0, 0.0, 2.0, 1.0]),
        (TopK(4), [0.5, 0.0, 2.0, 1.0]),
        (TopK(1, rank_by=torch.tensor([9.0, 1.0, 1.0, 1.0])), [0.5, 0.0, 0.0, 0.0]),
        (AbsTopK(2), [0.0, -3.0, 2.0, 0.0]),
        (GroupMax(2), [0.5, 0.0, 2.0, 0.0]),
        (GroupMax(4), [0.5, 0.0, 2.0, 1.0]),
        # pre is e + b_gate, so that e is [0.5, -4, 1, 1]; the last is gated on, but its magnitude is below zero.
        (
            Gated(torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.full((4,), 2.0).log(), torch.tensor([1.0, 9.0, 0.0, -5.0])),
            [2.0, 0.0, 2.0, 0.0],
        ),
    ],
    ids=str,
)
def test_rules_by_hand(rule, expected):
    torch.testing.assert_close(rule(ROW), torch.tensor([expected]))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (ALL["JumpReLU, one threshold"], "JumpReLU(threshold 0.5)"),
        (lambda: random_sae(JumpReLU(torch.linspace(0.25, 1.5, 10))), "JumpReLU(threshold 0.25 to 1.5)"),
        (ALL["Gated"], "Gated"),
        (ALL["AbsTopK"], "AbsTopK(k=3)"),
        (ALL["GroupMax"], "GroupMax(k=5)"),
        (ALL["constant norm"], "JumpReLU(threshold 0.5) after ConstantNorm"),
        (ALL["centred"], "ReLU after Centring"),
        (ALL["matching pursuit"], "MatchingPursuit(at most d_in steps, residue 0.3)"),
        (lambda: pursuing(most=4, tolerance=0.0), "MatchingPursuit(at most 4 steps, residue 0)"),
    ],
)
def test_rules_in_words(make, name):
    assert make().rule_name == name


def test_a_pursuit_by_hand():
    """The longer direction is taken first and comes again at the end, after which nothing more is taken."""
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    x = torch.tensor([[3.0, 1.0]])
    # 3 along the first leaves [0, 1]; 0.8 along the second leaves [-0.48, 0.36], of which no row holds anything.
    for options in ({}, {"stop_on_repeat": False}):
        rule = Pursuit(**{"most": 9, "tolerance": 0.0, "stop_on_repeat": True} | options)
        sae = UnifiedSAEInterface(MatchingPursuit(W_dec=rows, b_dec=torch.zeros(2), rule=rule, subtract_b_dec=False))
        torch.testing.assert_close(sae.encode(x).sparse_features, torch.tensor([[3.0, 0.8]]))
        torch.testing.assert_close(sae.encode(x[0]).sparse_features, torch.tensor([3.0, 0.8]))
        assert sae.encode(x).pre_activation.tolist() == [[3.0, pytest.approx(2.6)]]


@pytest.mark.parametrize(("most", "tolerance", "found"), [(1, 0.0, [3.0, 0.0]), (9, 1.1, [3.0, 0.0])])
def test_a_pursuit_ends_after_its_steps_or_at_its_tolerance(most, tolerance, found):
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    rule = Pursuit(most=most, tolerance=tolerance, stop_on_repeat=False)
    model = MatchingPursuit(W_dec=rows, b_dec=torch.zeros(2), rule=rule, subtract_b_dec=False)
    assert UnifiedSAEInterface(model).encode(torch.tensor([[3.0, 1.0]])).sparse_features.tolist() == [found]


@FEW
@given(seed=st.integers(0, 10_000), stop_on_repeat=st.booleans())
def test_a_pursuit_along_directions_at_right_angles_takes_what_lies_along_each(seed, stop_on_repeat):
    """In any order, whatever their sizes: none holds anything of what another took."""
    x = torch.randint(-3, 4, (20, D_IN), generator=torch.Generator().manual_seed(seed)).float()
    rule = Pursuit(most=None, tolerance=0.0, stop_on_repeat=stop_on_repeat)
    model = MatchingPursuit(W_dec=torch.eye(D_IN), b_dec=torch.zeros(D_IN), rule=rule, subtract_b_dec=True)
    assert torch.equal(UnifiedSAEInterface(model).encode(x).sparse_features, x.relu())


# --- transcoders, norms, other readings ----------------------------------------------------------------------------


def transcoder(**options):
    draw = drawn(0)
    weights = {"W_enc": draw(6, 10), "b_enc": draw(10), "W_dec": draw(10, 4), "b_dec": draw(4)}
    return UnifiedSAEInterface(SparseAutoencoder(**weights, rule=ReLU(), subtract_b_dec=False, **options))


def test_widths_that_differ_make_a_transcoder():
    sae = transcoder(W_skip=drawn(1)(6, 4))
    assert (sae.is_transcoder, sae.activation_dim, sae.output_dim) == (True, 6, 4)
    x = drawn(2)(3, 6)
    features = sae.encode(x).sparse_features
    expected = features @ sae.decoder_weights + sae.model.b_dec + x @ sae.model.W_skip
    torch.testing.assert_close(sae.decode(features, x), expected)
    assert sae.get_info()["output_dim"] == 4


@pytest.mark.parametrize("norm", [LayerNorm(), ConstantNorm()], ids=str)
@pytest.mark.parametrize("subtract_b_dec", [True, False])
def test_no_input_gives_more_than_the_ceiling_and_one_gives_it(norm, subtract_b_dec):
    sae = random_sae(ReLU(), input_norm=norm, subtract_b_dec=subtract_b_dec)
    inner, x = sae._sae, 30 * drawn(3)(5_000, D_IN) + 2
    ceiling = torch.tensor([sae.ceiling_of(feature) for feature in range(N_FEATURES)])
    assert (inner.pre_activation(x) <= ceiling + 1e-4).all()
    columns = inner.W_enc - inner.W_enc.mean(dim=0) if isinstance(norm, LayerNorm) else inner.W_enc
    best = inner.pre_activation(100 * columns.T).diagonal()
    torch.testing.assert_close(best, ceiling, rtol=1e-4, atol=1e-4)


def test_an_input_that_is_not_normed_has_no_ceiling():
    assert random_sae(ReLU()).ceiling_of(3) is None
    assert random_sae(ReLU(), input_norm=Centring()).ceiling_of(3) is None


def test_a_transcoder_may_have_one_width():
    assert not random_sae(ReLU()).is_transcoder
    assert random_sae(ReLU(), is_transcoder=True).is_transcoder


def test_what_a_transcoder_takes_off_its_input_is_not_put_on_its_output():
    sae = transcoder(input_norm=LayerNorm())
    features = sae.encode(drawn(2)(3, 6)).sparse_features
    torch.testing.assert_close(sae.decode(features), features @ sae.decoder_weights + sae.model.b_dec)


def test_not_even_where_it_needs_its_input_for_something_else():
    sae, x = transcoder(input_norm=LayerNorm(), W_skip=drawn(1)(6, 4)), drawn(2)(3, 6)
    features = sae.encode(x).sparse_features
    expected = features @ sae.decoder_weights + sae.model.b_dec + x @ sae.model.W_skip
    torch.testing.assert_close(sae.decode(features, x), expected)


@pytest.mark.parametrize("name", ["layer norm", "constant norm", "skip", "centred"])
def test_what_needs_its_input_to_decode_says_so(name):
    with pytest.raises(FitError) as caught:
        ALL[name]().decode(torch.zeros(3, N_FEATURES))
    assert str(caught.value) == (
        "This SAE decodes with the help of its input: give decode the activations encoded as well."
    )


def test_a_token_that_is_constant_survives_normalisation():
    sae = ALL["layer norm"]()
    x = torch.full((1, D_IN), 3.0)
    out = sae.encode(x)
    assert torch.isfinite(out.pre_activation).all()
    torch.testing.assert_close(sae.decode(out.sparse_features, x), x)


def test_centring_takes_the_mean_off_and_puts_it_back():
    sae, x = random_sae(ReLU()), drawn(1)(5, D_IN) + 3
    mean = x.mean(dim=1, keepdim=True)
    centred = sae.reread(centred=True)
    torch.testing.assert_close(centred.encode(x).sparse_features, sae.encode(x - mean).sparse_features)
    features = centred.encode(x).sparse_features
    torch.testing.assert_close(centred.decode(features, x), sae.decode(features) + mean)
    assert sae.can_be_centred
    assert not centred.can_be_centred


def test_another_rule_on_the_same_weights():
    origin = Origin(format_name="a", other_rules={"relu": TopK(2), "signed": AbsTopK(2)})
    sae = UnifiedSAEInterface(random_sae(TopK(2)).model, origin=origin)
    signed = sae.reread(rule=origin.other_rules["signed"])
    assert (sae.rule_name, signed.rule_name) == ("TopK(k=2)", "AbsTopK(k=2)")
    assert torch.equal(signed.encoder_weights, sae.encoder_weights)
    assert (signed.encode(drawn(1)(5, D_IN)).sparse_features < 0).any()
    assert signed.origin.format_name == "a"
    assert signed.origin.other_rules == {}, "the question is answered"


@pytest.mark.parametrize("name", ["layer norm", "matching pursuit", "foreign"])
def test_what_cannot_be_read_in_another_way_says_so(name):
    sae = ALL[name]()
    assert not sae.can_be_centred
    with pytest.raises(SAEFormatError) as caught:
        sae.reread(centred=True)
    assert str(caught.value) == "custom module cannot be read in another way than its own."


def test_tokens_without_any_activation_decode_to_the_bias():
    sae = by_hand(ReLU())
    nothing = SparseCode(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    assert sae.decode_sparse(nothing, torch.zeros(3, 2)).tolist() == [[1.0, 2.0]] * 3
    last = SparseCode(torch.tensor([1]), torch.tensor([0]), torch.tensor([2.0]))
    assert sae.decode_sparse(last, torch.zeros(3, 2)).tolist() == [[1.0, 2.0], [5.0, 2.0], [1.0, 2.0]]


@pytest.mark.filterwarnings("ignore:std")  # what torch says of no tokens at all
@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_no_token_at_all_is_an_answer(make):
    sae, none = make(), torch.zeros(0, 6)
    out, code = sae.encode(none), sae.encode_sparse(none)
    assert out.sparse_features.shape == out.pre_activation.shape == (0, 10)
    assert len(code.value) == len(sae.encoder_of([1])(none).value) == 0
    assert sae.decode_sparse(code, none).shape == (0, 6)


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6)])
@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_any_number_of_batch_dimensions(make, shape):
    sae = make()
    x = drawn(1)(*shape)
    out = sae.encode(x)
    flat = sae.encode(x.reshape(-1, 6))
    torch.testing.assert_close(out.sparse_features.reshape(-1, 10), flat.sparse_features)
    assert out.pre_activation.shape == (*shape[:-1], 10)
    assert out.top_values.shape == out.top_indices.shape
    assert sae.decode(out.sparse_features, x).shape == shape


def test_k_beyond_the_positive_ones_gives_zeros_that_are_not_active():
    sae = by_hand(TopK(2))
    code = sae.encode_sparse(torch.tensor([[0.0, 2.0], [3.0, 6.0]]))  # pre [-0.5, -3] and [2.5, -1]
    assert (code.token.tolist(), code.feature.tolist(), code.value.tolist()) == ([1], [0], [2.5])
    assert sae.encode(torch.tensor([[0.0, 2.0]])).sparse_features.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("subtract", [True, False])
def test_half_precision_inputs_are_computed_in_float32(subtract):
    sae = by_hand(TopK(1), subtract_b_dec=subtract)
    x = (X / 3).bfloat16()
    out = sae.encode(x)
    assert out.pre_activation.dtype == torch.float32
    assert torch.equal(out.pre_activation, sae.encode(x.float()).pre_activation)


def test_weights_are_held_in_float32():
    halves = {name: weight.half() for name, weight in WEIGHTS.items()}
    model = SparseAutoencoder(**halves, rule=ReLU(), subtract_b_dec=True)
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}
    assert not list(model.parameters())


def test_gradients_flow_through_the_pre_activation_of_silent_features():
    sae = by_hand(TopK(1))
    x = X[:1].clone().requires_grad_()
    out = sae.encode(x)
    [gradient] = torch.autograd.grad(out.pre_activation[0, 1], x)
    assert out.sparse_features[0, 1] == 0
    assert gradient.tolist() == [[2.0, -1.0]]


# --- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["encode", "encode_sparse"])
def test_a_wrong_width_is_refused(way):
    with pytest.raises(FitError) as caught:
        getattr(by_hand(ReLU()), way)(torch.zeros(3, 5))
    assert str(caught.value) == ("The SAE reads activations of width 2, but was given width 5: choose another hook.")


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [("b_enc", (3,), (2,)), ("W_dec", (3, 2), (2, 2)), ("b_dec", (3,), (2,)), ("W_skip", (2, 3), (2, 2))],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_weights_that_do_not_fit_together_are_refused(name, shape, wanted):
    with pytest.raises(SAEFormatError) as caught:
        SparseAutoencoder(**WEIGHTS | {name: torch.zeros(shape)}, rule=ReLU(), subtract_b_dec=True)
    assert str(caught.value) == (
        f"The SAE's weights do not fit together: W_enc is 2 x 2, so {name} should have shape {wanted}, but it has "
        f"{shape}. The file is damaged or of another layout."
    )


@pytest.mark.parametrize("k", [0, 3])
def test_a_k_outside_the_dictionary_is_refused(k):
    for rule in (TopK(k), AbsTopK(k), GroupMax(k)):
        with pytest.raises(SAEFormatError) as caught:
            by_hand(rule)
        assert str(caught.value) == f"The SAE's k is {k}, but it has 2 features: its file is damaged."


def test_groups_that_do_not_come_out_even_are_refused():
    with pytest.raises(SAEFormatError) as caught:
        random_sae(GroupMax(3))
    assert str(caught.value) == "The SAE's 10 features cannot be cut into 3 equal groups."


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (JumpReLU(torch.ones(3)), "threshold"),
        (TopK(1, rank_by=torch.ones(3)), "rank_by"),
        (Gated(torch.ones(3), torch.ones(3), torch.ones(3)), "b_gate"),
    ],
)
def test_a_rule_of_another_dictionary_is_refused(rule, name):
    with pytest.raises(SAEFormatError) as caught:
        by_hand(rule)
    assert str(caught.value) == f"The SAE has 2 features, but its {name} has shape (3,): its file is damaged."


def test_a_rule_that_is_not_finite_is_refused():
    with pytest.raises(SAEFormatError) as caught:
        by_hand(JumpReLU(torch.tensor([0.0, float("nan")])))
    assert str(caught.value) == "The SAE's threshold holds values that are not finite: its file is damaged."


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
@pytest.mark.usefixtures("unchecked_shapes")
def test_weights_that_are_no_real_numbers_are_refused(dtype):
    with pytest.raises(SAEFormatError) as caught:
        SparseAutoencoder(**WEIGHTS | {"b_enc": torch.zeros(2, dtype=dtype)}, rule=ReLU(), subtract_b_dec=True)
    assert str(caught.value) == f"The SAE's b_enc is of type {dtype}: expected floating point numbers."


@pytest.mark.parametrize("shape", [(2,), (2, 2, 2), (2, 0)])
@pytest.mark.usefixtures("unchecked_shapes")
def test_weights_of_other_dimensions_are_refused(shape):
    with pytest.raises(SAEFormatError) as caught:
        SparseAutoencoder(**WEIGHTS | {"W_enc": torch.zeros(shape)}, rule=ReLU(), subtract_b_dec=True)
    assert str(caught.value).startswith(f"The SAE's W_enc has shape {shape}: ")


def test_a_decoder_bias_of_another_width_cannot_be_subtracted():
    with pytest.raises(SAEFormatError) as caught:
        SparseAutoencoder(
            W_enc=torch.ones(2, 3),
            b_enc=torch.ones(3),
            W_dec=torch.ones(3, 4),
            b_dec=torch.ones(4),
            rule=ReLU(),
            subtract_b_dec=True,
        )
    assert str(caught.value) == "b_dec of width 4 cannot be subtracted from inputs of width 2."


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_weights_that_are_not_finite_are_refused(name, value):
    broken = WEIGHTS[name].clone()
    broken.view(-1)[1] = value
    with pytest.raises(SAEFormatError) as caught:
        SparseAutoencoder(**WEIGHTS | {name: broken}, rule=ReLU(), subtract_b_dec=True)
    assert str(caught.value) == f"The SAE's {name} holds values that are not finite: its file is damaged."


# --- foreign modules -----------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """As people write them: two nn.Linear and a bias; ``encode`` returns the activations."""

    def __init__(self, *, subtract=False):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 7), nn.Linear(7, 4, bias=False)
        self.b_dec = nn.Parameter(torch.randn(4))
        self.subtract = subtract

    def encode(self, x):
        return self.encoder(x - self.b_dec if self.subtract else x).relu()

    def decode(self, f):
        return self.decoder(f) + self.b_dec


class Code(NamedTuple):
    features: torch.Tensor
    mean: torch.Tensor


class Matrices(nn.Module):
    """Free matrices, a tensor k, a named tuple from ``encode``, a method for pre-activations, no ``decode``."""

    def __init__(self):
        super().__init__()
        self.W_enc, self.W_dec = nn.Parameter(torch.randn(4, 7)), nn.Parameter(torch.randn(7, 4))
        self.register_buffer("k", torch.tensor(2))

    def pre_activation(self, x):
        return (x @ self.W_enc).tanh()

    def encode(self, x):
        return Code(TopK(2)(self.pre_activation(x)), x)


def test_a_foreign_module_is_used_as_it_is():
    torch.manual_seed(0)
    module = Linear()
    sae = UnifiedSAEInterface(module)
    x = torch.randn(3, 4)
    assert (sae.activation_dim, sae.dict_size, sae.k) == (4, 7, None)
    assert torch.equal(sae.encoder_weights, module.encoder.weight.T)
    assert torch.equal(sae.decoder_weights, module.decoder.weight.T)
    out = sae.encode(x)
    assert torch.equal(out.sparse_features, module.encode(x))
    assert out.top_values.shape[-1] == (out.sparse_features != 0).sum(-1).max()
    assert torch.equal(sae.decode(out.sparse_features), module.decode(out.sparse_features))
    torch.testing.assert_close(sae.decode_sparse(sae.encode_sparse(x), x), module.decode(module.encode(x)))
    assert sae.origin == Origin(format_name="custom module", reason="given as an object")
    assert (sae.rule_name, sae.is_transcoder, sae.output_dim) == ("Linear.encode", False, 4)


@pytest.mark.parametrize("subtract", [False, True])
def test_pre_activations_of_a_foreign_module_are_those_it_uses(subtract):
    torch.manual_seed(0)
    module = Linear(subtract=subtract)
    x = torch.randn(5, 4, requires_grad=True)
    found = UnifiedSAEInterface(module).encode(x).pre_activation
    torch.testing.assert_close(found, module.encoder(x - module.b_dec if subtract else x))
    assert found.requires_grad


def test_a_foreign_module_may_return_a_tuple_and_name_its_pre_activations():
    torch.manual_seed(0)
    module = Matrices()
    sae = UnifiedSAEInterface(module)
    x = torch.randn(3, 4)
    out = sae.encode(x)
    assert (sae.activation_dim, sae.dict_size, sae.k) == (4, 7, 2)
    assert torch.equal(out.sparse_features, module.encode(x).features)
    assert torch.equal(out.pre_activation, module.pre_activation(x))
    assert out.top_values.shape == (3, 2)
    assert (sae.encode_sparse(x).value != 0).all()


class Plain(nn.Module):
    """A TopK SAE of someone else, whose ``encode`` returns its activations in whatever form ``give`` puts them."""

    def __init__(self, draw, give):
        super().__init__()
        self.W_enc, self.W_dec = nn.Parameter(draw(D_IN, N_FEATURES)), nn.Parameter(draw(N_FEATURES, D_IN))
        self.b_enc, self.b_dec = nn.Parameter(draw(N_FEATURES)), nn.Parameter(draw(D_IN))
        self.give = give

    def acts(self, x):
        return TopK(3)((x - self.b_dec) @ self.W_enc + self.b_enc)

    def encode(self, x):
        return self.give(self.acts(x))

    def decode(self, features):
        return features @ self.W_dec + self.b_dec


class Selected(NamedTuple):
    """What sparsify returns."""

    top_acts: torch.Tensor
    top_indices: torch.Tensor
    pre_acts: torch.Tensor


class Latents(NamedTuple):
    latent_acts: torch.Tensor
    latent_indices: torch.Tensor


@dataclass
class Output:
    """What our own interface returns, and others like it."""

    sparse_features: torch.Tensor
    top_values: torch.Tensor
    top_indices: torch.Tensor


def selected(acts, k=3):
    return acts.topk(k, dim=-1)


RETURNED = {
    "activations": lambda acts: acts,
    "first of four": lambda acts: (acts, *selected(acts), acts.relu()),
    "first of six": lambda acts: (acts, acts, acts, acts, selected(acts).indices, selected(acts).values),
    "values and indices": lambda acts: tuple(selected(acts)),
    "values and indices of all": lambda acts: tuple(selected(acts, N_FEATURES)),
    "short indices": lambda acts: (selected(acts).values, selected(acts).indices.int()),
    "as sparsify": lambda acts: Selected(*selected(acts), acts),
    "as sparsify, of all": lambda acts: Selected(*selected(acts, N_FEATURES), acts),
    "latents": lambda acts: Latents(*selected(acts)),
    "an object with sparse_features": lambda acts: Output(acts, *selected(acts)),
    "an object with feature_acts": lambda acts: SimpleNamespace(feature_acts=acts, other=1),
    "activations and which are on": lambda acts: (acts, acts > 0),
}


@pytest.mark.parametrize("give", RETURNED.values(), ids=RETURNED)
def test_whatever_form_a_foreign_encode_gives_its_activations_in(give):
    module, x = Plain(drawn(4), give), drawn(1)(5, D_IN)
    sae, expected = UnifiedSAEInterface(module), module.acts(x)
    out, code = sae.encode(x), sae.encode_sparse(x)
    assert torch.equal(out.sparse_features, expected)
    assert torch.equal(dense(code), expected)
    assert torch.equal(dense(sae.encoder_of([2, 5])(x))[:, [2, 5]], expected[:, [2, 5]])
    torch.testing.assert_close(out.pre_activation, (x - module.b_dec) @ module.W_enc + module.b_enc)
    torch.testing.assert_close(sae.decode_sparse(code, x), expected @ module.W_dec + module.b_dec)


NONSENSE = {
    "nothing": (lambda _: None, "NoneType"),
    "a list": (lambda acts: [acts], "list"),
    "an empty tuple": (lambda _: (), "()"),
    "a tensor of another width": (lambda acts: acts[:, :4], "a tensor of shape (5, 4)"),
    "values without indices": (
        lambda acts: (acts[:, :3], acts[:, :3]),
        "(a tensor of shape (5, 3), a tensor of shape (5, 3))",
    ),
    "a width and a name": (lambda acts: (acts.shape[1], "acts"), "(int, str)"),
    "an object of another width": (lambda acts: SimpleNamespace(features=acts[:, :4]), "SimpleNamespace"),
}


@pytest.mark.parametrize(("give", "described"), NONSENSE.values(), ids=NONSENSE)
def test_a_foreign_encode_that_gives_something_else_says_what(give, described):
    with pytest.raises(SAEFormatError) as caught:
        UnifiedSAEInterface(Plain(drawn(4), give)).encode(drawn(1)(5, D_IN))
    assert str(caught.value) == (
        f"Plain.encode returns {described}: expected activations of 10 features, alone or first in a tuple, or values "
        "and indices of those that fired."
    )


class Variational(Plain):
    """Draws its activations around their mean unless it is told not to, as in training."""

    def encode(self, x, training=True):
        mean = self.acts(x)
        return mean + torch.randn_like(mean) if training else mean


def test_a_variational_module_is_asked_for_its_mean():
    module, x = Variational(drawn(4), None), drawn(1)(5, D_IN)
    sae = UnifiedSAEInterface(module)
    assert not torch.equal(module.encode(x), module.acts(x)), "by default it draws"
    assert torch.equal(sae.encode(x).sparse_features, module.acts(x))
    assert torch.equal(dense(sae.encode_sparse(x)), module.acts(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_foreign_module_of_half_precision_gets_and_gives_what_it_can(dtype):
    module, x = Plain(drawn(4), lambda acts: acts).to(dtype), drawn(1)(5, D_IN)
    sae = UnifiedSAEInterface(module)
    out = sae.encode(x)
    assert torch.equal(out.sparse_features, module.acts(x.to(dtype)).float())
    assert out.pre_activation.dtype == sae.encoder_weights.dtype == sae.decoder_weights.dtype == torch.float32
    decoded = sae.decode(out.sparse_features)
    assert torch.equal(decoded, module.decode(out.sparse_features.to(dtype)).float())


def test_a_foreign_module_that_writes_elsewhere_is_a_transcoder():
    module = nn.Module()
    module.encoder, module.decoder = nn.Linear(4, 7), nn.Linear(7, 3)
    module.encode = lambda x: module.encoder(x).relu()
    module.decode = module.decoder.forward
    sae, x = UnifiedSAEInterface(module), drawn(1)(5, 4)
    assert (sae.is_transcoder, sae.output_dim) == (True, 3)
    torch.testing.assert_close(sae.encode(x).pre_activation, module.encoder(x))
    assert sae.decode_sparse(sae.encode_sparse(x), x).shape == (5, 3)


def test_a_silent_foreign_module_has_no_top_values():
    module = Linear()
    nn.init.constant_(module.encoder.bias, -1e6)
    assert UnifiedSAEInterface(module).encode(torch.randn(3, 4)).top_values.shape == (3, 0)


def test_a_foreign_module_without_decode_says_so():
    with pytest.raises(SAEFormatError) as caught:
        UnifiedSAEInterface(Matrices()).decode(torch.zeros(1, 7))
    assert str(caught.value) == "Matrices has no method 'decode': add one to measure its fit."


def test_a_module_without_encode_says_so():
    with pytest.raises(SAEFormatError) as caught:
        UnifiedSAEInterface(nn.Linear(2, 3))
    assert str(caught.value) == "Linear has no method 'encode': give a module that has one."


@pytest.mark.parametrize(
    ("missing", "names"), [("encoder", "W_enc nor encoder.weight"), ("decoder", "W_dec nor decoder.weight")]
)
def test_a_module_without_weights_says_which(missing, names):
    module = Linear()
    delattr(module, missing)
    with pytest.raises(SAEFormatError) as caught:
        UnifiedSAEInterface(module)
    assert str(caught.value) == f"Linear has neither {names}: name its weights so."


def test_moving_keeps_the_object_and_the_weights(sae):
    assert sae.to("cpu") is sae
    assert sae.encoder_weights.device.type == sae.model.W_enc.device.type == "cpu"


# --- how far a feature is from firing ------------------------------------------------------------------------------

MARGIN_RULES = {
    "relu": ReLU(),
    "jumprelu": JumpReLU(torch.linspace(-0.5, 1.0, 10)),
    "gated": Gated(torch.linspace(-1, 1, 10), torch.linspace(-0.5, 0.5, 10), torch.linspace(1, -1, 10)),
    "topk": TopK(3),
    "topk of all": TopK(10),
    "ranked topk": TopK(3, rank_by=torch.linspace(0.5, 2.0, 10)),
    "abstopk": AbsTopK(3),
    "groupmax": GroupMax(5),
}


@pytest.mark.parametrize("name", MARGIN_RULES)
@given(seed=st.integers(0, 10_000))
def test_the_margin_is_positive_exactly_where_a_feature_fires_upwards(name, seed):
    rule = MARGIN_RULES[name]
    pre = torch.randn(20, 10, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(rule.margin(pre) > 0, rule(pre) > 0)


@pytest.mark.parametrize("name", [name for name, rule in MARGIN_RULES.items() if hasattr(rule, "select")])
@given(seed=st.integers(0, 10_000), features=st.lists(st.integers(0, 9), min_size=1))
def test_margins_of_some_features_are_those_of_all(name, seed, features):
    rule = MARGIN_RULES[name]
    pre = torch.randn(20, 10, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(rule.margin_of(pre, torch.tensor(features)), rule.margin(pre)[:, features])


@pytest.mark.parametrize("name", MARGIN_RULES)
@given(seed=st.integers(0, 10_000))
def test_a_pre_activation_raised_by_a_little_more_than_its_margin_lacks_makes_the_feature_fire(name, seed):
    rule = MARGIN_RULES[name]
    pre = torch.randn(10, generator=torch.Generator().manual_seed(seed))
    margin = rule.margin(pre)
    for feature in range(10):
        if margin[feature] >= -1e-6 or margin[feature] == -torch.inf or (name == "abstopk" and pre[feature] < 0):
            continue  # it fires already; a negative one must pass zero, where its magnitude is least
        for share, fires in ((0.999, False), (1.001, True)):
            raised = pre.clone()
            raised[feature] -= share * margin[feature]
            assert bool(rule(raised)[feature] > 0) is fires
