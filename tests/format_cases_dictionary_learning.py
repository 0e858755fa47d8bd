"""Cases of dictionary_learning's checkpoints, and of the variational SAEs that are trained with it."""

import torch
from checkpoint_factory import counters, dictionary_learning, free_keys, linear_keys, plain, selecting_keys, vsae
from file_makers import into
from format_cases_rules import Case, Write, abs_top_k, gated, jump, relu, top_k, usual

CASES: dict[str, Write] = {}
case = into(CASES)

DL_ABOUT = {"hook": "blocks.9.hook_resid_post", "model": "EleutherAI/pythia-70m"}


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
