"""Checkpoints in, ``UnifiedSAEInterface`` out: each family of files has a small reader.

A reader first looks whether a configuration, a file name or a key of its own claims the file for it. What none
claims is held against every layout that keys and shapes alone tell apart. Weights are data: ``.pt`` files are loaded
with ``weights_only=True``, always.
"""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    llama_scope,
    openai,
    releases,
    saelens,
    sparsify,
    vsae_topk,
)
from sae_analysis.sae_formats.checkpoint import Checkpoint
from sae_analysis.sae_formats.hub import locate
from sae_analysis.sae_formats.layout import Layout, listed_keys
from sae_analysis.sae_interface import UnifiedSAEInterface

__all__ = ["load_sae", "read_checkpoint"]

_FAMILIES: tuple[ModuleType, ...] = (
    dictionary_learning,
    vsae_topk,
    saelens,
    sparsify,
    gemma_scope,
    llama_scope,
    openai,
    circuit_tracer,
    releases,
)

_READERS: tuple[Callable[[Checkpoint], UnifiedSAEInterface | None], ...] = tuple(family.read for family in _FAMILIES)

_LAYOUTS: tuple[Layout, ...] = tuple(layout for family in _FAMILIES for layout in family.LAYOUTS)
"""What a file without configuration may be; of two that fit, the first is meant."""

_OF_LANGUAGE_MODELS = {"embed_tokens", "embed_in", "lm_head", "wte", "word_embeddings", "tok_embeddings"}
"""Parts of a key that only a language model has: embedding and unembedding of tokens."""


def load_sae(path: str | Path) -> UnifiedSAEInterface:
    """Load an SAE from a file or folder, whatever its layout, or by name.

    Names are ``owner/repository/folder`` on the Hugging Face hub and ``saelens:release/sae_id`` for what SAELens
    lists, where these can be reached.

    Raises:
        SAEFormatError: nothing there, a file that is damaged or cannot be read, or no layout that is known.
    """
    try:
        found = locate(str(path))
        return read_checkpoint(Checkpoint.open(found.path, known=found.known))
    except OSError as error:
        at = error.filename or path
        raise SAEFormatError(f"SAE {at} cannot be read: {error.strerror or error}. Check the file.") from None


def read_checkpoint(checkpoint: Checkpoint) -> UnifiedSAEInterface:
    """Recognise a checkpoint and make an SAE of it.

    Raises:
        SAEFormatError: no layout that is known, one that is not supported, or numbers that are unusable.
        OSError: a file beside it cannot be read.
    """
    for read in _READERS:
        if sae := read(checkpoint):
            return sae
    if any(value.ndim > 2 for value in checkpoint.tensors.values()):
        raise SAEFormatError(
            f"SAE {checkpoint.path} holds weights for several layers at once ({_listed(checkpoint)}): crosscoders and "
            "cross-layer transcoders are not supported."
        )
    for layout in _LAYOUTS:
        if layout.misfit(checkpoint.tensors) is None:
            return layout.read(checkpoint, f"keys {_listed(checkpoint)}")
    found = f"Found keys: {_listed(checkpoint) or 'none'}."
    if any(set(key.split(".")) & _OF_LANGUAGE_MODELS for key in checkpoint.tensors):
        raise SAEFormatError(
            f"SAE {checkpoint.path} is in no known layout: its keys are a language model's. The SAE is wanted here (in "
            f"Python it comes first). {found}"
        )
    misfits = [
        (layout, misfit)
        for layout in _LAYOUTS
        if layout.keys & checkpoint.tensors.keys() and (misfit := layout.misfit(checkpoint.tensors))
    ]
    if not misfits:
        raise SAEFormatError(
            f"SAE {checkpoint.path} is in no known layout. {found} No layout has any of these: see docs/formats.md, or "
            "docs/adding_an_architecture.md to add one."
        )
    layout, misfit = min(misfits, key=lambda pair: pair[1].size)
    keys = ", ".join(sorted(layout.keys))
    raise SAEFormatError(
        f"SAE {checkpoint.path} is in no known layout. {found} Nearest is {layout.name} ({keys}), but: {misfit}."
    )


def _listed(checkpoint: Checkpoint) -> str:
    return listed_keys(sorted(checkpoint.tensors))
