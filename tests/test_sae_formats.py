"""Checkpoints: read as their formulas say, recognised for what they are, refused in plain words, and never run."""

import contextlib
import hashlib
import json
import pickle
import subprocess
import sys
import tarfile
from collections import OrderedDict
from pathlib import Path

import format_cases_near_misses as near_misses
import numpy as np
import pytest
import torch
from checkpoint_factory import (
    Call,
    circuit_tracer,
    counters,
    dictionary_learning,
    free_keys,
    gated_keys,
    gemma_scope_2,
    legacy,
    linear_keys,
    llama_scope,
    made,
    merged_yaml,
    nested_yaml,
    npy,
    openai,
    plain,
    raw_pickle,
    rewritten,
    saelens,
    selecting_keys,
    sparsify,
    vsae,
    write_bomb,
    write_json,
    write_safetensors,
    write_safetensors_header,
    write_torch,
    write_zip,
)
from conftest import D_MODEL, make_sae, topk_weights
from format_cases import CASES
from format_cases_near_misses import NEAR, without
from format_cases_others import gemma_scope_residual
from format_cases_rules import abs_top_k, top_k, usual
from format_cases_saelens import EXPECTED, SCALE, WHITENING, by_rows, scaler
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from sae_analysis.errors import FitError, SAEFormatError
from sae_analysis.sae_formats import load_sae

# --- formulas ------------------------------------------------------------------------------------------------------

SIZES = {"D > d": (6, 10), "D = d": (6, 6), "D < d": (8, 4)}


def inputs(d, tokens=40):
    return 2 * torch.randn(tokens, d, generator=torch.Generator().manual_seed(5))


def furthest(found, expected):
    return float((found.double() - expected).abs().max())


@pytest.mark.parametrize(("d", "D"), SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("write", CASES.values(), ids=CASES)
def test_what_is_read_computes_what_the_formula_says(tmp_path, write, d, D):
    written = write(tmp_path, d, D)
    x = inputs(d)
    sae, features = load_sae(written.path), written.encode(x.double())
    assert (features != 0).any(), "the formula says something"
    assert furthest(sae.encode(x).sparse_features, features) <= 1e-5
    reconstruction = written.decode(features, x.double())
    assert furthest(sae.decode(features.float(), x), reconstruction) <= 1e-5
    assert furthest(sae.decode_sparse(sae.encode_sparse(x), x), reconstruction) <= 2e-5
    assert (sae.activation_dim, sae.dict_size, sae.output_dim) == (d, D, reconstruction.shape[-1])


UNBIASED = ("saelens_matching_pursuit_that_repeats_and_subtracts_nothing",)


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNBIASED])
def test_a_case_would_show_a_bias_that_is_left_out(tmp_path, name):
    """The cases are worth something only if an SAE without biases would miss them."""
    written, x = CASES[name](tmp_path, 6, 10), inputs(6)
    sae = load_sae(written.path)
    sae.model.b_enc.zero_()
    sae.model.b_dec.zero_()
    features = written.encode(x.double())
    differs = furthest(sae.encode(x).sparse_features, features) > 1e-3
    assert differs or furthest(sae.decode(features.float(), x), written.decode(features, x.double())) > 1e-3


@pytest.mark.parametrize("write", CASES.values(), ids=CASES)
def test_decoding_asks_for_the_input_only_where_the_formula_needs_it(tmp_path, write):
    written, x, features = write(tmp_path, 6, 10), inputs(6).double(), torch.rand(40, 10).double()
    sae = load_sae(written.path)
    if torch.equal(written.decode(features, x), written.decode(features, x.flip(0))):
        assert furthest(sae.decode(features.float()), written.decode(features, x)) <= 1e-5
        return
    with pytest.raises(FitError) as caught:
        sae.decode(features.float())
    assert str(caught.value) == (
        "This SAE decodes with the help of its input: give decode the activations encoded as well."
    )


# --- recognition ---------------------------------------------------------------------------------------------------

TOLD = ("hook", "hook_out", "model", "prepend_bos", "centred")


@pytest.mark.parametrize("named", ["file", "folder"])
@pytest.mark.parametrize("write", CASES.values(), ids=CASES)
def test_what_is_read_is_recognised(tmp_path, write, named):
    written = write(tmp_path, 6, 10)
    sae = load_sae(written.path if named == "file" else written.folder or written.path.parent)
    assert sae.origin.format_name == written.name
    assert {name: getattr(sae.origin, name) for name in TOLD} == dict.fromkeys(TOLD) | written.about
    assert sae.origin.sha256 == hashlib.sha256(written.path.read_bytes()).hexdigest()
    assert len(sae.origin.warnings) == bool(written.warns)
    assert written.warns in "".join(sae.origin.warnings)
    assert sae.is_transcoder == ("hook_out" in written.about and written.about["hook_out"] is not None)


BARE = {
    "AutoEncoder": (lambda p: linear_keys(p, "bias"), "dictionary_learning AutoEncoder", "ReLU", True),
    "AutoEncoderNew": (
        lambda p: linear_keys(p, "decoder.bias"),
        "dictionary_learning AutoEncoderNew",
        "ReLU",
        False,
    ),
    "TopK": (lambda p: selecting_keys(p, 3), "dictionary_learning AutoEncoderTopK", "TopK(k=3)", True),
    "Matryoshka": (
        lambda p: free_keys(p) | counters(3, 0.75) | {"group_sizes": torch.tensor([8, 2])},
        "dictionary_learning MatryoshkaBatchTopKSAE",
        "JumpReLU(threshold 0.75)",
        True,
    ),
    "JumpReLU": (
        lambda p: free_keys(p) | {"threshold": torch.full((10,), 0.75)},
        "dictionary_learning JumpReluAutoEncoder",
        "JumpReLU(threshold 0.75)",
        False,
    ),
    "VSAE": (lambda p: linear_keys(p, "bias") | {"k": torch.tensor(3)}, "VSAETopK", "TopK(k=3)", True),
    "VSAE, april": (
        lambda p: linear_keys(p, "decoder.bias") | {"k": torch.tensor(3)},
        "VSAETopK",
        "TopK(k=3)",
        False,
    ),
    "VSAE, april, first generation": (
        lambda p: linear_keys(p, "decoder.bias") | counters(3),
        "VSAETopK",
        "TopK(k=3)",
        False,
    ),
    "VSAE, old names": (lambda p: free_keys(p) | {"k": torch.tensor(3)}, "VSAETopK", "TopK(k=3)", True),
    "SAELens, gated": (gated_keys, "SAELens gated", "Gated", True),
    "Neel": (free_keys, "ReLU SAE (Neel Nanda's layout)", "ReLU", True),
    "circuit-tracer": (
        lambda p: free_keys(p) | {"W_enc": p.W_enc.T},
        "circuit-tracer transcoder",
        "ReLU",
        False,
    ),
    "circuit-tracer, threshold": (
        lambda p: free_keys(p) | {"W_enc": p.W_enc.T, "activation_function.threshold": torch.tensor(0.75)},
        "circuit-tracer transcoder",
        "JumpReLU(threshold 0.75)",
        False,
    ),
    "Goodfire": (
        lambda p: {
            "encoder_linear.weight": p.W_enc.T,
            "encoder_linear.bias": p.b_enc,
            "decoder_linear.weight": p.W_dec.T,
            "decoder_linear.bias": p.b_dec,
        },
        "Goodfire",
        "ReLU",
        False,
    ),
    "Gemma Scope 2": (
        lambda p: {key.lower(): value for key, value in free_keys(p).items()} | {"threshold": torch.full((10,), 0.75)},
        "Gemma Scope 2",
        "JumpReLU(threshold 0.75)",
        False,
    ),
}


@pytest.mark.parametrize("expected", BARE.values(), ids=BARE)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_bare_weight_file_is_recognised_by_its_keys(tmp_path, suffix, expected):
    p, (keys, name, rule, subtracts) = plain(), expected
    path = (write_torch if suffix == ".pt" else write_safetensors)(tmp_path / f"weights{suffix}", keys(p))
    sae = load_sae(path)
    assert (sae.origin.format_name, sae.rule_name) == (name, rule)
    assert sae.origin.reason.startswith(("keys ", "key "))
    bias = p.b_gate if rule == "Gated" else p.b_enc
    pre = (inputs(6) - (p.b_dec.float() if subtracts else 0)) @ p.W_enc.float() + bias.float()
    torch.testing.assert_close(sae.encode(inputs(6)).pre_activation, pre)


def test_the_reason_lists_the_keys_that_were_found(tmp_path):
    sae = load_sae(write_torch(tmp_path / "ae.pt", linear_keys(plain(), "bias")))
    assert sae.origin.reason == "keys bias, decoder.weight, encoder.bias, encoder.weight"


def test_keys_of_three_classes_are_read_as_one_of_them_with_a_warning(tmp_path):
    sae = load_sae(write_torch(tmp_path / "ae.pt", selecting_keys(plain(), 3)))
    assert sae.origin.warnings == (
        "Its keys are those of AutoEncoderTopK, of an early VSAETopK and of BatchTopKSAE: read as the k largest of "
        "each token, which is wrong for the last. Its config.json would tell.",
    )


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda root, p: saelens(root, "standard", free_keys(p), d_in=7), "cfg.json says d_in = 7, ! d_in = 6"),
        (lambda root, p: saelens(root, "topk", free_keys(p), k=3, d_sae=99), "cfg.json says d_sae = 99, ! d_sae = 10"),
        (
            lambda root, p: saelens(root, "transcoder", free_keys(p), hook_out="blocks.7.hook_mlp_out", d_out=5),
            "cfg.json says d_out = 5, ! d_out = 6",
        ),
        (lambda root, p: sparsify(root, p, num_latents=11), "cfg.json says num_latents = 11, ! d_sae = 10"),
        (
            lambda root, p: dictionary_learning(root, "AutoEncoderTopK", selecting_keys(p, 3), activation_dim=64),
            "config.json says activation_dim = 64, ! d_in = 6",
        ),
        (
            lambda root, p: vsae(root, selecting_keys(p, 3), dict_size=512),
            "config.json says dict_size = 512, ! d_sae = 10",
        ),
        (
            lambda root, p: llama_scope(root, p, norms={"in": 3.0, "out": 3.0}, d_model=4096),
            "hyperparams.json says d_model = 4096, ! d_in = 6",
        ),
        (
            lambda root, p: llama_scope(root, p, norms={"in": 3.0, "out": 3.0}, expansion_factor=8),
            "hyperparams.json says expansion_factor = 8, ! d_in = 6 and d_sae = 10",
        ),
        (
            lambda root, p: sparsify(root, p, num_latents=0, expansion_factor=2),
            "cfg.json says expansion_factor = 2, ! d_in = 6 and d_sae = 10",
        ),
        (lambda root, p: gemma_scope_2(root, p, width=16384), "config.json says width = 16384, ! d_sae = 10"),
    ],
)
def test_lengths_that_the_configuration_gives_otherwise_than_the_weights_are_said(tmp_path, write, said):
    sae = load_sae(write(tmp_path, plain()))
    assert (sae.activation_dim, sae.dict_size, sae.output_dim) == (6, 10, 6), "the weights count"
    [warning] = sae.origin.warnings
    assert warning == f"{said.replace('!', 'and the weights have')}: these count."


@pytest.mark.parametrize("said", [None, "7", 7.5, True, [7], 0])
def test_a_length_that_is_no_number_of_the_weights_says_nothing(tmp_path, said):
    path = dictionary_learning(tmp_path, "AutoEncoderTopK", selecting_keys(plain(), 3), activation_dim=said)
    assert load_sae(path).origin.warnings == ()


@pytest.mark.parametrize("said", [None, "2", True, [2], 0, 0.0, 10 / 6, 1.67, float("nan")])
def test_a_factor_that_gives_the_width_of_the_weights_or_none_says_nothing(tmp_path, said):
    path = llama_scope(tmp_path, plain(), norms={"in": 3.0, "out": 3.0}, expansion_factor=said)
    assert load_sae(path).origin.warnings == ()


@pytest.mark.parametrize("sign", [{"architectures": ["MPTForCausalLM"]}, {"model_type": "mpt"}, {"vocab_size": 320}])
def test_lengths_of_a_model_are_not_held_against_the_sae_beside_it(tmp_path, sign):
    path = write_safetensors(tmp_path / "sae.safetensors", linear_keys(plain(), "bias"))
    write_json(tmp_path / "config.json", {"d_model": 64, "expansion_factor": 4, "width": 3} | sign)
    assert [warning for warning in load_sae(path).origin.warnings if "config.json" in warning] == []


def test_a_variational_file_that_leaves_the_sign_open_offers_both_readings(tmp_path):
    """Two generations share their version string, and only one of them rectifies."""
    p, x = plain(), inputs(6)
    path = vsae(tmp_path, linear_keys(p, "bias") | {"k": torch.tensor(3)}, architecture_version="fixed_vae_topk_v2")
    sae = load_sae(path)
    assert {name: str(rule) for name, rule in sae.origin.other_rules.items()} == {
        "relu": "TopK(k=3)",
        "signed": "AbsTopK(k=3)",
    }
    for name, rule in {"relu": top_k, "signed": abs_top_k}.items():
        reread = sae.reread(rule=sae.origin.other_rules[name])
        expected = usual(p, rule=lambda pre, rule=rule: rule(pre, 3))["encode"](x.double())
        assert furthest(reread.encode(x).sparse_features, expected) <= 1e-5
    assert sae.rule_name == "TopK(k=3)"


@pytest.mark.parametrize(
    ("keys", "settings"),
    [
        (lambda p: linear_keys(p, "bias") | {"k": torch.tensor(3)}, {"architecture_version": "vae_topk_v2"}),
        (lambda p: linear_keys(p, "decoder.bias") | counters(3), {}),
        (lambda p: free_keys(p) | {"k": torch.tensor(3)}, {"architecture_version": "fixed_vae_topk_v2"}),
        (lambda p: linear_keys(p, "bias") | {"k": torch.tensor(3)}, {"wandb_name": "VSAE_Laplacian_d6"}),
    ],
    ids=["version", "threshold", "old names", "laplacian"],
)
def test_a_variational_file_that_tells_its_sign_offers_no_other(tmp_path, keys, settings):
    assert load_sae(vsae(tmp_path, keys(plain()), **settings)).origin.other_rules == {}


def as_read(sae):
    x = inputs(6)
    return sae.encode(x).sparse_features


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "sae", "model_state_dict"])
@pytest.mark.parametrize("prefixes", ["", "_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_and_prefixes_are_taken_off(tmp_path, wrapper, prefixes):
    keys = linear_keys(plain(), "bias")
    bare = load_sae(write_torch(tmp_path / "bare.pt", keys))
    prefixed = {prefixes + key: value for key, value in keys.items()}
    alone = load_sae(write_torch(tmp_path / "alone.pt", prefixed))
    wrapped = load_sae(write_torch(tmp_path / "wrapped.pt", {wrapper: prefixed, "epoch": 3, "args": {"lr": 0.1}}))
    for sae in (alone, wrapped):
        assert sae.origin.format_name == "dictionary_learning AutoEncoder"
        assert torch.equal(as_read(sae), as_read(bare))


def test_prefixes_in_a_safetensors_file_are_taken_off(tmp_path):
    keys = {f"module.{key}": value for key, value in linear_keys(plain(), "bias").items()}
    assert load_sae(write_safetensors(tmp_path / "a.safetensors", keys)).dict_size == 10


def test_weights_saved_with_their_gradients_are_read_without(tmp_path):
    keys = {key: torch.nn.Parameter(value.float()) for key, value in linear_keys(plain(), "bias").items()}
    torch.save(keys, tmp_path / "ae.pt")
    sae = load_sae(tmp_path)
    assert not sae.encode(inputs(6)).sparse_features.requires_grad


def test_safetensors_hold_the_same(tmp_path, sae_folder):
    save_file(topk_weights(), tmp_path / "sae.safetensors")
    x = torch.randn(20, D_MODEL)
    assert torch.equal(load_sae(tmp_path).encode(x).sparse_features, load_sae(sae_folder).encode(x).sparse_features)


# --- folders -------------------------------------------------------------------------------------------------------

COMPANIONS = (
    "sparsity.safetensors",
    "activation_whitening.safetensors",
    "activations_store_state.safetensors",
    "trainer_state.pt",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
)


@pytest.mark.parametrize("name", COMPANIONS)
def test_a_companion_is_not_taken_for_weights(tmp_path, name):
    path = dictionary_learning(tmp_path, "AutoEncoder", linear_keys(plain(), "bias"))
    (path.parent / name).write_bytes(b"")
    assert load_sae(path.parent).origin.format_name == "dictionary_learning AutoEncoder"


def test_a_folder_named_like_weights_is_none(tmp_path):
    path = dictionary_learning(tmp_path, "AutoEncoder", linear_keys(plain(), "bias"))
    (path.parent / "step_100.pt").mkdir()
    assert load_sae(path.parent).dict_size == 10


def test_earlier_checkpoints_further_down_do_not_matter(tmp_path):
    path = dictionary_learning(tmp_path, "AutoEncoder", linear_keys(plain(), "bias"))
    write_torch(path.parent / "checkpoints" / "ae_100.pt", linear_keys(plain(seed=1), "bias"))
    found = load_sae(tmp_path)
    assert found.origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_earlier_checkpoint_has_the_configuration_of_the_folder_above(tmp_path):
    path = dictionary_learning(tmp_path, "BatchTopKSAE", selecting_keys(plain(), 3, 0.75))
    earlier = write_torch(path.parent / "checkpoints" / "ae_100.pt", selecting_keys(plain(seed=1), 3, 0.5))
    assert load_sae(earlier).rule_name == "JumpReLU(threshold 0.5)"


def test_a_folder_without_weights(tmp_path):
    assert refusal(tmp_path) == (
        f"SAE folder {tmp_path} holds no weight file (.safetensors, .npz, .pt, .pth, .bin): give the checkpoint's "
        "folder."
    )


def test_a_folder_with_several_weight_files(tmp_path):
    for name in ("b.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(b"")
    assert refusal(tmp_path) == (
        f"SAE folder {tmp_path} holds 2 weight files (a.safetensors, b.pt): name the one to read."
    )


def test_a_folder_with_many_weight_files_further_down(tmp_path):
    for layer in range(11):
        made(tmp_path / f"layer_{layer:02}" / "ae.pt").write_bytes(b"")
    named = ", ".join(f"layer_{layer:02}/ae.pt" for layer in range(8))
    assert refusal(tmp_path) == (
        f"SAE folder {tmp_path} holds 11 weight files ({named} and 3 more): name the one to read."
    )


def test_a_missing_path(tmp_path):
    path = tmp_path / "none"
    assert refusal(path) == (
        f"SAE {path} does not exist: give a checkpoint file, the folder that holds it, or a hub name such as "
        "owner/repository/folder."
    )


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have(name):
    refusal(name)


@pytest.mark.parametrize(("method", "name"), [("open", "ae.pt"), ("read_bytes", "config.json")])
def test_a_file_that_cannot_be_read_says_which_and_why(tmp_path, monkeypatch, method, name):
    folder = make_sae(tmp_path / "sae")
    monkeypatch.setattr(Path, method, forbidden)
    assert refusal(folder) == f"SAE {folder / name} cannot be read: Permission denied. Check the file."


def test_a_companion_that_cannot_be_read_says_which_and_why(tmp_path, monkeypatch):
    scaler(tmp_path)
    saelens(tmp_path, "standard", free_keys(plain()), normalize_activations=EXPECTED)
    read = Path.read_bytes
    closed = "activation_scaler.json"
    monkeypatch.setattr(Path, "read_bytes", lambda path: forbidden(path) if path.name == closed else read(path))
    assert refusal(tmp_path) == (
        f"SAE {tmp_path / 'activation_scaler.json'} cannot be read: Permission denied. Check the file."
    )


def forbidden(path, *_arguments, **_options):
    raise PermissionError(13, "Permission denied", str(path))


# --- configuration -------------------------------------------------------------------------------------------------


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
    assert load_sae(make_sae(tmp_path / "sae", **trainer)).origin.hook == hook


@pytest.mark.parametrize(
    ("location", "hook"),
    [
        ("mlp_post_act", "blocks.6.mlp.hook_post"),
        ("resid_delta_attn", "blocks.6.hook_attn_out"),
        ("resid_post_attn", "blocks.6.hook_resid_mid"),
        ("resid_delta_mlp", "blocks.6.hook_mlp_out"),
        ("elsewhere", None),
    ],
)
def test_the_hook_of_openai_comes_from_its_folder(tmp_path, location, hook):
    path = openai(tmp_path, plain())
    moved = made(tmp_path / location / "autoencoders" / "6.pt")
    path.rename(moved)
    assert load_sae(moved).origin.hook == hook


@pytest.mark.parametrize(("says", "found"), [(False, False), (True, None), (None, None)])
def test_only_special_tokens_left_out_settle_the_question_of_bos(tmp_path, says, found):
    path = dictionary_learning(
        tmp_path, "AutoEncoder", linear_keys(plain(), "bias"), buffer={"add_special_tokens": says}
    )
    assert load_sae(path).origin.prepend_bos is found


@pytest.mark.parametrize("config", [{}, {"trainer": None, "buffer": 3}, {"trainer": [1]}])
def test_a_configuration_that_says_nothing_is_no_obstacle(tmp_path, config):
    path = write_torch(tmp_path / "ae.pt", linear_keys(plain(), "bias"))
    write_json(tmp_path / "config.json", config)
    assert load_sae(path).origin.model is None


def test_a_saelens_file_without_metadata_of_the_model_tells_no_bos(tmp_path):
    path = saelens(tmp_path, "standard", free_keys(plain()), metadata={"model_name": "gpt2-small"})
    origin = load_sae(path).origin
    assert (origin.hook, origin.prepend_bos, origin.centred) == (None, None, None)


@pytest.mark.parametrize("centred", [True, False])
def test_a_saelens_file_tells_whether_its_model_was_centred(tmp_path, centred):
    metadata = {"model_from_pretrained_kwargs": {"center_writing_weights": centred}}
    assert load_sae(saelens(tmp_path, "standard", free_keys(plain()), metadata=metadata)).origin.centred is centred


# --- half precision ------------------------------------------------------------------------------------------------

HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_widened_and_not_rounded_again(tmp_path, dtype):
    halves = {name: w.to(dtype) if w.is_floating_point() else w for name, w in topk_weights().items()}
    torch.save(halves, tmp_path / "ae.pt")
    sae, x = load_sae(tmp_path), torch.randn(20, D_MODEL).to(dtype)
    assert sae.encoder_weights.dtype == sae.decoder_weights.dtype == torch.float32
    assert torch.equal(sae.encoder_weights, halves["encoder.weight"].float().T)
    pre = (x.double() - halves["b_dec"].double()) @ halves["encoder.weight"].double().T + halves[
        "encoder.bias"
    ].double()
    assert furthest(sae.encode(x).pre_activation, pre) <= 1e-6


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_thresholds_are_exact(tmp_path, dtype):
    """A feature just above its threshold fires, one on it does not; rounding anything would blur the two."""
    threshold = torch.tensor([0.1, 1.7, 33.0], dtype=dtype)
    keys = {
        "W_enc": torch.eye(3).to(dtype),
        "b_enc": torch.zeros(3, dtype=dtype),
        "W_dec": torch.eye(3).to(dtype),
        "b_dec": torch.zeros(3, dtype=dtype),
        "threshold": threshold,
    }
    torch.save(keys, tmp_path / "ae.pt")
    on = threshold.float()
    above, below = (on.nextafter(torch.full((3,), end)) for end in (torch.inf, 0.0))
    found = load_sae(tmp_path).encode(torch.stack([below, on, above])).sparse_features
    assert torch.equal(found, torch.stack([torch.zeros(3), torch.zeros(3), above]))


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_a_single_threshold_is_exact(tmp_path, dtype):
    keys = selecting_keys(plain(), 3) | {"threshold": torch.tensor(0.1, dtype=dtype)}
    path = dictionary_learning(tmp_path, "BatchTopKSAE", {})
    torch.save({key: value.to(dtype) if value.is_floating_point() else value for key, value in keys.items()}, path)
    assert float(load_sae(path).model.rule.threshold) == float(keys["threshold"].double())


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("scale", [SCALE, 1.0])
def test_what_is_folded_into_half_precision_weights_is_not_rounded_to_them(tmp_path, dtype, scale):
    config = {} if scale == 1 else {"normalize_activations": EXPECTED}
    scaler(tmp_path)
    path = saelens(tmp_path, "topk", {}, k=3, rescale_acts_by_decoder_norm=True, **config)
    p, x = plain(), inputs(6)
    halves = {key: value.to(dtype).contiguous() for key, value in free_keys(p).items()}
    save_file(halves, path)
    p.W_enc, p.b_enc, p.W_dec, p.b_dec = (halves[key].double() for key in ("W_enc", "b_enc", "W_dec", "b_dec"))
    expected = by_rows(p, lambda pre: top_k(pre, 3))["encode"](scale * x.double()) / scale
    assert furthest(load_sae(path).encode(x).sparse_features, expected) <= 1e-5


# --- refused -------------------------------------------------------------------------------------------------------


def refusal(path):
    """What is said of a path that is refused: one line, and not a long one."""
    with pytest.raises(SAEFormatError) as caught:
        load_sae(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message.replace(str(path), "")) < 1000
    return message


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


# --- hostile -------------------------------------------------------------------------------------------------------

HOSTILE: dict[str, tuple] = {}


def hostile(*fragments):
    def keep(write):
        HOSTILE[write.__name__] = write, fragments
        return write

    return keep


RUNS_CODE = "is not a plain file of tensors: it is damaged, or holds objects that only running its code could restore"
FITS_NOT = "which does not fit into it: it is refused."
UNPACKS = "which no weights do: it is refused."
TORN = "is damaged or cut short: "
BOMB = 48 << 20


def mark(root):
    """What code in a file would leave behind if it ran."""
    return root / "executed"


def trap(root):
    return {key: value.float() for key, value in linear_keys(plain(), "bias").items()} | {
        "trap": Call(Path.touch, mark(root))
    }


def some_weights(**changed):
    """An AutoEncoder's state dict, some of it replaced; the dots of keys are underscores here."""
    keys = {key: value.float().contiguous() for key, value in linear_keys(plain(), "bias").items()}
    return keys | {key.replace("_", "."): value for key, value in changed.items()}


def torch_file(root, content):
    torch.save(content, root / "ae.pt")
    return root / "ae.pt"


def raw_file(root, name, content):
    (root / name).write_bytes(content)
    return root / name


@hostile(RUNS_CODE)
def code_in_a_zip(root):
    return torch_file(root, trap(root))


@hostile(RUNS_CODE)
def code_in_a_legacy_file(root):
    return raw_file(root, "ae.pt", legacy(trap(root)))


@hostile(RUNS_CODE)
def code_in_a_bare_pickle(root):
    return raw_file(root, "ae.pt", raw_pickle(trap(root)))


@hostile(RUNS_CODE)
def code_that_is_evaluated(root):
    return raw_file(root, "ae.bin", raw_pickle(Call(eval, f"__import__('pathlib').Path({str(mark(root))!r}).touch()")))


@hostile(TORN, "allow_pickle=False")
def code_in_an_array(root):
    np.savez(root / "params.npz", W_enc=np.array([Call(Path.touch, mark(root))], dtype=object))
    return root / "params.npz"


@hostile(RUNS_CODE)
def an_archive_of_the_tar_kind(root):
    member = raw_file(root, "pickle", raw_pickle(trap(root)))
    with tarfile.open(root / "ae.pt", "w") as archive:
        for name in ("pickle", "storages", "tensors"):
            archive.add(member, name)
    return root / "ae.pt"


@hostile(UNPACKS)
def a_bomb_of_torch(root):
    return write_bomb(root / "ae.pt", "archive/data/0", BOMB)


@hostile(UNPACKS)
def a_bomb_of_numpy(root):
    return write_bomb(root / "params.npz", "W_enc.npy", BOMB)


@hostile(RUNS_CODE)
def a_pickle_that_fills_memory(root):
    return torch_file(root, some_weights() | {"junk": Call(bytearray, 4 * BOMB)})


@hostile(RUNS_CODE)
def a_legacy_pickle_that_fills_memory(root):
    return raw_file(root, "ae.pt", legacy(some_weights() | {"junk": Call(bytearray, 4 * BOMB)}))


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    return path


@hostile(TORN)
def a_zip_cut_short(root):
    return cut(torch_file(root, some_weights()), -100)


@hostile(TORN)
def a_zip_cut_to_its_first_bytes(root):
    return cut(torch_file(root, some_weights()), 40)


@hostile("SAE")
def a_legacy_file_cut_short(root):
    return raw_file(root, "ae.pt", legacy(some_weights())[:-60])


@hostile(TORN)
def a_safetensors_file_cut_short(root):
    return cut(write_safetensors(root / "a.safetensors", some_weights()), -60)


@hostile(TORN)
def a_safetensors_file_cut_to_its_first_bytes(root):
    return cut(write_safetensors(root / "a.safetensors", some_weights()), 5)


@hostile(TORN)
def an_empty_safetensors_file(root):
    return raw_file(root, "a.safetensors", b"")


@hostile(TORN)
def a_numpy_file_cut_short(root):
    np.savez(root / "params.npz", W_enc=np.ones((6, 10)))
    return cut(root / "params.npz", -60)


@hostile(TORN)
def an_empty_numpy_file(root):
    return raw_file(root, "params.npz", b"")


@hostile("holds its W_enc as torch.int8: expected floating point numbers")
def weights_of_small_integers(root):
    return torch_file(root, some_weights(encoder_weight=torch.ones(10, 6, dtype=torch.int8)))


@hostile("holds its b_dec as torch.bool")
def weights_of_truth_values(root):
    return write_safetensors(root / "a.safetensors", some_weights(bias=torch.ones(6, dtype=torch.bool)))


@hostile("holds its W_dec as torch.complex64")
def complex_weights(root):
    return torch_file(root, some_weights(decoder_weight=torch.ones(6, 10, dtype=torch.complex64)))


@hostile(TORN, "can't convert np.ndarray of type numpy.str_")
def an_array_of_words(root):
    np.savez(root / "params.npz", W_enc=np.array(["a", "b"]))
    return root / "params.npz"


@hostile("The SAE's b_enc holds values that are not finite")
def weights_with_an_infinite_number(root):
    return torch_file(root, some_weights(encoder_bias=torch.full((10,), torch.inf)))


@hostile("The SAE's W_enc holds values that are not finite")
def weights_beyond_single_precision(root):
    return torch_file(root, some_weights(encoder_weight=torch.full((10, 6), 1e300, dtype=torch.float64)))


@hostile("The SAE's threshold holds values that are not finite")
def thresholds_that_are_no_numbers(root):
    return write_torch(root / "ae.pt", free_keys(plain()) | {"threshold": torch.full((10,), torch.nan)})


@hostile("of another shape encoder.bias (0,), encoder.weight (0, 6)")
def weights_without_features(root):
    empty = {"encoder_bias": torch.ones(0), "decoder_weight": torch.ones(6, 0)}
    return torch_file(root, some_weights(encoder_weight=torch.ones(0, 6), **empty))


@hostile("of another shape bias (0,), encoder.weight (10, 0)")
def weights_without_width(root):
    empty = {"bias": torch.ones(0), "decoder_weight": torch.ones(0, 10)}
    return write_safetensors(root / "a.safetensors", some_weights(encoder_weight=torch.ones(10, 0), **empty))


@hostile(TORN)
def an_array_that_claims_terabytes(root):
    return write_zip(root / "params.npz", {"W_enc.npy": npy("<f8", (10**6, 10**6), bytes(800))})


@hostile(TORN)
def an_array_that_claims_gigabytes(root):
    return write_zip(root / "params.npz", {"W_enc.npy": npy("<f4", (10**5, 5000), bytes(800))})


@hostile(TORN)
def an_array_with_a_nested_header(root):
    return write_zip(root / "params.npz", {"W_enc.npy": npy("<f4", "(" * 4000 + "1" + ")" * 4000)})


@hostile(TORN)
def an_array_with_a_negative_shape(root):
    return write_zip(root / "params.npz", {"W_enc.npy": npy("<f4", (-1, 6), bytes(800))})


@hostile(TORN)
def a_safetensors_header_that_claims_terabytes(root):
    size = 4 * 10**12
    entry = {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, size]}
    return write_safetensors_header(root / "a.safetensors", {"W_enc": entry}, bytes(800))


@hostile(TORN)
def a_safetensors_header_that_overflows(root):
    entry = {"dtype": "F32", "shape": [2**62, 2**62, 2**62], "data_offsets": [0, 800]}
    return write_safetensors_header(root / "a.safetensors", {"W_enc": entry}, bytes(800))


@hostile(TORN)
def a_safetensors_header_of_endless_brackets(root):
    return write_safetensors_header(root / "a.safetensors", b"[" * 10**6)


@hostile(TORN)
def a_safetensors_file_with_a_header_of_any_length(root):
    return raw_file(root, "a.safetensors", b"\xff" * 7 + b"\x7f" + bytes(100))


@hostile("claims a encoder.weight of shape (1000000, 1000000)", FITS_NOT)
def a_tensor_of_one_number_repeated(root):
    return torch_file(root, some_weights(encoder_weight=torch.ones(1).expand(10**6, 10**6)))


@hostile(TORN)
def a_tensor_with_less_behind_it_than_it_claims(root):
    path = torch_file(root, {"W_enc": torch.ones(4000)})
    return rewritten(path, lambda name, content: content[:16] if name.endswith("data/0") else content)


@hostile("SAE")
def a_tensor_that_claims_gigabytes(root):
    path = torch_file(root, {"W_enc": torch.ones(70_000)})
    claimed = (70_000).to_bytes(4, "little"), (2 * 10**9).to_bytes(4, "little")
    return rewritten(path, lambda name, content: content.replace(*claimed) if name.endswith(".pkl") else content)


@hostile("SAE")
def a_legacy_tensor_that_claims_gigabytes(root):
    claimed = (70_000).to_bytes(4, "little"), (2 * 10**9).to_bytes(4, "little")
    return raw_file(root, "ae.pt", legacy({"W_enc": torch.ones(70_000)}).replace(*claimed))


PLAIN = "holds encoder.weight as no plain dense tensor: expected one with all its numbers"


@hostile(PLAIN)
def a_sparse_tensor(root):
    place = torch.zeros(2, 1, dtype=torch.int64)
    huge = torch.sparse_coo_tensor(place, torch.ones(1), (10**6, 10**6), check_invariants=True)
    return torch_file(root, some_weights(encoder_weight=huge))


@hostile(PLAIN)
def a_tensor_without_data(root):
    return torch_file(root, some_weights(encoder_weight=torch.ones(10**6, 10**6, device="meta")))


@hostile(PLAIN)
def a_nested_tensor(root):
    with pytest.warns(UserWarning, match="prototype"):
        nested = torch.nested.nested_tensor([torch.ones(2, 6), torch.ones(8, 6)])
    return torch_file(root, some_weights(encoder_weight=nested))


@hostile("in no known layout")
def a_tensor_with_attributes_in_front_of_its_methods(root):
    tensor = torch.ones(10, 6)
    tensor.numel = tensor.detach = tensor.float = tensor.is_floating_point = 5
    return torch_file(root, some_weights(odd=tensor))


@hostile("in no known layout")
def a_dictionary_with_attributes_in_front_of_its_methods(root):
    odd = OrderedDict(some_weights(odd=torch.ones(3)))
    odd.get = odd.values = odd.keys = odd.pop = odd.copy = 5
    return torch_file(root, odd)


@hostile("in no known layout")
def a_wrapped_dictionary_with_attributes_in_front_of_its_methods(root):
    odd = OrderedDict(some_weights(odd=torch.ones(3)))
    odd.get = odd.values = odd.keys = odd.pop = odd.copy = 5
    return torch_file(root, {"state_dict": odd})


@hostile("has the activation 'TopK' (k = None, then 'ReLU')")
def a_state_with_attributes_in_front_of_its_methods(root):
    path = openai(root, plain(), "TopK")
    odd = OrderedDict(other=3)
    odd.get = 5
    content = torch.load(path) | {"activation_state_dict": odd}
    torch.save(content, path)
    return path


@hostile("has the activation [[...], [...], [...], [...], [...], [...], ...] (k = None, then None)")
def a_list_of_lists_of_lists(root):
    laughs = ["lol"] * 9
    for _ in range(9):
        laughs = [laughs] * 9
    return openai(root, plain(), laughs)


@hostile("in no known layout")
def a_dictionary_in_itself(root):
    content = some_weights(odd=torch.ones(3))
    content["model"] = content
    return torch_file(root, content)


@hostile("in no known layout")
def a_key_without_end(root):
    return torch_file(root, some_weights() | {"k" * 10**6: torch.ones(3)})


@hostile("is a backup with norm_factor 1000")
def a_factor_beyond_any_number(root):
    return torch_file(root, {"ae": some_weights(), "norm_factor": 10**600})


def with_config(root, name, content):
    raw_file(root, name, content if isinstance(content, bytes) else content.encode())
    return write_safetensors(root / "sae.safetensors", free_keys(plain()))


@hostile("is not JSON: maximum recursion depth exceeded")
def json_of_endless_brackets(root):
    return with_config(root, "config.json", "[" * 500_000)


@hostile("is not JSON: Exceeds the limit")
def json_with_a_number_of_ten_thousand_digits(root):
    return with_config(root, "cfg.json", f'{{"d_in": 6, "d_sae": 10, "k": {"9" * 10_000}}}')


@hostile("has 104857600 bytes, which no configuration has: remove it.")
def a_configuration_of_a_hundred_megabytes(root):
    path = with_config(root, "config.json", "{}")
    with (root / "config.json").open("r+b") as file:
        file.truncate(100 << 20)
    return path


@hostile("has 104857600 bytes, which no configuration has: remove it.")
def yaml_of_a_hundred_megabytes(root):
    path = with_config(root, "config.yaml", "{}")
    with (root / "config.yaml").open("r+b") as file:
        file.truncate(100 << 20)
    return path


@hostile("is not JSON: 'utf-8' codec can't decode byte 0xff")
def a_configuration_that_is_no_text(root):
    return with_config(root, "config.json", b"\xff\xfe{}")


@hostile("is not YAML: it refers to earlier parts of itself")
def a_billion_laughs(root):
    return with_config(root, "config.yaml", nested_yaml())


@hostile("is not YAML: it refers to earlier parts of itself")
def a_billion_merged_laughs(root):
    return with_config(root, "config.yaml", merged_yaml())


@hostile("is not YAML: it is nested too deeply")
def yaml_of_many_brackets(root):
    return with_config(root, "config.yaml", "[" * 30_000)


@hostile("is not YAML: it is nested too deeply")
def yaml_of_many_dashes(root):
    return with_config(root, "config.yaml", "- " * 15_000)


@hostile("holds a list: expected an object")
def yaml_of_many_numbers(root):
    return with_config(root, "config.yaml", f"[{'1,' * 16_000}]")


@hostile("is not YAML: could not determine a constructor for the tag")
def yaml_that_asks_for_an_object(root):
    return with_config(root, "config.yaml", f"!!python/object/apply:pathlib.Path.touch ['{mark(root)}']")


@hostile("is not YAML: ")
def yaml_with_a_date_that_is_none(root):
    return with_config(root, "config.yaml", "model_name: 2020-99-99")


@hostile(TORN)
def a_damaged_whitening_file(root):
    path = saelens(root, "standard", free_keys(plain()), normalize_activations=WHITENING)
    raw_file(root, "activation_whitening.safetensors", b"\xff" * 100)
    return path


CHILD = """
import json, os, resource, sys, time
from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats import load_sae

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))

events = []
def watch(event, arguments):
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event.startswith(("os.", "subprocess.", "shutil.", "socket.", "ctypes.")) and "listdir" not in event:
        if event not in ("os.scandir",):
            events.append(f"{event} {arguments}"[:200])

good, hostile = json.load(sys.stdin)
for path in good:
    load_sae(path)
if os.path.exists("/proc/self/statm"):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (4 << 30),) * 2)
sys.addaudithook(watch)
for name, path in hostile.items():
    events.clear()
    before, start = peak(), time.perf_counter()
    try:
        load_sae(path)
        kind, message = "nothing", ""
    except BaseException as error:
        kind, message = type(error).__name__, str(error)
    seconds = time.perf_counter() - start
    found = {"kind": kind, "message": message, "grown": peak() - before, "seconds": seconds, "did": list(events)}
    print(json.dumps({name: found}), flush=True)
"""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """Load every hostile file in one process of its own, with little memory to spare, and watch what it does."""
    pytest.importorskip("resource", reason="limits of a process are asked of Unix")
    root = tmp_path_factory.mktemp("hostile")
    paths = {}
    for name, (write, _) in HOSTILE.items():
        (root / name).mkdir()
        paths[name] = str(write(root / name))
    # A good file of every container first, so that what loading needs once is not taken for growth.
    good = [
        write_torch(root / "good.pt", linear_keys(plain(), "bias")),
        raw_file(root, "old.pt", legacy(some_weights())),
        write_safetensors(root / "good.safetensors", free_keys(plain())),
        gemma_scope_residual(root / "gemma", 6, 10).path,
        circuit_tracer(root / "tracer", plain()),
    ]
    asked = json.dumps([[str(path) for path in good], paths])
    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=100, check=False)
    found = {}
    for line in done.stdout.splitlines():
        found |= json.loads(line)
    assert len(found) == len(HOSTILE), f"the process died: {done.stderr[-2000:]}"
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_and_nothing_else_happens(verdicts, tmp_path_factory, name):
    verdict, (_, fragments) = verdicts[name], HOSTILE[name]
    assert verdict["kind"] == "SAEFormatError", verdict["message"]
    assert verdict["did"] == []
    assert verdict["grown"] < 32, "megabytes"
    assert len(verdict["message"]) < 1000
    assert "\n" not in verdict["message"]
    for fragment in fragments:
        assert fragment in verdict["message"]


def test_no_hostile_file_ran(verdicts, tmp_path_factory):
    assert not list(tmp_path_factory.getbasetemp().glob("hostile*/*/executed"))


@pytest.mark.parametrize("write", [code_in_a_zip, code_in_a_legacy_file, code_in_a_bare_pickle, code_that_is_evaluated])
def test_the_traps_work_so_that_what_was_refused_was_dangerous(tmp_path, write):
    path = write(tmp_path)
    with contextlib.suppress(RuntimeError, pickle.UnpicklingError):  # a bare pickle runs before torch sees what it is
        torch.load(path, weights_only=False)
    assert mark(tmp_path).exists()


def test_objects_are_refused_in_full(tmp_path):
    path = code_in_a_zip(tmp_path)
    assert refusal(path) == (
        f"SAE {path} is not a plain file of tensors: it is damaged, or holds objects that only running its code could "
        "restore, which is refused. Save its state_dict instead."
    )


def test_a_bomb_is_refused_in_full(tmp_path):
    path = write_bomb(tmp_path / "params.npz", "W_enc.npy", 4 << 20)
    assert refusal(path) == (
        f"SAE {path} has {path.stat().st_size} bytes and would unpack to {4 << 20}, which no weights do: it is refused."
    )


def test_a_claim_is_refused_in_full(tmp_path):
    path = a_tensor_of_one_number_repeated(tmp_path)
    assert refusal(path) == (
        f"SAE {path} has {path.stat().st_size} bytes and claims a encoder.weight of shape (1000000, 1000000), which "
        "does not fit into it: it is refused."
    )


def test_weights_that_are_compressed_a_little_are_no_bomb(tmp_path):
    p = plain(64, 512)
    arrays = {key: value.float().numpy() for key, value in (free_keys(p) | {"threshold": p.threshold}).items()}
    np.savez_compressed(made(tmp_path / "params.npz"), **arrays)
    assert load_sae(tmp_path / "params.npz").dict_size == 512


def test_a_file_that_does_not_say_its_rule_is_told_to_be_read_as_relu(tmp_path):
    keys = {
        "W_enc": torch.eye(4, 8), "b_enc": torch.zeros(8), "W_dec": torch.eye(8, 4), "b_dec": torch.zeros(4),
    }  # fmt: skip
    torch.save({"model_state_dict": keys, "k": 2}, tmp_path / "sae.pt")
    [warning] = load_sae(tmp_path / "sae.pt").origin.warnings
    assert warning.startswith("No configuration says what its activation rule is: it is read as ReLU")
