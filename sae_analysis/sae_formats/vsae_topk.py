"""VSAETopK, a variational TopK SAE trained with a fork of dictionary_learning (ZachData/SPAR-Variational-...).

Inference is by the mean, whatever variance was learnt beside it. Four generations differ in where the bias stands and
in whether the mean is rectified before the k largest are chosen; two of the latter share their version string, so
that only data can tell them apart.

Source: ZachData/SPAR-Variational-Sparse-Autoencoders from 7938390 to ad03f7a (2025),
``dictionary_learning/trainers/vsae_topk.py``.
"""

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats.checkpoint import Checkpoint
from sae_analysis.sae_formats.dictionary_learning import FREE, LINEAR, about, rescaled
from sae_analysis.sae_formats.layout import Built, Layout, Weights, assemble, whole_number
from sae_analysis.sae_interface import AbsTopK, TopK, UnifiedSAEInterface

_SIGNED_CLASSES = ("laplacian", "masked")
"""What the names of variants that keep the sign contain."""


def _build(weights: Weights, checkpoint: Checkpoint) -> Built:
    weights = rescaled(weights, checkpoint)
    k = whole_number(weights["k"], "k", checkpoint)
    rules = {"relu": TopK(k), "signed": AbsTopK(k)}
    signs = _signs(weights, checkpoint)
    return Built(
        sae=assemble(weights, rules[signs[0]], subtract_b_dec=not _is_april(checkpoint)),
        other_rules={sign: rules[sign] for sign in signs} if len(signs) > 1 else {},
    )


def _is_april(checkpoint: Checkpoint) -> bool:
    """Return whether the bias belongs to the decoder alone; keys show it, except under the old names."""
    if "W_enc" in checkpoint.tensors:
        return checkpoint.config.section("trainer").flag("use_april_update_mode", default=False)
    return "decoder.bias" in checkpoint.tensors


def _signs(weights: Weights, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the readings that the file allows, the likelier first."""
    trainer = checkpoint.config.section("trainer")
    described = " ".join(trainer.text(key) or "" for key in ("dict_class", "trainer_class", "wandb_name")).lower()
    if any(name in described for name in _SIGNED_CLASSES):
        return ("signed",)
    version = trainer.text("architecture_version") or ""
    if "threshold" in weights or "W_enc" in checkpoint.tensors or version.startswith("vae_topk"):
        return ("relu",)
    return ("relu", "signed")


_VARIANCE = ("var_encoder.*", "W_enc_var", "b_enc_var")


def _layout(weights: dict[str, str]) -> Layout:
    return Layout(
        name="VSAETopK",
        weights=weights | {"k": "k:"},
        optional={"threshold": "threshold:"},
        ignored=_VARIANCE,
        build=_build,
        about=about,
    )


LAYOUTS = (
    _layout(LINEAR | {"b_dec": "decoder.bias: d"}),
    _layout(LINEAR | {"b_dec": "bias: d"}),
    _layout(LINEAR | {"b_dec": "b_dec: d"}),
    _layout(FREE),
)


def read(checkpoint: Checkpoint) -> UnifiedSAEInterface | None:
    """Read what the configuration calls a VSAETopK, in whichever generation its keys are.

    Raises:
        SAEFormatError: another variational class, or keys of no generation.
    """
    trainer = checkpoint.config.section("trainer")
    named = next((name for key in ("dict_class", "trainer_class") if (name := trainer.text(key))), "")
    if not named.startswith("VSAE"):
        return None
    if not named.startswith("VSAETopK"):  # VSAEBatchTopK, for one, has the very same keys
        raise SAEFormatError(f"SAE {checkpoint.path} is a {named}, which is not supported: of these, only VSAETopK is.")
    fitting = min(LAYOUTS, key=lambda layout: getattr(layout.misfit(checkpoint.tensors), "size", 0))
    return fitting.read(checkpoint, f"{named} in {checkpoint.config.file_name}")
