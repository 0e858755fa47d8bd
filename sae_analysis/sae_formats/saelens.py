"""Checkpoints of SAELens: ``cfg.json`` with ``sae_weights.safetensors``, from all its versions.

Before version 6 the configuration was flat and used other names; since then what concerns the model is under
``metadata``. Training checkpoints are read as the library would finish them: scaling and whitening folded in,
BatchTopK by its threshold.

Source: decoderesearch/SAELens 6.18.0 and 6.54.12, ``sae_lens/saes`` and ``sae_lens/loading/pretrained_sae_loaders.py``.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats.checkpoint import Checkpoint, read_safetensors, read_settings
from sae_analysis.sae_formats.layout import Built, Layout, Weights, assemble, with_unit_decoder
from sae_analysis.sae_formats.settings import Settings
from sae_analysis.sae_interface import (
    AbsTopK,
    ActivationRule,
    ConstantNorm,
    Gated,
    InputNorm,
    JumpReLU,
    LayerNorm,
    MatchingPursuit,
    Pursuit,
    ReLU,
    TopK,
    UnifiedSAEInterface,
)
from sae_analysis.wording import shown

_NORMS: Mapping[str, InputNorm | None] = {
    "none": None,
    "layer_norm": LayerNorm(),
    "constant_norm_rescale": ConstantNorm(),
    "expected_average_only_in": None,  # a constant: folded into the weights where it is known
    "covariance_whitening": None,  # an affine map: likewise
}

Rule = Callable[[Weights, Settings, str], ActivationRule]


# --- configuration -------------------------------------------------------------------------------------------------


def _about(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what the configuration says of the model, from ``metadata`` or, in old files, from the top level."""
    config = checkpoint.config
    meta = config.section("metadata") if "metadata" in config else config
    centred = meta.section("model_from_pretrained_kwargs").content.get("center_writing_weights")
    prepend_bos = meta.content.get("prepend_bos", None if "metadata" in config else True)
    return {
        "hook": meta.text("hook_name") or meta.text("hook_point"),
        "hook_out": meta.text("hook_name_out"),
        "model": meta.text("model_name"),
        "prepend_bos": prepend_bos if isinstance(prepend_bos, bool) else None,
        "centred": centred if isinstance(centred, bool) else None,
    }


def _k(config: Settings) -> int:
    k = config.whole("k") or config.section("activation_fn_kwargs").whole("k")
    if k is None:
        raise SAEFormatError(f"SAE configuration {config.name} gives no k, which its architecture needs.")
    return k


def _architecture(config: Settings) -> str:
    architecture = config.text("architecture") or "standard"
    activation = config.text("activation_fn") or config.text("activation_fn_str")
    if activation == "topk":
        return "topk"
    if activation not in (None, "relu", architecture):
        raise SAEFormatError(
            f"SAE configuration {config.name} says activation_fn = {shown(activation)}: expected 'relu' or 'topk'."
        )
    return architecture


# --- building ------------------------------------------------------------------------------------------------------


def _builder(rule: Rule, *, is_transcoder: bool = False) -> Callable[[Weights, Checkpoint], Built]:
    def build(weights: Weights, checkpoint: Checkpoint) -> Built:
        config = checkpoint.config
        rescales = config.flag("rescale_acts_by_decoder_norm", default=False)
        is_whitened = config.content.get("normalize_activations") == "covariance_whitening"
        if rescales and is_whitened:  # by the norms of what was trained, which undoing the whitening changes
            weights = with_unit_decoder(weights)
        weights, norm, warnings = _normalised(_with_gate_bias(weights), checkpoint)
        if "scaling_factor" in weights:
            weights["W_dec"] = weights["W_dec"].float() * _finetuning(weights, config)[:, None]
        if rescales and not is_whitened:
            weights = with_unit_decoder(weights)
        sae = assemble(
            weights,
            rule(weights, config, str(checkpoint.path)),
            subtract_b_dec=not is_transcoder and config.flag("apply_b_dec_to_input", default=True),
            input_norm=norm,
            is_transcoder=is_transcoder,
        )
        return Built(sae=sae, warnings=warnings)

    return build


def _with_gate_bias(weights: Weights) -> dict[str, torch.Tensor]:
    return dict(weights) | ({"b_enc": weights["b_gate"]} if "b_gate" in weights else {})


def _finetuning(weights: Weights, config: Settings) -> torch.Tensor:
    """Return the factor on activations that old fine-tuned SAEs decode with; for others it is 1."""
    factor = weights["scaling_factor"].float()
    if not torch.allclose(factor, torch.ones_like(factor)) and not config.flag(
        "finetuning_scaling_factor", default=False
    ):
        raise SAEFormatError(
            f"SAE configuration {config.name} says that the SAE has no fine-tuning factor, and its weights have one: "
            "its files do not belong together."
        )
    return factor


def _normalised(
    weights: dict[str, torch.Tensor], checkpoint: Checkpoint
) -> tuple[dict[str, torch.Tensor], InputNorm | None, tuple[str, ...]]:
    """Return weights with constant transforms of the input folded in, and the norm that remains to be applied."""
    config = checkpoint.config
    asked = config.content.get("normalize_activations") or "none"
    name = "expected_average_only_in" if asked is True else str(asked)  # a truth value before version 3
    if name not in _NORMS:
        raise SAEFormatError(
            f"SAE configuration {config.name} says normalize_activations = {shown(name)}: expected one of "
            f"{', '.join(_NORMS)}."
        )
    if name == "expected_average_only_in":
        file = checkpoint.beside("activation_scaler.json")
        scale = read_settings(file).number("scaling_factor") if file else checkpoint.values.get("norm_scaling_factor")
        if scale is None:
            return (
                weights,
                None,
                (
                    "It was trained on scaled activations and no scaling factor lies beside it: read as if the factor "
                    "had been folded into its weights, as finished SAEs have it.",
                ),
            )
        return _scaled(weights, scale, config), None, ()
    if name == "covariance_whitening":
        file = checkpoint.beside("activation_whitening.safetensors")
        if weights["W_dec"].shape[1] != len(weights["W_enc"]):
            raise SAEFormatError(
                f"SAE {checkpoint.path} is a transcoder on whitened activations, which is not supported: expected "
                "another normalize_activations."
            )
        if file is None:
            raise SAEFormatError(
                f"SAE {checkpoint.path} was trained on whitened activations, and activation_whitening.safetensors "
                "does not lie beside it: put it there."
            )
        subtracts = config.flag("apply_b_dec_to_input", default=True)
        return _whitened(weights, _read_whitening(file, len(weights["W_enc"])), subtracts_b_dec=subtracts), None, ()
    return weights, _NORMS[name], ()


def _scaled(weights: dict[str, torch.Tensor], scale: float, config: Settings) -> dict[str, torch.Tensor]:
    """Fold a constant factor on the input into the weights."""
    folded = {"W_enc": weights["W_enc"].float() * scale}
    folded |= {name: weights[name].float() / scale for name in ("W_dec", "b_dec", "tolerance") if name in weights}
    if "topk_threshold" in weights and config.flag("rescale_acts_by_decoder_norm", default=False):
        folded["topk_threshold"] = weights["topk_threshold"] / scale  # in units of decoder norms, which shrank
    return weights | folded


def _read_whitening(file: Path, width: int) -> Weights:
    tensors = read_safetensors(file)
    for name, wanted in {"mean": (width,), "matrix": (width, width), "inverse_matrix": (width, width)}.items():
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != wanted or not tensors[name].is_floating_point():
            raise SAEFormatError(
                f"SAE whitening {file} does not fit its SAE: {name} should hold {wanted} numbers, but "
                + ("is missing." if found is None else f"holds {found} of {tensors[name].dtype}.")
            )
    return tensors


def _whitened(
    weights: dict[str, torch.Tensor], whitening: Weights, *, subtracts_b_dec: bool
) -> dict[str, torch.Tensor]:
    """Fold ``z = (x - mean) M`` on the input and its inverse on the output into the weights."""
    mean, matrix, inverse = (whitening[name].double() for name in ("mean", "matrix", "inverse_matrix"))
    W_enc = matrix @ weights["W_enc"].double()
    folded = {"W_enc": W_enc, "W_dec": weights["W_dec"].double() @ inverse}
    folded["b_dec"] = weights["b_dec"].double() @ inverse + mean
    if not subtracts_b_dec:
        folded["b_enc"] = weights["b_enc"].double() - mean @ W_enc
    return weights | {name: value.float() for name, value in folded.items()}


def _pursuit(weights: Weights, checkpoint: Checkpoint) -> Built:
    config = checkpoint.config
    if config.content.get("normalize_activations") == "covariance_whitening":
        raise SAEFormatError(
            f"SAE {checkpoint.path} is a matching pursuit on whitened activations, which its tied weights cannot undo: "
            "expected another normalize_activations."
        )
    tolerance = config.number("residual_threshold")
    given = dict(weights) | {
        "W_enc": weights["W_dec"].T,
        "tolerance": torch.tensor(1e-2 if tolerance is None else tolerance),
    }
    folded, norm, warnings = _normalised(given, checkpoint)
    sae = MatchingPursuit(
        W_dec=weights["W_dec"],  # a constant factor on the input moves what is compared with it, not the directions
        b_dec=folded["b_dec"],
        rule=Pursuit(
            most=config.whole("max_iterations"),
            tolerance=float(folded["tolerance"]),
            stop_on_repeat=config.flag("stop_on_duplicate_support", default=True),
        ),
        subtract_b_dec=config.flag("apply_b_dec_to_input", default=True),
        input_norm=norm,
    )
    return Built(sae=sae, warnings=warnings)


# --- architectures -------------------------------------------------------------------------------------------------

_WEIGHTS = {"W_enc": "W_enc: d D", "b_enc": "b_enc: D", "W_dec": "W_dec: D d", "b_dec": "b_dec: d"}
_THRESHOLD = {"threshold": "threshold: D"}
_BATCH_THRESHOLD = {"topk_threshold": "topk_threshold:"}
_ACROSS = _WEIGHTS | {"W_dec": "W_dec: D o", "b_dec": "b_dec: o"}
_SKIP = {"W_skip": "W_skip: o d"}
_GATE = {"b_gate": "b_gate: D", "r_mag": "r_mag: D", "b_mag": "b_mag: D"}


def _layout(architecture: str, weights: Mapping[str, str], build: Callable[[Weights, Checkpoint], Built]) -> Layout:
    return Layout(
        name=f"SAELens {architecture}",
        weights=weights,
        optional={"scaling_factor": "scaling_factor: D"},
        build=build,
        about=_about,
    )


def _relu(_weights: Weights, _config: Settings, _path: str) -> ActivationRule:
    return ReLU()


def _jump(weights: Weights, _config: Settings, _path: str) -> ActivationRule:
    return JumpReLU(weights["threshold"])


def _log_jump(weights: Weights, _config: Settings, _path: str) -> ActivationRule:
    return JumpReLU(weights["log_threshold"].float().exp())


def _batch_jump(weights: Weights, _config: Settings, path: str) -> ActivationRule:
    threshold = weights["topk_threshold"].reshape(())
    if not float(threshold) > 0:
        raise SAEFormatError(f"SAE {path} is a BatchTopK SAE whose threshold was never set: train it further.")
    return JumpReLU(threshold)


_BY_ARCHITECTURE = {
    "standard": _layout("standard", _WEIGHTS, _builder(_relu)),
    "gated": _layout(
        "gated",
        {name: key for name, key in _WEIGHTS.items() if name != "b_enc"} | _GATE,
        _builder(lambda w, _config, _path: Gated(w["b_gate"], w["r_mag"], w["b_mag"])),
    ),
    "jumprelu": _layout("jumprelu", _WEIGHTS | _THRESHOLD, _builder(_jump)),
    "topk": _layout("topk", _WEIGHTS, _builder(lambda _weights, config, _path: TopK(_k(config)))),
    "abstopk": _layout("abstopk", _WEIGHTS, _builder(lambda _weights, config, _path: AbsTopK(_k(config)))),
    "batchtopk": _layout("batchtopk", _WEIGHTS | _BATCH_THRESHOLD, _builder(_batch_jump)),
    "matryoshka_batchtopk": _layout("matryoshka_batchtopk", _WEIGHTS | _BATCH_THRESHOLD, _builder(_batch_jump)),
    "matching_pursuit": _layout("matching_pursuit", {"W_dec": "W_dec: D d", "b_dec": "b_dec: d"}, _pursuit),
    "transcoder": _layout("transcoder", _ACROSS, _builder(_relu, is_transcoder=True)),
    "skip_transcoder": _layout("skip_transcoder", _ACROSS | _SKIP, _builder(_relu, is_transcoder=True)),
    "jumprelu_transcoder": _layout("jumprelu_transcoder", _ACROSS | _THRESHOLD, _builder(_jump, is_transcoder=True)),
    "jumprelu_skip_transcoder": _layout(
        "jumprelu_skip_transcoder", _ACROSS | _THRESHOLD | _SKIP, _builder(_jump, is_transcoder=True)
    ),
}

_BEFORE_ITS_END = _layout("jumprelu", _WEIGHTS | {"log_threshold": "log_threshold: D"}, _builder(_log_jump))
"""Training checkpoints of JumpReLU SAEs held the threshold's logarithm in earlier versions."""

LAYOUTS = tuple(_BY_ARCHITECTURE[name] for name in ("gated", "skip_transcoder", "jumprelu_skip_transcoder"))
"""Those that keys alone tell apart from other libraries' files."""


def read(checkpoint: Checkpoint) -> UnifiedSAEInterface | None:
    """Read what ``cfg.json`` describes in the words of this library.

    Raises:
        SAEFormatError: an architecture that is not supported, or keys of another one.
    """
    config = checkpoint.config
    if config.file_name != "cfg.json" or not ("d_in" in config and "d_sae" in config):
        return None
    architecture = _architecture(config)
    meta = config.section("metadata") if "metadata" in config else config
    if any(meta.whole(key) is not None for key in ("hook_head_index", "hook_point_head_index")):
        raise SAEFormatError(
            f"SAE {checkpoint.path} reads a single attention head ({config.file_name}), which is not supported: "
            "expected one that reads all heads or the residual stream."
        )
    if architecture not in _BY_ARCHITECTURE:
        raise SAEFormatError(
            f"SAE {checkpoint.path} has SAELens' architecture {shown(architecture)}, which is not supported: expected "
            f"one of {', '.join(_BY_ARCHITECTURE)}."
        )
    layout = _BY_ARCHITECTURE[architecture]
    if architecture == "jumprelu" and "log_threshold" in checkpoint.tensors:
        layout = _BEFORE_ITS_END
    return layout.read(checkpoint, f"architecture '{architecture}' in {config.file_name}")
