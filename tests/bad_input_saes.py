"""Bad checkpoints of SAEs, and what a command says of each."""

import os

import numpy as np
import torch
from checkpoint_factory import Call, legacy, npy, write_bomb, write_safetensors_header, write_zip
from conftest import D_MODEL, D_SAE, LAYERS, make_sae, topk_weights
from file_makers import file, into
from safetensors.torch import save_file

FILES = {
    "empty_pt": file("ae.pt", ""),
    "page_as_pt": file("ae.pt", "<!DOCTYPE html><html>Not found</html>"),
    "pointer_as_pt": file("ae.pt", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    "empty_safetensors": file("sae.safetensors", ""),
    "page_as_safetensors": file("sae.safetensors", "<!DOCTYPE html><html>Not found</html>"),
    "empty_npz": file("params.npz", ""),
    "page_as_npz": file("params.npz", "<!DOCTYPE html>"),
    "picture_as_sae": file("sae.png", b"\x89PNG\r\n\x1a\n" + bytes(100)),
    "long_header": file("sae.safetensors", (1 << 40).to_bytes(8, "little") + b"{}"),
    "longest_header": file("sae.safetensors", b"\xff" * 8 + b"{}"),
}
maker = into(FILES)


def sae_of(change):
    """A maker of an SAE folder whose weights are changed."""

    def make(folder, there):
        return make_sae(folder / "sae", topk_weights() | change())

    return make


def settings_of(content, name="config.json"):
    """A maker of an SAE folder whose configuration says something else."""

    def make(folder, there):
        path = make_sae(folder / "sae")
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def saved(content, name="ae.pt"):
    def make(folder, there):
        torch.save(content() if callable(content) else content, folder / name)
        return folder / name

    return make


def cut(name, keep):
    """A maker of a checkpoint that ends too early."""

    def make(folder, there):
        path = folder / name
        weights = {key: value.contiguous() for key, value in topk_weights().items()}
        if path.suffix == ".safetensors":
            save_file(weights, path)
        elif path.suffix == ".npz":
            np.savez(path, **{key: value.numpy() for key, value in weights.items()})
        else:
            torch.save(weights, path)
        path.write_bytes(path.read_bytes()[:keep])
        return path

    return make


FILES |= {
    "cut_pt": cut("ae.pt", -100),
    "half_pt": cut("ae.pt", 3000),
    "cut_safetensors": cut("sae.safetensors", -100),
    "cut_header": cut("sae.safetensors", 50),
    "cut_npz": cut("params.npz", -100),
    "nan_sae": sae_of(lambda: {"b_dec": torch.full((D_MODEL,), torch.nan)}),
    "infinite_sae": sae_of(lambda: {"encoder.weight": torch.full((D_SAE, D_MODEL), torch.inf)}),
    "whole_sae": sae_of(lambda: {"encoder.weight": torch.ones(D_SAE, D_MODEL, dtype=torch.int64)}),
    "complex_sae": sae_of(lambda: {"encoder.weight": torch.ones(D_SAE, D_MODEL, dtype=torch.complex64)}),
    "turned_sae": sae_of(lambda: {"encoder.weight": torch.ones(D_MODEL, D_SAE)}),
    "narrow_bias": sae_of(lambda: {"encoder.bias": torch.ones(D_SAE - 1)}),
    "empty_weights": sae_of(lambda: {"encoder.weight": torch.ones(0, D_MODEL)}),
    "k_of_nothing": sae_of(lambda: {"k": torch.tensor(0)}),
    "k_below_nothing": sae_of(lambda: {"k": torch.tensor(-3)}),
    "k_beyond_all": sae_of(lambda: {"k": torch.tensor(D_SAE + 1)}),
    "k_of_a_half": sae_of(lambda: {"k": torch.tensor(0.5)}),
    "shifted_sae": sae_of(lambda: {"b_dec": torch.full((D_MODEL,), 100.0)}),
    "wide_sae": sae_of(
        lambda: {
            "encoder.weight": torch.ones(D_SAE, 40),
            "decoder.weight": torch.ones(40, D_SAE),
            "b_dec": torch.ones(40),
        }
    ),
    "odd_width_sae": sae_of(
        lambda: {"encoder.weight": torch.ones(D_SAE, 7), "decoder.weight": torch.ones(7, D_SAE), "b_dec": torch.ones(7)}
    ),
    "unknown_key": sae_of(lambda: {"gate.weight": torch.ones(3)}),
    "no_tensors": saved({"step": 3}),
    "lone_tensor": saved(lambda: torch.ones(3)),
    "list_of_tensors": saved(lambda: [torch.ones(3)]),
    "none_saved": saved(None),
    "code_in_a_zip": saved(lambda: {"W_enc": Call(os.system, "touch /tmp/executed-by-a-checkpoint")}),
    "module_saved": saved(lambda: torch.nn.Linear(2, 2)),
    "no_config_json": settings_of(""),
    "cut_config": settings_of('{"trainer": {"dict'),
    "list_config": settings_of("[]"),
    "latin_config": settings_of(b'{"trainer": "caf\xe9"}'),
    "deep_config": settings_of("[" * 100_000),
    "unknown_class": settings_of('{"trainer": {"dict_class": "CrossCoder"}}'),
    "class_of_others": settings_of('{"trainer": {"dict_class": "GatedAutoEncoder"}}'),
    "class_is_a_number": settings_of('{"trainer": {"dict_class": 3}}'),
}


@maker
def bit_flipped_pt(folder, there):
    path = folder / "ae.pt"
    torch.save(topk_weights(), path)
    content = bytearray(path.read_bytes())
    content[70] ^= 0xFF
    path.write_bytes(content)
    return path


@maker
def code_in_a_legacy_file(folder, there):
    (folder / "ae.pt").write_bytes(legacy({"W": Call(os.system, "touch /tmp/executed-by-a-checkpoint")}))
    return folder / "ae.pt"


@maker
def zip_in_a_zip(folder, there):
    torch.save(topk_weights(), inner := folder / "inner")
    return write_zip(folder / "ae.pt", {"ae.pt": inner.read_bytes()})


@maker
def bomb(folder, there):
    return write_bomb(folder / "params.npz", "W_enc.npy", 4 << 20)


@maker
def objects_in_npz(folder, there):
    np.savez(folder / "params.npz", W_enc=np.array([{"a": 1}], dtype=object))
    return folder / "params.npz"


@maker
def huge_array(folder, there):
    return write_zip(folder / "params.npz", {"W_enc.npy": npy("<f4", (10**6, 10**6))})


@maker
def tensor_past_the_end(folder, there):
    header = {"W_enc": {"dtype": "F32", "shape": [10, 10], "data_offsets": [0, 400]}}
    return write_safetensors_header(folder / "sae.safetensors", header, bytes(40))


@maker
def tensor_of_unknown_type(folder, there):
    header = {"W_enc": {"dtype": "F13", "shape": [1], "data_offsets": [0, 4]}}
    return write_safetensors_header(folder / "sae.safetensors", header, bytes(4))


@maker
def several_saes(folder, there):
    for name in ("a.pt", "b.pt"):
        torch.save(topk_weights(), folder / name)
    return folder


@maker
def sae_pipe(folder, there):
    os.mkfifo(folder / "ae.pt")
    return folder / "ae.pt"


@maker
def text_as_sae(folder, there):
    return there["corpus"]


@maker
def result_as_sae(folder, there):
    return there["real"]


@maker
def model_as_sae(folder, there):
    return there["model"]


ROWS = [
    # SAEs.
    ("real --sae {tmp}/no", "SAE {tmp}/no does not exist: give a checkpoint file, the folder that holds it, or a hub name such as owner/repository/folder."),
    ("real --sae no-one/no-such/sae", "SAE 'no-one/no-such/sae' is no local path, and no hub or cache could give it: "),
    ("real --sae saelens:no/such", "SAE 'saelens:no/such' is a name of SAELens, which is not installed"),
    ("real --sae {empty_folder}", "SAE folder {empty_folder} holds no weight file: expected one that ends in .safetensors, .npz, .pt, "
        ".pth or .bin, such as sae_weights.safetensors or ae.pt, in it or up to 3 folders below."),
    ("inspect --sae {model}/config.json", "SAE {model}/config.json is a configuration and no weights: give the folder, {model}."),
    ("real --sae {several_saes}", "SAE folder {several_saes} holds 2 weight files (a.pt, b.pt): name the one to read."),
    ("real --sae {sae_pipe}", "SAE {sae_pipe} is no regular file: give a checkpoint file or the folder that holds it."),
    ("real --sae {empty_pt}", "SAE {empty_pt} is damaged or cut short: EOFError. Fetch it again."),
    *(
        (f"real --sae {{{name}}}", f"SAE {{{name}}} is not a plain file of tensors: it is damaged, or holds objects")
        for name in ("page_as_pt", "pointer_as_pt", "picture_as_sae", "text_as_sae", "result_as_sae", "code_in_a_zip", "code_in_a_legacy_file", "module_saved")
    ),
    *(
        (f"real --sae {{{name}}}", f"SAE {{{name}}} is damaged or cut short: ")
        for name in (
            *("cut_pt", "half_pt", "cut_safetensors", "cut_header", "cut_npz", "empty_safetensors", "page_as_safetensors"),
            *("empty_npz", "page_as_npz", "long_header", "longest_header", "objects_in_npz", "huge_array", "zip_in_a_zip"),
            *("tensor_past_the_end", "tensor_of_unknown_type"),
        )
    ),
    (
        "real --sae {page_as_pt} --hook auto",
        "SAE {page_as_pt} is not a plain file of tensors: it is damaged, or holds objects that only running its code could "
        "restore, which is refused. Save its state_dict instead.",
    ),
    ("real --sae {bit_flipped_pt}", "SAE {bit_flipped_pt} is "),
    ("real --sae {bomb}", "and would unpack to 4194304, which no weights do: it is refused."),
    ("real --sae {model_as_sae}", "SAE {model_as_sae}/model.safetensors is in no known layout: its keys are a language model's. The SAE is wanted here (in Python it comes first)."),
    ("real --sae {no_tensors}", "SAE {no_tensors} is in no known layout. Found keys: none. No layout has any of these: "),
    ("real --sae {lone_tensor}", "SAE {lone_tensor} holds a Tensor: expected a state dict of tensors."),
    ("real --sae {list_of_tensors}", "SAE {list_of_tensors} holds a list: expected a state dict of tensors."),
    ("real --sae {none_saved}", "SAE {none_saved} holds a NoneType: expected a state dict of tensors."),
    ("real --sae {nan_sae}", "The SAE's b_dec holds values that are not finite: its file is damaged."),
    ("real --sae {infinite_sae}", "holds values that are not finite: its file is damaged."),
    ("real --sae {whole_sae}", "SAE {whole_sae}/ae.pt holds its W_enc as torch.int64: expected floating point numbers."),
    ("real --sae {complex_sae}", "SAE {complex_sae}/ae.pt holds its W_enc as torch.complex64: expected floating point numbers."),
    ("real --sae {turned_sae}", "but its keys are not: of another shape encoder.weight (16, 48) instead of (48, 16). Expected"),
    ("real --sae {narrow_bias}", "of another shape encoder.bias (47,)"),
    ("real --sae {empty_weights}", "of another shape encoder.weight (0, 16)"),
    ("real --sae {unknown_key}", "but its keys are not: unknown gate.weight."),
    ("real --sae {k_of_nothing}", "The SAE's k is 0, but it has 48 features: its file is damaged."),
    ("real --sae {k_below_nothing}", "The SAE's k is -3, but it has 48 features: its file is damaged."),
    ("real --sae {k_beyond_all}", "The SAE's k is 49, but it has 48 features: its file is damaged."),
    ("real --sae {k_of_a_half}", "has a k that is no whole number: its file is damaged."),
    (
        "real --sae {wide_sae}",
        "The SAE reads 40-wide activations, but hook blocks.1.hook_resid_post of {model} gives 16. Hooks that fit: "
        + ", ".join(f"blocks.{layer}.mlp.hook_post" for layer in range(LAYERS)) + ".",
    ),
    ("real --sae {odd_width_sae}", "The SAE reads 7-wide activations, but hook blocks.1.hook_resid_post of {model} gives 16."),
    ("real --sae {odd_width_sae} --hook auto", "The SAE reads 7-wide activations, and the hooks of {model} are 16 or 40 wide: it belongs to another model."),
    (
        "real --sae {shifted_sae}",
        "and a mean would reach 0. Check --hook (inspect tries them all), --bos and --model, or look at the results anyway with "
        "--allow-poor-fit.",
    ),
    ("real --sae {no_config_json}", "SAE configuration {no_config_json}/config.json is not JSON: "),
    ("real --sae {cut_config}", "SAE configuration {cut_config}/config.json is not JSON: "),
    ("real --sae {latin_config}", "SAE configuration {latin_config}/config.json is not JSON: "),
    ("real --sae {deep_config}", "SAE configuration {deep_config}/config.json is not JSON: "),
    ("real --sae {list_config}", "SAE configuration {list_config}/config.json holds a list: expected an object."),
    ("real --sae {unknown_class}", "is a dictionary_learning CrossCoder, which is not supported: expected one of AutoEncoder"),
    ("real --sae {class_of_others}", "is a dictionary_learning GatedAutoEncoder (dict_class in config.json), but its keys are not: missing"),
    ("real --sae {class_is_a_number}", "says dict_class = 3: expected text."),
    ("synthetic --sae {tmp}/no", "SAE {tmp}/no does not exist: give a checkpoint file"),
    ("synthetic --sae {cut_safetensors}", "SAE {cut_safetensors} is damaged or cut short: "),
    ("synthetic --sae {nan_sae}", "The SAE's b_dec holds values that are not finite: its file is damaged."),
    ("compare --sae {cut_pt}", "SAE {cut_pt} is damaged or cut short: "),
    ("inspect --sae {tmp}/none", "SAE {tmp}/none does not exist"),
    ("inspect --sae {cut_pt}", "SAE {cut_pt} is damaged or cut short: "),
    ("inspect --sae {code_in_a_zip} --json", "SAE {code_in_a_zip} is not a plain file of tensors: "),
    ("inspect --sae {empty_folder}", "SAE folder {empty_folder} holds no weight file"),
]  # fmt: skip
