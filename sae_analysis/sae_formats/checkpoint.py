"""What lies at a checkpoint's path, read safely and before anyone decides what it means.

Nothing in a file is executed, nothing is unpacked that is much larger than the file, and no tensor is taken for
larger than the file that claims to hold it.
"""

import hashlib
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae_analysis.errors import SAEFormatError
from sae_analysis.files import WEIGHT_SUFFIXES
from sae_analysis.sae_formats.settings import Settings
from sae_analysis.wording import listed

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

_LARGEST_CONFIG = {".json": 1 << 20, ".yaml": 1 << 15}
"""In bytes, by suffix: YAML is parsed a thousand times slower."""

_DEEPEST_YAML = 20

_MOST_EXPANSION = 16
"""Times that an archive's content may be larger than the file: weights hardly compress, bombs do."""

_SMALL = 1 << 20
_LONGEST_REASON = 300
_LISTED = 8
"""Weight files that an error names."""

_ZIP = b"PK\x03\x04"
_FILLS_MEMORY = b"bytearray"
"""What torch's safe loader would call although it can be asked for any number of bytes; no weights need it."""
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
            OSError: it cannot be read.
        """
        weights = _weight_file(path)
        tensors, values = _read_weights(weights)
        return cls(
            path=weights,
            tensors=tensors,
            values=values | dict(known or {}),
            config=_read_config(weights),
            sha256=_sha256(weights),
        )

    def beside(self, name: str) -> Path | None:
        """Return a file of that name beside the weights or one folder up, if there is one."""
        folders = (self.path.parent, self.path.parent.parent)
        return next((folder / name for folder in folders if (folder / name).is_file()), None)


# --- finding -------------------------------------------------------------------------------------------------------


def _weight_file(path: Path) -> Path:
    if path.is_file():
        if path.name in _CONFIG_NAMES or path.name.endswith("_cfg.json"):
            raise SAEFormatError(f"SAE {path} is a configuration and no weights: give the folder, {path.parent}.")
        return path
    if path.exists() and not path.is_dir():
        raise SAEFormatError(f"SAE {path} is no regular file: give a checkpoint file or the folder that holds it.")
    if not path.is_dir():
        raise SAEFormatError(
            f"SAE {path} does not exist: give a checkpoint file, the folder that holds it, or a hub name such as "
            "owner/repository/folder."
        )
    for depth in range(_DEEPEST + 1):
        inside = path.glob("/".join(["*"] * (depth + 1)))
        found = sorted(file for file in inside if is_weight_file(file) and file.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            names = listed((file.relative_to(path) for file in found), _LISTED)
            raise SAEFormatError(f"SAE folder {path} holds {len(found)} weight files ({names}): name the one to read.")
    raise SAEFormatError(
        f"SAE folder {path} holds no weight file: expected one that ends in {', '.join(WEIGHT_SUFFIXES[:-1])} or "
        f"{WEIGHT_SUFFIXES[-1]}, such as sae_weights.safetensors or ae.pt, in it or up to {_DEEPEST} folders below."
    )


def is_weight_file(file: Path) -> bool:
    """Return whether a file's name is that of weights."""
    return file.suffix in WEIGHT_SUFFIXES and file.name not in _COMPANIONS


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
            content = {key: value for key, value in content.items() if key != wrapper} | _plain(inner)
            break
    tensors = {str(key): _bare(path, key, value) for key, value in content.items() if isinstance(value, Tensor)}
    while prefix := next((prefix for prefix in _PREFIXES if _all_begin(tensors, prefix)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    for key, value in tensors.items():
        if value.numel() * value.element_size() > _MOST_EXPANSION * size + _SMALL:
            raise SAEFormatError(
                f"SAE {path} has {size} bytes and claims a {key} of shape {tuple(value.shape)}, which does not "
                "fit into it: it is refused."
            )
    return tensors, {str(key): value for key, value in content.items() if not isinstance(value, Tensor)}


def _plain(content: dict[Any, Any]) -> dict[Any, Any]:
    """Return a dictionary's content without attributes that a file may have put in front of its methods."""
    return dict(dict.items(content))


def _bare(path: Path, key: object, value: Tensor) -> Tensor:
    """Return a tensor likewise, without gradients; refuse one that takes no room in the file: sparse, without data."""
    if value.layout != torch.strided or value.is_nested or value.is_quantized or value.device.type != "cpu":
        raise SAEFormatError(f"SAE {path} holds {key} as no plain dense tensor: expected one with all its numbers.")
    return Tensor.detach(value)


def _all_begin(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return bool(tensors) and all(key.startswith(prefix) for key in tensors)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; tensors by key, of the shapes in the file (``[...]``).

    Raises:
        SAEFormatError: it is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, str(error)) from None


def _read_npz(path: Path, size: int) -> dict[str, Tensor]:
    try:
        with _Bounded(path.open("rb", buffering=0)) as file, warnings.catch_warnings(action="ignore"):
            with zipfile.ZipFile(file) as archive:
                _check_expansion(path, archive, size)
            file.seek(0)
            arrays = np.load(file, allow_pickle=False)
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    except SAEFormatError:
        raise
    except Exception as error:  # torn archives end in BadZipFile, ValueError, EOFError, KeyError, MemoryError …
        raise _damaged(path, str(error)) from None


class _Bounded(BufferedReader):
    """A file of which no more is asked than there is: Python makes room for all that a damaged length asks for."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most what is left."""
        if size is not None and size > _SMALL:
            size = min(size, os.fstat(self.fileno()).st_size - self.tell())
        return super().read(size)


def _read_pickle(path: Path, size: int) -> dict[str, Any]:
    with _Bounded(path.open("rb", buffering=0)) as file, warnings.catch_warnings(action="ignore"):
        try:
            _check_pickle(path, file, size)
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
    return _plain(loaded)


def _check_pickle(path: Path, file: BinaryIO, size: int) -> None:
    """Refuse what torch's safe loader would fill memory with, or refuses too late: only after writing to disk."""
    head = file.read(len(_ZIP))
    if head == _ZIP:
        with zipfile.ZipFile(file) as archive:
            _check_expansion(path, archive, size)
            pickles = [archive.read(name) for name in archive.namelist() if name.endswith(".pkl")]
        fills_memory = any(_FILLS_MEMORY in content for content in pickles)
    elif size:
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            fills_memory = content.find(_FILLS_MEMORY) >= 0
    else:
        fills_memory = False
    if fills_memory or not (head == _ZIP or pickle.PROTO.startswith(head[:1])):
        raise pickle.UnpicklingError
    file.seek(0)


def _check_expansion(path: Path, archive: zipfile.ZipFile, size: int) -> None:
    content = sum(entry.file_size for entry in archive.infolist())
    if content > _MOST_EXPANSION * size + _SMALL:
        raise SAEFormatError(
            f"SAE {path} has {size} bytes and would unpack to {content}, which no weights do: it is refused."
        )


def _damaged(path: Path, reason: str) -> SAEFormatError:
    first = reason.partition("\n")[0].partition(". ")[0].rstrip(".")
    return SAEFormatError(f"SAE {path} is damaged or cut short: {first[:_LONGEST_REASON]}. Fetch it again.")


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
    if (size := path.stat().st_size) > _LARGEST_CONFIG[path.suffix]:
        raise SAEFormatError(f"SAE configuration {path} has {size} bytes, which no configuration has: remove it.")
    raw = path.read_bytes()
    try:
        content = yaml.load(raw, _ShallowLoader) if path.suffix == ".yaml" else json.loads(raw.decode())
    except Exception as error:  # YAML's tags end in KeyError, AttributeError, IndexError … beside its own errors
        kind = "YAML" if path.suffix == ".yaml" else "JSON"
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        raise SAEFormatError(f"SAE configuration {path} is not {kind}: {reason}. Mend or remove it.") from None
    if not isinstance(content, dict):
        raise SAEFormatError(f"SAE configuration {path} holds a {type(content).__name__}: expected an object.")
    return Settings(name=str(path), content=content)


class _ShallowLoader(yaml.SafeLoader):
    """Reads YAML that refers to no earlier part of itself, by which a small file can stand for an endless one."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401 - as in YAML
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it refers to earlier parts of itself")
        if self.depth == _DEEPEST_YAML:
            raise yaml.YAMLError("it is nested too deeply")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
