"""Transcoders, norms, other readings of the same weights, and inputs of any shape and precision."""

import pytest
import torch
from small_saes import ALL, D_IN, N_FEATURES, WEIGHTS, X, by_hand, drawn, random_sae

from sae_analysis.errors import FitError, SAEFormatError
from sae_analysis.sae_interface import (
    AbsTopK,
    Centring,
    ConstantNorm,
    LayerNorm,
    Origin,
    ReLU,
    SparseAutoencoder,
    SparseCode,
    TopK,
    UnifiedSAEInterface,
)


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


def test_moving_keeps_the_object_and_the_weights(sae):
    assert sae.to("cpu") is sae
    assert sae.encoder_weights.device.type == sae.model.W_enc.device.type == "cpu"
