"""Checkpoints of saprmarks/dictionary_learning: ``ae.pt`` with ``config.json`` = {"trainer": …, "buffer": …}."""

import re
from collections.abc import Mapping
from typing import Any

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats.checkpoint import Checkpoint, Recognised
from sae_analysis.sae_interface import ReLU, SparseAutoencoder, TopK

_TOPK_KEYS = {"encoder.weight", "encoder.bias", "decoder.weight", "b_dec", "k"}
_RELU_KEYS = {"encoder.weight", "encoder.bias", "decoder.weight", "bias"}

_HOOKS = {
    "resid_post": "blocks.{}.hook_resid_post",
    "resid_pre": "blocks.{}.hook_resid_pre",
    "mlp_out": "blocks.{}.hook_mlp_out",
    "attn_out": "blocks.{}.hook_attn_out",
}
"""Hook by the beginning of the config's ``submodule_name`` (``resid_post_layer_9``)."""


def read(checkpoint: Checkpoint) -> Recognised | None:
    """Read an AutoEncoderTopK (topk(relu(W(x - b_dec) + b))) or an AutoEncoder (relu(W(x - bias) + b)).

    Raises:
        SAEFormatError: the configuration names a class that is not supported, or weights of unusable shapes.
    """
    trainer = checkpoint.config.get("trainer", {})
    named = trainer.get("dict_class") if isinstance(trainer, Mapping) else None
    keys = checkpoint.tensors.keys()
    if keys >= _TOPK_KEYS and named in (None, "AutoEncoderTopK"):
        name, bias, k = "AutoEncoderTopK", "b_dec", checkpoint.scalar("k")
        if k is None or not k.is_integer():
            raise SAEFormatError(f"SAE {checkpoint.path} has a k that is no whole number: its file is damaged.")
        rule = TopK(int(k))
    elif keys >= _RELU_KEYS and "k" not in keys and named in (None, "AutoEncoder"):
        name, bias, rule = "AutoEncoder", "bias", ReLU()
    elif named is not None:
        raise SAEFormatError(
            f"SAE {checkpoint.path} is a dictionary_learning {named}, which is not supported: expected "
            "AutoEncoderTopK or AutoEncoder with the keys of that class."
        )
    else:
        return None
    evidence = f"keys {', '.join(sorted(_TOPK_KEYS if bias == 'b_dec' else _RELU_KEYS))}"
    return Recognised(
        sae=SparseAutoencoder(
            W_enc=checkpoint.shaped("encoder.weight", 2).T,
            b_enc=checkpoint.shaped("encoder.bias", 1),
            W_dec=checkpoint.shaped("decoder.weight", 2).T,
            b_dec=checkpoint.shaped(bias, 1),
            rule=rule,
            subtract_b_dec=True,
        ),
        name=f"dictionary_learning {name}",
        reason=f"dict_class in {checkpoint.config_name}" if named else evidence,
        metadata=_metadata(trainer if isinstance(trainer, Mapping) else {}, checkpoint.config.get("buffer", {})),
    )


def _metadata(trainer: Mapping[str, Any], buffer: Any) -> dict[str, Any]:  # noqa: ANN401 - a file's content
    metadata: dict[str, Any] = {}
    match = re.match(r"(resid_post|resid_pre|mlp_out|attn_out)", str(trainer.get("submodule_name", "")))
    if match and isinstance(layer := trainer.get("layer"), int):
        metadata["hook"] = _HOOKS[match[1]].format(layer)
    if isinstance(name := trainer.get("lm_name"), str):
        metadata["model"] = name
    # True leaves BOS to the tokenizer, and many add none; only False says what the SAE was trained on.
    if isinstance(buffer, Mapping) and buffer.get("add_special_tokens") is False:
        metadata["prepend_bos"] = False
    return metadata
