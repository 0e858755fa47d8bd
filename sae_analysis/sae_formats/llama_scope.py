"""Checkpoints of OpenMOSS: Llama Scope (``hyperparams.json``), its R1 successor, and llamascopium 2.

All are trained on activations scaled to an average norm of sqrt(d_model). Llama Scope states its threshold for raw
activations, so its SAEs are brought into raw units first; the later ones state theirs for scaled activations, so the
scale is folded into the encoder's input and taken back after the decoder.

Source: He et al. 2024, "Llama Scope"; OpenMOSS/Language-Model-SAEs at 95281ac (2026).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats.checkpoint import Checkpoint
from sae_analysis.sae_formats.layout import Built, Layout, Weights, assemble, with_unit_decoder
from sae_analysis.sae_formats.settings import Settings
from sae_analysis.sae_interface import ConstantNorm, InputNorm, JumpReLU, ReLU, TopK, UnifiedSAEInterface

_NORM_KEY = "dataset_average_activation_norm"


def _about(checkpoint: Checkpoint) -> dict[str, Any]:
    hook, hook_out = _hooks(checkpoint.config)
    model = checkpoint.config.section("lm").text("model_name") or checkpoint.config.text("model_name")
    return {"hook": hook, "hook_out": None if hook_out == hook else hook_out, "model": model}


def _hooks(config: Settings) -> tuple[str | None, str | None]:
    hook = config.text("hook_point_in")
    return hook, config.text("hook_point_out") or hook


def _is_across(config: Settings) -> bool:
    hook, hook_out = _hooks(config)
    return hook != hook_out


# --- Llama Scope ---------------------------------------------------------------------------------------------------


def _build_first(weights: Weights, checkpoint: Checkpoint) -> Built:
    config = checkpoint.config
    norm = _token_norm(checkpoint)
    if config.text("norm_activation", "dataset-wise") == "dataset-wise":
        averages = config.section(_NORM_KEY)
        scale_in, scale_out = (_scale(weights, averages.number(side), side, checkpoint) for side in ("in", "out"))
        weights = dict(weights) | {
            "b_enc": weights["b_enc"].float() / scale_in,
            "W_dec": weights["W_dec"].float() * (scale_in / scale_out),
            "b_dec": weights["b_dec"].float() / scale_out,
        }
    if config.flag("sparsity_include_decoder_norm", default=True):
        weights = with_unit_decoder(weights)
    threshold, act_fn, k = config.number("jump_relu_threshold") or 0.0, config.text("act_fn"), config.whole("top_k")
    if act_fn == "jumprelu" or (act_fn == "topk" and threshold > 0):
        rule = JumpReLU(torch.tensor(threshold))
    elif act_fn == "topk" and k is not None:
        rule = TopK(k)
    elif act_fn == "relu":
        rule = ReLU()
    else:
        raise _unsupported(checkpoint, f"act_fn {act_fn}")
    subtract = config.flag("apply_decoder_bias_to_pre_encoder", default=False)
    return Built(
        sae=assemble(weights, rule, subtract_b_dec=subtract, input_norm=norm, is_transcoder=_is_across(config))
    )


# --- later ---------------------------------------------------------------------------------------------------------


def _build_later(weights: Weights, checkpoint: Checkpoint) -> Built:
    config, warnings = checkpoint.config, ()
    weights = {name: value.float() for name, value in weights.items()}
    weights.setdefault("b_dec", torch.zeros(weights["W_dec"].shape[1]))
    # Ranks and thresholds are compared after multiplying with the decoder's norms as they are stored.
    by_norm = config.flag("sparsity_include_decoder_norm", default=True)
    norms = weights["W_dec"].norm(dim=1) if by_norm else None
    act_fn, k = config.text("act_fn", "relu"), config.whole("top_k")
    if act_fn == "jumprelu" and "log_threshold" in weights:
        threshold = weights["log_threshold"].exp()
        rule = JumpReLU(threshold if norms is None else threshold / norms)
    elif act_fn in ("topk", "batchtopk") and k is not None:
        rule = TopK(k, rank_by=norms)
        if act_fn == "batchtopk":
            warnings = (f"It chose the largest of a whole batch in training: read as the {k} largest of each token.",)
    elif act_fn == "relu":
        rule = ReLU()
    else:
        raise _unsupported(checkpoint, f"act_fn {act_fn}")
    norm = _token_norm(checkpoint)
    if config.text("norm_activation", "dataset-wise") == "dataset-wise":
        scale_in, scale_out = _stored_scales(weights, checkpoint)
        weights |= {
            "W_enc": weights["W_enc"] * scale_in,
            "W_dec": weights["W_dec"] / scale_out,
            "b_dec": weights["b_dec"] / scale_out,
        }
    sae = assemble(weights, rule, subtract_b_dec=False, input_norm=norm, is_transcoder=_is_across(config))
    return Built(sae=sae, warnings=warnings)


def _stored_scales(weights: Weights, checkpoint: Checkpoint) -> tuple[float, float]:
    found = []
    for hook in _hooks(checkpoint.config):
        stored = checkpoint.tensors.get(f"{_NORM_KEY}.{hook}")
        if stored is not None and (stored.numel() != 1 or stored.is_complex()):
            stored = None
        found.append(_scale(weights, None if stored is None else float(stored), str(hook), checkpoint))
    return found[0], found[1]


# --- both ----------------------------------------------------------------------------------------------------------


def _scale(weights: Weights, average_norm: float | None, place: str, checkpoint: Checkpoint) -> float:
    """Return the factor that brings activations of that average norm to sqrt(d_model)."""
    if average_norm is None or not 0 < average_norm < math.inf:
        raise SAEFormatError(
            f"SAE {checkpoint.path} reads activations scaled by their average norm, and that norm at {place} is "
            f"{average_norm}: its files do not hold what is needed to read it."
        )
    return math.sqrt(weights["W_enc"].shape[0]) / average_norm


def _token_norm(checkpoint: Checkpoint) -> InputNorm | None:
    asked = checkpoint.config.text("norm_activation", "dataset-wise")
    if asked == "batch-wise":  # the same token would be encoded in another way beside other tokens
        raise _unsupported(checkpoint, "norm_activation batch-wise")
    return ConstantNorm() if asked == "token-wise" else None


def _unsupported(checkpoint: Checkpoint, what: str) -> SAEFormatError:
    return SAEFormatError(
        f"SAE {checkpoint.path} is an OpenMOSS SAE with {what}, which is not supported: expected act_fn relu, "
        "jumprelu, topk or batchtopk with its k or threshold, without GLU, and a norm that needs no batch."
    )


_LINEAR = {
    "W_enc": "encoder.weight: D d",
    "b_enc": "encoder.bias: D",
    "W_dec": "decoder.weight: o D",
    "b_dec": "decoder.bias: o",
}
_FREE = {"W_enc": "W_E: d D", "b_enc": "b_E: D", "W_dec": "W_D: D o"}


def _later(name: str, weights: Mapping[str, str], *, threshold: str, **optional: str) -> Layout:
    return Layout(
        name=name,
        weights=weights,
        optional={"log_threshold": f"{threshold}: D"} | optional,
        ignored=(f"{_NORM_KEY}.*",),
        build=_build_later,
        about=_about,
    )


_FIRST = Layout(name="Llama Scope", weights=_LINEAR, build=_build_first, about=_about)
_R1 = _later("Llama Scope R1", _LINEAR, threshold="log_jumprelu_threshold")
_R1_NESTED = _later("Llama Scope R1", _LINEAR, threshold="activation_function.log_jumprelu_threshold")
_SECOND = _later("llamascopium", _FREE, threshold="activation_function.log_jumprelu_threshold", b_dec="b_D: o")
LAYOUTS = (_R1, _SECOND)


def read(checkpoint: Checkpoint) -> UnifiedSAEInterface | None:
    """Read what the configuration describes in the words of OpenMOSS.

    Raises:
        SAEFormatError: a kind of dictionary that is not supported, or keys of another layout.
    """
    config = checkpoint.config
    if config.file_name == "hyperparams.json" and "d_model" in config:
        return _FIRST.read(checkpoint, "d_model in hyperparams.json")
    if "hook_point_in" not in config and "sae_type" not in config:
        return None
    if (kind := config.text("sae_type", "sae")) != "sae":
        raise _unsupported(checkpoint, f"sae_type {kind}")
    if config.flag("use_glu_encoder", default=False):
        raise _unsupported(checkpoint, "a GLU encoder")
    if "W_E" in checkpoint.tensors:
        return _SECOND.read(checkpoint, f"hook_point_in in {config.file_name}, key W_E")
    layout = _R1 if "log_jumprelu_threshold" in checkpoint.tensors else _R1_NESTED
    return layout.read(checkpoint, f"hook_point_in in {config.file_name}")
