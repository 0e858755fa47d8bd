"""The language model: tokens, hooks, a forward pass that ends where it is read. All that knows model libraries."""

import sys
from contextlib import redirect_stdout
from pathlib import Path

import torch

from sae_analysis.errors import ModelError
from sae_analysis.language_model.base import LanguageModel
from sae_analysis.language_model.tokens import TokenText

__all__ = ["LanguageModel", "TokenText", "load_model"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(name: str | Path, *, dtype: str = "auto", device: str = "auto") -> LanguageModel:
    """Load a causal language model by local folder, TransformerLens name or hub name.

    ``dtype`` is that of the forward pass: ``float32``, ``bfloat16``, ``float16``, or ``auto`` for float32 on a CPU and
    the stored format on a GPU. ``device`` is a torch device, or ``auto`` for CUDA where it is there.

    Raises:
        ModelError: not found, damaged, unknown dtype, or a device that is not there.
    """
    from sae_analysis.language_model import huggingface, transformer_lens

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        wanted = torch.float32 if device == "cpu" else None
    elif dtype in _DTYPES:
        wanted = _DTYPES[dtype]
    else:
        raise ModelError(f"dtype {dtype} is not one of auto, {', '.join(_DTYPES)}.")
    name = str(name)
    try:
        is_folder = Path(name).is_dir()
    except OSError as error:  # in a folder that may not be looked into
        raise ModelError(f"Model {name} cannot be read: {error.strerror}. Check the folder.") from None
    library = transformer_lens if not is_folder and transformer_lens.knows(name) else huggingface
    with redirect_stdout(sys.stderr):  # TransformerLens 3 prints what it does; the caller's output is the caller's
        model = library.load(name)
        _move(model, device, wanted)
    return model


def _move(model: LanguageModel, device: str, dtype: torch.dtype | None) -> None:
    try:
        model.module.to(device)  # one thing at a time: TransformerLens 3 takes no more
        if dtype is not None:
            model.module.to(dtype)
        if model.device.type == "meta":
            raise RuntimeError("it computes nothing")
    except (RuntimeError, AssertionError, ImportError) as error:  # torch raises any for a device it cannot use
        raise ModelError(f"device {device} cannot be used: {str(error).splitlines()[0]}. Try device cpu.") from None
