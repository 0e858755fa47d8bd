"""What lies at a checkpoint's path, read safely and before anyone decides what it means."""

import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_interface import SparseAutoencoder

_WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_CONFIG_NAMES = ("config.json", "cfg.json")
_HASH_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """An SAE that a reader made of a checkpoint."""

    sae: SparseAutoencoder
    name: str
    """Format, for instance ``dictionary_learning AutoEncoderTopK``."""

    reason: str
    """What it was recognised by."""

    metadata: Mapping[str, Any]
    """``hook``, ``model``, ``prepend_bos``: what the checkpoint says, under one set of names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A weight file with the configuration beside it."""

    path: Path
    """The weight file."""

    tensors: Mapping[str, Tensor]
    """Its tensors by key."""

    config: Mapping[str, Any]
    """The JSON beside it; empty if there is none."""

    config_name: str
    """Name of that JSON file; empty if there is none."""

    sha256: str
    """Hash of the weight file."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read a weight file, or the only one in a folder, and its configuration.

        Raises:
            SAEFormatError: missing, damaged, ambiguous, or holding objects that would have to be executed.
        """
        weights = _weight_file(path)
        config_file = next((weights.parent / name for name in _CONFIG_NAMES if (weights.parent / name).is_file()), None)
        try:
            tensors = _read_tensors(weights)
            sha256 = _sha256(weights)
            config = _read_config(config_file) if config_file else {}
        except OSError as error:
            at = error.filename or weights
            raise SAEFormatError(f"SAE {at} cannot be read: {error.strerror or error}. Check the file.") from None
        return cls(
            path=weights,
            tensors=tensors,
            config=config,
            config_name=config_file.name if config_file else "",
            sha256=sha256,
        )

    def scalar(self, key: str) -> float | None:
        """Return a one-element tensor's value, or None if there is no such key."""
        value = self.tensors.get(key)
        return None if value is None or value.numel() != 1 else float(value)

    def shaped(self, key: str, dimensions: int) -> Tensor:
        """Return a tensor that must have that many dimensions.

        Raises:
            SAEFormatError: it has another number.
        """
        value = self.tensors[key]
        if value.ndim != dimensions:
            raise SAEFormatError(
                f"SAE {self.path} has a {key} of shape {tuple(value.shape)}: expected {dimensions} dimensions. "
                "The file is damaged or of another layout."
            )
        return value


def _weight_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise SAEFormatError(f"SAE {path} does not exist: give a checkpoint file, or the folder that holds it.")
    found = sorted(file for file in path.iterdir() if file.suffix in _WEIGHT_SUFFIXES)
    if len(found) == 1:
        return found[0]
    names = ", ".join(file.name for file in found[:8])
    raise SAEFormatError(
        f"SAE folder {path} holds {len(found)} weight files ({names}): name the file."
        if found
        else f"SAE folder {path} holds no weight file ({', '.join(_WEIGHT_SUFFIXES)}): give the checkpoint's folder."
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise SAEFormatError(f"SAE {path} is damaged or cut short: {error}. Fetch it again.") from None
    with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise SAEFormatError(
                f"SAE {path} is not a plain file of tensors: it is damaged, or holds objects that only running its "
                "code could restore, which is refused. Save its state_dict instead."
            ) from None
        except Exception as error:  # for torn files torch raises RuntimeError, OSError, AssertionError, IndexError …
            reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".") or type(error).__name__
            raise SAEFormatError(f"SAE {path} is damaged or cut short: {reason}. Fetch it again.") from None
    if not isinstance(loaded, dict):
        raise SAEFormatError(f"SAE {path} holds a {type(loaded).__name__}: expected a state dict of tensors.")
    return {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SAEFormatError(f"SAE configuration {path} is not JSON: {error}. Mend or remove it.") from None
    if not isinstance(config, dict):
        raise SAEFormatError(f"SAE configuration {path} holds a {type(config).__name__}: expected an object.")
    return config


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
