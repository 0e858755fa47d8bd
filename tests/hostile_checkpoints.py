"""Checkpoints that run code, claim or unpack to more than they have, or hold what no reader expects."""

import tarfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_factory import (
    Call,
    free_keys,
    legacy,
    linear_keys,
    merged_yaml,
    nested_yaml,
    npy,
    openai,
    plain,
    raw_pickle,
    rewritten,
    saelens,
    write_bomb,
    write_safetensors,
    write_safetensors_header,
    write_torch,
    write_zip,
)
from format_cases_saelens import WHITENING

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
