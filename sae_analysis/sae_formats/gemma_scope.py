"""Gemma Scope (``params.npz``) and Gemma Scope 2 (``params.safetensors``): JumpReLU SAEs and transcoders of Gemma.

What the first release reads is said by its folders alone (``gemma-scope-2b-pt-res/layer_20/width_16k/...``).

Source: Lieberum et al. 2024, "Gemma Scope"; of the second release, the keys of decoderesearch/SAELens,
``sae_lens/loading/pretrained_sae_loaders.py``.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from sae_analysis.sae_formats.checkpoint import Checkpoint
from sae_analysis.sae_formats.layout import Built, Layout, Weights, assemble
from sae_analysis.sae_interface import JumpReLU, UnifiedSAEInterface

_KINDS = {
    "transcoder": ("ln2.hook_normalized", "hook_mlp_out"),
    "-res": ("hook_resid_post", None),
    "resid_post": ("hook_resid_post", None),
    "-mlp": ("hook_mlp_out", None),
    "mlp_out": ("hook_mlp_out", None),
    "-att": ("attn.hook_z", None),
    "attn_out": ("attn.hook_z", None),
}
"""Where an SAE reads and writes, by what its path contains."""


def _place(checkpoint: Checkpoint) -> str:
    return "/".join(checkpoint.path.parts[-7:])


def _is_embedding(checkpoint: Checkpoint) -> bool:
    return "embedding" in checkpoint.path.parts[-4:]


def _about(checkpoint: Checkpoint) -> dict[str, Any]:
    config, place = checkpoint.config, _place(checkpoint)
    found: dict[str, Any] = {"prepend_bos": True, "assumed": ("prepend_bos",), "model": config.text("model_name")}
    if match := re.search(r"gemma-scope-(\d+b)-(pt|it)", place):
        found["model"] = f"google/gemma-2-{match[1]}" + ("-it" if match[2] == "it" else "")
    if hook := config.text("hf_hook_point_in"):
        return found | {"hook": hook, "hook_out": config.text("hf_hook_point_out")}
    if _is_embedding(checkpoint):
        return found | {"hook": "blocks.0.hook_resid_pre"}  # what the first block reads, scaled as Gemma scales it
    kind = next((kind for name, kind in _KINDS.items() if name in place), None)
    if kind and (layer := re.search(r"layer_(\d+)", place)):
        hook, hook_out = kind
        found["hook"] = f"blocks.{layer[1]}.{hook}"
        found["hook_out"] = hook_out and f"blocks.{layer[1]}.{hook_out}"
    return found


def _build(weights: Weights, checkpoint: Checkpoint) -> Built:
    weights = dict(weights)
    if _is_embedding(checkpoint):  # trained on embeddings before Gemma multiplies them with the root of their width
        scale = float(np.sqrt(len(weights["b_dec"])))
        weights |= {"W_enc": weights["W_enc"].float() / scale, "W_dec": weights["W_dec"].float() * scale}
    place = _place(checkpoint)
    across = "transcoder" in place or "W_skip" in weights or "hf_hook_point_out" in checkpoint.config
    sae = assemble(
        weights,
        JumpReLU(weights["threshold"]),
        subtract_b_dec=False,
        is_transcoder=across or None,
    )
    return Built(sae=sae)


def _layout(name: str, W: str, optional: Mapping[str, str] | None = None) -> Layout:
    return Layout(
        name=name,
        weights={
            "W_enc": f"{W}_enc: d D",
            "W_dec": f"{W}_dec: D o",
            "b_enc": "b_enc: D",
            "b_dec": "b_dec: o",
            "threshold": "threshold: D",
        },
        build=_build,
        about=_about,
        optional=optional or {},
    )


_FIRST = _layout("Gemma Scope", "W")
_FIRST_LOWER = _layout("Gemma Scope", "w")
_SECOND = _layout("Gemma Scope 2", "w", optional={"W_skip": "affine_skip_connection: d o"})
LAYOUTS = (_SECOND,)


def read(checkpoint: Checkpoint) -> UnifiedSAEInterface | None:
    """Read a ``.npz`` file, or what ``config.json`` calls a jump_relu.

    Raises:
        SAEFormatError: keys of another layout.
    """
    if checkpoint.path.suffix == ".npz":
        layout = _FIRST_LOWER if "w_enc" in checkpoint.tensors else _FIRST
        return layout.read(checkpoint, "a file of NumPy arrays")
    if checkpoint.config.content.get("architecture") == "jump_relu":
        return _SECOND.read(checkpoint, f"architecture 'jump_relu' in {checkpoint.config.file_name}")
    return None
