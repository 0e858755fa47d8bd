"""Checkpoints: what is recognised, what is refused in which words, and that nothing in them is ever run."""

import contextlib
import hashlib
import json
import pickle
from pathlib import Path

import jaxtyping
import pytest
import torch
from conftest import D_MODEL, D_SAE, K, make_sae, topk_weights
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats import load_sae
from sae_analysis.sae_interface import ReLU, TopK

X = torch.randn(20, D_MODEL, generator=torch.Generator().manual_seed(5))


def relu_weights():
    weights = topk_weights()
    return {
        "encoder.weight": weights["encoder.weight"],
        "encoder.bias": weights["encoder.bias"],
        "decoder.weight": weights["decoder.weight"],
        "bias": weights["b_dec"],
    }


def save(folder, weights, config=None, name="ae.pt"):
    folder.mkdir(exist_ok=True)
    torch.save(weights, folder / name)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def refusal(path):
    with pytest.raises(SAEFormatError) as caught:
        load_sae(path)
    return str(caught.value)


# --- read ----------------------------------------------------------------------------------------------------------


def test_topk_is_read_with_its_reason_and_hash(sae_folder):
    sae = load_sae(sae_folder)
    assert sae.model.rule == TopK(K)
    assert (sae.format_name, sae.reason) == ("dictionary_learning AutoEncoderTopK", "dict_class in config.json")
    assert sae.sha256 == hashlib.sha256((sae_folder / "ae.pt").read_bytes()).hexdigest()


def test_topk_subtracts_its_decoder_bias(sae_folder):
    weights = topk_weights()
    expected = (X - weights["b_dec"]) @ weights["encoder.weight"].T + weights["encoder.bias"]
    torch.testing.assert_close(load_sae(sae_folder).encode(X).pre_activation, expected)
    features = torch.rand(3, D_SAE)
    torch.testing.assert_close(
        load_sae(sae_folder).decode(features), features @ weights["decoder.weight"].T + weights["b_dec"]
    )


def test_the_older_autoencoder_is_a_relu_that_subtracts_its_bias(tmp_path):
    weights = relu_weights()
    sae = load_sae(save(tmp_path, weights, {"trainer": {"dict_class": "AutoEncoder"}}))
    assert sae.model.rule == ReLU()
    assert sae.format_name == "dictionary_learning AutoEncoder"
    expected = ((X - weights["bias"]) @ weights["encoder.weight"].T + weights["encoder.bias"]).relu()
    torch.testing.assert_close(sae.encode(X).sparse_features, expected)


@pytest.mark.parametrize("weights", [topk_weights(), relu_weights()], ids=["topk", "relu"])
def test_a_bare_weight_file_is_recognised_by_its_keys(tmp_path, weights):
    sae = load_sae(save(tmp_path, weights) / "ae.pt")
    assert sae.reason == "keys " + ", ".join(sorted(weights.keys() - {"threshold"}))
    assert sae.metadata == {}


def test_safetensors_hold_the_same(tmp_path, sae_folder):
    save_file(topk_weights(), tmp_path / "sae.safetensors")
    found = load_sae(tmp_path)
    assert torch.equal(found.encode(X).sparse_features, load_sae(sae_folder).encode(X).sparse_features)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_not_rounded_again(tmp_path, dtype):
    halves = {name: w.to(dtype) if w.is_floating_point() else w for name, w in topk_weights().items()}
    sae = load_sae(save(tmp_path, halves))
    assert sae.encoder_weights.dtype == sae.encode(X.to(dtype)).sparse_features.dtype == torch.float32
    assert torch.equal(sae.encoder_weights, halves["encoder.weight"].float().T)


@pytest.mark.parametrize(
    ("trainer", "hook"),
    [
        ({"layer": 9, "submodule_name": "resid_post_layer_9"}, "blocks.9.hook_resid_post"),
        ({"layer": 0, "submodule_name": "resid_pre_layer_0"}, "blocks.0.hook_resid_pre"),
        ({"layer": 3, "submodule_name": "mlp_out_layer_3"}, "blocks.3.hook_mlp_out"),
        ({"layer": 3, "submodule_name": "attn_out_layer_3"}, "blocks.3.hook_attn_out"),
        ({"layer": 3, "submodule_name": "something_else"}, None),
        ({"layer": None, "submodule_name": "resid_post_layer_9"}, None),
    ],
)
def test_the_hook_comes_from_the_configuration(tmp_path, trainer, hook):
    assert load_sae(make_sae(tmp_path / "sae", **trainer)).metadata.get("hook") == hook


@pytest.mark.parametrize(
    ("buffer", "found"), [({"add_special_tokens": False}, {"prepend_bos": False}), ({"add_special_tokens": True}, {})]
)
def test_only_special_tokens_left_out_settle_the_question_of_bos(tmp_path, buffer, found):
    sae = load_sae(save(tmp_path, topk_weights(), {"trainer": {"lm_name": "a/model"}, "buffer": buffer}))
    assert sae.metadata == {"model": "a/model"} | found


@pytest.mark.parametrize("config", [{}, {"trainer": None, "buffer": 3}, {"trainer": [1]}])
def test_a_configuration_that_says_nothing_is_no_obstacle(tmp_path, config):
    assert load_sae(save(tmp_path, topk_weights(), config)).metadata == {}


# --- refused -------------------------------------------------------------------------------------------------------


def test_a_missing_path(tmp_path):
    path = tmp_path / "none"
    assert refusal(path) == f"SAE {path} does not exist: give a checkpoint file, or the folder that holds it."


def test_a_folder_without_weights(tmp_path):
    assert refusal(tmp_path) == (
        f"SAE folder {tmp_path} holds no weight file (.safetensors, .pt, .pth, .bin): give the checkpoint's folder."
    )


def test_a_folder_with_several_weight_files(tmp_path):
    for name in ("b.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(b"")
    assert refusal(tmp_path) == f"SAE folder {tmp_path} holds 2 weight files (a.safetensors, b.pt): name the file."


def test_a_truncated_archive(tmp_path):
    path = make_sae(tmp_path / "sae") / "ae.pt"
    path.write_bytes(path.read_bytes()[:-200])
    message = refusal(path)
    assert message.startswith(f"SAE {path} is damaged or cut short: ")
    assert message.endswith(". Fetch it again.")


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


class Trap:
    """Running the code in the file would leave a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    "write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))], ids=["torch", "pickle"]
)
def test_pickled_objects_are_refused_and_never_run(tmp_path, write):
    mark, path = tmp_path / "executed", tmp_path / "ae.pt"
    write(topk_weights() | {"trap": Trap(mark)}, path)
    assert refusal(path) == (
        f"SAE {path} is not a plain file of tensors: it is damaged, or holds objects that only running its code could "
        "restore, which is refused. Save its state_dict instead."
    )
    assert not mark.exists()
    with contextlib.suppress(RuntimeError):  # a bare pickle runs before torch finds that it is not its own
        torch.load(path, weights_only=False)
    assert mark.exists(), "the trap works, so what was refused was dangerous"


def test_a_file_that_is_no_checkpoint(tmp_path):
    (path := tmp_path / "ae.pt").write_text("Not found")
    assert refusal(path).startswith(f"SAE {path} is not a plain file of tensors: it is damaged, or holds objects")


def test_a_lone_tensor(tmp_path):
    torch.save(torch.ones(3), path := tmp_path / "ae.pt")
    assert refusal(path) == f"SAE {path} holds a Tensor: expected a state dict of tensors."


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@given(data=st.data())
def test_no_damage_ends_in_another_error(tmp_path_factory, zipped, data):
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    torch.save(topk_weights(), path, _use_new_zipfile_serialization=zipped)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, 1500))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.none() | st.integers(0, len(content) - 1))])
    with contextlib.suppress(SAEFormatError):
        load_sae(path)


def test_an_unknown_layout_lists_what_it_found(tmp_path):
    save(tmp_path, {"W_up": torch.ones(2), "W_down": torch.ones(2), "step": 7})
    assert refusal(tmp_path) == (
        f"{tmp_path} is no known SAE layout. Found keys: W_down, W_up. Known: dictionary_learning AutoEncoderTopK and "
        "AutoEncoder (ae.pt with config.json)."
    )


@pytest.mark.parametrize("named", ["BatchTopKSAE", "GatedAutoEncoder"])
def test_a_class_that_is_not_supported_is_named_although_its_keys_look_right(tmp_path, named):
    save(tmp_path, topk_weights(), {"trainer": {"dict_class": named}})
    assert refusal(tmp_path) == (
        f"SAE {tmp_path / 'ae.pt'} is a dictionary_learning {named}, which is not supported: expected AutoEncoderTopK "
        "or AutoEncoder with the keys of that class."
    )


@pytest.mark.parametrize("k", [torch.tensor([4, 4]), torch.tensor(2.5), torch.tensor(float("nan"))])
def test_a_k_that_is_no_whole_number(tmp_path, k):
    save(tmp_path, topk_weights() | {"k": k})
    assert refusal(tmp_path) == f"SAE {tmp_path / 'ae.pt'} has a k that is no whole number: its file is damaged."


def test_a_k_beyond_the_dictionary(tmp_path):
    save(tmp_path, topk_weights() | {"k": torch.tensor(D_SAE + 1)})
    assert refusal(tmp_path) == f"The SAE's k is {D_SAE + 1}, but it has {D_SAE} features: its file is damaged."


def test_weights_with_a_dimension_too_few(tmp_path):
    save(tmp_path, topk_weights() | {"encoder.weight": torch.ones(D_SAE)})
    assert refusal(tmp_path) == (
        f"SAE {tmp_path / 'ae.pt'} has a encoder.weight of shape ({D_SAE},): expected 2 dimensions. "
        "The file is damaged or of another layout."
    )


def test_weights_of_sizes_that_do_not_fit(tmp_path):
    save(tmp_path, topk_weights() | {"encoder.bias": torch.ones(7)})
    jaxtyping.config.update("jaxtyping_disable", True)  # as outside the tests, where nothing checks annotations
    try:
        message = refusal(tmp_path)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert message == (
        f"The SAE's weights do not fit together: W_enc is {D_MODEL} x {D_SAE}, so b_enc should have shape ({D_SAE},), "
        "but it has (7,). The file is damaged or of another layout."
    )


def test_weights_that_are_not_finite(tmp_path):
    weights = topk_weights()
    weights["decoder.weight"][3, 5] = float("nan")
    assert refusal(save(tmp_path, weights)) == (
        "The SAE's W_dec holds values that are not finite: its file is damaged."
    )


def test_a_configuration_that_is_not_json(tmp_path):
    path = save(tmp_path, topk_weights()) / "config.json"
    path.write_text("{")
    assert refusal(tmp_path) == (
        f"SAE configuration {path} is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 "
        "(char 1). Mend or remove it."
    )


def test_a_configuration_that_is_no_object(tmp_path):
    path = save(tmp_path, topk_weights(), ["trainer"]) / "config.json"
    assert refusal(tmp_path) == f"SAE configuration {path} holds a list: expected an object."


@pytest.mark.parametrize(("method", "name"), [("open", "ae.pt"), ("read_text", "config.json")])
def test_a_file_that_cannot_be_read_says_which_and_why(tmp_path, monkeypatch, method, name):
    folder = make_sae(tmp_path / "sae")

    def refuse(path, *_arguments, **_options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, method, refuse)
    assert refusal(folder) == f"SAE {folder / name} cannot be read: Permission denied. Check the file."
