"""SAELens: every architecture it saves, as finished SAE and as training checkpoint, against its own loader."""

import copy
import json

import pytest
import torch
from agreement import SHAPES, assert_agreement, randomise, shape_name
from safetensors.torch import load_file, save_file

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats import load_sae

sae_lens = pytest.importorskip("sae_lens")
scaling = pytest.importorskip("sae_lens.training.activation_scaler")

# It warns of names and settings that are as they should be here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:sae_lens")

SAES = {
    "standard": ("StandardSAE", {}),
    "gated": ("GatedSAE", {}),
    "jumprelu": ("JumpReLUSAE", {}),
    "topk": ("TopKSAE", {"k": 4}),
    "topk-rescaled": ("TopKSAE", {"k": 4, "rescale_acts_by_decoder_norm": True}),
    "abstopk": ("AbsTopKSAE", {"k": 4}),
    "abstopk-rescaled": ("AbsTopKSAE", {"k": 4, "rescale_acts_by_decoder_norm": True}),
    "matching_pursuit": ("MatchingPursuitSAE", {"max_iterations": 6, "residual_threshold": 0.5}),
    "matching_pursuit-repeats": ("MatchingPursuitSAE", {"residual_threshold": 0.0, "stop_on_duplicate_support": False}),
}
TRANSCODERS = ("Transcoder", "SkipTranscoder", "JumpReLUTranscoder", "JumpReLUSkipTranscoder")
TRAINED = {
    "standard": ("StandardTrainingSAE", {}),
    "gated": ("GatedTrainingSAE", {}),
    "jumprelu": ("JumpReLUTrainingSAE", {}),
    "topk": ("TopKTrainingSAE", {"k": 4, "rescale_acts_by_decoder_norm": False}),
    "topk-rescaled": ("TopKTrainingSAE", {"k": 4, "rescale_acts_by_decoder_norm": True}),
    "abstopk": ("AbsTopKTrainingSAE", {"k": 4, "rescale_acts_by_decoder_norm": False}),
    "abstopk-rescaled": ("AbsTopKTrainingSAE", {"k": 4, "rescale_acts_by_decoder_norm": True}),
    "batchtopk": ("BatchTopKTrainingSAE", {"k": 4, "rescale_acts_by_decoder_norm": False}),
    "batchtopk-rescaled": ("BatchTopKTrainingSAE", {"k": 4, "rescale_acts_by_decoder_norm": True}),
    "matryoshka_batchtopk": ("MatryoshkaBatchTopKTrainingSAE", {"k": 4, "rescale_acts_by_decoder_norm": False}),
    "matryoshka_batchtopk-rescaled": (
        "MatryoshkaBatchTopKTrainingSAE",
        {"k": 4, "rescale_acts_by_decoder_norm": True},
    ),
    "matching_pursuit": ("MatchingPursuitTrainingSAE", {"max_iterations": 6, "decoder_init_norm": 1.0}),
}

shapes = pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
b_decs = pytest.mark.parametrize("subtracts", [True, False], ids=["minus-b_dec", "raw"])
norms = pytest.mark.parametrize("norm", ["layer_norm", "constant_norm_rescale"])


def make(class_name, shape, hook="blocks.1.hook_resid_post", **options):
    """Return a random SAE of one of the library's classes."""
    if class_name.startswith("Matryoshka"):
        options["matryoshka_widths"] = [shape[1] // 2, shape[1]]
    config = getattr(sae_lens, f"{class_name}Config")(d_in=shape[0], d_sae=shape[1], **options)
    config.metadata.hook_name = hook
    sae = randomise(getattr(sae_lens, class_name)(config))
    if class_name.startswith("MatchingPursuit"):
        with torch.no_grad():  # longer rows would make the residue grow from step to step
            sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True).clamp(min=1)
    return sae


def transcoder(class_name, shape, d_out, **options):
    return make(class_name, shape, d_out=d_out, apply_b_dec_to_input=False, **options)


def reference(folder):
    """Return the library's own reading of a folder, as activations and output of an input."""
    sae = sae_lens.SAE.load_from_disk(folder, dtype="float32")

    def run(x):
        if sae.cfg.reshape_activations == "hook_z":  # it is given heads; ours read them side by side
            x = x.unflatten(-1, (2, -1))
        return sae.encode(x), sae(x).flatten(1)

    return run


def rewrite(folder, config, **weights):
    """Replace a folder's configuration, and add weights."""
    (folder / "cfg.json").write_text(json.dumps(config))
    if weights:
        save_file(load_file(folder / "sae_weights.safetensors") | weights, folder / "sae_weights.safetensors")


# --- finished SAEs -------------------------------------------------------------------------------------------------


@shapes
@b_decs
@pytest.mark.parametrize("name", SAES)
def test_sae(tmp_path, name, subtracts, shape):
    class_name, options = SAES[name]
    make(class_name, shape, apply_b_dec_to_input=subtracts, **options).save_model(tmp_path)
    assert_agreement(load_sae(tmp_path), reference(tmp_path))


@shapes
@pytest.mark.parametrize("is_wider", [True, False], ids=["wider", "as-wide"])
@pytest.mark.parametrize("class_name", TRANSCODERS)
def test_transcoder(tmp_path, class_name, is_wider, shape):
    transcoder(class_name, shape, shape[0] + 6 * is_wider).save_model(tmp_path)
    ours = load_sae(tmp_path)
    assert ours.is_transcoder
    assert_agreement(ours, reference(tmp_path))


@norms
@b_decs
@pytest.mark.parametrize("name", SAES)
def test_normalised_sae(tmp_path, name, subtracts, norm):
    class_name, options = SAES[name]
    sae = make(class_name, (16, 48), apply_b_dec_to_input=subtracts, normalize_activations=norm, **options)
    sae.save_model(tmp_path)
    assert_agreement(load_sae(tmp_path), reference(tmp_path))


@norms
@pytest.mark.parametrize("class_name", TRANSCODERS)
def test_normalised_transcoder(tmp_path, class_name, norm):
    transcoder(class_name, (16, 48), 20, normalize_activations=norm).save_model(tmp_path)
    assert_agreement(load_sae(tmp_path), reference(tmp_path))


@pytest.mark.parametrize("name", SAES)
def test_heads_side_by_side(tmp_path, name):
    class_name, options = SAES[name]
    sae = make(class_name, (16, 48), hook="blocks.1.attn.hook_z", reshape_activations="hook_z", **options)
    sae.save_model(tmp_path)
    assert_agreement(load_sae(tmp_path), reference(tmp_path))


@pytest.mark.parametrize("name", [*SAES, *TRANSCODERS])
def test_bfloat16(tmp_path, name):
    """Read in float32 by both: what was rounded is the weights, not the computation."""
    if name in TRANSCODERS:
        sae = transcoder(name, (16, 48), 20, dtype="bfloat16")
    else:
        class_name, options = SAES[name]
        sae = make(class_name, (16, 48), dtype="bfloat16", **options)
    sae.save_model(tmp_path)
    assert load_file(tmp_path / "sae_weights.safetensors")["W_dec"].dtype == torch.bfloat16
    assert_agreement(load_sae(tmp_path), reference(tmp_path))


def test_temporal_is_refused_by_name(tmp_path):
    options = {"n_heads": 2, "bottleneck_factor": 2, "sae_diff_type": "topk", "kval_topk": 4}
    make("TemporalSAE", (16, 48), **options).save_model(tmp_path)
    with pytest.raises(SAEFormatError, match="architecture 'temporal', which is not supported"):
        load_sae(tmp_path)


# --- training checkpoints ------------------------------------------------------------------------------------------


@shapes
@b_decs
@pytest.mark.parametrize("name", TRAINED)
def test_training_checkpoint(tmp_path, name, subtracts, shape):
    """What training saves on its way is read as what it saves at its end."""
    class_name, options = TRAINED[name]
    sae = make(class_name, shape, apply_b_dec_to_input=subtracts, **options)
    sae.save_model(tmp_path / "training")
    sae.save_inference_model(tmp_path / "finished")
    for folder in ("training", "finished"):
        assert_agreement(load_sae(tmp_path / folder), reference(tmp_path / "finished"))


def test_logarithms_of_thresholds(tmp_path):
    """Earlier versions trained them so; the library still reads their checkpoints."""
    make("JumpReLUTrainingSAE", (16, 48)).save_model(tmp_path)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    weights["log_threshold"] = weights.pop("threshold").log()
    save_file(weights, tmp_path / "sae_weights.safetensors")
    theirs = sae_lens.JumpReLUTrainingSAE.load_from_disk(tmp_path)
    assert_agreement(load_sae(tmp_path), lambda x: (theirs.encode(x), theirs(x)))


@pytest.mark.parametrize("scale", [0.37, 2.5])
@b_decs
@pytest.mark.parametrize("name", TRAINED)
def test_training_on_scaled_activations(tmp_path, name, subtracts, scale):
    class_name, options = TRAINED[name]
    norm = "expected_average_only_in"
    sae = make(class_name, (16, 48), apply_b_dec_to_input=subtracts, normalize_activations=norm, **options)
    scaler = scaling.ActivationScaler(scaling_factor=scale)
    sae.save_model(tmp_path / "training")
    scaler.save(str(tmp_path / "training" / "activation_scaler.json"))
    folded = copy.deepcopy(sae)
    folded.fold_activation_norm_scaling_factor(scale)
    folded.save_inference_model(tmp_path / "finished")
    assert_agreement(load_sae(tmp_path / "training"), reference(tmp_path / "finished"))


@b_decs
@pytest.mark.parametrize("name", [name for name in TRAINED if name != "matching_pursuit"])  # which cannot be folded
def test_training_on_whitened_activations(tmp_path, name, subtracts):
    class_name, options = TRAINED[name]
    norm = "covariance_whitening"
    sae = make(class_name, (16, 48), apply_b_dec_to_input=subtracts, normalize_activations=norm, **options)
    generator = torch.Generator().manual_seed(1)
    mixing, mean = torch.eye(16) + 0.1 * torch.randn(16, 16, generator=generator), torch.linspace(-1, 1, 16)
    batches = [torch.randn(256, 16, generator=generator) @ mixing + mean for _ in range(4)]
    scaler = scaling.ActivationScaler()
    scaler.estimate_whitening(16, iter(batches), len(batches))
    sae.save_model(tmp_path / "training")
    scaler.save(str(tmp_path / "training" / "activation_scaler.json"))
    folded = copy.deepcopy(sae)
    found = scaler.whitening
    folded.fold_activation_whitening(found.mean, found.matrix, found.inverse_matrix)
    folded.save_inference_model(tmp_path / "finished")
    assert_agreement(load_sae(tmp_path / "training"), reference(tmp_path / "finished"))


# --- configurations from before version 6 --------------------------------------------------------------------------

FLAT = {
    "d_in": 16,
    "d_sae": 48,
    "dtype": "torch.float32",
    "device": "cpu",
    "model_name": "tiny",
    "hook_name": "blocks.1.hook_resid_post",
    "hook_layer": 1,
    "hook_head_index": None,
    "prepend_bos": True,
    "context_size": 128,
    "finetuning_scaling_factor": False,
    "sae_lens_training_version": "3.22.1",
}
FIRST = {
    "d_in": 16,
    "d_sae": 48,
    "dtype": "torch.float32",
    "device": "cpu",
    "model_name": "tiny",
    "hook_point": "blocks.1.hook_resid_post",
    "hook_point_layer": 1,
    "hook_point_head_index": None,
    "activation_fn_str": "relu",
    "apply_b_dec_to_input": True,
}
OLD = {
    "flat": ("standard", FLAT | {"architecture": "standard", "activation_fn_str": "relu", "activation_fn_kwargs": {}}),
    "flat-gated": ("gated", FLAT | {"architecture": "gated", "activation_fn_str": "relu"}),
    "flat-jumprelu": ("jumprelu", FLAT | {"architecture": "jumprelu", "apply_b_dec_to_input": False}),
    "flat-topk": (
        "topk",
        FLAT | {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}},
    ),
    "flat-topk-named": ("topk", FLAT | {"architecture": "topk", "activation_fn_kwargs": {"k": 4}}),
    "flat-raw": ("standard", FLAT | {"apply_b_dec_to_input": False}),
    "flat-layer_norm": ("standard", FLAT | {"normalize_activations": "layer_norm"}),
    "flat-constant_norm": ("standard", FLAT | {"normalize_activations": "constant_norm_rescale"}),
    "flat-average": ("standard", FLAT | {"normalize_activations": "expected_average_only_in"}),
    "flat-no-norm": ("standard", FLAT | {"normalize_activations": None}),
    "flat-heads": ("standard", FLAT | {"hook_name": "blocks.1.attn.hook_z"}),
    "first": ("standard", FIRST),
    "first-false": ("standard", FIRST | {"normalize_activations": False}),
    "first-true": ("standard", FIRST | {"normalize_activations": True}),
    "first-heads": ("standard", FIRST | {"hook_point": "blocks.1.attn.hook_z"}),
}


@pytest.mark.parametrize("name", OLD)
def test_old_configuration(tmp_path, name):
    architecture, config = OLD[name]
    class_name, options = SAES[architecture]
    make(class_name, (16, 48), **options).save_model(tmp_path)
    rewrite(tmp_path, config)
    ours = load_sae(tmp_path)
    assert_agreement(ours, reference(tmp_path))
    assert ours.origin.hook == config.get("hook_name", config.get("hook_point"))


def test_scaling_factors_of_one(tmp_path):
    """Versions before 4 saved them whether or not they were trained."""
    make("StandardSAE", (16, 48)).save_model(tmp_path)
    rewrite(tmp_path, FLAT, scaling_factor=torch.ones(48))
    assert_agreement(load_sae(tmp_path), reference(tmp_path))


# --- what it says of the model -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prepend_bos", "centred"), [(True, None), (False, True), (None, False)])
def test_metadata(tmp_path, prepend_bos, centred):
    sae = make("StandardSAE", (16, 48))
    sae.cfg.metadata.model_name, sae.cfg.metadata.prepend_bos = "tiny", prepend_bos
    if centred is not None:
        sae.cfg.metadata.model_from_pretrained_kwargs = {"center_writing_weights": centred}
    sae.save_model(tmp_path)
    origin = load_sae(tmp_path).origin
    assert (origin.hook, origin.model) == ("blocks.1.hook_resid_post", "tiny")
    assert (origin.prepend_bos, origin.centred) == (prepend_bos, centred)
