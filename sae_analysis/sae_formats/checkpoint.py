"""What lies at a checkpoint's path, read safely and before anyone decides what it means.

Nothing in a file is executed, nothing is unpacked that is much larger than the file, and no tensor is taken for
larger than the file that claims to hold it.
"""

import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats.settings import Settings

_WEIGHT_SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".bin")

_COMPANIONS = (
    "sparsity.safetensors",
    "activation_whitening.safetensors",
    "activations_store_state.safetensors",
    "trainer_state.pt",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
)
"""Files that lie beside weights and are none."""

_CONFIG_NAMES = ("cfg.json", "config.json", "hyperparams.json", "config.yaml")
_WRAPPERS = ("ae", "sae", "state_dict", "model_state_dict", "model")
"""Where files keep the state dict, if not at the top; ``ae`` is a mid-run backup of dictionary_learning."""

_PREFIXES = ("_orig_mod.", "module.")
"""What torch.compile and data parallel training put before every key."""

_DEEPEST = 3
"""Folders searched below the one named."""

_LARGEST_CONFIG = 16 << 20
_MOST_EXPANSION = 16
"""Times that an archive's content may be larger than the file: weights hardly compress, bombs do."""

_SMALL = 1 << 20
_HASH_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A weight file with the configuration beside it."""

    path: Path
    """The weight file."""

    tensors: Mapping[str, Tensor]
    """Its tensors by key."""

    values: Mapping[str, Any]
    """What else it holds: numbers, strings, small dictionaries."""

    config: Settings
    """The configuration beside it; empty if there is none."""

    sha256: str
    """Hash of the weight file."""

    @classmethod
    def open(cls, path: Path, *, known: Mapping[str, Any] | None = None) -> Self:
        """Read a weight file, or the only one in a folder, and its configuration.

        ``known`` is what its publisher says elsewhere, and becomes part of ``values``.

        Raises:
            SAEFormatError: missing, damaged, ambiguous, or holding objects that would have to be executed.
        """
        weights = _weight_file(path)
        try:
            tensors, values = _read_weights(weights)
            sha256 = _sha256(weights)
            config = _read_config(weights)
        except OSError as error:
            at = error.filename or weights
            raise SAEFormatError(f"SAE {at} cannot be read: {error.strerror or error}. Check the file.") from None
        return cls(path=weights, tensors=tensors, values=values | dict(known or {}), config=config, sha256=sha256)

    def beside(self, name: str) -> Path | None:
        """Return a file of that name beside the weights or one folder up, if there is one."""
        folders = (self.path.parent, self.path.parent.parent)
        return next((folder / name for folder in folders if (folder / name).is_file()), None)


# --- finding -------------------------------------------------------------------------------------------------------


def _weight_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise SAEFormatError(
            f"SAE {path} does not exist: give a checkpoint file, the folder that holds it, or a hub name such as "
            "owner/repository/folder."
        )
    for depth in range(_DEEPEST + 1):
        found = sorted(file for file in path.glob("/".join(["*"] * (depth + 1))) if is_weight_file(file))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(str(file.relative_to(path)) for file in found[:8])
            more = f" and {len(found) - 8} more" if len(found) > 8 else ""
            raise SAEFormatError(
                f"SAE folder {path} holds {len(found)} weight files ({names}{more}): name the one to read."
            )
    raise SAEFormatError(
        f"SAE folder {path} holds no weight file ({', '.join(_WEIGHT_SUFFIXES)}): give the checkpoint's folder."
    )


def is_weight_file(file: Path) -> bool:
    """Return whether a file's name is that of weights."""
    return file.suffix in _WEIGHT_SUFFIXES and file.name not in _COMPANIONS


# --- weights -------------------------------------------------------------------------------------------------------


def _read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        content: dict[str, Any] = read_safetensors(path)
    elif path.suffix == ".npz":
        content = _read_npz(path, size)
    else:
        content = _read_pickle(path, size)
    for wrapper in _WRAPPERS:
        inner = content.get(wrapper)
        if isinstance(inner, dict) and not any(isinstance(value, Tensor) for value in content.values()):
            content = {key: value for key, value in content.items() if key != wrapper} | inner
            break
    for prefix in _PREFIXES:
        if content and all(str(key).startswith(prefix) for key in content):
            content = {str(key).removeprefix(prefix): value for key, value in content.items()}
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    for key, value in tensors.items():
        _check_claim(path, key, value, size)
    return tensors, {str(key): value for key, value in content.items() if not isinstance(value, Tensor)}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        SAEFormatError: it is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, str(error)) from None


def _read_npz(path: Path, size: int) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            _check_expansion(path, archive, size)
        with np.load(path, allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    except SAEFormatError:
        raise
    except Exception as error:  # torn archives end in BadZipFile, ValueError, EOFError, KeyError, MemoryError …
        raise _damaged(path, str(error)) from None


def _read_pickle(path: Path, size: int) -> dict[str, Any]:
    with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
        try:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    _check_expansion(path, archive, size)
            file.seek(0)
            loaded = torch.load(file, map_location="cpu", weights_only=True)
        except SAEFormatError:
            raise
        except pickle.UnpicklingError:
            raise SAEFormatError(
                f"SAE {path} is not a plain file of tensors: it is damaged, or holds objects that only running its "
                "code could restore, which is refused. Save its state_dict instead."
            ) from None
        except Exception as error:  # for torn files torch raises RuntimeError, OSError, AssertionError, IndexError …
            raise _damaged(path, str(error) or type(error).__name__) from None
    if not isinstance(loaded, dict):
        raise SAEFormatError(f"SAE {path} holds a {type(loaded).__name__}: expected a state dict of tensors.")
    return loaded


def _check_expansion(path: Path, archive: zipfile.ZipFile, size: int) -> None:
    content = sum(entry.file_size for entry in archive.infolist())
    if content > _MOST_EXPANSION * size + _SMALL:
        raise SAEFormatError(
            f"SAE {path} has {size} bytes and would unpack to {content}, which no weights do: it is refused."
        )


def _check_claim(path: Path, key: str, value: Tensor, size: int) -> None:
    """Refuse tensors that take no room in the file: expanded, sparse, without data."""
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise SAEFormatError(f"SAE {path} holds {key} as no plain dense tensor: expected one with all its numbers.")
    if value.numel() * value.element_size() > _MOST_EXPANSION * size + _SMALL:
        raise SAEFormatError(
            f"SAE {path} has {size} bytes and claims a {key} of shape {tuple(value.shape)}, which does not fit into "
            "it: it is refused."
        )


def _damaged(path: Path, reason: str) -> SAEFormatError:
    first = reason.partition("\n")[0].partition(". ")[0].rstrip(".")
    return SAEFormatError(f"SAE {path} is damaged or cut short: {first}. Fetch it again.")


# --- configuration -------------------------------------------------------------------------------------------------


def _read_config(weights: Path) -> Settings:
    """Read the configuration of a weight file: of its own name, of its folder, or of the folder above."""
    stem = weights.name.removesuffix(weights.suffix)
    folders = [weights.parent]
    if weights.parent.name == "checkpoints":
        folders.append(weights.parent.parent)
    candidates = [weights.parent / f"{stem}_cfg.json"]
    candidates += [folder / name for folder in folders for name in _CONFIG_NAMES]
    found = next((file for file in candidates if file.is_file()), None)
    return Settings(name="", content={}) if found is None else read_settings(found)


def read_settings(path: Path) -> Settings:
    """Read a JSON or YAML object.

    Raises:
        SAEFormatError: too large, not JSON or YAML, or no object.
        OSError: it cannot be read.
    """
    if (size := path.stat().st_size) > _LARGEST_CONFIG:
        raise SAEFormatError(f"SAE configuration {path} has {size} bytes, which no configuration has: remove it.")
    try:
        text = path.read_text("utf-8")
        content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        kind = "YAML" if path.suffix == ".yaml" else "JSON"
        reason = " ".join(str(error).split())
        raise SAEFormatError(f"SAE configuration {path} is not {kind}: {reason}. Mend or remove it.") from None
    if not isinstance(content, dict):
        raise SAEFormatError(f"SAE configuration {path} holds a {type(content).__name__}: expected an object.")
    return Settings(name=str(path), content=content)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
