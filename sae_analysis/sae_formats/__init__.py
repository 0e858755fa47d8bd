"""Checkpoints in, ``UnifiedSAEInterface`` out: each family of files has a small reader, tried in turn.

A reader looks at what lies there (a ``Checkpoint``) and either says no or returns the SAE with the reason it
recognised it by. Weights are data: ``.pt`` files are loaded with ``weights_only=True``, always.
"""

from collections.abc import Callable
from pathlib import Path

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats import dictionary_learning
from sae_analysis.sae_formats.checkpoint import Checkpoint, Recognised
from sae_analysis.sae_interface import UnifiedSAEInterface

__all__ = ["load_sae"]

_READERS: tuple[Callable[[Checkpoint], Recognised | None], ...] = (dictionary_learning.read,)


def load_sae(path: str | Path) -> UnifiedSAEInterface:
    """Load an SAE from a file or folder, whatever its layout.

    Raises:
        SAEFormatError: nothing there, a damaged file, or no layout that is known.
    """
    checkpoint = Checkpoint.open(Path(path))
    for read in _READERS:
        if recognised := read(checkpoint):
            sae = UnifiedSAEInterface(recognised.sae, format_name=recognised.name, reason=recognised.reason)
            sae.metadata = recognised.metadata
            sae.sha256 = checkpoint.sha256
            return sae
    keys = ", ".join(sorted(checkpoint.tensors)[:12])
    raise SAEFormatError(
        f"{path} is no known SAE layout. Found keys: {keys}. Known: dictionary_learning AutoEncoderTopK and "
        "AutoEncoder (ae.pt with config.json)."
    )
