"""Writes checkpoints the way the libraries leave them on disk, and files that only someone hostile would write.

``plain`` draws weights; the writers put them under each library's keys, names and folders. Numbers are drawn in
float64 but representable in float32, so that a formula worked out in float64 has no rounding of its own.
"""

import io
import json
import pickle
import struct
import zipfile
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import save_file

# --- numbers -------------------------------------------------------------------------------------------------------


def plain(d=6, D=10, o=None, seed=0):
    """Weights as the formulas have them: W_enc [d, D], W_dec [D, o]; and what some rules need beside them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).double()

    o = o or d
    return SimpleNamespace(
        W_enc=draw(d, D),
        b_enc=draw(D),
        W_dec=draw(D, o),
        b_dec=draw(o),
        W_skip=draw(d, o),
        threshold=draw(D).abs(),
        b_gate=draw(D),
        r_mag=draw(D) / 4,
        b_mag=draw(D),
        vector=draw(d),
    )


def held(value, dtype=torch.float32):
    """What a file holds of a number: float32, in a row of its own."""
    return value.to(dtype).contiguous() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


# --- containers ----------------------------------------------------------------------------------------------------


def made(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_json(path, content):
    made(path).write_text(json.dumps(content))
    return path


def write_torch(path, content, **options):
    def plainly(value):
        return {key: plainly(inner) for key, inner in value.items()} if type(value) is dict else held(value)

    torch.save(plainly(content), made(path), **options)
    return path


def write_safetensors(path, tensors):
    save_file({key: held(value) for key, value in tensors.items()}, made(path))
    return path


def write_npz(path, tensors):
    np.savez(made(path), **{key: held(value).numpy() for key, value in tensors.items()})
    return path


# --- keys ----------------------------------------------------------------------------------------------------------


def linear_keys(p, bias):
    """``nn.Linear`` of encoder and decoder, each ``[out, in]``; where the decoder's bias stands differs."""
    return {"encoder.weight": p.W_enc.T, "encoder.bias": p.b_enc, "decoder.weight": p.W_dec.T, bias: p.b_dec}


def free_keys(p):
    return {"W_enc": p.W_enc, "b_enc": p.b_enc, "W_dec": p.W_dec, "b_dec": p.b_dec}


def gated_keys(p):
    without = {key: value for key, value in free_keys(p).items() if key != "b_enc"}
    return without | {"b_gate": p.b_gate, "r_mag": p.r_mag, "b_mag": p.b_mag}


def selecting_keys(p, k, threshold=-1.0):
    """Keys shared by AutoEncoderTopK and BatchTopKSAE."""
    return linear_keys(p, "b_dec") | counters(k, threshold)


def counters(k, threshold=-1.0):
    return {"k": torch.tensor(k, dtype=torch.int32), "threshold": torch.tensor(threshold)}


# --- libraries -----------------------------------------------------------------------------------------------------


def dictionary_learning(root, dict_class, tensors, /, *, name="ae.pt", buffer=None, **trainer):
    """``trainer_0/ae.pt`` beside a configuration of trainer and buffer."""
    settings = {
        "trainer_class": f"{dict_class}Trainer",
        "dict_class": dict_class,
        "activation_dim": 6,
        "layer": 9,
        "lm_name": "EleutherAI/pythia-70m",
        "submodule_name": "resid_post_layer_9",
        "wandb_name": dict_class,
    }
    buffer = {"ctx_len": 128, "d_submodule": 6} | (buffer or {})
    write_json(root / "trainer_0" / "config.json", {"trainer": settings | trainer, "buffer": buffer})
    return write_torch(root / "trainer_0" / name, tensors)


def vsae(root, tensors, **trainer):
    """A VSAETopK: the same folder, with an ``experiment_config.json`` above it."""
    write_json(root / "experiment_config.json", {"k": 3, "var_flag": 0})
    return dictionary_learning(root, "VSAETopK", tensors, **trainer)


def saelens(root, architecture, tensors, /, *, hook_out=None, **config):
    """A folder as version 6 writes it, with the companions that training leaves."""
    metadata = {
        "model_name": "gpt2-small",
        "hook_name": "blocks.7.hook_resid_pre",
        "hook_head_index": None,
        "prepend_bos": True,
        "context_size": 128,
        "sae_lens_version": "6.18.0",
    }
    defaults = {
        "architecture": architecture,
        "d_in": 6,
        "d_sae": 10,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": "transcoder" not in architecture,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata | ({"hook_name_out": hook_out} if hook_out else {}),
    }
    write_json(root / "cfg.json", defaults | config)
    write_json(root / "runner_cfg.json", {"d_in": 6})
    write_safetensors(root / "sparsity.safetensors", {"sparsity": torch.zeros(10)})
    return write_safetensors(root / "sae_weights.safetensors", tensors)


def old_saelens(root, tensors, **config):
    """A folder from before version 6: everything at the top, under older names."""
    defaults = {
        "model_name": "gpt2-small",
        "hook_point": "blocks.8.hook_resid_pre",
        "hook_point_layer": 8,
        "hook_point_head_index": None,
        "d_in": 6,
        "d_sae": 10,
        "dtype": "torch.float32",
        "expansion_factor": 32,
    }
    write_json(root / "cfg.json", defaults | config)
    write_safetensors(root / "sparsity.safetensors", {"sparsity": torch.zeros(10)})
    return write_safetensors(root / "sae_weights.safetensors", tensors)


def sparsify(root, p, *, k=3, skip=False, hookpoint="layers.5.mlp", **config):
    """One folder for each hookpoint, and a configuration of the whole run above them."""
    settings = {
        "activation": "topk",
        "expansion_factor": 32,  # what it begins with, and does not count beside num_latents
        "normalize_decoder": True,
        "num_latents": len(p.b_enc),
        "k": k,
        "multi_topk": False,
        "skip_connection": skip,
        "transcode": False,
        "d_in": 6,
    }
    write_json(root / "config.json", {"model": "HuggingFaceTB/SmolLM2-135M", "batch_size": 32})
    write_json(root / hookpoint / "cfg.json", settings | config)
    tensors = {"encoder.weight": p.W_enc.T, "encoder.bias": p.b_enc, "W_dec": p.W_dec, "b_dec": p.b_dec}
    return write_safetensors(root / hookpoint / "sae.safetensors", tensors | ({"W_skip": p.W_skip.T} if skip else {}))


def gemma_scope(root, p, place="gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", *, lower=False):
    tensors = free_keys(p) | {"threshold": p.threshold}
    if lower:
        tensors = {key.lower(): value for key, value in tensors.items()}
    return write_npz(root / place / "params.npz", tensors)


def gemma_scope_2(root, p, *, skip=False, **config):
    folder = root / "resid_post" / "layer_12_width_16k_l0_medium"
    settings = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-3-270m",
        "hf_hook_point_in": "model.layers.12.output",
        "affine_connection": skip,
        "width": len(p.b_enc),
    }
    write_json(folder / "config.json", settings | config)
    tensors = {key.lower(): value for key, value in free_keys(p).items()} | {"threshold": p.threshold}
    skipped = {"affine_skip_connection": p.W_skip} if skip else {}
    return write_safetensors(folder / "params.safetensors", tensors | skipped)


def openai(root, p, activation="ReLU", **state):
    """``.../resid_post_mlp_v5_32k/autoencoders/6.pt``; the activation is named among the tensors."""
    content = {
        "pre_bias": p.b_dec,
        "encoder.weight": p.W_enc.T,
        "latent_bias": p.b_enc,
        "decoder.weight": p.W_dec.T,
        "stats_last_nonzero": torch.zeros(len(p.b_enc), dtype=torch.int64),
        "latents_activation_frequency": torch.ones(len(p.b_enc)),
        "latents_mean_square": torch.ones(len(p.b_enc)),
        "activation": activation,
    }
    content |= {"activation_state_dict": state} if state else {}
    return write_torch(root / "resid_post_mlp_v5_32k" / "autoencoders" / "6.pt", content)


def llama_scope(root, p, *, norms, **config):
    """``hyperparams.json`` above ``checkpoints/final.safetensors``."""
    folder = root / "Llama3_1-8B-Base-L15R-8x"
    settings = {
        "hook_point_in": "blocks.15.hook_resid_post",
        "hook_point_out": "blocks.15.hook_resid_post",
        "d_model": 6,
        "expansion_factor": len(p.b_enc) / 6,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.7,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": norms,
        "sparsity_include_decoder_norm": False,
        "apply_decoder_bias_to_pre_encoder": False,
        "use_decoder_bias": True,
        "use_glu_encoder": False,
        "top_k": 50,
    }
    write_json(folder / "hyperparams.json", settings | config)
    return write_safetensors(folder / "checkpoints" / "final.safetensors", linear_keys(p, "decoder.bias"))


_RESID = "blocks.15.hook_resid_post"
_LATER = {
    "sae_type": "sae",
    "d_model": 6,
    "expansion_factor": 10 / 6,
    "hook_point_in": _RESID,
    "hook_point_out": _RESID,
    "act_fn": "jumprelu",
    "norm_activation": "dataset-wise",
    "sparsity_include_decoder_norm": True,
    "use_decoder_bias": True,
    "use_glu_encoder": False,
    "top_k": 3,
    "model_name": "meta-llama/Llama-3.1-8B",
}


def average_norms(norms):
    return {f"dataset_average_activation_norm.{hook}": torch.tensor(norm) for hook, norm in norms.items()}


def llama_scope_r1(root, p, *, threshold_key="log_jumprelu_threshold", norms=None, **config):
    write_json(root / "L15R" / "config.json", {**_LATER, **config})
    tensors = linear_keys(p, "decoder.bias") | {threshold_key: p.threshold.float().log()}
    return write_safetensors(root / "L15R" / "sae_weights.safetensors", tensors | average_norms(norms or {}))


def llamascopium(root, p, *, norms=None, bias=True, jumps=False, as_torch=False, **config):
    write_json(root / "sae" / "config.json", {**_LATER, **config})
    write_json(root / "sae" / "lm_config.json", {"model_name": "meta-llama/Llama-3.1-8B"})
    tensors = {"W_E": p.W_enc, "b_E": p.b_enc, "W_D": p.W_dec} | ({"b_D": p.b_dec} if bias else {})
    tensors |= {"activation_function.log_jumprelu_threshold": p.threshold.float().log()} if jumps else {}
    tensors |= average_norms(norms or {})
    if as_torch:
        return write_torch(root / "sae" / "sae_weights.pt", {"sae": tensors})
    return write_safetensors(root / "sae" / "sae_weights.safetensors", tensors)


def circuit_tracer(root, p, *, threshold=None, skip=False, kind="transcoder_set"):
    """One file a layer, ``W_enc`` the other way round than in SAELens, and YAML for all."""
    made(root / "config.yaml").write_text(
        f"model_name: google/gemma-2-2b\nmodel_kind: {kind}\nfeature_input_hook: ln2.hook_normalized\n"
        "feature_output_hook: hook_mlp_out\nscan: gemma-2-2b\ntranscoders:\n  - id: 0\n"
    )
    tensors = free_keys(p) | {"W_enc": p.W_enc.T}
    tensors |= {"activation_function.threshold": threshold} if threshold is not None else {}
    tensors |= {"W_skip": p.W_skip.T} if skip else {}
    return write_safetensors(root / "layer_4.safetensors", tensors)


def neel(root, p, **config):
    """``25.pt`` beside ``25_cfg.json``."""
    settings = {
        "act_size": 6,
        "dict_mult": 8,
        "act_name": "blocks.0.mlp.hook_post",
        "model_name": "gelu-1l",
        "site": "mlp_out",
        "layer": 0,
        "enc_dtype": "fp32",
        "l1_coeff": 3e-4,
    }
    write_json(root / "25_cfg.json", settings | config)
    return write_torch(root / "25.pt", free_keys(p))


def goodfire(root, p):
    keys = {
        "encoder_linear.weight": p.W_enc.T,
        "encoder_linear.bias": p.b_enc,
        "decoder_linear.weight": p.W_dec.T,
        "decoder_linear.bias": p.b_dec,
    }
    return write_torch(root / "Llama-3.1-8B-Instruct-SAE-l19.pth", keys)


def qwen_scope(root, p, folder="SAE-Res-Qwen3-1.7B-Base-W32K-L0_3"):
    keys = {"W_enc": p.W_enc.T, "b_enc": p.b_enc, "W_dec": p.W_dec.T, "b_dec": p.b_dec}
    return write_torch(root / folder / "layer7.sae.pt", keys)


# --- hostile -------------------------------------------------------------------------------------------------------


class Call:
    """Pickled as a call: whoever restores it runs it."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def write_bomb(path, member, amount):
    """A zip with one member of zeros, a thousandth of what it unpacks to."""
    with zipfile.ZipFile(made(path), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, bytes(amount))
    return path


def npy(descr, shape, content=b""):
    """An array file whose header says what it likes."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def write_zip(path, members):
    with zipfile.ZipFile(made(path), "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_safetensors_header(path, header, content=b""):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    made(path).write_bytes(struct.pack("<Q", len(encoded)) + encoded + content)
    return path


def rewritten(path, change):
    """Pass every member of a zip through ``change(name, content)``."""
    with zipfile.ZipFile(path) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    return write_zip(path, {name: change(name, content) for name, content in members.items()})


def legacy(content):
    """Bytes of a torch file of the kind before zip."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def raw_pickle(content):
    return pickle.dumps(content, protocol=2)


def nested_yaml(levels=9, width=9):
    """The laughs: every line holds the one before it nine times over, until a line is worth nine to the ninth."""
    lines = ["l0: &l0 [lol]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * width)}]" for i in range(1, levels + 1)]
    return "\n".join(lines) + f"\nmodel_kind: *l{levels}\n"


def merged_yaml(levels=9, width=9):
    """The same with merge keys, which are copied when the file is read."""
    lines = ["l0: &l0 {a: 1}"]
    lines += [f"l{i}: &l{i} {{<<: [{', '.join([f'*l{i - 1}'] * width)}]}}" for i in range(1, levels + 1)]
    return "\n".join(lines) + "\n"
