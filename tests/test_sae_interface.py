"""One face for every SAE: worked by hand, against the formula, and the same whichever way it is asked."""

from typing import NamedTuple

import jaxtyping
import pytest
import torch
from conftest import D_MODEL, D_SAE, K, topk_weights
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sae_analysis.errors import FitError, SAEFormatError
from sae_analysis.sae_interface import ReLU, SparseAutoencoder, SparseCode, TopK, UnifiedSAEInterface

WEIGHTS = {
    "W_enc": torch.tensor([[1.0, 2.0], [0.0, -1.0]]),
    "b_enc": torch.tensor([0.5, -1.0]),
    "W_dec": torch.tensor([[2.0, 0.0], [1.0, 1.0]]),
    "b_dec": torch.tensor([1.0, 2.0]),
}


def by_hand(rule, *, subtract_b_dec=True):
    return UnifiedSAEInterface(SparseAutoencoder(**WEIGHTS, rule=rule, subtract_b_dec=subtract_b_dec))


def random_sae(rule, seed=0, d_in=6, d_sae=10):
    draw = torch.Generator().manual_seed(seed)
    return UnifiedSAEInterface(
        SparseAutoencoder(
            W_enc=torch.randn(d_in, d_sae, generator=draw),
            b_enc=torch.randn(d_sae, generator=draw),
            W_dec=torch.randn(d_sae, d_in, generator=draw),
            b_dec=torch.randn(d_in, generator=draw),
            rule=rule,
            subtract_b_dec=True,
        )
    )


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


inputs = st.integers(0, 10_000).map(lambda seed: torch.randn(5, 6, generator=torch.Generator().manual_seed(seed)))
rules = st.one_of(st.just(ReLU()), st.integers(1, 10).map(TopK))


@given(x=inputs, rule=rules, seed=st.integers(0, 99))
def test_sparse_and_dense_ways_agree(x, rule, seed):
    sae = random_sae(rule, seed)
    out, code = sae.encode(x), sae.encode_sparse(x)
    dense = torch.zeros(5, 10)
    dense[code.token, code.feature] = code.value
    assert torch.equal(dense, out.sparse_features)
    assert (code.value != 0).all()
    assert (code.token.diff() >= 0).all(), "ordered by token"
    torch.testing.assert_close(sae.decode_sparse(code, 5), sae.decode(out.sparse_features))
    rebuilt = torch.zeros(5, 10).scatter(1, out.top_indices, out.top_values)
    assert torch.equal(rebuilt, out.sparse_features)
    assert (out.top_values.abs().diff(dim=-1) <= 0).all(), "largest first"


def test_tokens_without_any_activation_decode_to_the_bias():
    sae = by_hand(ReLU())
    nothing = SparseCode(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    assert sae.decode_sparse(nothing, 3).tolist() == [[1.0, 2.0]] * 3
    last = SparseCode(torch.tensor([1]), torch.tensor([0]), torch.tensor([2.0]))
    assert sae.decode_sparse(last, 3).tolist() == [[1.0, 2.0], [5.0, 2.0], [1.0, 2.0]]


@pytest.mark.parametrize("rule", [ReLU(), TopK(2)])
def test_no_token_at_all_is_an_answer(rule):
    sae = random_sae(rule)
    out, code = sae.encode(torch.zeros(0, 6)), sae.encode_sparse(torch.zeros(0, 6))
    assert out.sparse_features.shape == out.pre_activation.shape == (0, 10)
    assert len(code.value) == 0
    assert sae.decode_sparse(code, 0).shape == (0, 6)


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6)])
@pytest.mark.parametrize("rule", [ReLU(), TopK(2)])
def test_any_number_of_batch_dimensions(rule, shape):
    sae = random_sae(rule)
    x = torch.randn(shape)
    out = sae.encode(x)
    flat = sae.encode(x.reshape(-1, 6))
    torch.testing.assert_close(out.sparse_features.reshape(-1, 10), flat.sparse_features)
    assert out.pre_activation.shape == (*shape[:-1], 10)
    assert out.top_values.shape == out.top_indices.shape
    assert sae.decode(out.sparse_features).shape == shape


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
    ("name", "shape", "wanted"), [("b_enc", (3,), (2,)), ("W_dec", (3, 2), (2, 2)), ("b_dec", (3,), (2,))]
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
    with pytest.raises(SAEFormatError) as caught:
        by_hand(TopK(k))
    assert str(caught.value) == f"The SAE's k is {k}, but it has 2 features: its file is damaged."


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
    torch.testing.assert_close(sae.decode_sparse(sae.encode_sparse(x), 3), module.decode(module.encode(x)))
    assert (sae.format_name, sae.reason, sae.rule_name) == ("custom module", "given as an object", "Linear.encode")


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
