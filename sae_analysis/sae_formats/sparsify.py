"""Checkpoints of EleutherAI/sparsify: a folder per hookpoint with ``cfg.json`` and ``sae.safetensors``.

Source: EleutherAI/sparsify 1.3.3, ``sparsify/config.py``, ``sparse_coder.py`` and ``fused_encoder.py``.
"""

from typing import Any

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats.checkpoint import Checkpoint, read_settings
from sae_analysis.sae_formats.layout import Built, Layout, Weights, assemble
from sae_analysis.sae_interface import GroupMax, TopK, UnifiedSAEInterface


def _about(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the hook, which is the folder's name, and the model from the configuration one folder up."""
    above = checkpoint.path.parent.parent / "config.json"
    hook = checkpoint.path.parent.name
    is_module = any(part in hook for part in ("layers", "h.", "blocks", "embed_tokens"))
    found: dict[str, Any] = {"hook": hook if is_module else None}
    if found["hook"] and checkpoint.config.flag("transcode", default=False):
        found |= {"hook": f"{hook}.input", "hook_out": f"{hook}.output"}
    if above.is_file():
        found["model"] = read_settings(above).text("model")
    return found


def _build(weights: Weights, checkpoint: Checkpoint) -> Built:
    config = checkpoint.config
    if (k := config.whole("k")) is None:
        raise SAEFormatError(
            f"SAE {checkpoint.path} has no k: a sparsify SAE needs the cfg.json that it was saved with."
        )
    activation = config.text("activation", "topk")
    if activation not in ("topk", "groupmax"):
        raise SAEFormatError(
            f"SAE configuration {config.name} says activation = {activation!r}: expected 'topk' or 'groupmax'."
        )
    is_transcoder = config.flag("transcode", default=False)
    sae = assemble(
        weights,
        TopK(k) if activation == "topk" else GroupMax(k),
        subtract_b_dec=not is_transcoder,
        is_transcoder=is_transcoder,
    )
    warnings = ("Transcoders of sparsify from before February 2025 subtracted b_dec; this one is read without.",)
    return Built(sae=sae, warnings=warnings if is_transcoder else ())


_LAYOUT = Layout(
    name="sparsify",
    weights={"W_enc": "encoder.weight: D d", "b_enc": "encoder.bias: D", "W_dec": "W_dec: D d", "b_dec": "b_dec: d"},
    optional={"W_skip": "W_skip: o d"},
    build=_build,
    about=_about,
)
LAYOUTS = (_LAYOUT,)


def read(checkpoint: Checkpoint) -> UnifiedSAEInterface | None:
    """Read what ``cfg.json`` describes in the words of this library.

    Raises:
        SAEFormatError: keys of another layout.
    """
    config = checkpoint.config
    if config.file_name != "cfg.json" or not ("d_in" in config and "expansion_factor" in config and "k" in config):
        return None
    return _LAYOUT.read(checkpoint, f"expansion_factor and k in {config.file_name}")
