"""What is nearly right, or damaged, is refused in plain words."""

import contextlib
import json

import format_cases_near_misses as near_misses
import pytest
import torch
from checkpoint_factory import circuit_tracer, dictionary_learning, free_keys, linear_keys, plain, write_safetensors
from checkpoint_reading import refusal
from conftest import topk_weights
from format_cases_near_misses import NEAR, without
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats import load_sae

# --- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("write", "fragments"), NEAR.values(), ids=NEAR)
def test_what_is_nearly_right_is_refused_by_saying_what_is_wrong(tmp_path, write, fragments):
    path = write(tmp_path)
    message = refusal(path)
    assert str(path) in message or "The SAE's" in message or "configuration" in message or "whitening" in message
    for fragment in fragments:
        assert fragment in message


# One of each kind in full.


def test_a_layout_that_is_unknown_is_compared_with_the_nearest(tmp_path):
    path = near_misses.one_unknown_key(tmp_path)
    assert refusal(path) == (
        f"SAE {path} is in no known layout. Found keys: bias, decoder.weight, encoder.bias, encoder.weight, velocity. "
        "Nearest is dictionary_learning AutoEncoder (bias, decoder.weight, encoder.bias, encoder.weight), but: unknown "
        "velocity."
    )


def test_a_layout_that_is_named_is_compared_with_the_file(tmp_path):
    path = dictionary_learning(
        tmp_path, "AutoEncoder", without(linear_keys(plain(), "bias"), "bias") | {"b_dec": torch.ones(7)}
    )
    assert refusal(path) == (
        f"SAE {path} is a dictionary_learning AutoEncoder (dict_class in config.json), but its keys are not: missing "
        "bias; unknown b_dec. Expected encoder.weight, encoder.bias, decoder.weight, bias. The file is damaged or of "
        "another layout."
    )


def test_a_class_that_is_not_supported(tmp_path):
    path = near_misses.a_class_that_is_unknown(tmp_path)
    assert refusal(path) == (
        f"SAE {path} is a dictionary_learning CrossCoder, which is not supported: expected one of AutoEncoder, "
        "AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder, AutoEncoderTopK, BatchTopKSAE, "
        "MatryoshkaBatchTopKSAE, or VSAETopK."
    )


def test_an_architecture_that_is_not_supported(tmp_path):
    path = near_misses.a_temporal_architecture(tmp_path)
    assert refusal(path) == (
        f"SAE {path} has SAELens' architecture 'temporal', which is not supported: expected one of standard, gated, "
        "jumprelu, topk, abstopk, batchtopk, matryoshka_batchtopk, matching_pursuit, transcoder, skip_transcoder, "
        "jumprelu_transcoder, jumprelu_skip_transcoder."
    )


def test_several_layers_at_once(tmp_path):
    path = near_misses.a_crosscoder(tmp_path)
    assert refusal(path) == (
        f"SAE {path} holds weights for several layers at once (decoder.bias, decoder.weight, encoder.bias, "
        "encoder.weight): crosscoders and cross-layer transcoders are not supported."
    )


def test_weights_that_are_not_finite(tmp_path):
    weights = topk_weights()
    weights["decoder.weight"][3, 5] = float("nan")
    torch.save(weights, tmp_path / "ae.pt")
    assert refusal(tmp_path) == "The SAE's W_dec holds values that are not finite: its file is damaged."


def test_a_configuration_that_is_not_json(tmp_path):
    path = dictionary_learning(tmp_path, "AutoEncoder", linear_keys(plain(), "bias")).parent / "config.json"
    path.write_text("{")
    assert refusal(path.parent) == (
        f"SAE configuration {path} is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 "
        "(char 1). Mend or remove it."
    )


def test_a_configuration_that_is_not_yaml(tmp_path):
    path = circuit_tracer(tmp_path, plain())
    (tmp_path / "config.yaml").write_text("model_kind: [")
    assert refusal(path).startswith(f"SAE configuration {tmp_path / 'config.yaml'} is not YAML: ")


def test_a_configuration_that_is_no_object(tmp_path):
    path = dictionary_learning(tmp_path, "AutoEncoder", linear_keys(plain(), "bias")).parent / "config.json"
    path.write_text('["trainer"]')
    assert refusal(path.parent) == f"SAE configuration {path} holds a list: expected an object."


def test_a_value_of_another_kind(tmp_path):
    path = near_misses.a_k_that_is_a_truth_value(tmp_path)
    assert refusal(path) == f"SAE configuration {path.parent / 'cfg.json'} says k = True: expected a whole number."


# --- damaged -------------------------------------------------------------------------------------------------------


def test_an_empty_file(tmp_path):
    (path := tmp_path / "ae.pt").write_bytes(b"")
    assert refusal(path) == f"SAE {path} is damaged or cut short: EOFError. Fetch it again."


def test_truncated_safetensors(tmp_path):
    save_file(topk_weights(), path := tmp_path / "sae.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(path) == (
        f"SAE {path} is damaged or cut short: Error while deserializing header: incomplete metadata, file not fully "
        "covered. Fetch it again."
    )


def test_a_file_that_is_no_checkpoint(tmp_path):
    (path := tmp_path / "ae.pt").write_text("Not found")
    assert refusal(path).startswith(f"SAE {path} is not a plain file of tensors: it is damaged, or holds objects")


def test_a_lone_tensor(tmp_path):
    torch.save(torch.ones(3), path := tmp_path / "ae.pt")
    assert refusal(path) == f"SAE {path} holds a Tensor: expected a state dict of tensors."


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
WORDS = (
    *("architecture", "d_in", "d_sae", "k", "metadata", "normalize_activations", "activation_fn", "hook_name"),
    *("activation_fn_kwargs", "trainer", "dict_class", "buffer", "layer", "lm_name", "expansion_factor", "activation"),
    *(
        "transcode",
        "sae_type",
        "hook_point_in",
        "act_fn",
        "d_model",
        "norm_activation",
        "top_k",
        "act_size",
        "act_name",
    ),
    *("model_kind", "feature_input_hook", "jump_relu_threshold", "prepend_bos", "dataset_average_activation_norm"),
    *("scaling_factor", "model_from_pretrained_kwargs", "rescale_acts_by_decoder_norm"),
)
likely = st.sampled_from(["standard", "topk", "jump_relu", "matching_pursuit", "sae", "relu", "VSAETopK", 3, {}])


@pytest.mark.parametrize("name", ["cfg.json", "config.json", "hyperparams.json", "config.yaml"])
@given(config=st.dictionaries(st.sampled_from(WORDS), likely | json_values, max_size=8))
def test_no_configuration_ends_in_another_error(tmp_path_factory, name, config):
    folder = tmp_path_factory.getbasetemp() / f"odd_{name}"
    path = folder / "sae.safetensors"
    if not path.exists():
        write_safetensors(path, free_keys(plain()))
    (folder / name).write_text(json.dumps(config))
    with contextlib.suppress(SAEFormatError):
        load_sae(path)
