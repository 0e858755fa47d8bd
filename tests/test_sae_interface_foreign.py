"""Other people's modules: used as they are, in whatever form they answer, or refused by what they lack."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from small_saes import D_IN, N_FEATURES, Plain, dense, drawn
from torch import nn

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_interface import Origin, TopK, UnifiedSAEInterface


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
    assert torch.equal(sae.encode(x[None]).sparse_features, expected[None]), "however many dimensions stand before"
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
