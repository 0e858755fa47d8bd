"""Cases of SAELens' checkpoints, old and new."""

import torch
from checkpoint_factory import free_keys, gated_keys, old_saelens, plain, saelens, write_json
from file_makers import into
from format_cases_rules import (
    Case,
    Write,
    abs_top_k,
    gated,
    jump,
    layer_normed,
    norm_ratio,
    pursue,
    top_k,
    un_normed,
    usual,
)
from safetensors.torch import save_file

CASES: dict[str, Write] = {}
case = into(CASES)

SL_ABOUT = {"hook": "blocks.7.hook_resid_pre", "model": "gpt2-small", "prepend_bos": True}
OLD_SL_ABOUT = SL_ABOUT | {"hook": "blocks.8.hook_resid_pre"}


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
