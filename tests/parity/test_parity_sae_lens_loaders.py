"""Other people's releases, which have no code of their own to save them, against the loaders SAELens has for them.

The files are made up here in each release's layout, small, and put where the hub's would be after downloading.
"""

import json

import numpy as np
import pytest
import torch
from agreement import SHAPES, TOKENS, assert_agreement, shape_name
from safetensors.torch import load_file, save_file

from sae_analysis.sae_formats import load_sae

sae_lens = pytest.importorskip("sae_lens")
loaders = pytest.importorskip("sae_lens.loading.pretrained_sae_loaders")
sae_module = pytest.importorskip("sae_lens.saes.sae")

# It warns of names and settings that are as they should be here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:sae_lens")

AVERAGE_NORM = {"in": 7.3, "out": 7.3}

shapes = pytest.mark.parametrize("shape", SHAPES, ids=shape_name)


def draw(shape, d_out=None):
    """Return random weights, the way round that SAELens holds them."""
    d_in, d_sae = shape
    generator = torch.Generator().manual_seed(d_sae)

    def normal(*size):
        return torch.randn(size, generator=generator)

    return {
        "W_enc": normal(d_in, d_sae) / d_in**0.5,
        "b_enc": 0.3 * normal(d_sae),
        "W_dec": normal(d_sae, d_out or d_in) / d_in**0.5,
        "b_dec": 0.3 * normal(d_out or d_in),
        "threshold": 0.3 + 0.3 * normal(d_sae).abs(),
    }


def linear(weights, encoder="encoder", decoder="decoder"):
    """Return the same weights as two ``nn.Linear`` hold them."""
    return {
        f"{encoder}.weight": weights["W_enc"].T.contiguous(),
        f"{encoder}.bias": weights["b_enc"],
        f"{decoder}.weight": weights["W_dec"].T.contiguous(),
        f"{decoder}.bias": weights["b_dec"],
    }


def plain(weights):
    return {name: value for name, value in weights.items() if name != "threshold"}


@pytest.fixture
def reference(monkeypatch, tmp_path):
    """Return a function that reads a folder of ``tmp_path`` with one of the library's loaders."""

    def found(repo_id, filename, subfolder="", **_):
        path = tmp_path / repo_id / subfolder / filename
        if not path.exists():
            raise loaders.EntryNotFoundError(str(path))
        return str(path)

    def shapes_of(repo_id, filename):
        return {name: list(value.shape) for name, value in load_file(found(repo_id, filename)).items()}

    monkeypatch.setattr(loaders, "hf_hub_download", found)
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", shapes_of)

    def read(loader, repo_id, folder, *, scale=None, **overrides):
        monkeypatch.setattr(sae_module, "get_norm_scaling_factor", lambda *_: scale)

        def convert(**options):
            options["cfg_overrides"] = options["cfg_overrides"] | overrides
            return getattr(loaders, loader)(**options)

        sae = sae_lens.SAE.from_pretrained(repo_id, folder, converter=convert, dtype="float32")

        def run(x):
            if sae.cfg.reshape_activations == "hook_z":
                x = x.unflatten(-1, (2, -1))
            return sae.encode(x), sae(x).reshape(TOKENS, -1)

        return run

    return read


def sizes(shape):
    """Return the sizes that the loader would otherwise take from the release's name."""
    return {"d_in": shape[0], "d_sae": shape[1]}


@pytest.mark.parametrize("is_lower", [False, True], ids=["upper-case", "lower-case"])
@pytest.mark.parametrize("place", ["res", "att", "mlp", "res-embedding"])
@shapes
def test_gemma_scope(reference, tmp_path, shape, place, is_lower):
    kind, _, embedding = place.partition("-")
    repository, folder = f"google/gemma-scope-2b-pt-{kind}", f"{embedding or 'layer_3'}/width_16k/average_l0_10"
    (tmp_path / repository / folder).mkdir(parents=True)
    weights = {name.lower() if is_lower else name: value.numpy() for name, value in draw(shape).items()}
    np.savez(tmp_path / repository / folder / "params.npz", **weights)
    theirs = reference("gemma_2_sae_huggingface_loader", repository, folder, **sizes(shape))
    assert_agreement(load_sae(tmp_path / repository / folder), theirs)


@shapes
def test_gemma_scope_transcoder(reference, tmp_path, shape):
    repository, folder = "google/gemma-scope-2b-pt-transcoders", "layer_3/width_16k/average_l0_10"
    (tmp_path / repository / folder).mkdir(parents=True)
    weights = {name: value.numpy() for name, value in draw(shape).items()}
    np.savez(tmp_path / repository / folder / "params.npz", **weights)
    ours = load_sae(tmp_path / repository / folder)
    assert ours.is_transcoder
    options = sizes(shape) | {"d_out": shape[0]}
    assert_agreement(ours, reference("gemma_2_transcoder_huggingface_loader", repository, folder, **options))


@pytest.mark.parametrize("place", ["resid_post", "mlp_out", "attn_out", "transcoder", "transcoder-affine"])
@shapes
def test_gemma_scope_2(reference, tmp_path, shape, place):
    kind, _, is_affine = place.partition("-")
    repository, folder = "google/gemma-scope-2-1b-pt", f"{kind}/layer_3_width_16k_l0_small"
    (tmp_path / repository / folder).mkdir(parents=True)
    hook = "model.layers.3.mlp.input" if kind == "transcoder" else "model.layers.3.output"
    config = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt", "hf_hook_point_in": hook}
    if kind == "transcoder":
        config |= {"hf_hook_point_out": "model.layers.3.mlp.output", "affine_connection": bool(is_affine)}
    (tmp_path / repository / folder / "config.json").write_text(json.dumps(config))
    weights = {name.lower(): value for name, value in draw(shape).items()}
    if is_affine:
        weights["affine_skip_connection"] = draw((shape[0], shape[0]))["W_enc"]
    save_file(weights, tmp_path / repository / folder / "params.safetensors")
    ours = load_sae(tmp_path / repository / folder)
    assert ours.is_transcoder == (kind == "transcoder")
    assert_agreement(ours, reference("gemma_3_sae_huggingface_loader", repository, folder))


@shapes
def test_llama_scope(reference, tmp_path, shape):
    repository, folder = "fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L3R-8x"
    (tmp_path / repository / folder / "checkpoints").mkdir(parents=True)
    save_file(linear(draw(shape)), tmp_path / repository / folder / "checkpoints" / "final.safetensors")
    config = {
        "d_model": shape[0],
        "d_sae": shape[1],
        "hook_point_in": "blocks.3.hook_resid_post",
        "hook_point_out": "blocks.3.hook_resid_post",
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.7,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": AVERAGE_NORM,
        "sparsity_include_decoder_norm": False,
        "use_decoder_bias": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "top_k": 4,
    }
    (tmp_path / repository / folder / "hyperparams.json").write_text(json.dumps(config))
    scale = shape[0] ** 0.5 / AVERAGE_NORM["in"]
    theirs = reference("llama_scope_sae_huggingface_loader", repository, folder, scale=scale, dtype="float32")
    ours = load_sae(tmp_path / repository / folder)

    def in_raw_units(x):  # the library's activations are in those of the scaled input, ours in the threshold's
        features, reconstruction = theirs(x)
        return features / scale, reconstruction

    assert_agreement(ours, in_raw_units)


@shapes
def test_llama_scope_r1(reference, tmp_path, shape):
    repository, folder = "fnlp/Llama-Scope-R1-Distill", "400M-Slimpajama-400M-OpenR1-Math-220k/L3R"
    (tmp_path / repository / folder).mkdir(parents=True)
    drawn, hook = draw(shape), "blocks.3.hook_resid_post"
    weights = linear(drawn) | {"log_jumprelu_threshold": drawn["threshold"].log()}
    norms = {f"dataset_average_activation_norm.{hook}": torch.tensor(AVERAGE_NORM["in"])}
    save_file(weights | norms, tmp_path / repository / folder / "sae_weights.safetensors")
    config = {
        "sae_type": "sae",
        "d_model": shape[0],
        "expansion_factor": shape[1] / shape[0],
        "hook_point_in": hook,
        "hook_point_out": hook,
        "act_fn": "jumprelu",
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": False,
    }
    (tmp_path / repository / folder / "config.json").write_text(json.dumps(config))
    theirs = reference(
        "llama_scope_r1_distill_sae_huggingface_loader",
        repository,
        folder,
        scale=shape[0] ** 0.5 / AVERAGE_NORM["in"],
        **sizes(shape),
    )
    assert_agreement(load_sae(tmp_path / repository / folder), theirs)


@shapes
def test_goodfire(reference, tmp_path, shape):
    repository, file = "Goodfire/Llama-3.1-8B-Instruct-SAE-l19", "Llama-3.1-8B-Instruct-SAE-l19.pth"
    (tmp_path / repository).mkdir(parents=True)
    torch.save(linear(draw(shape), "encoder_linear", "decoder_linear"), tmp_path / repository / file)
    theirs = reference("get_goodfire_huggingface_loader", repository, file, **sizes(shape))
    assert_agreement(load_sae(tmp_path / repository / file), theirs)


@shapes
def test_deepseek_r1(reference, tmp_path, shape):
    repository, file = "open-source/deepseek", "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"
    (tmp_path / repository).mkdir(parents=True)
    torch.save(linear(draw(shape)), tmp_path / repository / file)
    theirs = reference("deepseek_r1_sae_huggingface_loader", repository, file, **sizes(shape))
    assert_agreement(load_sae(tmp_path / repository / file), theirs)


@shapes
def test_qwen_scope(reference, tmp_path, shape):
    repository, file = "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_4", "layer3.sae.pt"
    (tmp_path / repository).mkdir(parents=True)
    weights = plain(draw(shape))
    weights |= {name: weights[name].T.contiguous() for name in ("W_enc", "W_dec")}
    torch.save(weights, tmp_path / repository / file)
    theirs = reference("qwen_scope_sae_huggingface_loader", repository, file, **sizes(shape))
    assert_agreement(load_sae(tmp_path / repository / file), theirs)


@shapes
def test_attention_saes_of_connor_and_rob(reference, tmp_path, shape):
    repository, file = "ckkissane/attn-saes-gpt2-small-all-layers", "gpt2-small_L3_Hcat_z.pt"
    (tmp_path / repository).mkdir(parents=True)
    torch.save(plain(draw(shape)), tmp_path / repository / file)
    config = {"act_size": shape[0], "dict_size": shape[1], "act_name": "blocks.3.attn.hook_z"}
    (tmp_path / repository / file.replace(".pt", "_cfg.json")).write_text(json.dumps(config))
    theirs = reference("connor_rob_hook_z_huggingface_loader", repository, file)
    assert_agreement(load_sae(tmp_path / repository / file), theirs)


@shapes
def test_transcoders_of_hanna(reference, tmp_path, shape):
    repository, file = "mwhanna/qwen3-0.6b-transcoders", "layer_3.safetensors"
    (tmp_path / repository).mkdir(parents=True)
    weights = plain(draw(shape))
    weights["W_enc"] = weights["W_enc"].T.contiguous()
    save_file(weights, tmp_path / repository / file)
    hooks = "feature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n"
    (tmp_path / repository / "config.yaml").write_text(f"model_name: Qwen/Qwen3-0.6B\n{hooks}")
    values = {"d_model": shape[0], "d_feature": shape[1], "batch_size": 128}
    lines = [f"{name}:\n  value: {value}\n" for name, value in values.items()]
    (tmp_path / repository / "wandb-config.yaml").write_text("".join(lines))
    ours = load_sae(tmp_path / repository / file)
    assert ours.is_transcoder
    assert_agreement(ours, reference("mwhanna_transcoder_huggingface_loader", repository, file))


@pytest.mark.parametrize("dict_class", ["AutoEncoder", "AutoEncoderTopK"])
@shapes
def test_dictionary_learning(reference, tmp_path, shape, dict_class):
    """The library's view of two classes it maps as they are; see the tests of dictionary_learning for all."""
    repository, folder = "canrager/lm_sae", "trainer_0"
    (tmp_path / repository / folder).mkdir(parents=True)
    weights = linear(draw(shape))
    if dict_class == "AutoEncoder":
        weights["bias"] = weights.pop("decoder.bias")
    else:
        weights |= {"b_dec": weights.pop("decoder.bias"), "k": torch.tensor(4), "threshold": torch.tensor(0.7)}
    torch.save(weights, tmp_path / repository / folder / "ae.pt")
    trainer = {"dict_class": dict_class, "activation_dim": shape[0], "dict_size": shape[1], "k": 4, "layer": 3}
    config = {"trainer": trainer | {"lm_name": "owner/tiny"}, "buffer": {"ctx_len": 128}}
    (tmp_path / repository / folder / "config.json").write_text(json.dumps(config))
    theirs = reference("dictionary_learning_sae_huggingface_loader_1", repository, folder)
    assert_agreement(load_sae(tmp_path / repository / folder), theirs)
