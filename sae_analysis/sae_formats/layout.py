"""How a family of checkpoints lays out its weights, said as data: which keys, of which shapes, play which part.

Shapes are written in letters: ``d`` for d_in, ``D`` for d_sae, ``o`` for d_out, nothing for a single number and ``*``
for anything. One letter means one length throughout a file, so that a matrix that lies the other way round does not
fit, whatever its name. ``"encoder.weight: D d"`` is read as the transpose of ``"W_enc: d D"``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats.checkpoint import Checkpoint
from sae_analysis.sae_formats.settings import Settings
from sae_analysis.sae_interface import ActivationRule, Origin, SparseAutoencoder, UnifiedSAEInterface
from sae_analysis.wording import listed, shown

Weights = Mapping[str, Tensor]
"""Tensors by the part they play (``W_enc``, ``b_dec``, ``threshold`` …), matrices the way round our SAE holds them."""

_OURS = {"W_enc": "d D", "W_dec": "D o", "W_skip": "d o"}
"""The way round of our matrices."""

_LENGTHS = {
    "d_in": ("d_in", "activation_dim", "d_model"),
    "d_sae": ("d_sae", "dict_size", "num_latents", "width"),
    "d_out": ("d_out",),
}
"""What configurations call the lengths of weights, whichever library wrote them; 0 leaves one to another setting."""

_FACTOR = "expansion_factor"
"""Where configurations keep d_sae / d_in, which counts where none of ``_LENGTHS`` gives d_sae."""

_OF_A_MODEL = frozenset(("architectures", "model_type", "vocab_size"))
"""Keys of a language model's own configuration, which may lie beside an SAE and gives other lengths by these names."""

_LISTED_KEYS = 8
_LONGEST_KEY = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An SAE made of weights, with what there is to say about the making."""

    sae: SparseAutoencoder
    warnings: tuple[str, ...] = ()
    other_rules: Mapping[str, ActivationRule] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """In what a file differs from a layout."""

    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    shapes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of differences."""
        return len(self.missing) + len(self.unknown) + len(self.shapes)

    def __str__(self) -> str:
        """Return the differences in words."""
        parts = {"missing": self.missing, "unknown": self.unknown, "of another shape": self.shapes}
        return "; ".join(f"{name} {listed_keys(keys)}" for name, keys in parts.items() if keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One class of SAE in one library's files."""

    name: str
    """For instance ``dictionary_learning AutoEncoderTopK``."""

    weights: Mapping[str, str]
    """Key and shape by the part it plays."""

    optional: Mapping[str, str] = field(default_factory=dict)
    """Like ``weights``, for what may be left out."""

    ignored: tuple[str, ...] = ()
    """Keys that say nothing about inference; one that ends in ``*`` stands for all that begin so."""

    build: Callable[[Weights, Checkpoint], Built]
    """Makes the SAE."""

    about: Callable[[Checkpoint], Mapping[str, Any]]
    """Returns the fields of ``Origin`` that the checkpoint speaks of: hook, model, prepend_bos …"""

    @property
    def keys(self) -> frozenset[str]:
        """Keys that its files must have."""
        return frozenset(_by_key(self.weights))

    def misfit(self, tensors: Mapping[str, Tensor]) -> Misfit | None:
        """Return in what a file differs, or None if it fits."""
        required, optional = _by_key(self.weights), _by_key(self.optional)
        known = required | optional
        # Lengths are those of the biases, or of the matrices if these are contradicted by fewer.
        orders = (sorted(known, key=lambda key: len(known[key].split())), list(known))
        shapes = min((_misshapen(tensors, {key: known[key] for key in order}) for order in orders), key=len)
        found = Misfit(
            missing=tuple(key for key in required if key not in tensors),
            unknown=tuple(key for key in sorted(tensors) if key not in known and not self._ignores(key)),
            shapes=shapes,
        )
        return found if found.size else None

    def read(self, checkpoint: Checkpoint, reason: str) -> UnifiedSAEInterface:
        """Return the SAE.

        Raises:
            SAEFormatError: the file differs from the layout, or its numbers are unusable.
        """
        if misfit := self.misfit(checkpoint.tensors):
            raise SAEFormatError(
                f"SAE {checkpoint.path} is a {self.name} ({reason}), but its keys are not: {misfit}. Expected "
                f"{', '.join(_by_key(self.weights))}. The file is damaged or of another layout."
            )
        weights = {
            role: _turned(checkpoint.tensors[key], role, dimensions)
            for role, (key, dimensions) in _parsed({**self.weights, **self.optional}).items()
            if key in checkpoint.tensors
        }
        _check_types(checkpoint, weights)
        built = self.build(weights, checkpoint)
        origin = Origin(
            format_name=self.name,
            reason=reason,
            warnings=(*_contradicted(checkpoint.config, built.sae), *built.warnings),
            other_rules=built.other_rules,
            sha256=checkpoint.sha256,
            **self.about(checkpoint),
        )
        return UnifiedSAEInterface(built.sae, origin=origin)

    def _ignores(self, key: str) -> bool:
        return any(key == name or (name.endswith("*") and key.startswith(name[:-1])) for name in self.ignored)


def assemble(weights: Weights, rule: ActivationRule, *, subtract_b_dec: bool, **options: Any) -> SparseAutoencoder:  # noqa: ANN401
    """Return the SAE of the usual four weights (and ``W_skip`` where there is one) with a rule."""
    parts = {name: weights[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec", "W_skip") if name in weights}
    return SparseAutoencoder(**parts, rule=rule, subtract_b_dec=subtract_b_dec, **options)


def with_unit_decoder(weights: Weights) -> dict[str, Tensor]:
    """Return weights whose rows of ``W_dec [d_sae, d_out]`` have norm 1, and activations larger by what these lost."""
    W_dec = weights["W_dec"].float()
    norms = W_dec.norm(dim=1)
    return dict(weights) | {
        "W_enc": weights["W_enc"].float() * norms,
        "b_enc": weights["b_enc"].float() * norms,
        "W_dec": W_dec / norms.clamp(min=torch.finfo(torch.float32).tiny)[:, None],
    }


def whole_number(value: Tensor, name: str, checkpoint: Checkpoint) -> int:
    """Return a tensor of one whole number, ``[]`` or ``[1]``, as an int.

    Raises:
        SAEFormatError: it holds something else.
    """
    if value.is_complex() or not float(value).is_integer():
        raise SAEFormatError(f"SAE {checkpoint.path} has a {name} that is no whole number: its file is damaged.")
    return int(value)


def listed_keys(keys: Iterable[str]) -> str:
    """Return keys in a row, the first of many, none of them whole if it is endless."""
    return listed((key[:_LONGEST_KEY] for key in keys), _LISTED_KEYS)


def _parsed(parts: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Split ``key: dimensions`` by role."""
    split = {role: description.partition(":") for role, description in parts.items()}
    return {role: (key, dimensions.strip()) for role, (key, _, dimensions) in split.items()}


def _by_key(parts: Mapping[str, str]) -> dict[str, str]:
    return dict(_parsed(parts).values())


def _fits(value: Tensor, dimensions: str, lengths: dict[str, int]) -> bool:
    """Return whether a tensor has those dimensions, learning the length of letters that are new."""
    if dimensions == "*":
        return True
    if not dimensions:
        return value.numel() == 1
    letters = dimensions.split()
    if value.ndim != len(letters) or not value.numel():
        return False
    return all(
        lengths.setdefault(letter, length) == length for letter, length in zip(letters, value.shape, strict=True)
    )


def _misshapen(tensors: Mapping[str, Tensor], known: Mapping[str, str]) -> tuple[str, ...]:
    """Return the tensors of another shape than it should be by those before them, with both."""
    lengths: dict[str, int] = {}
    return tuple(
        f"{key} {tuple(value.shape)}{_instead(dimensions, lengths)}"
        for key, dimensions in known.items()
        if (value := tensors.get(key)) is not None and not _fits(value, dimensions, lengths)
    )


def _instead(dimensions: str, lengths: Mapping[str, int]) -> str:
    """Return the shape that was expected, where all of its lengths are known."""
    letters = dimensions.split()
    if not letters or any(letter not in lengths for letter in letters):
        return ""
    return f" instead of {tuple(lengths[letter] for letter in letters)}"


def _turned(value: Tensor, role: str, dimensions: str) -> Tensor:
    """Return a matrix the way round our SAE holds it."""
    ours = _OURS.get(role, "")
    if not ours:
        return value
    return value.T if dimensions[0] != ours[0] else value


def _contradicted(config: Settings, sae: SparseAutoencoder) -> Iterator[str]:
    """Yield in words each length that the configuration gives otherwise than the weights, which are what is read."""
    (d_in, d_sae), d_out = sae.W_enc.shape, sae.W_dec.shape[1]
    content = {**config.content, **config.section("trainer").content}
    if _OF_A_MODEL & content.keys():
        return
    said = {
        name: {key: content[key] for key in keys if type(content.get(key)) is int and content[key]}
        for name, keys in _LENGTHS.items()
    }
    for name, length in {"d_in": d_in, "d_sae": d_sae, "d_out": d_out}.items():
        for key, value in said[name].items():
            if value != length:
                found = f"the weights have {name} = {length}: these count."
                yield f"{config.file_name} says {key} = {shown(value)}, and {found}"
    factor = content.get(_FACTOR)
    if not said["d_sae"] and type(factor) in (int, float) and factor and abs(factor * d_in - d_sae) >= 1:
        found = f"the weights have d_in = {d_in} and d_sae = {d_sae}: these count."
        yield f"{config.file_name} says {_FACTOR} = {shown(factor)}, and {found}"


def _check_types(checkpoint: Checkpoint, weights: Weights) -> None:
    for role, value in weights.items():
        if role != "k" and not value.is_floating_point():
            raise SAEFormatError(
                f"SAE {checkpoint.path} holds its {role} as {value.dtype}: expected floating point numbers."
            )
