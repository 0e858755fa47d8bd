"""Models are loaded from folders and by name, in the format asked for, and refused in plain words."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import IDS, make_model
from safetensors.torch import load_file, save_file
from torch import nn

from sae_analysis.errors import ModelError
from sae_analysis.language_model import load_model
from sae_analysis.language_model.huggingface import HuggingFaceModel


def refusal(name, **options):
    with pytest.raises(ModelError) as caught:
        load_model(str(name), **options)
    return str(caught.value)


@pytest.fixture
def copied(model_folder, tmp_path):
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


@pytest.mark.parametrize("missing", ["./models/foo", "../foo", "/models/foo", "~/foo", "models/of/mine"])
def test_what_can_only_be_a_folder_is_said_to_be_missing(missing):
    assert refusal(missing) == (
        f"Model folder {missing} does not exist: give the folder with config.json, tokenizer and safetensors, or a "
        "name of the hub."
    )


def test_an_unknown_name_offline_says_what_to_do():
    message = refusal("no-one/no-such-model")
    assert message.startswith("Model 'no-one/no-such-model' is no local folder, and no hub or cache could give it: We ")
    assert message.endswith(
        ". Check the name and the connection, or give a folder with config.json, tokenizer and safetensors."
    )
    assert "\n" not in message


def test_a_lens_name_offline_says_what_to_do():
    pytest.importorskip("transformer_lens")
    message = refusal("gelu-1l")
    assert message.startswith("Model 'gelu-1l' (TransformerLens: NeelNanda/GELU_1L512W_C4_Code) could not be loaded: ")
    assert message.endswith(". Check the connection, or give a local folder.")
    assert "\n" not in message


def test_truncated_weights_are_refused(copied):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert refusal(copied) == (
        f"Model folder {copied} cannot be loaded: Error while deserializing header: incomplete metadata, file not "
        "fully covered. It needs config.json, tokenizer and safetensors."
    )


def test_missing_parameters_are_refused_not_invented(copied):
    weights = load_file(copied / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert refusal(copied) == (
        f"Model {copied} lacks 1 of its parameters (first: model.layers.1.mlp.down_proj.weight): its weight file does "
        "not belong to its config.json. Fetch it again."
    )


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder_is_refused(copied, missing):
    (copied / missing).unlink()
    message = refusal(copied)
    assert message.startswith(f"Model folder {copied} cannot be loaded: ")
    assert message.endswith(". It needs config.json, tokenizer and safetensors.")
    assert ":." not in message


def test_an_unknown_number_format_is_refused(model_folder):
    assert refusal(model_folder, dtype="int8") == "dtype int8 is not one of auto, float32, bfloat16, float16."


def test_a_device_that_is_not_there_is_refused(model_folder):
    message = refusal(model_folder, device="no-such-device")
    assert message.startswith("device no-such-device cannot be used: ")
    assert message.endswith(". Try device cpu.")


def test_a_model_without_a_final_norm_is_refused_at_once(byte_level):
    module = nn.Module()
    module.model = nn.Module()
    module.model.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
    module.get_input_embeddings = module.get_output_embeddings = lambda: nn.Linear(4, 9)
    module.config = json_config(num_hidden_layers=2)
    with pytest.raises(ModelError) as caught:
        HuggingFaceModel("odd", module, byte_level._tokenizer)
    assert str(caught.value) == (
        "The final norm of odd was not found among norm, ln_f, final_layer_norm, final_layernorm, norm_f, layer_norm."
    )


def test_a_model_that_is_no_stack_of_layers_is_refused(byte_level):
    module = nn.Linear(4, 9)
    module.get_input_embeddings = module.get_output_embeddings = lambda: module
    module.config = json_config(num_hidden_layers=5)
    with pytest.raises(ModelError) as caught:
        HuggingFaceModel("odd", module, byte_level._tokenizer)
    assert str(caught.value) == "odd has no stack of 5 layers that hooks could name: it is not supported."


def json_config(**settings):
    from transformers import PretrainedConfig

    return PretrainedConfig(hidden_size=4, **settings)


def test_float32_is_the_format_on_a_cpu_and_others_can_be_asked_for(model_folder):
    assert load_model(str(model_folder), device="cpu").dtype == torch.float32
    half = load_model(str(model_folder), device="cpu", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert half.activations(IDS, "blocks.0.hook_resid_post").dtype == torch.bfloat16
    assert half.logits(IDS, "blocks.0.hook_resid_post", lambda x: x.float()).dtype == torch.bfloat16


def test_a_model_may_be_named_by_path(model_folder, tmp_path):
    assert load_model(model_folder, device="cpu").name == str(model_folder)
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path / "gone")
    assert str(caught.value) == refusal(tmp_path / "gone")


def test_what_is_stored_in_half_precision_is_run_in_float32_on_a_cpu(copied):
    halves = {name: weight.bfloat16() for name, weight in load_file(copied / "model.safetensors").items()}
    save_file(halves, copied / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    assert load_model(str(copied), device="cpu").dtype == torch.float32


def test_the_fingerprint_tells_models_apart_but_not_number_formats(model, model_folder, copied, tmp_path):
    again = load_model(str(model_folder), device="cpu", dtype="float16")
    assert again.fingerprint == model.fingerprint
    assert load_model(str(copied), device="cpu").fingerprint == model.fingerprint, "the folder's name is no part"
    weights = load_file(copied / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert load_model(str(copied), device="cpu").fingerprint != model.fingerprint
    config = json.loads((copied / "config.json").read_text())
    shutil.copy(make_model(tmp_path / "fresh", adds_bos=False) / "model.safetensors", copied)
    (copied / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert load_model(str(copied), device="cpu").fingerprint != model.fingerprint


def test_bos_follows_the_tokenizer(model, bos_model):
    assert (model.prepends_bos, model.bos_reason) == (False, "its tokenizer adds none")
    assert (bos_model.prepends_bos, bos_model.bos_reason) == (True, "its tokenizer adds one")
