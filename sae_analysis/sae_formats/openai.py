"""Checkpoints of openai/sparse_autoencoder: one ``.pt`` a layer, with the activation's name among the tensors.

Source: openai/sparse_autoencoder at 4965b94, ``sparse_autoencoder/model.py``, of Gao et al. 2024.
"""

import re
from typing import Any

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats.checkpoint import Checkpoint
from sae_analysis.sae_formats.layout import Built, Layout, Weights, assemble
from sae_analysis.sae_interface import LayerNorm, ReLU, TopK, UnifiedSAEInterface
from sae_analysis.wording import shown

_HOOKS = {
    "mlp_post_act": "blocks.{}.mlp.hook_post",
    "resid_delta_attn": "blocks.{}.hook_attn_out",
    "resid_post_attn": "blocks.{}.hook_resid_mid",
    "resid_delta_mlp": "blocks.{}.hook_mlp_out",
    "resid_post_mlp": "blocks.{}.hook_resid_post",
}
"""Hook by the location in the file's path (``.../resid_post_mlp_v5_32k/autoencoders/6.pt``)."""


def _about(checkpoint: Checkpoint) -> dict[str, Any]:
    place, layer = str(checkpoint.path.parent), re.fullmatch(r"(\d+)", checkpoint.path.stem)
    hook = next((hook for name, hook in _HOOKS.items() if name in place), None)
    found = hook.format(layer[1]) if hook and layer else None
    return {"model": "gpt2", "centred": False, "hook": found, "assumed": ("model", "centred")}


def _build(weights: Weights, checkpoint: Checkpoint) -> Built:
    activation = checkpoint.values.get("activation", "ReLU")
    if activation == "ReLU":
        return Built(sae=assemble(weights, ReLU(), subtract_b_dec=True))
    state = checkpoint.values.get("activation_state_dict")
    k = dict.get(state, "k") if isinstance(state, dict) else None
    after = dict.get(state, "postact_fn", "ReLU") if isinstance(state, dict) else None
    if activation != "TopK" or not isinstance(k, int) or after != "ReLU":
        raise SAEFormatError(
            f"SAE {checkpoint.path} has the activation {shown(activation)} (k = {shown(k)}, then {shown(after)}), "
            "which is not supported: expected ReLU, or TopK with a k and ReLU."
        )
    # The release normalises the input of its TopK models, and of no others.
    return Built(sae=assemble(weights, TopK(k), subtract_b_dec=True, input_norm=LayerNorm()))


_LAYOUT = Layout(
    name="OpenAI sparse_autoencoder",
    weights={
        "W_enc": "encoder.weight: D d",
        "b_enc": "latent_bias: D",
        "W_dec": "decoder.weight: d D",
        "b_dec": "pre_bias: d",
    },
    ignored=("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"),
    build=_build,
    about=_about,
)
LAYOUTS = (_LAYOUT,)


def read(checkpoint: Checkpoint) -> UnifiedSAEInterface | None:
    """Read a file with ``pre_bias`` and ``latent_bias``.

    Raises:
        SAEFormatError: other keys beside them, or an activation that is not supported.
    """
    if not {"pre_bias", "latent_bias"} <= checkpoint.tensors.keys():
        return None
    return _LAYOUT.read(checkpoint, "keys pre_bias and latent_bias")
