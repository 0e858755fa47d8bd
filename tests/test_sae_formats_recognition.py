"""Checkpoints are recognised for what they are, and tell what they are of."""

import hashlib

import pytest
import torch
from checkpoint_factory import (
    counters,
    dictionary_learning,
    free_keys,
    gated_keys,
    gemma_scope_2,
    linear_keys,
    llama_scope,
    made,
    openai,
    plain,
    saelens,
    selecting_keys,
    sparsify,
    vsae,
    write_json,
    write_safetensors,
    write_torch,
)
from checkpoint_reading import furthest, inputs
from conftest import D_MODEL, make_sae, topk_weights
from format_cases import CASES
from format_cases_rules import abs_top_k, top_k, usual
from safetensors.torch import save_file

from sae_analysis.sae_formats import load_sae

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


def test_a_file_that_does_not_say_its_rule_is_told_to_be_read_as_relu(tmp_path):
    keys = {
        "W_enc": torch.eye(4, 8), "b_enc": torch.zeros(8), "W_dec": torch.eye(8, 4), "b_dec": torch.zeros(4),
    }  # fmt: skip
    torch.save({"model_state_dict": keys, "k": 2}, tmp_path / "sae.pt")
    [warning] = load_sae(tmp_path / "sae.pt").origin.warnings
    assert warning.startswith("No configuration says what its activation rule is: it is read as ReLU")


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
