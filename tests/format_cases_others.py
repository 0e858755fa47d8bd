"""Cases of sparsify, Gemma Scope, OpenAI, OpenMOSS, circuit-tracer and those who published a single layout."""

import torch
from checkpoint_factory import (
    circuit_tracer,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    llama_scope,
    llama_scope_r1,
    llamascopium,
    neel,
    openai,
    plain,
    qwen_scope,
    sparsify,
)
from file_makers import into
from format_cases_rules import (
    Case,
    Write,
    group_max,
    jump,
    layer_normed,
    norm_ratio,
    relu,
    top_k,
    un_normed,
    usual,
)

CASES: dict[str, Write] = {}
case = into(CASES)

SPARSIFY_MODEL = "HuggingFaceTB/SmolLM2-135M"


def sparsify_case(path, formulas, **more):
    about = {"hook": "layers.5.mlp", "model": SPARSIFY_MODEL} | more.pop("about", {})
    return Case(path=path, name="sparsify", about=about, **formulas, **more)


@case
def sparsify_top_k(root, d, D):
    p = plain(d, D)
    return sparsify_case(sparsify(root, p), usual(p, rule=lambda pre: top_k(relu(pre), 3)))


@case
def sparsify_group_max(root, d, D):
    p = plain(d, D)
    return sparsify_case(sparsify(root, p, k=2, activation="groupmax"), usual(p, rule=lambda pre: group_max(pre, 2)))


@case
def sparsify_with_skip_and_a_sign_that_says_nothing(root, d, D):
    p = plain(d, D)
    path = sparsify(root, p, skip=True, signed=True, hookpoint="layers.3")
    formulas = usual(p, rule=lambda pre: top_k(relu(pre), 3))
    formulas |= {"decode": lambda f, x: f @ p.W_dec + p.b_dec + x @ p.W_skip}
    return sparsify_case(path, formulas, about={"hook": "layers.3"})


@case
def sparsify_transcoder_with_skip(root, d, D):
    p = plain(d, D)
    path = sparsify(root, p, skip=True, transcode=True)
    formulas = usual(p, subtract=False, rule=lambda pre: top_k(relu(pre), 3))
    formulas |= {"decode": lambda f, x: f @ p.W_dec + p.b_dec + x @ p.W_skip}
    about = {"hook": "layers.5.mlp.input", "hook_out": "layers.5.mlp.output"}
    return sparsify_case(path, formulas, about=about, warns="from before February 2025 subtracted b_dec")


def gemma_case(path, formulas, hook, hook_out=None, model="google/gemma-2-2b"):
    about = {"hook": hook, "hook_out": hook_out, "model": model, "prepend_bos": True}
    return Case(path=path, name="Gemma Scope", about=about, **formulas)


def jumping(p):
    return usual(p, subtract=False, rule=lambda pre: jump(pre, p.threshold))


@case
def gemma_scope_residual(root, d, D):
    p = plain(d, D)
    return gemma_case(gemma_scope(root, p), jumping(p), "blocks.20.hook_resid_post")


@case
def gemma_scope_mlp_of_the_chat_model_in_lower_case(root, d, D):
    p = plain(d, D)
    path = gemma_scope(root, p, "gemma-scope-9b-it-mlp/layer_3/width_16k/average_l0_9", lower=True)
    return gemma_case(path, jumping(p), "blocks.3.hook_mlp_out", model="google/gemma-2-9b-it")


@case
def gemma_scope_attention(root, d, D):
    p = plain(d, D)
    path = gemma_scope(root, p, "gemma-scope-2b-pt-att/layer_3/width_16k/average_l0_9")
    return gemma_case(path, jumping(p), "blocks.3.attn.hook_z")


@case
def gemma_scope_of_the_embedding(root, d, D):
    p = plain(d, D)
    path = gemma_scope(root, p, "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6")
    # Trained on the embedding's rows; what the first block reads is larger by the root of their width.
    formulas = {
        "encode": lambda x: jump(x / d**0.5 @ p.W_enc + p.b_enc, p.threshold),
        "decode": lambda f, _x: f @ p.W_dec * d**0.5 + p.b_dec,
    }
    return gemma_case(path, formulas, "blocks.0.hook_resid_pre")


@case
def gemma_scope_in_the_folder_of_someone_who_studies_embeddings(root, d, D):
    p = plain(d, D)
    path = gemma_scope(root, p, "embedding-notes/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")
    return gemma_case(path, jumping(p), "blocks.20.hook_resid_post")


@case
def gemma_scope_transcoder(root, d, D):
    p = plain(d, D, d + 2)
    path = gemma_scope(root, p, "gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_9")
    return gemma_case(path, jumping(p), "blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out")


GEMMA_3 = {"hook": "model.layers.12.output", "model": "google/gemma-3-270m", "prepend_bos": True}


@case
def gemma_scope_2_residual(root, d, D):
    p = plain(d, D)
    return Case(path=gemma_scope_2(root, p), name="Gemma Scope 2", about=GEMMA_3, **jumping(p))


@case
def gemma_scope_2_transcoder_with_skip(root, d, D):
    p = plain(d, D, d + 2)
    path = gemma_scope_2(root, p, skip=True, hf_hook_point_out="model.layers.12.mlp.output")
    formulas = jumping(p) | {"decode": lambda f, x: f @ p.W_dec + p.b_dec + x @ p.W_skip}
    about = GEMMA_3 | {"hook_out": "model.layers.12.mlp.output"}
    return Case(path=path, name="Gemma Scope 2", about=about, **formulas)


OPENAI = {
    "name": "OpenAI sparse_autoencoder",
    "about": {"hook": "blocks.6.hook_resid_post", "model": "gpt2", "centred": False},
}


@case
def openai_relu(root, d, D):
    p = plain(d, D)
    return Case(path=openai(root, p), **usual(p), **OPENAI)


@case
def openai_top_k_normalises_its_input(root, d, D):
    p = plain(d, D)
    path = openai(root, p, "TopK", k=3, postact_fn="ReLU")
    encode = usual(p, rule=lambda pre: top_k(relu(pre), 3))["encode"]
    return Case(
        path=path,
        encode=lambda x: encode(layer_normed(x)),
        decode=lambda f, x: un_normed(f @ p.W_dec + p.b_dec, x),
        **OPENAI,
    )


AVERAGE = 4.0


def llama_case(path, formulas, **more):
    about = {"hook": "blocks.15.hook_resid_post"} | more.pop("about", {})
    return Case(path=path, name=more.pop("name", "Llama Scope"), about=about, **formulas, **more)


@case
def llama_scope_in_raw_units(root, d, D):
    p = plain(d, D)
    path, scale = llama_scope(root, p, norms={"in": AVERAGE, "out": AVERAGE}), d**0.5 / AVERAGE
    # Trained on ``scale * x``, but its threshold is told for activations of raw ones.
    formulas = {
        "encode": lambda x: jump((scale * x @ p.W_enc + p.b_enc) / scale, 0.7),
        "decode": lambda f, _x: (scale * f @ p.W_dec + p.b_dec) / scale,
    }
    return llama_case(path, formulas, folder=path.parent.parent)


@case
def llama_scope_by_decoder_norm(root, d, D):
    p = plain(d, D)
    path = llama_scope(root, p, norms={"in": AVERAGE, "out": AVERAGE}, sparsity_include_decoder_norm=True)
    scale, norms = d**0.5 / AVERAGE, p.W_dec.norm(dim=1)
    formulas = {
        "encode": lambda x: jump((scale * x @ p.W_enc + p.b_enc) / scale * norms, 0.7),
        "decode": lambda f, _x: (scale * f / norms @ p.W_dec + p.b_dec) / scale,
    }
    return llama_case(path, formulas, folder=path.parent.parent)


@case
def llama_scope_top_k_between_two_places(root, d, D):
    p = plain(d, D, d + 2)
    out = "blocks.15.hook_mlp_out"
    norms, config = {"in": AVERAGE, "out": 3.0}, {"act_fn": "topk", "top_k": 3, "jump_relu_threshold": 0.0}
    path = llama_scope(root, p, norms=norms, hook_point_out=out, **config)
    scale_in, scale_out = d**0.5 / AVERAGE, d**0.5 / 3.0
    formulas = {
        "encode": lambda x: top_k(scale_in * x @ p.W_enc + p.b_enc, 3) / scale_in,
        "decode": lambda f, _x: (scale_in * f @ p.W_dec + p.b_dec) / scale_out,
    }
    return llama_case(path, formulas, folder=path.parent.parent, about={"hook_out": out})


@case
def llama_scope_relu_that_subtracts_its_bias(root, d, D):
    p = plain(d, D)
    config = {"act_fn": "relu", "norm_activation": "none", "apply_decoder_bias_to_pre_encoder": True}
    path = llama_scope(root, p, norms={"in": 1.0, "out": 1.0}, **config)
    return llama_case(path, usual(p), folder=path.parent.parent)


RESID = "blocks.15.hook_resid_post"


def later(p, d, *, by_norm, rule):
    """Trained on scaled input, gated by activations times the norm of decoder rows as stored."""
    scale, norms = d**0.5 / AVERAGE, p.W_dec.norm(dim=1) if by_norm else torch.ones(len(p.W_dec)).double()
    return {
        "encode": lambda x: rule((scale * x @ p.W_enc + p.b_enc) * norms) / norms,
        "decode": lambda f, _x: (f @ p.W_dec + p.b_dec) / scale,
    }


LLAMA_3 = {"model": "meta-llama/Llama-3.1-8B"}


@case
def llama_scope_r1_case(root, d, D):
    p = plain(d, D)
    path = llama_scope_r1(root, p, norms={RESID: AVERAGE})
    formulas = later(p, d, by_norm=True, rule=lambda pre: jump(pre, p.threshold))
    return llama_case(path, formulas, name="Llama Scope R1", about=LLAMA_3)


@case
def llama_scope_r1_with_nested_key(root, d, D):
    p = plain(d, D)
    key = "activation_function.log_jumprelu_threshold"
    path = llama_scope_r1(root, p, threshold_key=key, norm_activation="none", sparsity_include_decoder_norm=False)
    return llama_case(path, jumping(p), name="Llama Scope R1", about=LLAMA_3)


@case
def llamascopium_jump_relu_by_decoder_norm(root, d, D):
    p = plain(d, D)
    path = llamascopium(root, p, norms={RESID: AVERAGE}, jumps=True)
    formulas = later(p, d, by_norm=True, rule=lambda pre: jump(pre, p.threshold))
    return llama_case(path, formulas, name="llamascopium", about=LLAMA_3)


@case
def llamascopium_jump_relu(root, d, D):
    p = plain(d, D)
    path = llamascopium(root, p, norms={RESID: AVERAGE}, jumps=True, sparsity_include_decoder_norm=False)
    formulas = later(p, d, by_norm=False, rule=lambda pre: jump(pre, p.threshold))
    return llama_case(path, formulas, name="llamascopium", about=LLAMA_3)


@case
def llamascopium_top_k_in_a_torch_file(root, d, D):
    p = plain(d, D)
    path = llamascopium(root, p, norms={RESID: AVERAGE}, as_torch=True, act_fn="topk")
    formulas = later(p, d, by_norm=True, rule=lambda pre: top_k(pre, 3))
    return llama_case(path, formulas, name="llamascopium", about=LLAMA_3)


@case
def llamascopium_batch_top_k(root, d, D):
    p = plain(d, D)
    path = llamascopium(root, p, norms={RESID: AVERAGE}, act_fn="batchtopk", sparsity_include_decoder_norm=False)
    formulas = later(p, d, by_norm=False, rule=lambda pre: top_k(pre, 3))
    return llama_case(path, formulas, name="llamascopium", about=LLAMA_3, warns="read as the 3 largest of each token")


@case
def llamascopium_relu_normalised_by_token_without_bias(root, d, D):
    p = plain(d, D)
    path = llamascopium(root, p, bias=False, act_fn="relu", norm_activation="token-wise")
    formulas = {
        "encode": lambda x: relu(x / norm_ratio(x) @ p.W_enc + p.b_enc),
        "decode": lambda f, x: f @ p.W_dec * norm_ratio(x),
    }
    return llama_case(path, formulas, name="llamascopium", about=LLAMA_3)


@case
def llamascopium_between_two_places(root, d, D):
    p = plain(d, D, d + 2)
    out = "blocks.15.hook_mlp_out"
    path = llamascopium(root, p, norms={RESID: AVERAGE, out: 3.0}, act_fn="relu", hook_point_out=out)
    scale_in, scale_out = d**0.5 / AVERAGE, d**0.5 / 3.0
    formulas = {
        "encode": lambda x: relu(scale_in * x @ p.W_enc + p.b_enc),
        "decode": lambda f, _x: (f @ p.W_dec + p.b_dec) / scale_out,
    }
    return llama_case(path, formulas, name="llamascopium", about=LLAMA_3 | {"hook_out": out})


def tracer_case(path, formulas):
    about = {
        "hook": "blocks.4.ln2.hook_normalized",
        "hook_out": "blocks.4.hook_mlp_out",
        "model": "google/gemma-2-2b",
    }
    return Case(path=path, name="circuit-tracer transcoder", about=about, **formulas)


@case
def circuit_tracer_relu(root, d, D):
    p = plain(d, D, d + 2)
    return tracer_case(circuit_tracer(root, p), usual(p, subtract=False))


@case
def circuit_tracer_with_one_threshold_and_skip(root, d, D):
    p = plain(d, D)
    path = circuit_tracer(root, p, threshold=torch.tensor([[0.75]]), skip=True)
    formulas = usual(p, subtract=False, rule=lambda pre: jump(pre, 0.75))
    return tracer_case(path, formulas | {"decode": lambda f, x: f @ p.W_dec + p.b_dec + x @ p.W_skip})


@case
def circuit_tracer_with_thresholds(root, d, D):
    p = plain(d, D)
    return tracer_case(circuit_tracer(root, p, threshold=p.threshold[None]), jumping(p))


@case
def neel_nanda(root, d, D):
    p = plain(d, D)
    about = {"hook": "blocks.0.mlp.hook_post", "model": "gelu-1l"}
    return Case(path=neel(root, p), name="ReLU SAE (Neel Nanda's layout)", about=about, **usual(p))


@case
def goodfire_case(root, d, D):
    p = plain(d, D)
    about = {"hook": "blocks.19.hook_resid_post", "model": "Llama-3.1-8B-Instruct"}
    return Case(path=goodfire(root, p), name="Goodfire", about=about, **usual(p, subtract=False))


@case
def qwen_scope_case(root, d, D):
    p = plain(d, D)
    about = {"hook": "blocks.7.hook_resid_post", "model": "Qwen/Qwen3-1.7B-Base"}
    formulas = usual(p, subtract=False, rule=lambda pre: top_k(pre, 3))
    return Case(path=qwen_scope(root, p), name="Qwen Scope", about=about, **formulas)
