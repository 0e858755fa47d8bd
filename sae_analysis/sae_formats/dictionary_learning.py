"""Checkpoints of saprmarks/dictionary_learning: ``ae.pt`` with ``config.json`` = {"trainer": …, "buffer": …}.

A finished file takes raw activations. A mid-run backup holds biases for activations divided by ``norm_factor``, and
is read with its biases multiplied by it, as the library itself does when it ends.

Source: saprmarks/dictionary_learning at 60ec6bf (2025), ``dictionary.py``, ``training.py`` and ``trainers``.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats.checkpoint import Checkpoint
from sae_analysis.sae_formats.layout import Built, Layout, Weights, assemble, whole_number
from sae_analysis.sae_interface import ActivationRule, Gated, JumpReLU, ReLU, TopK, UnifiedSAEInterface
from sae_analysis.wording import shown, three_digits

_HOOKS = {
    "resid_post": "blocks.{}.hook_resid_post",
    "resid_pre": "blocks.{}.hook_resid_pre",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "attn_out": "blocks.{}.hook_attn_out",
}
"""Hook by the beginning of the config's ``submodule_name`` (``resid_post_layer_9``)."""

_UNIT = 1e-3
"""How far decoder norms may be from 1 before their user is told."""


def about(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return hook, model and BOS as the trainer's configuration tells them."""
    trainer, buffer = checkpoint.config.section("trainer"), checkpoint.config.section("buffer")
    found: dict[str, Any] = {"model": trainer.text("lm_name")}
    match = re.match("|".join(_HOOKS), trainer.text("submodule_name") or "")
    if match and (layer := trainer.whole("layer")) is not None:
        found["hook"] = _HOOKS[match[0]].format(layer)
    # True leaves BOS to the tokenizer, and many add none; only False says what the SAE was trained on.
    if buffer.content.get("add_special_tokens") is False:
        found["prepend_bos"] = False
    return found


def rescaled(weights: Weights, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the weights of a mid-run backup for raw activations; those of a finished file as they are.

    Biases and thresholds ``[d_sae]``, ``[d_in]`` are multiplied by ``norm_factor``, which activations were divided by.

    Raises:
        SAEFormatError: ``norm_factor`` is no number above 0.
    """
    factor = checkpoint.values.get("norm_factor", 1.0)
    if not isinstance(factor, (int, float)) or not 0 < factor < torch.finfo(torch.float32).max:
        raise SAEFormatError(
            f"SAE {checkpoint.path} is a backup with norm_factor {shown(factor)}: expected a number above 0."
        )
    scaled = {name: weights[name].float() * factor for name in ("b_enc", "b_dec", "b_gate", "b_mag") if name in weights}
    if "threshold" in weights and not _is_unset(weights["threshold"]):
        scaled["threshold"] = weights["threshold"].float() * factor
    return dict(weights) | scaled


def _is_unset(threshold: Tensor) -> bool:
    """Return whether a single threshold is still at the -1 it begins with."""
    return threshold.numel() == 1 and float(threshold) < 0


def _simple(rule: Callable[[Weights], ActivationRule], *, subtract_b_dec: bool) -> Callable[..., Built]:
    def build(weights: Weights, checkpoint: Checkpoint) -> Built:
        weights = rescaled(weights, checkpoint)
        if "b_gate" in weights:
            weights["b_enc"] = weights["b_gate"]
        sae = assemble(weights, rule(weights), subtract_b_dec=subtract_b_dec)
        return Built(sae=sae, warnings=_about_norms(sae.W_dec))

    return build


def _about_norms(W_dec: Tensor) -> tuple[str, ...]:
    norms = W_dec.norm(dim=1)
    if torch.allclose(norms, torch.ones_like(norms), atol=_UNIT):
        return ()
    return (
        f"Decoder rows have norms from {three_digits(float(norms.min()))} to {three_digits(float(norms.max()))}; "
        "activations are in the file's own units (the library may rescale both when it loads).",
    )


def _top_k(weights: Weights, checkpoint: Checkpoint) -> Built:
    weights = rescaled(weights, checkpoint)
    k = whole_number(weights["k"], "k", checkpoint)
    warnings: tuple[str, ...] = ()
    if "trainer" not in checkpoint.config and "threshold" in weights:
        warnings = (
            "Its keys are those of AutoEncoderTopK, of an early VSAETopK and of BatchTopKSAE: read as the k largest of "
            "each token, which is wrong for the last. Its config.json would tell.",
        )
    return Built(sae=assemble(weights, TopK(k), subtract_b_dec=True), warnings=warnings)


def _batch_top_k(weights: Weights, checkpoint: Checkpoint) -> Built:
    weights = rescaled(weights, checkpoint)
    if not _is_unset(weights["threshold"]):
        return Built(sae=assemble(weights, JumpReLU(weights["threshold"].reshape(())), subtract_b_dec=True))
    k = whole_number(weights["k"], "k", checkpoint)
    return Built(
        sae=assemble(weights, TopK(k), subtract_b_dec=True),
        warnings=(
            f"Its threshold was never set (-1), so that everything positive would fire: read as the {k} largest of "
            "each token instead.",
        ),
    )


LINEAR = {"W_enc": "encoder.weight: D d", "b_enc": "encoder.bias: D", "W_dec": "decoder.weight: d D"}
FREE = {"W_enc": "W_enc: d D", "b_enc": "b_enc: D", "W_dec": "W_dec: D d", "b_dec": "b_dec: d"}
_SELECTING = LINEAR | {"b_dec": "b_dec: d", "k": "k:"}


def _layout(dict_class: str, weights: Mapping[str, str], build: Callable[..., Built], **more: Any) -> Layout:  # noqa: ANN401
    return Layout(name=f"dictionary_learning {dict_class}", weights=weights, build=build, about=about, **more)


_BY_CLASS = {
    "AutoEncoder": _layout(
        "AutoEncoder", LINEAR | {"b_dec": "bias: d"}, _simple(lambda _: ReLU(), subtract_b_dec=True)
    ),
    "AutoEncoderNew": _layout(
        "AutoEncoderNew", LINEAR | {"b_dec": "decoder.bias: d"}, _simple(lambda _: ReLU(), subtract_b_dec=False)
    ),
    "GatedAutoEncoder": _layout(
        "GatedAutoEncoder",
        {
            "W_enc": "encoder.weight: D d",
            "W_dec": "decoder.weight: d D",
            "b_dec": "decoder_bias: d",
            "b_gate": "gate_bias: D",
            "r_mag": "r_mag: D",
            "b_mag": "mag_bias: D",
        },
        _simple(lambda w: Gated(w["b_gate"], w["r_mag"], w["b_mag"]), subtract_b_dec=True),
    ),
    "JumpReluAutoEncoder": _layout(
        "JumpReluAutoEncoder",
        FREE | {"threshold": "threshold: D"},
        _simple(lambda w: JumpReLU(w["threshold"]), subtract_b_dec=False),
    ),
    "AutoEncoderTopK": _layout("AutoEncoderTopK", _SELECTING, _top_k, optional={"threshold": "threshold:"}),
    "BatchTopKSAE": _layout("BatchTopKSAE", _SELECTING | {"threshold": "threshold:"}, _batch_top_k),
    "MatryoshkaBatchTopKSAE": _layout(
        "MatryoshkaBatchTopKSAE",
        FREE | {"k": "k:", "threshold": "threshold:"},
        _batch_top_k,
        ignored=("group_sizes",),
    ),
}

LAYOUTS = tuple(layout for name, layout in _BY_CLASS.items() if name != "BatchTopKSAE")
"""Those that keys alone tell apart."""


def read(checkpoint: Checkpoint) -> UnifiedSAEInterface | None:
    """Read what the configuration calls a class of this library.

    Raises:
        SAEFormatError: a class that is not supported, or keys of another one.
    """
    dict_class = checkpoint.config.section("trainer").text("dict_class")
    if dict_class is None or dict_class.startswith("VSAE"):
        return None
    if dict_class not in _BY_CLASS:
        raise SAEFormatError(
            f"SAE {checkpoint.path} is a dictionary_learning {dict_class}, which is not supported: expected one of "
            f"{', '.join(_BY_CLASS)}, or VSAETopK."
        )
    return _BY_CLASS[dict_class].read(checkpoint, f"dict_class in {checkpoint.config.file_name}")
