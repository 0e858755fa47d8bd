"""Files that are nearly right: what must be refused, with parts of what is said about it."""

from collections.abc import Callable
from pathlib import Path

import torch
from checkpoint_factory import (
    circuit_tracer,
    counters,
    dictionary_learning,
    free_keys,
    gemma_scope_2,
    linear_keys,
    llama_scope,
    llamascopium,
    old_saelens,
    openai,
    plain,
    qwen_scope,
    saelens,
    selecting_keys,
    sparsify,
    vsae,
    write_npz,
    write_safetensors,
    write_torch,
)
from format_cases_others import AVERAGE, RESID
from format_cases_saelens import WHITENING, batch_keys, pursuit

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


@near(
    "is in no known layout: its keys are a language model's. The SAE is wanted here (in Python it comes first). "
    "Found keys: lm_head.weight, model.layers.0.mlp.down_proj.weight",
    "and 33 more.",
)
def the_weights_of_a_language_model(root):
    keys = {f"model.layers.{i}.mlp.down_proj.weight": torch.ones(2, 2) for i in range(40)}
    return bare(root, keys | {"lm_head.weight": torch.ones(2, 2)}, "pytorch_model.bin")


@near("Found keys: dec, enc. No layout has any of these: see docs/formats.md, or docs/adding_an_architecture.md")
def keys_of_no_layout(root):
    return bare(root, {"enc": torch.ones(6, 10), "dec": torch.ones(10, 6)})


@near("Found keys: none. No layout has any of these: see docs/formats.md")
def a_file_without_tensors(root):
    return bare(root, {"step": 7, "name": "sae"})


@near("Found keys: none. No layout has any of these: see docs/formats.md")
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
