"""Single releases with a layout of their own: Neel Nanda's for one-layer models and kin, Goodfire, Qwen Scope.

Source: neelnanda-io/1L-Sparse-Autoencoder at bcae013, ``utils.py``; for the others decoderesearch/SAELens,
``sae_lens/loading/pretrained_sae_loaders.py``.
"""

import re
from typing import Any

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats.checkpoint import Checkpoint
from sae_analysis.sae_formats.layout import Built, Layout, Weights, assemble
from sae_analysis.sae_interface import ReLU, TopK, UnifiedSAEInterface

# --- Neel Nanda's 1L-Sparse-Autoencoder, and attention SAEs saved alike ----------------------------------------------


def _about_neel(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config
    return {"hook": config.text("act_name"), "model": config.text("model_name")}


_BARE = (
    "No configuration says what its activation rule is: it is read as ReLU, which SAEs with these keys are. One that "
    "keeps its k largest needs the configuration that it was saved with."
)


def _relu_on_centred(weights: Weights, checkpoint: Checkpoint) -> Built:
    warnings = () if checkpoint.config.content else (_BARE,)
    return Built(sae=assemble(weights, ReLU(), subtract_b_dec=True), warnings=warnings)


_NEEL = Layout(
    name="ReLU SAE (Neel Nanda's layout)",
    weights={"W_enc": "W_enc: d D", "b_enc": "b_enc: D", "W_dec": "W_dec: D d", "b_dec": "b_dec: d"},
    build=_relu_on_centred,
    about=_about_neel,
)

# --- Goodfire --------------------------------------------------------------------------------------------------------


def _about_goodfire(checkpoint: Checkpoint) -> dict[str, Any]:
    name = re.fullmatch(r"(.+)-SAE-l(\d+)", checkpoint.path.stem)
    return {"hook": f"blocks.{name[2]}.hook_resid_post", "model": name[1]} if name else {}


_GOODFIRE = Layout(
    name="Goodfire",
    weights={
        "W_enc": "encoder_linear.weight: D d",
        "b_enc": "encoder_linear.bias: D",
        "W_dec": "decoder_linear.weight: d D",
        "b_dec": "decoder_linear.bias: d",
    },
    build=lambda weights, _checkpoint: Built(sae=assemble(weights, ReLU(), subtract_b_dec=False)),
    about=_about_goodfire,
)

# --- Qwen Scope ------------------------------------------------------------------------------------------------------


def _about_qwen(checkpoint: Checkpoint) -> dict[str, Any]:
    layer = re.match(r"layer(\d+)\.sae", checkpoint.path.name)
    model = re.search(r"SAE-Res-(.+?)-W\d+K", str(checkpoint.path))
    return {
        "hook": f"blocks.{layer[1]}.hook_resid_post" if layer else None,
        "model": f"Qwen/{model[1]}" if model else None,
    }


def _build_qwen(weights: Weights, checkpoint: Checkpoint) -> Built:
    k = re.search(r"L0_(\d+)", str(checkpoint.path))
    if k is None:
        raise SAEFormatError(
            f"SAE {checkpoint.path} is a Qwen Scope TopK SAE, whose k stands in its repository's name alone: keep it "
            "in a folder named like SAE-Res-Qwen3-1.7B-Base-W32K-L0_50."
        )
    return Built(sae=assemble(weights, TopK(int(k[1])), subtract_b_dec=False))


_QWEN = Layout(
    name="Qwen Scope",
    weights={"W_enc": "W_enc: D d", "b_enc": "b_enc: D", "W_dec": "W_dec: d D", "b_dec": "b_dec: d"},
    build=_build_qwen,
    about=_about_qwen,
)

LAYOUTS = (_NEEL, _GOODFIRE)
"""Without Qwen Scope's, whose keys many state dicts have, and whose k none has: it is known by its file's name."""


def read(checkpoint: Checkpoint) -> UnifiedSAEInterface | None:
    """Read what file names or settings of one of these releases give away.

    Raises:
        SAEFormatError: keys of another layout.
    """
    if {"act_size", "act_name"} <= checkpoint.config.content.keys():
        return _NEEL.read(checkpoint, f"act_size and act_name in {checkpoint.config.file_name}")
    if re.fullmatch(r"layer\d+\.sae\.pt", checkpoint.path.name):
        return _QWEN.read(checkpoint, f"file name {checkpoint.path.name}")
    return None
