"""Transcoders of circuit-tracer: ``layer_{i}.safetensors`` for every layer, with ``config.yaml`` for all.

Source: safety-research/circuit-tracer 0.5.0, ``circuit_tracer/transcoder`` and ``utils/hf_utils.py``.
"""

import re
from typing import Any

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats.checkpoint import Checkpoint
from sae_analysis.sae_formats.layout import Built, Layout, Weights, assemble
from sae_analysis.sae_interface import JumpReLU, ReLU, UnifiedSAEInterface


def _about(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    found: dict[str, Any] = {"model": config.text("model_name")}
    if layer := re.search(r"layer_(\d+)", checkpoint.path.name):
        found["hook"] = f"blocks.{layer[1]}.{config.text('feature_input_hook', 'mlp.hook_in')}"
        found["hook_out"] = f"blocks.{layer[1]}.{config.text('feature_output_hook', 'hook_mlp_out')}"
    return found


def _build(weights: Weights, _checkpoint: Checkpoint) -> Built:
    rule = JumpReLU(weights["threshold"].flatten()) if "threshold" in weights else ReLU()
    return Built(sae=assemble(weights, rule, subtract_b_dec=False, is_transcoder=True))


_LAYOUT = Layout(
    name="circuit-tracer transcoder",
    weights={"W_enc": "W_enc: D d", "b_enc": "b_enc: D", "W_dec": "W_dec: D o", "b_dec": "b_dec: o"},
    optional={"threshold": "activation_function.threshold: *", "W_skip": "W_skip: o d"},
    build=_build,
    about=_about,
)
LAYOUTS = (_LAYOUT,)


def read(checkpoint: Checkpoint) -> UnifiedSAEInterface | None:
    """Read what ``config.yaml`` or the file's name and the way round of its encoder call a transcoder.

    Raises:
        SAEFormatError: a cross-layer transcoder, or keys of another layout.
    """
    config, named = checkpoint.config, re.fullmatch(r"layer_\d+", checkpoint.path.stem)
    if config.text("model_kind") == "cross_layer_transcoder" or any(
        re.fullmatch(r"W_(enc|dec)_\d+", key) for key in checkpoint.tensors
    ):
        raise SAEFormatError(
            f"SAE {checkpoint.path} belongs to a cross-layer transcoder, which is not supported: expected a transcoder "
            "of one layer, or an SAE."
        )
    if "feature_input_hook" in config or config.text("model_kind") == "transcoder_set":
        return _LAYOUT.read(checkpoint, f"feature_input_hook in {config.file_name}")
    if "activation_function.threshold" in checkpoint.tensors and "W_enc" in checkpoint.tensors:
        return _LAYOUT.read(checkpoint, "key activation_function.threshold")
    if named and _LAYOUT.misfit(checkpoint.tensors) is None:
        return _LAYOUT.read(checkpoint, "file name layer_N and an encoder of d_sae rows")
    return None
