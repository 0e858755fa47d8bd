"""llamascopium: SAEs and transcoders with each activation function and each normalisation that needs no batch."""

import json
from itertools import product

import pytest
import torch
from agreement import SHAPES, assert_agreement, randomise, shape_name, without_init
from safetensors.torch import load_file, save_file

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats import load_sae

without_init("llamascopium")  # which would import databases, training and plots
sae = pytest.importorskip("llamascopium.models.sae")

IN, OUT = "blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out"
AVERAGE_NORMS = {IN: 7.3, OUT: 2.9}
ACTIVATIONS = ("relu", "jumprelu", "topk")


def make(shape, *, hook_out=IN, **options):
    d_in, d_sae = shape
    config = sae.SAEConfig(
        hook_point_in=IN, hook_point_out=hook_out, d_model=d_in, expansion_factor=d_sae / d_in, top_k=4, **options
    )
    assert config.d_sae == d_sae
    model = randomise(sae.SparseAutoEncoder(config))
    if config.norm_activation == "dataset-wise":
        model.set_dataset_average_activation_norm({hook: AVERAGE_NORMS[hook] for hook in {IN, hook_out}})
    return model


def save(model, folder, file="sae_weights.safetensors"):
    folder.mkdir(exist_ok=True)
    model.save_checkpoint(folder / file)
    model.cfg.save_hyperparameters(folder)
    return folder


def reference(folder):
    """Return the library's own reading of a folder: normalise, encode, decode, take the norm back."""
    model = sae.SparseAutoEncoder.from_local(str(folder))
    source, target = model.cfg.hook_point_in, model.cfg.hook_point_out

    def run(x):
        batch, factors = model.normalize_activations({source: x}, return_scale_factor=True)
        if model.cfg.norm_activation == "dataset-wise":
            factors[target] = model.compute_norm_factor(x, hook_point=target)
        features = model.encode(batch[source])
        reconstruction = model.decode(features)
        if target in factors:  # a token's own norm at another place is not known
            reconstruction = model.denormalize_activations({target: reconstruction}, factors)[target]
        return features, reconstruction

    return run


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
@pytest.mark.parametrize("by_norm", [True, False], ids=["by-norm", "plain"])
@pytest.mark.parametrize("norm", ["dataset-wise", "token-wise", "inference"])
@pytest.mark.parametrize("act_fn", ACTIVATIONS)
def test_sae(tmp_path, act_fn, norm, by_norm, shape):
    model = make(shape, act_fn=act_fn, norm_activation=norm, sparsity_include_decoder_norm=by_norm)
    assert_agreement(load_sae(save(model, tmp_path)), reference(tmp_path))


def test_batchtopk(tmp_path):
    """Among the tokens of a batch ours does not choose: it reads each token as a batch of one."""
    ours = load_sae(save(make((16, 48), act_fn="batchtopk"), tmp_path))
    assert "chose the largest of a whole batch in training" in ours.origin.warnings[0]
    run = reference(tmp_path)

    def one_by_one(x):
        found = [run(token) for token in x.split(1)]
        return torch.cat([features for features, _ in found]), torch.cat([output for _, output in found])

    assert_agreement(ours, one_by_one)


@pytest.mark.parametrize("options", [{"use_glu_encoder": True}, {"norm_activation": "batch-wise"}], ids=str)
def test_what_is_not_read_is_refused(tmp_path, options):
    save(make((16, 48), act_fn="relu", **options), tmp_path)
    with pytest.raises(SAEFormatError, match=r"is an OpenMOSS SAE with .*, which is not supported"):
        load_sae(tmp_path)


@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(("act_fn", "norm"), list(product(ACTIVATIONS, ("dataset-wise", "token-wise", "inference"))))
def test_transcoder(tmp_path, act_fn, norm, has_bias):
    model = make((16, 48), act_fn=act_fn, norm_activation=norm, hook_out=OUT, use_decoder_bias=has_bias)
    ours = load_sae(save(model, tmp_path))
    assert ours.is_transcoder
    assert (ours.origin.hook, ours.origin.hook_out) == (IN, OUT)
    assert_agreement(ours, reference(tmp_path))


@pytest.mark.parametrize("hook_out", [IN, OUT], ids=["sae", "transcoder"])
@pytest.mark.parametrize("act_fn", ACTIVATIONS)
def test_folded(tmp_path, act_fn, hook_out):
    """Where the library folds the norm in, activations come in other units, and the reconstruction stays."""
    model = make((16, 48), act_fn=act_fn, norm_activation="dataset-wise", hook_out=hook_out)
    model.save_pretrained(tmp_path, fold_activation_scale=True)
    model.cfg.save_hyperparameters(tmp_path)
    assert_agreement(load_sae(tmp_path), reference(tmp_path))


def test_state_dict_in_a_wrapper(tmp_path):
    save(make((16, 48), act_fn="jumprelu"), tmp_path, "sae_weights.pt")
    assert_agreement(load_sae(tmp_path), reference(tmp_path))


def test_unset_norms_are_not_read(tmp_path):
    """For norms it does not use, the library saves whatever memory held."""
    model = make((16, 48), act_fn="relu", norm_activation="inference")
    folder = save(model, tmp_path)
    assert json.loads((folder / "config.json").read_text())["norm_activation"] == "inference"
    weights = load_file(folder / "sae_weights.safetensors")
    weights[f"dataset_average_activation_norm.{IN}"] = torch.tensor(float("nan"))
    save_file(weights, folder / "sae_weights.safetensors")
    assert_agreement(load_sae(folder), reference(folder))
