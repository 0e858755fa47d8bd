"""One case for every way an SAE is saved, and files that are nearly right.

A case writes a checkpoint the way its library does and states, in plain torch and float64, what encoding and decoding
with it should give, and what the file tells about itself. A near miss is what must be refused, with parts of what is
said about it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from checkpoint_factory import (
    circuit_tracer,
    counters,
    dictionary_learning,
    free_keys,
    gated_keys,
    gemma_scope,
    gemma_scope_2,
    goodfire,
    linear_keys,
    llama_scope,
    llama_scope_r1,
    llamascopium,
    neel,
    old_saelens,
    openai,
    plain,
    qwen_scope,
    saelens,
    selecting_keys,
    sparsify,
    vsae,
    write_json,
    write_npz,
    write_safetensors,
    write_torch,
)
from safetensors.torch import save_file
from torch import Tensor

# --- rules, written anew -------------------------------------------------------------------------------------------


def relu(pre):
    return pre.clamp(min=0)


def jump(pre, threshold):
    return relu(pre) * (pre > threshold)


def largest(ranked, k):
    places = ranked.argsort(dim=-1, descending=True)[..., :k]
    return torch.zeros_like(ranked).scatter(-1, places, 1.0)


def top_k(pre, k):
    return relu(pre) * largest(pre, k)


def abs_top_k(pre, k):
    return pre * largest(pre.abs(), k)


def group_max(pre, groups):
    cut = pre.reshape(len(pre), groups, -1)
    return relu(cut * (cut == cut.max(-1, keepdim=True).values)).reshape(pre.shape)


def gated(p, x):
    return (x @ p.W_enc + p.b_gate > 0) * relu(x @ (p.W_enc * p.r_mag.exp()) + p.b_mag)


def spread(x):
    return x.mean(-1, keepdim=True), x.std(-1, keepdim=True)


def layer_normed(x):
    mean, deviation = spread(x)
    return (x - mean) / (deviation + 1e-5)


def un_normed(out, x):
    mean, deviation = spread(x)
    return out * deviation + mean


def norm_ratio(x):
    return x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5


def pursue(x, W_dec, *, steps, tolerance, stop_on_repeat):
    """Take from each token, again and again, the decoder row that it holds most of."""
    features = torch.zeros(len(x), len(W_dec), dtype=x.dtype)
    for token, residue in enumerate(x):
        for _ in range(steps):
            best = int((W_dec @ residue).argmax())
            value = relu(W_dec[best] @ residue)
            repeats = features[token, best] != 0 or value == 0
            features[token, best] += value
            residue = residue - value * W_dec[best]  # noqa: PLW2901
            if (stop_on_repeat and repeats) or residue.norm() < tolerance:
                break
    return features


# --- the cases -----------------------------------------------------------------------------------------------------

Formula = Callable[..., Tensor]
CASES: dict[str, Callable[[Path, int, int], "Case"]] = {}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A checkpoint on disk, what it should compute, and what it tells about itself."""

    path: Path
    encode: Formula
    decode: Formula
    """Of features and of the activations they come from."""

    name: str
    folder: Path | None = None
    """What a user would name instead of the file; if left out, the folder it lies in."""

    about: dict[str, object] = field(default_factory=dict)
    warns: str = ""
    """Part of the only warning; empty if there is none."""


def case(write):
    CASES[write.__name__] = write
    return write


def usual(p, *, subtract=True, rule=relu):
    """Encode and decode as most do."""
    return {
        "encode": lambda x: rule((x - p.b_dec if subtract else x) @ p.W_enc + p.b_enc),
        "decode": lambda f, _x: f @ p.W_dec + p.b_dec,
    }


DL_ABOUT = {"hook": "blocks.9.hook_resid_post", "model": "EleutherAI/pythia-70m"}
SL_ABOUT = {"hook": "blocks.7.hook_resid_pre", "model": "gpt2-small", "prepend_bos": True}
OLD_SL_ABOUT = SL_ABOUT | {"hook": "blocks.8.hook_resid_pre"}


def dl(path, dict_class, **formulas):
    return Case(path=path, name=f"dictionary_learning {dict_class}", about=DL_ABOUT, **formulas)


@case
def dl_auto_encoder(root, d, D):
    p = plain(d, D)
    return dl(dictionary_learning(root, "AutoEncoder", linear_keys(p, "bias")), "AutoEncoder", warns=NORMS, **usual(p))


NORMS = "Decoder rows have norms from"


@case
def dl_auto_encoder_with_unit_rows(root, d, D):
    p = plain(d, D)
    p.W_dec = torch.nn.functional.normalize(p.W_dec, dim=1)
    return dl(dictionary_learning(root, "AutoEncoder", linear_keys(p, "bias")), "AutoEncoder", **usual(p))


@case
def dl_auto_encoder_new(root, d, D):
    p = plain(d, D)
    path = dictionary_learning(root, "AutoEncoderNew", linear_keys(p, "decoder.bias"))
    return dl(path, "AutoEncoderNew", warns=NORMS, **usual(p, subtract=False))


@case
def dl_gated(root, d, D):
    p = plain(d, D)
    keys = {
        "encoder.weight": p.W_enc.T,
        "decoder.weight": p.W_dec.T,
        "decoder_bias": p.b_dec,
        "gate_bias": p.b_gate,
        "r_mag": p.r_mag,
        "mag_bias": p.b_mag,
    }
    return dl(
        dictionary_learning(root, "GatedAutoEncoder", keys),
        "GatedAutoEncoder",
        encode=lambda x: gated(p, x - p.b_dec),
        decode=lambda f, _x: f @ p.W_dec + p.b_dec,
        warns=NORMS,
    )


@case
def dl_jump_relu(root, d, D):
    p = plain(d, D)
    path = dictionary_learning(root, "JumpReluAutoEncoder", free_keys(p) | {"threshold": p.threshold})
    formulas = usual(p, subtract=False, rule=lambda pre: jump(pre, p.threshold))
    return dl(path, "JumpReluAutoEncoder", warns=NORMS, **formulas)


@case
def dl_top_k(root, d, D):
    p = plain(d, D)
    path = dictionary_learning(root, "AutoEncoderTopK", selecting_keys(p, 3, 0.4))
    return dl(path, "AutoEncoderTopK", **usual(p, rule=lambda pre: top_k(pre, 3)))


@case
def dl_top_k_with_k_beyond_the_positive(root, d, D):
    p = plain(d, D)
    p.b_enc = p.b_enc - 2
    path = dictionary_learning(root, "AutoEncoderTopK", selecting_keys(p, D))
    return dl(path, "AutoEncoderTopK", **usual(p))


@case
def dl_batch_top_k(root, d, D):
    p = plain(d, D)
    path = dictionary_learning(root, "BatchTopKSAE", selecting_keys(p, 3, 0.75))
    return dl(path, "BatchTopKSAE", **usual(p, rule=lambda pre: jump(pre, 0.75)))


@case
def dl_batch_top_k_without_threshold(root, d, D):
    p = plain(d, D)
    path = dictionary_learning(root, "BatchTopKSAE", selecting_keys(p, 3, -1.0))
    formulas = usual(p, rule=lambda pre: top_k(pre, 3))
    return dl(path, "BatchTopKSAE", warns="read as the 3 largest of each token instead", **formulas)


@case
def dl_matryoshka(root, d, D):
    p = plain(d, D)
    keys = free_keys(p) | counters(3, 0.75) | {"group_sizes": torch.tensor([D - 2, 2])}
    path = dictionary_learning(root, "MatryoshkaBatchTopKSAE", keys)
    return dl(path, "MatryoshkaBatchTopKSAE", **usual(p, rule=lambda pre: jump(pre, 0.75)))


@case
def dl_matryoshka_without_threshold(root, d, D):
    p = plain(d, D)
    keys = free_keys(p) | counters(3) | {"group_sizes": torch.tensor([D - 2, 2])}
    path = dictionary_learning(root, "MatryoshkaBatchTopKSAE", keys)
    formulas = usual(p, rule=lambda pre: top_k(pre, 3))
    return dl(path, "MatryoshkaBatchTopKSAE", warns="never set (-1)", **formulas)


# A backup works on activations divided by its norm_factor, and so do its biases and thresholds; weights do not.
FACTOR = 2.5


def backup(root, dict_class, keys):
    content = {
        "step": 500,
        "ae": keys,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3}]},
        "config": {"dict_class": dict_class},
        "norm_factor": FACTOR,
    }
    return dictionary_learning(root, dict_class, content)


def scaled(formulas):
    encode, decode = formulas["encode"], formulas["decode"]
    return {
        "encode": lambda x: FACTOR * encode(x / FACTOR),
        "decode": lambda f, x: FACTOR * decode(f / FACTOR, x),
    }


@case
def dl_backup_of_an_auto_encoder(root, d, D):
    p = plain(d, D)
    path = backup(root, "AutoEncoder", linear_keys(p, "bias"))
    return dl(path, "AutoEncoder", warns=NORMS, **scaled(usual(p)))


@case
def dl_backup_of_a_gated_one(root, d, D):
    p = plain(d, D)
    keys = {
        "encoder.weight": p.W_enc.T,
        "decoder.weight": p.W_dec.T,
        "decoder_bias": p.b_dec,
        "gate_bias": p.b_gate,
        "r_mag": p.r_mag,
        "mag_bias": p.b_mag,
    }
    formulas = scaled(usual(p) | {"encode": lambda x: gated(p, x - p.b_dec)})
    return dl(backup(root, "GatedAutoEncoder", keys), "GatedAutoEncoder", warns=NORMS, **formulas)


@case
def dl_backup_of_a_jump_relu(root, d, D):
    p = plain(d, D)
    path = backup(root, "JumpReluAutoEncoder", free_keys(p) | {"threshold": p.threshold})
    formulas = scaled(usual(p, subtract=False, rule=lambda pre: jump(pre, p.threshold)))
    return dl(path, "JumpReluAutoEncoder", warns=NORMS, **formulas)


@case
def dl_backup_of_a_batch_top_k(root, d, D):
    p = plain(d, D)
    path = backup(root, "BatchTopKSAE", selecting_keys(p, 3, 0.75))
    return dl(path, "BatchTopKSAE", **scaled(usual(p, rule=lambda pre: jump(pre, 0.75))))


@case
def dl_backup_of_a_batch_top_k_without_threshold(root, d, D):
    p = plain(d, D)
    path = backup(root, "BatchTopKSAE", selecting_keys(p, 3, -1.0))
    return dl(path, "BatchTopKSAE", warns="never set (-1)", **scaled(usual(p, rule=lambda pre: top_k(pre, 3))))


def vsae_case(path, formulas, **more):
    return Case(path=path, folder=path.parent.parent, name="VSAETopK", about=DL_ABOUT, **formulas, **more)


@case
def vsae_of_the_first_generation_april(root, d, D):
    p = plain(d, D)
    path = vsae(root, linear_keys(p, "decoder.bias") | counters(3), use_april_update_mode=True)
    return vsae_case(path, usual(p, subtract=False, rule=lambda pre: top_k(relu(pre), 3)))


@case
def vsae_of_the_first_generation(root, d, D):
    p = plain(d, D)
    path = vsae(root, linear_keys(p, "b_dec") | counters(3), use_april_update_mode=False)
    return vsae_case(path, usual(p, rule=lambda pre: top_k(relu(pre), 3)))


@case
def vsae_april_with_learned_variance(root, d, D):
    p = plain(d, D)
    keys = linear_keys(p, "decoder.bias") | {"k": torch.tensor(3)}
    keys |= {"var_encoder.weight": torch.ones(D, d), "var_encoder.bias": torch.ones(D)}
    path = vsae(root, keys, architecture_version="vae_topk_v2", var_flag=1)
    return vsae_case(path, usual(p, subtract=False, rule=lambda pre: top_k(relu(pre), 3)))


@case
def vsae_of_the_last_generation(root, d, D):
    p = plain(d, D)
    path = vsae(root, linear_keys(p, "bias") | {"k": torch.tensor(3)}, architecture_version="vae_topk_v2")
    return vsae_case(path, usual(p, rule=lambda pre: top_k(relu(pre), 3)))


@case
def vsae_under_the_old_names(root, d, D):
    p = plain(d, D)
    variance = {"W_enc_var": torch.ones(d, D), "b_enc_var": torch.ones(D)}
    path = vsae(root, free_keys(p) | variance | {"k": torch.tensor(3)})
    return vsae_case(path, usual(p, rule=lambda pre: top_k(relu(pre), 3)))


@case
def vsae_under_the_old_names_april(root, d, D):
    p = plain(d, D)
    path = vsae(root, free_keys(p) | {"k": torch.tensor(3)}, use_april_update_mode=True)
    return vsae_case(path, usual(p, subtract=False, rule=lambda pre: top_k(relu(pre), 3)))


@case
def vsae_with_laplacian_prior_keeps_the_sign(root, d, D):
    p = plain(d, D)
    keys = linear_keys(p, "bias") | {"k": torch.tensor(3)}
    path = vsae(root, keys, dict_class="VSAETopKLaplacian", architecture_version="fixed_vae_topk_v2")
    return vsae_case(path, usual(p, rule=lambda pre: abs_top_k(pre, 3)))


@case
def vsae_with_masked_loss_keeps_the_sign_and_a_parameter_k(root, d, D):
    p = plain(d, D)
    keys = linear_keys(p, "decoder.bias") | {"k": torch.nn.Parameter(torch.tensor(3), requires_grad=False)}
    path = vsae(root, keys, dict_class=None, trainer_class="VSAETopKMaskedKLTrainer")
    return vsae_case(path, usual(p, subtract=False, rule=lambda pre: abs_top_k(pre, 3)))


def sl(path, architecture, formulas, about=SL_ABOUT, **more):
    return Case(path=path, name=f"SAELens {architecture}", about=about, **formulas, **more)


@case
def saelens_standard(root, d, D):
    p = plain(d, D)
    return sl(saelens(root, "standard", free_keys(p)), "standard", usual(p))


@case
def saelens_standard_that_subtracts_nothing(root, d, D):
    p = plain(d, D)
    path = saelens(root, "standard", free_keys(p), apply_b_dec_to_input=False)
    return sl(path, "standard", usual(p, subtract=False))


@case
def saelens_of_old_days(root, d, D):
    p = plain(d, D)
    return sl(old_saelens(root, free_keys(p)), "standard", usual(p), OLD_SL_ABOUT)


@case
def saelens_of_old_days_without_bos_and_uncentred(root, d, D):
    p = plain(d, D)
    about = OLD_SL_ABOUT | {"prepend_bos": False, "centred": False}
    kwargs = {"center_writing_weights": False}
    path = old_saelens(root, free_keys(p), prepend_bos=False, model_from_pretrained_kwargs=kwargs)
    return sl(path, "standard", usual(p), about)


@case
def saelens_of_old_days_top_k(root, d, D):
    p = plain(d, D)
    path = old_saelens(root, free_keys(p), activation_fn_str="topk", activation_fn_kwargs={"k": 3})
    return sl(path, "topk", usual(p, rule=lambda pre: top_k(pre, 3)), OLD_SL_ABOUT)


@case
def saelens_fine_tuned(root, d, D):
    p = plain(d, D)
    path = old_saelens(root, free_keys(p) | {"scaling_factor": p.threshold}, finetuning_scaling_factor=True)
    formulas = usual(p) | {"decode": lambda f, _x: (f * p.threshold) @ p.W_dec + p.b_dec}
    return sl(path, "standard", formulas, OLD_SL_ABOUT)


@case
def saelens_with_a_factor_of_one(root, d, D):
    p = plain(d, D)
    path = old_saelens(root, free_keys(p) | {"scaling_factor": torch.ones(D)})
    return sl(path, "standard", usual(p), OLD_SL_ABOUT)


@case
def saelens_gated(root, d, D):
    p = plain(d, D)
    formulas = usual(p) | {"encode": lambda x: gated(p, x - p.b_dec)}
    return sl(saelens(root, "gated", gated_keys(p)), "gated", formulas)


@case
def saelens_gated_that_subtracts_nothing(root, d, D):
    p = plain(d, D)
    path = saelens(root, "gated", gated_keys(p), apply_b_dec_to_input=False)
    return sl(path, "gated", usual(p) | {"encode": lambda x: gated(p, x)})


@case
def saelens_jump_relu(root, d, D):
    p = plain(d, D)
    path = saelens(root, "jumprelu", free_keys(p) | {"threshold": p.threshold})
    return sl(path, "jumprelu", usual(p, rule=lambda pre: jump(pre, p.threshold)))


@case
def saelens_top_k(root, d, D):
    p = plain(d, D)
    return sl(saelens(root, "topk", free_keys(p), k=3), "topk", usual(p, rule=lambda pre: top_k(pre, 3)))


def by_rows(p, rule):
    """What is selected by activations times the norm of decoder rows, and is told in units of that product."""
    norms = p.W_dec.norm(dim=1)
    formulas = usual(p, rule=lambda pre: rule(pre * norms))
    return formulas | {"decode": lambda f, _x: (f / norms) @ p.W_dec + p.b_dec}


@case
def saelens_top_k_by_decoder_norm(root, d, D):
    p = plain(d, D)
    path = saelens(root, "topk", free_keys(p), k=3, rescale_acts_by_decoder_norm=True)
    return sl(path, "topk", by_rows(p, lambda pre: top_k(pre, 3)))


@case
def saelens_abs_top_k(root, d, D):
    p = plain(d, D)
    return sl(saelens(root, "abstopk", free_keys(p), k=3), "abstopk", usual(p, rule=lambda pre: abs_top_k(pre, 3)))


@case
def saelens_abs_top_k_by_decoder_norm(root, d, D):
    p = plain(d, D)
    path = saelens(root, "abstopk", free_keys(p), k=3, rescale_acts_by_decoder_norm=True)
    return sl(path, "abstopk", by_rows(p, lambda pre: abs_top_k(pre, 3)))


def batch_keys(p, threshold=0.75):
    return free_keys(p) | {"topk_threshold": torch.tensor(threshold, dtype=torch.float64)}


@case
def saelens_batch_top_k(root, d, D):
    p = plain(d, D)
    path = saelens(root, "batchtopk", batch_keys(p), k=3)
    return sl(path, "batchtopk", usual(p, rule=lambda pre: jump(pre, 0.75)))


@case
def saelens_matryoshka_by_decoder_norm(root, d, D):
    p = plain(d, D)
    path = saelens(root, "matryoshka_batchtopk", batch_keys(p), k=3, rescale_acts_by_decoder_norm=True)
    return sl(path, "matryoshka_batchtopk", by_rows(p, lambda pre: jump(pre, 0.75)))


@case
def saelens_layer_norm(root, d, D):
    p = plain(d, D)
    path = saelens(root, "standard", free_keys(p), normalize_activations="layer_norm")
    formulas = usual(p)
    return sl(
        path,
        "standard",
        {
            "encode": lambda x: formulas["encode"](layer_normed(x)),
            "decode": lambda f, x: un_normed(f @ p.W_dec + p.b_dec, x),
        },
    )


@case
def saelens_constant_norm(root, d, D):
    p = plain(d, D)
    path = saelens(root, "jumprelu", free_keys(p) | {"threshold": p.threshold}, normalize_activations=CONSTANT)
    formulas = usual(p, rule=lambda pre: jump(pre, p.threshold))
    return sl(
        path,
        "jumprelu",
        {
            "encode": lambda x: formulas["encode"](x / norm_ratio(x)),
            "decode": lambda f, x: (f @ p.W_dec + p.b_dec) * norm_ratio(x),
        },
    )


CONSTANT, EXPECTED, WHITENING = "constant_norm_rescale", "expected_average_only_in", "covariance_whitening"
SCALE = 0.4


def for_scaled_input(formulas):
    """What a SAE trained on ``SCALE * x`` computes, its reconstruction brought back."""
    encode, decode = formulas["encode"], formulas["decode"]
    return {"encode": lambda x: encode(SCALE * x), "decode": lambda f, x: decode(f, x) / SCALE}


def scaler(root):
    write_json(root / "activation_scaler.json", {"scaling_factor": SCALE, "has_whitening": False})


@case
def saelens_with_its_scaler_beside_it(root, d, D):
    p = plain(d, D)
    scaler(root)
    path = saelens(root, "standard", free_keys(p), normalize_activations=EXPECTED)
    return sl(path, "standard", for_scaled_input(usual(p)))


@case
def saelens_gated_with_its_scaler_beside_it(root, d, D):
    p = plain(d, D)
    scaler(root)
    path = saelens(root, "gated", gated_keys(p), normalize_activations=EXPECTED)
    return sl(path, "gated", for_scaled_input(usual(p) | {"encode": lambda x: gated(p, x - p.b_dec)}))


@case
def saelens_batch_top_k_with_its_scaler_beside_it(root, d, D):
    p = plain(d, D)
    scaler(root)
    path = saelens(root, "batchtopk", batch_keys(p), k=3, normalize_activations=EXPECTED)
    return sl(path, "batchtopk", for_scaled_input(usual(p, rule=lambda pre: jump(pre, 0.75))))


@case
def saelens_batch_top_k_by_decoder_norm_with_its_scaler_beside_it(root, d, D):
    p = plain(d, D)
    scaler(root)
    options = {"k": 3, "normalize_activations": EXPECTED, "rescale_acts_by_decoder_norm": True}
    path = saelens(root, "batchtopk", batch_keys(p), **options)
    # Folding shrinks the decoder's rows, in whose units the activations are told.
    formulas, rows = for_scaled_input(by_rows(p, lambda pre: jump(pre, 0.75))), by_rows(p, None)
    return sl(
        path,
        "batchtopk",
        {
            "encode": lambda x: formulas["encode"](x) / SCALE,
            "decode": lambda f, x: rows["decode"](SCALE * f, x) / SCALE,
        },
    )


@case
def saelens_of_old_days_scaled_by_a_factor_that_is_gone(root, d, D):
    p = plain(d, D)
    path = old_saelens(root, free_keys(p), normalize_activations=True)
    return sl(path, "standard", usual(p), OLD_SL_ABOUT, warns="no scaling factor lies beside it")


def whiten(root, p):
    """Whitening by a matrix that is far from a multiple of one, with its inverse, as training leaves them."""
    d = len(p.b_dec)
    p.matrix = (torch.eye(d).double() + 0.2 * plain(d, d, seed=1).W_enc).float().double()
    p.inverse = torch.linalg.inv(p.matrix)
    write_json(root / "activation_scaler.json", {"scaling_factor": None, "has_whitening": True})
    tensors = {"mean": p.vector, "matrix": p.matrix}
    save_file(
        {key: value.contiguous() for key, value in (tensors | {"inverse_matrix": p.inverse}).items()},
        root / "activation_whitening.safetensors",
    )


def for_whitened_input(p, formulas):
    encode = formulas["encode"]
    return {
        "encode": lambda x: encode((x - p.vector) @ p.matrix),
        "decode": lambda f, _x: (f @ p.W_dec + p.b_dec) @ p.inverse + p.vector,
    }


@case
def saelens_whitened(root, d, D):
    p = plain(d, D)
    path = saelens(root, "standard", free_keys(p), normalize_activations=WHITENING)
    whiten(root, p)
    return sl(path, "standard", for_whitened_input(p, usual(p)))


@case
def saelens_whitened_that_subtracts_nothing(root, d, D):
    p = plain(d, D)
    options = {"normalize_activations": WHITENING, "apply_b_dec_to_input": False}
    path = saelens(root, "jumprelu", free_keys(p) | {"threshold": p.threshold}, **options)
    whiten(root, p)
    formulas = usual(p, subtract=False, rule=lambda pre: jump(pre, p.threshold))
    return sl(path, "jumprelu", for_whitened_input(p, formulas))


@case
def saelens_gated_whitened_that_subtracts_nothing(root, d, D):
    p = plain(d, D)
    options = {"normalize_activations": WHITENING, "apply_b_dec_to_input": False}
    path = saelens(root, "gated", gated_keys(p), **options)
    whiten(root, p)
    return sl(path, "gated", for_whitened_input(p, {"encode": lambda x: gated(p, x)}))


ACROSS = {"hook_out": "blocks.7.hook_mlp_out"}


@case
def saelens_transcoder(root, d, D):
    p = plain(d, D, d + 2)
    path = saelens(root, "transcoder", free_keys(p), d_out=d + 2, **ACROSS)
    return sl(path, "transcoder", usual(p, subtract=False), SL_ABOUT | ACROSS)


@case
def saelens_skip_transcoder(root, d, D):
    p = plain(d, D, d + 2)
    path = saelens(root, "skip_transcoder", free_keys(p) | {"W_skip": p.W_skip.T}, **ACROSS)
    formulas = usual(p, subtract=False) | {"decode": lambda f, x: f @ p.W_dec + p.b_dec + x @ p.W_skip}
    return sl(path, "skip_transcoder", formulas, SL_ABOUT | ACROSS)


@case
def saelens_jump_relu_transcoder_with_layer_norm(root, d, D):
    p = plain(d, D, d + 2)
    keys = free_keys(p) | {"threshold": p.threshold}
    path = saelens(root, "jumprelu_transcoder", keys, normalize_activations="layer_norm", **ACROSS)
    formulas = usual(p, subtract=False, rule=lambda pre: jump(pre, p.threshold))
    encode = formulas["encode"]
    # What it writes lies elsewhere, so that nothing of its input is put back.
    formulas |= {"encode": lambda x: encode(layer_normed(x))}
    return sl(path, "jumprelu_transcoder", formulas, SL_ABOUT | ACROSS)


@case
def saelens_jump_relu_skip_transcoder(root, d, D):
    p = plain(d, D, d + 2)
    keys = free_keys(p) | {"threshold": p.threshold, "W_skip": p.W_skip.T}
    path = saelens(root, "jumprelu_skip_transcoder", keys, **ACROSS)
    formulas = usual(p, subtract=False, rule=lambda pre: jump(pre, p.threshold))
    formulas |= {"decode": lambda f, x: f @ p.W_dec + p.b_dec + x @ p.W_skip}
    return sl(path, "jumprelu_skip_transcoder", formulas, SL_ABOUT | ACROSS)


def unit_rows(d, D):
    p = plain(d, D)
    p.W_dec = torch.nn.functional.normalize(p.W_dec, dim=1).float().double()
    return p


def pursuit(root, p, **config):
    return saelens(root, "matching_pursuit", {"W_dec": p.W_dec, "b_dec": p.b_dec}, **config)


@case
def saelens_matching_pursuit(root, d, D):
    p = unit_rows(d, D)
    settings = {"steps": d, "tolerance": 0.9, "stop_on_repeat": True}
    formulas = usual(p) | {"encode": lambda x: pursue(x - p.b_dec, p.W_dec, **settings)}
    return sl(pursuit(root, p, residual_threshold=0.9, max_iterations=None), "matching_pursuit", formulas)


@case
def saelens_matching_pursuit_that_repeats_and_subtracts_nothing(root, d, D):
    p = unit_rows(d, D)
    config = {"residual_threshold": 0.0, "max_iterations": 4, "stop_on_duplicate_support": False}
    path = pursuit(root, p, apply_b_dec_to_input=False, **config)
    settings = {"steps": 4, "tolerance": 0.0, "stop_on_repeat": False}
    # Its decoder adds the bias only if the encoder took it off.
    formulas = {"encode": lambda x: pursue(x, p.W_dec, **settings), "decode": lambda f, _x: f @ p.W_dec}
    return sl(path, "matching_pursuit", formulas)


@case
def saelens_matching_pursuit_with_its_scaler_beside_it(root, d, D):
    p = unit_rows(d, D)
    scaler(root)
    path = pursuit(root, p, residual_threshold=0.5, normalize_activations=EXPECTED)
    settings = {"steps": d, "tolerance": 0.5, "stop_on_repeat": True}
    # The decoder is the encoder too and keeps its rows, so that it is the activations that are told in raw units.
    formulas = {
        "encode": lambda x: pursue(SCALE * x - p.b_dec, p.W_dec, **settings) / SCALE,
        "decode": lambda f, _x: f @ p.W_dec + p.b_dec / SCALE,
    }
    return sl(path, "matching_pursuit", formulas)


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


# --- near misses -----------------------------------------------------------------------------------------------------

NEAR: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {}


def near(*fragments):
    def keep(write):
        NEAR[write.__name__] = write, fragments
        return write

    return keep


def without(keys, *names):
    return {key: value for key, value in keys.items() if key not in names}


def bare(root, keys, name="ae.pt"):
    return write_torch(root / name, keys)


@near("Found keys: bias, decoder.weight, encoder.weight.", "Nearest is dictionary_learning AutoEncoder", "missing")
def one_key_missing(root):
    return bare(root, without(linear_keys(plain(), "bias"), "encoder.bias"))


@near("is in no known layout", "Nearest is circuit-tracer", "of another shape W_dec (6, 10) instead of (10, 6).")
def matrices_that_lie_the_other_way_round(root):
    p = plain()
    return bare(root, free_keys(p) | {"W_enc": p.W_enc.T.contiguous(), "W_dec": p.W_dec.T.contiguous()})


@near("Found keys: bias, decoder.weight, encoder.bias, encoder.weight, velocity.", "unknown velocity")
def one_unknown_key(root):
    return bare(root, linear_keys(plain(), "bias") | {"velocity": torch.ones(3)})


@near("is a dictionary_learning AutoEncoderTopK", "missing encoder.bias", "Expected encoder.weight, encoder.bias")
def one_key_missing_of_a_class_that_is_named(root):
    return dictionary_learning(root, "AutoEncoderTopK", without(selecting_keys(plain(), 3), "encoder.bias"))


@near("of another shape decoder.weight (10, 6) instead of (6, 10).")
def a_decoder_that_lies_the_other_way_round(root):
    p = plain()
    return bare(root, linear_keys(p, "bias") | {"decoder.weight": p.W_dec})


@near("is a SAELens standard", "of another shape W_enc (10, 6) instead of (6, 10). Expected")
def an_encoder_that_lies_the_other_way_round(root):
    p = plain()
    return saelens(root, "standard", free_keys(p) | {"W_enc": p.W_enc.T})


@near("of another shape encoder.bias (7,)")
def a_bias_of_the_wrong_length(root):
    return bare(root, linear_keys(plain(), "bias") | {"encoder.bias": torch.ones(7)})


@near("is a dictionary_learning JumpReluAutoEncoder", "of another shape threshold (9,)")
def thresholds_of_the_wrong_length(root):
    return dictionary_learning(root, "JumpReluAutoEncoder", free_keys(plain()) | {"threshold": torch.ones(9)})


@near("is a dictionary_learning GatedAutoEncoder", "missing decoder_bias, gate_bias, r_mag, mag_bias", "unknown b_dec")
def a_configuration_that_names_another_class(root):
    return dictionary_learning(root, "GatedAutoEncoder", selecting_keys(plain(), 3))


@near("is a VSAETopK (VSAETopK in config.json)", "missing k")
def a_variational_one_without_k(root):
    return vsae(root, linear_keys(plain(), "decoder.bias"))


@near("is a VSAEBatchTopK, which is not supported: of these, only VSAETopK is")
def a_variational_one_that_chose_from_batches(root):
    return vsae(root, linear_keys(plain(), "decoder.bias") | counters(3), dict_class="VSAEBatchTopK")


@near("is a dictionary_learning CrossCoder, which is not supported", "AutoEncoder, AutoEncoderNew")
def a_class_that_is_unknown(root):
    return dictionary_learning(root, "CrossCoder", linear_keys(plain(), "bias"))


@near("is a backup with norm_factor 0.0: expected a number above 0")
def a_backup_without_a_usable_factor(root):
    return bare(root, {"ae": linear_keys(plain(), "bias"), "norm_factor": 0.0, "step": 5})


@near("SAELens' architecture 'temporal', which is not supported", "standard, gated, jumprelu")
def a_temporal_architecture(root):
    return saelens(root, "temporal", {"W_dec": torch.ones(10, 6), "attn_layers.0.q_ctx.weight": torch.ones(4, 4)})


@near("activation_fn = 'tanh-relu'")
def an_activation_of_old_days_that_is_no_longer_known(root):
    return old_saelens(root, free_keys(plain()), activation_fn_str="tanh-relu")


@near("normalize_activations = 'batch_norm': expected one of none, layer_norm")
def a_normalisation_that_is_unknown(root):
    return saelens(root, "standard", free_keys(plain()), normalize_activations="batch_norm")


@near("gives no k, which its architecture needs")
def a_top_k_without_k(root):
    return saelens(root, "topk", free_keys(plain()))


@near("whose threshold was never set: train it further")
def a_batch_top_k_whose_threshold_was_never_set(root):
    return saelens(root, "batchtopk", batch_keys(plain(), 0.0), k=3)


@near("has no fine-tuning factor, and its weights have one")
def a_factor_that_the_configuration_denies(root):
    return old_saelens(root, free_keys(plain()) | {"scaling_factor": torch.full((10,), 2.0)})


@near("reads a single attention head (cfg.json), which is not supported")
def a_single_head(root):
    return saelens(root, "standard", free_keys(plain()), metadata={"hook_name": "a.hook_z", "hook_head_index": 3})


@near("reads a single attention head (cfg.json)")
def a_single_head_of_old_days(root):
    return old_saelens(root, free_keys(plain()), hook_point_head_index=3)


@near("activation_whitening.safetensors does not lie beside it")
def a_whitened_one_without_its_matrices(root):
    return saelens(root, "standard", free_keys(plain()), normalize_activations=WHITENING)


def whitening_file(root, tensors, architecture="standard", **config):
    write_safetensors(root / "activation_whitening.safetensors", tensors)
    keys = {"W_dec": torch.eye(6), "b_dec": torch.ones(6)} if "pursuit" in architecture else free_keys(plain())
    return saelens(root, architecture, keys, normalize_activations=WHITENING, **config)


@near("activation_whitening.safetensors does not fit its SAE: matrix should hold (6, 6) numbers, but is missing.")
def a_whitening_file_without_its_matrix(root):
    return whitening_file(root, {"mean": torch.zeros(6), "inverse_matrix": torch.eye(6)})


@near("matrix should hold (6, 6) numbers, but holds (5, 5) of torch.float32.")
def a_whitening_file_of_another_width(root):
    return whitening_file(root, {"mean": torch.zeros(6), "matrix": torch.eye(5), "inverse_matrix": torch.eye(6)})


@near("mean should hold (6,) numbers, but holds (5,) of torch.float32.")
def a_whitening_file_of_an_sae_of_another_width(root):
    return whitening_file(root, {"mean": torch.zeros(5), "matrix": torch.eye(5), "inverse_matrix": torch.eye(5)})


@near("is a matching pursuit on whitened activations", "expected another normalize_activations")
def a_whitened_matching_pursuit(root):
    tensors = {"mean": torch.zeros(6), "matrix": torch.eye(6), "inverse_matrix": torch.eye(6)}
    return whitening_file(root, tensors, "matching_pursuit")


@near("is a transcoder on whitened activations, which is not supported")
def a_whitened_transcoder(root):
    keys = free_keys(plain(o=8))
    return saelens(root, "transcoder", keys, normalize_activations=WHITENING)


@near("activation = 'jumprelu': expected 'topk' or 'groupmax'")
def a_sparsify_activation_that_is_unknown(root):
    return sparsify(root, plain(), activation="jumprelu")


@near("has no k: a sparsify SAE needs the cfg.json that it was saved with")
def a_sparsify_file_without_its_configuration(root):
    path = sparsify(root, plain())
    (path.parent / "cfg.json").unlink()
    return path


@near("The SAE's 10 features cannot be cut into 3 equal groups")
def groups_that_do_not_come_out_even(root):
    return sparsify(root, plain(), activation="groupmax", k=3)


@near("is an OpenMOSS SAE with act_fn mish, which is not supported")
def an_openmoss_activation_that_is_unknown(root):
    return llamascopium(root, plain(), norms={RESID: AVERAGE}, act_fn="mish")


@near("is an OpenMOSS SAE with act_fn topk", "with its k or threshold")
def an_openmoss_top_k_without_k(root):
    return llamascopium(root, plain(), norms={RESID: AVERAGE}, act_fn="topk", top_k=None)


@near("with act_fn jumprelu", "with its k or threshold")
def an_openmoss_jump_relu_without_thresholds(root):
    return llamascopium(root, plain(), norms={RESID: AVERAGE})


@near("is an OpenMOSS SAE with a GLU encoder, which is not supported")
def a_glu_encoder(root):
    return llamascopium(root, plain(), norms={RESID: AVERAGE}, use_glu_encoder=True)


@near("with sae_type lorsa, which is not supported")
def a_lorsa(root):
    return llamascopium(root, plain(), sae_type="lorsa")


@near("with sae_type crosscoder, which is not supported")
def an_openmoss_crosscoder(root):
    return llamascopium(root, plain(), sae_type="crosscoder")


@near(f"that norm at {RESID} is None: its files do not hold what is needed to read it")
def a_dataset_norm_that_is_missing(root):
    return llamascopium(root, plain(), act_fn="relu")


@near(f"that norm at {RESID} is")
def a_dataset_norm_that_is_no_single_number(root):
    path = llamascopium(root, plain(), act_fn="relu")
    keys = {"W_E": torch.ones(6, 10), "b_E": torch.ones(10), "W_D": torch.ones(10, 6)}
    return write_safetensors(path, keys | {f"dataset_average_activation_norm.{RESID}": torch.ones(3)})


@near("The SAE's threshold holds values that are not finite")
def a_threshold_beyond_any_number(root):
    return llama_scope(root, plain(), norms={"in": AVERAGE, "out": AVERAGE}, jump_relu_threshold=10**400)


@near("that norm at out is None")
def a_llama_scope_norm_that_is_missing(root):
    return llama_scope(root, plain(), norms={"in": AVERAGE})


@near("belongs to a cross-layer transcoder, which is not supported")
def a_cross_layer_transcoder_by_its_configuration(root):
    return circuit_tracer(root, plain(), kind="cross_layer_transcoder")


@near("belongs to a cross-layer transcoder, which is not supported")
def a_cross_layer_transcoder_by_its_keys(root):
    return write_safetensors(root / "W_enc_4.safetensors", {"W_enc_4": torch.ones(10, 6), "b_enc_4": torch.ones(10)})


@near("weights for several layers at once (decoder.bias, decoder.weight, encoder.bias, encoder.weight)")
def a_crosscoder(root):
    keys = {"encoder.weight": torch.ones(2, 6, 10), "encoder.bias": torch.ones(10)}
    return bare(root, keys | {"decoder.weight": torch.ones(2, 10, 6), "decoder.bias": torch.ones(2, 6)})


@near("is a Gemma Scope 2", "of another shape", "w_dec (10, 3, 6)")
def a_cross_layer_gemma_scope(root):
    path = gemma_scope_2(root, plain())
    keys = {key.lower(): value for key, value in free_keys(plain()).items()} | {"threshold": torch.ones(10)}
    return write_safetensors(path, keys | {"w_dec": torch.ones(10, 3, 6)})


@near("is a Gemma Scope (a file of NumPy arrays)", "missing threshold")
def a_gemma_scope_without_thresholds(root):
    return write_npz(root / "params.npz", free_keys(plain()))


@near("has the activation 'Tanh'", "expected ReLU, or TopK with a k and ReLU")
def an_openai_activation_that_is_unknown(root):
    return openai(root, plain(), "Tanh")


@near("has the activation 'TopK' (k = None, then None)")
def an_openai_top_k_without_k(root):
    return openai(root, plain(), "TopK")


@near("has the activation 'TopK' (k = 3, then 'Identity')")
def an_openai_top_k_that_is_not_rectified(root):
    return openai(root, plain(), "TopK", k=3, postact_fn="Identity")


@near("is a Qwen Scope TopK SAE, whose k stands in its repository's name alone")
def a_qwen_scope_that_was_moved(root):
    return qwen_scope(root, plain(), folder="somewhere")


@near("The SAE's k is 11, but it has 10 features")
def a_k_beyond_the_dictionary(root):
    return bare(root, selecting_keys(plain(), 11))


@near("The SAE's k is 0, but it has 10 features")
def a_k_of_nothing(root):
    return bare(root, selecting_keys(plain(), 0))


@near("has a k that is no whole number: its file is damaged")
def a_k_that_is_no_whole_number(root):
    return bare(root, selecting_keys(plain(), 3) | {"k": torch.tensor(2.5)})


@near("has a k that is no whole number: its file is damaged")
def a_k_that_is_not_a_number(root):
    return bare(root, selecting_keys(plain(), 3) | {"k": torch.tensor(float("nan"))})


@near("has a k that is no whole number: its file is damaged")
def a_k_that_is_complex(root):
    return bare(root, selecting_keys(plain(), 3) | {"k": torch.tensor(3 + 1j)})


@near("of another shape k (2,)")
def a_k_of_two_numbers(root):
    return bare(root, selecting_keys(plain(), 3) | {"k": torch.tensor([4, 4])})


@near("Found keys: lm_head.weight, model.layers.0.mlp.down_proj.weight", "and 33 more")
def the_weights_of_a_language_model(root):
    keys = {f"model.layers.{i}.mlp.down_proj.weight": torch.ones(2, 2) for i in range(40)}
    return bare(root, keys | {"lm_head.weight": torch.ones(2, 2)}, "pytorch_model.bin")


@near("Found keys: none. Nearest is")
def a_file_without_tensors(root):
    return bare(root, {"step": 7, "name": "sae"})


@near("Found keys: none. Nearest is")
def an_empty_file_of_tensors(root):
    return write_safetensors(root / "sae.safetensors", {})


@near("holds a list: expected a state dict of tensors")
def a_list_of_tensors(root):
    torch.save([torch.ones(3)], root / "ae.pt")
    return root / "ae.pt"


@near("says architecture = 7: expected text")
def an_architecture_that_is_a_number(root):
    return saelens(root, "standard", free_keys(plain()), architecture=7)


@near("says k = True: expected a whole number")
def a_k_that_is_a_truth_value(root):
    return saelens(root, "topk", free_keys(plain()), k=True)


@near("says apply_b_dec_to_input = 'yes': expected true or false")
def a_flag_that_is_text(root):
    return saelens(root, "standard", free_keys(plain()), apply_b_dec_to_input="yes")


@near("says residual_threshold = 'low': expected a number")
def a_number_that_is_text(root):
    return pursuit(root, plain(), residual_threshold="low")
