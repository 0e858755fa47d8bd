"""circuit-tracer: transcoders of single layers as it saves them, and as it reads those of Gemma Scope."""

import numpy as np
import pytest
import torch
from agreement import SHAPES, assert_agreement, randomise, shape_name
from safetensors.torch import save_file

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats import load_sae

transcoders = pytest.importorskip("circuit_tracer.transcoder.single_layer_transcoder")
functions = pytest.importorskip("circuit_tracer.transcoder.activation_functions")

CONFIG = """model_kind: transcoder_set
model_name: tiny
feature_input_hook: mlp.hook_in
feature_output_hook: hook_mlp_out
"""


def make(shape, layer=0, *, is_jump=False, **options):
    d_model, d_sae = shape
    function = functions.JumpReLU(torch.zeros(d_sae), 0.1) if is_jump else torch.nn.functional.relu
    device = torch.device("cpu")
    made = transcoders.SingleLayerTranscoder(
        d_model, d_sae, function, layer, device=device, dtype=torch.float32, **options
    )
    return randomise(made, seed=layer)


def as_reference(transcoder):
    return lambda x: (transcoder.encode(x), transcoder(x))


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
@pytest.mark.parametrize("skips", [True, False], ids=["skip", "no-skip"])
@pytest.mark.parametrize("is_jump", [True, False], ids=["jumprelu", "relu"])
def test_transcoder(tmp_path, is_jump, skips, shape):
    file = tmp_path / "layer_0.safetensors"
    make(shape, is_jump=is_jump, skip_connection=skips).to_safetensors(str(file))
    (tmp_path / "config.yaml").write_text(CONFIG)
    ours = load_sae(file)
    assert ours.is_transcoder
    assert ours.origin.hook == "blocks.0.mlp.hook_in"
    assert_agreement(ours, as_reference(transcoders.load_relu_transcoder(str(file), 0, torch.device("cpu"))))


def test_set(tmp_path):
    """Its configuration stands beside all layers; each is read by its file."""
    layers = {layer: make((16, 48), layer, is_jump=True, skip_connection=True) for layer in range(2)}
    transcoders.TranscoderSet(layers, "mlp.hook_in", "hook_mlp_out").to_safetensors(str(tmp_path))
    (tmp_path / "config.yaml").write_text(CONFIG)
    with pytest.raises(SAEFormatError, match="holds 2 weight files"):
        load_sae(tmp_path)
    for layer, theirs in layers.items():
        assert_agreement(load_sae(tmp_path / f"layer_{layer}.safetensors"), as_reference(theirs))


def gemma_scope(shape):
    """Return the weights of a Gemma Scope transcoder, which come from no library."""
    made = make(shape, is_jump=True, skip_connection=True)
    weights = {name: value.detach() for name, value in made.named_parameters()}
    return {
        "W_enc": weights["W_enc"].T.contiguous(),
        "W_dec": weights["W_dec"],
        "b_enc": weights["b_enc"],
        "b_dec": weights["b_dec"],
        "threshold": weights["activation_function.threshold"],
    }, weights["W_skip"].T.contiguous()


@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_gemma_scope(tmp_path, shape):
    folder = tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_3" / "width_16k" / "average_l0_10"
    folder.mkdir(parents=True)
    weights, _ = gemma_scope(shape)
    np.savez(folder / "params.npz", **{name: value.numpy() for name, value in weights.items()})
    ours = load_sae(folder)
    assert ours.is_transcoder
    theirs = transcoders.load_gemma_scope_transcoder(str(folder / "params.npz"), 3, torch.device("cpu"))
    assert_agreement(ours, as_reference(theirs))


@pytest.mark.parametrize("skips", [True, False], ids=["skip", "no-skip"])
@pytest.mark.parametrize("shape", SHAPES, ids=shape_name)
def test_gemma_scope_2(tmp_path, shape, skips):
    folder = tmp_path / "transcoder" / "layer_3_width_16k_l0_small"
    folder.mkdir(parents=True)
    weights, skip = gemma_scope(shape)
    lower = {name.replace("W_", "w_"): value for name, value in weights.items()}
    save_file(lower | ({"affine_skip_connection": skip} if skips else {}), folder / "params.safetensors")
    ours = load_sae(folder)
    assert ours.is_transcoder
    file = str(folder / "params.safetensors")
    assert_agreement(ours, as_reference(transcoders.load_gemma_scope_2_transcoder(file, 3, torch.device("cpu"))))
