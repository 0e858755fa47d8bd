"""What the parity tests share: random models, and how an SAE of ours is held against the one that wrote its file.

The libraries live in an environment of their own (``make parity``); where they are missing, these tests are skipped.
There is no conftest here: other tests import the one above by name.
"""

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor, nn

from sae_analysis.sae_interface import UnifiedSAEInterface

CLOSE = 1e-5
"""Largest difference allowed, absolute, in float32."""

SHAPES = ((16, 48), (16, 16), (24, 10))
"""d_in and d_sae: a usual dictionary, one whose matrices fit either way round, and one smaller than its input."""

SCALES = (0.1, 1.0, 2.0)
"""Standard deviations of inputs."""

TOKENS = 64

Model = TypeVar("Model", bound=nn.Module)

Theirs = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Activations and reconstruction of the original library, from the input."""


def shape_name(shape: tuple[int, int]) -> str:
    """Name a shape in a test's id."""
    return "x".join(map(str, shape))


# --- libraries that import more than they have to ------------------------------------------------------------------


def without_init(package: str) -> None:
    """Let modules of a package be imported without its ``__init__``, which would import everything it has."""
    if (spec := importlib.util.find_spec(package)) is not None and package not in sys.modules:
        sys.modules[package] = importlib.util.module_from_spec(spec)


def stand_in(module: str, *names: str, needed_by: str) -> None:
    """Provide names that a package imports and that nothing under test uses."""
    if importlib.util.find_spec(needed_by) is None or module in sys.modules or importlib.util.find_spec(module):
        return
    made = ModuleType(module)
    made.__spec__ = ModuleSpec(module, loader=None)
    for name in names:
        setattr(made, name, object)
    sys.modules[module] = made


# --- random models -------------------------------------------------------------------------------------------------


@torch.no_grad()
def randomise(model: Model, seed: int = 0) -> Model:
    """Give every weight, bias and threshold a random value, and return the model.

    Libraries begin with biases of zero, tied weights and decoder rows of norm 1, under which many mistakes do not show.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if not value.is_floating_point():
            continue
        drawn = torch.randn(value.shape, generator=generator)
        if "log" in name:
            drawn = 0.5 * drawn - 1
        elif "threshold" in name:
            drawn = 0.3 + 0.3 * drawn.abs()
        elif value.ndim == 1:
            drawn = 0.3 * drawn
        elif value.ndim == 2:
            # Rows and columns of random lengths around 1, whichever of them a library takes for features.
            drawn = drawn / min(value.shape) ** 0.5 * (0.6 + 0.8 * torch.rand(value.shape[0], 1, generator=generator))
        value.copy_(drawn)
    return model


def inputs(d_in: int, scale: float) -> Tensor:
    """Return random activations whose mean over the tokens is not zero."""
    generator = torch.Generator().manual_seed(d_in)
    return scale * (torch.randn(TOKENS, d_in, generator=generator) + 0.3 * torch.randn(d_in, generator=generator))


def dense(values: Tensor, indices: Tensor, d_sae: int) -> Tensor:
    """Return all activations from those selected."""
    return values.new_zeros(*values.shape[:-1], d_sae).scatter(-1, indices, values)


# --- comparing -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def assert_agreement(ours: UnifiedSAEInterface, theirs: Theirs) -> None:
    """Assert that activations and reconstructions differ by no more than ``CLOSE``."""
    for scale in SCALES:
        x = inputs(ours.activation_dim, scale)
        features, reconstruction = theirs(x)
        assert features.dtype == reconstruction.dtype == torch.float32
        found = ours.encode(x).sparse_features
        report(f"encode, inputs of scale {scale}", found, features)
        report(f"decode, inputs of scale {scale}", ours.decode(found, x), reconstruction)
        report(f"decode, sparse, scale {scale}", ours.decode_sparse(ours.encode_sparse(x), x), reconstruction)
    fired = (features != 0).any(dim=1).float().mean()  # of the largest inputs
    assert fired > 0.5, f"{fired:.0%} of the tokens have a feature: hardly anything was compared"


def report(what: str, found: Tensor, expected: Tensor) -> None:
    """Assert that two tensors are close."""
    assert found.shape == expected.shape, what
    difference = float((found - expected).abs().max())
    assert difference <= CLOSE, f"{what}: largest difference {difference:.2g}"
