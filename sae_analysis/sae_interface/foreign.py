"""SAEs of other people's classes, used through their own ``encode`` and ``decode``."""

import inspect
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_analysis.errors import SAEFormatError

_DENSE_FIELDS = ("sparse_features", "feature_acts", "features", "activations", "acts")
_SPARSE_FIELDS = (("top_acts", "top_indices"), ("latent_acts", "latent_indices"), ("top_values", "top_indices"))
"""Fields of named outputs that hold the activations, dense or as values and indices."""


class ForeignSAE:
    """A module with an ``encode``, seen as an SAE.

    ``encode`` may return the activations alone, a tuple that begins with them, values and indices of those that
    fired, or an object with either under one of the usual names; where it has a switch ``training``, it is turned
    off, so that variational encoders give their mean. The decoder is found as ``W_dec [d_sae, d_in]`` or
    ``decoder.weight [d_in, d_sae]``, the encoder likewise.
    """

    is_transcoder: bool

    def __init__(self, module: nn.Module) -> None:
        """Look at a module.

        Raises:
            SAEFormatError: no ``encode``, or no weights under the usual names.
        """
        if not hasattr(module, "encode"):
            raise SAEFormatError(f"{type(module).__name__} has no method 'encode': give a module that has one.")
        self.module: Any = module.eval()  # some sample or drop out while they train
        self.W_enc = _weight(module, "W_enc", "encoder.weight", "encoder")
        self.W_dec = _weight(module, "W_dec", "decoder.weight", "decoder")
        self.is_transcoder = self.W_enc.shape[0] != self.W_dec.shape[1]
        k = getattr(module, "k", None)
        self.k = None if k is None else int(k)
        samples = "training" in inspect.signature(self.module.encode).parameters
        self._options = {"training": False} if samples else {}
        self._dtype = next((weight.dtype for weight in module.parameters()), torch.float32)

    def to(self, device: str | torch.device) -> None:
        """Move the module."""
        self.module.to(device)
        self.W_enc, self.W_dec = self.W_enc.to(device), self.W_dec.to(device)

    def encode(
        self, x: Float[Tensor, "*batch d_in"]
    ) -> tuple[Float[Tensor, "*batch d_sae"], Float[Tensor, "*batch d_sae"]]:
        """Return activations and pre-activations; where there is no method for the latter, the linear part gives them.

        Some modules subtract the decoder's bias first and some do not; what fired shows which.
        """
        features = self._dense(self.module.encode(x.to(self._dtype), **self._options)).float()
        if hasattr(self.module, "pre_activation"):
            return features, self.module.pre_activation(x.to(self._dtype)).float()
        pre_activation = x.float() @ self.W_enc
        if (b_enc := _bias(self.module, "b_enc", "encoder.bias")) is not None:
            pre_activation = pre_activation + b_enc
        b_dec = _bias(self.module, "b_dec", "bias", "decoder.bias")
        if b_dec is not None and len(b_dec) == len(self.W_enc):
            subtracted = pre_activation - b_dec @ self.W_enc
            fired = features != 0
            misfits = [(found - features)[fired].abs().sum() for found in (pre_activation, subtracted)]
            if misfits[1] < misfits[0]:
                pre_activation = subtracted
        return features, pre_activation

    def decode(
        self, features: Float[Tensor, "*batch d_sae"], _x: Tensor | None = None
    ) -> Float[Tensor, "*batch d_out"]:
        """Return the module's reconstruction; its input ``[... d_in]`` is not needed.

        Raises:
            SAEFormatError: it has no ``decode``.
        """
        if not hasattr(self.module, "decode"):
            raise SAEFormatError(f"{type(self.module).__name__} has no method 'decode': add one to measure its fit.")
        return self.module.decode(features.to(self._dtype)).float()

    def _dense(self, encoded: Any) -> Tensor:  # noqa: ANN401 - whatever a module returns
        """Find the activations in what ``encode`` returned."""
        d_sae = self.W_enc.shape[1]
        for values, indices in _SPARSE_FIELDS:
            if hasattr(encoded, values) and hasattr(encoded, indices) and not hasattr(encoded, "sparse_features"):
                return _scatter(getattr(encoded, values), getattr(encoded, indices), d_sae)
        for field in _DENSE_FIELDS:
            if isinstance(found := getattr(encoded, field, None), Tensor) and found.shape[-1] == d_sae:
                return found
        parts = encoded if isinstance(encoded, tuple) else (encoded,)
        first, second = (*parts, None, None)[:2]
        if isinstance(first, Tensor) and isinstance(second, Tensor) and _are_indices_of(first, second):
            return _scatter(first, second, d_sae)
        if isinstance(first, Tensor) and first.shape[-1] == d_sae:
            return first
        raise SAEFormatError(
            f"{type(self.module).__name__}.encode returns {_describe(encoded)}: expected activations of {d_sae} "
            "features, alone or first in a tuple, or values and indices of those that fired."
        )


def _are_indices_of(values: Tensor, candidate: Tensor) -> bool:
    return candidate.shape == values.shape and candidate.dtype in (torch.int64, torch.int32)


def _scatter(values: Tensor, indices: Tensor, d_sae: int) -> Tensor:
    return values.new_zeros(*values.shape[:-1], d_sae).scatter(-1, indices.long(), values)


def _describe(encoded: Any) -> str:  # noqa: ANN401
    if isinstance(encoded, Tensor):
        return f"a tensor of shape {tuple(encoded.shape)}"
    if isinstance(encoded, tuple):
        return f"({', '.join(_describe(part) for part in encoded)})"
    return type(encoded).__name__


def _weight(module: nn.Module, free: str, linear: str, layer: str) -> Tensor:
    """Return a weight as ``[rows in, rows out]``: a free matrix as it is, that of an ``nn.Linear`` transposed."""
    if isinstance(found := getattr(module, free, None), Tensor):
        return found.detach().float()
    if isinstance(found := getattr(getattr(module, layer, None), "weight", None), Tensor):
        return found.detach().float().T
    raise SAEFormatError(f"{type(module).__name__} has neither {free} nor {linear}: name its weights so.")


def _bias(module: nn.Module, *paths: str) -> Tensor | None:
    """Return the first vector found under these names."""
    for path in paths:
        found: Any = module
        for name in path.split("."):
            found = getattr(found, name, None)
        if isinstance(found, Tensor) and found.ndim == 1:
            return found.detach().float()
    return None
