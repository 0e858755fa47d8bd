"""Whatever a user gets wrong is one line, exit code 2, and no harm to earlier results: the catalogue.

A row is a command, with ``{name}`` for a file of ``FILES``, and what its message must say. What a row leaves out is
given as it should be, so that nothing but the row's own mistake can be what is complained of.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from checkpoint_factory import Call, legacy, npy, write_bomb, write_safetensors_header, write_zip
from conftest import D_MODEL, D_SAE, LAYERS, TEXTS, make_sae, topk_weights
from pyarrow import parquet
from safetensors.torch import load_file, save_file

from sae_analysis import main as command_line
from sae_analysis.feature_selection import GRAMMAR
from sae_analysis.main import main
from sae_analysis.parts import Part, Storage

ROOT = Path(command_line.__file__).resolve().parents[2]

# --- files ---------------------------------------------------------------------------------------------------------

FILES = {}
"""Makers of bad files by name: each gets an empty folder and what is ``there``, and returns a path."""


def file(name, content):
    """A file of that content under a name, whose maker is called like it but for points."""

    def write(folder, there):
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def maker(make):
    FILES[make.__name__] = make
    return make


# Text.
FILES |= {
    "empty_text": file("a.txt", ""),
    "empty_list": file("a.json", "[]"),
    "one_word": file("a.txt", "ship"),
    "blank_text": file("a.txt", "\n \n\t\n"),
    "word_document": file("a.docx", "x"),
    "no_suffix": file("corpus", "x"),
    "latin_text": file("a.txt", b"caf\xe9"),
    "utf16_text": file("a.txt", "Two words".encode("utf-16")),
    "binary_text": file("a.txt", bytes(range(128, 256))),
    "broken_line": file("a.jsonl", '{"text": "one"}\n{"text": two}'),
    "cut_line": file("a.jsonl", '{"text": "one"}\n{"text": "tw'),
    "latin_line": file("a.jsonl", b'{"text": "one"}\n{"text": "caf\xe9"}'),
    "surrogate_line": file("a.jsonl", '{"text": "\\ud83e"}'),
    "number_line": file("a.jsonl", '{"text": "one"}\n3'),
    "null_line": file("a.jsonl", '{"text": null}'),
    "nested_line": file("a.jsonl", '{"text": {"text": "one"}}'),
    "bracket_line": file("a.jsonl", "[" * 100_000),
    "digits_line": file("a.jsonl", '{"text": ' + "9" * 5000 + "}"),
    "broken_list": file("a.json", '["one", "two"'),
    "object_file": file("a.json", '{"text": "one"}'),
    "word_file": file("a.json", '"one"'),
    "latin_list": file("a.json", b'["caf\xe9"]'),
    "lines_as_list": file("a.json", '{"text": "one"}\n{"text": "two"}'),
    "list_of_numbers": file("a.json", "[1, 2]"),
    "text_as_parquet": file("a.parquet", "Not a table"),
    "empty_parquet": file("a.parquet", ""),
    "image_as_parquet": file("a.parquet", b"PAR1" + bytes(100) + b"PAR1"),
}


def table(folder, **columns):
    parquet.write_table(pa.table(columns), path := folder / "a.parquet")
    return path


@maker
def cut_parquet(folder, there):
    path = table(folder, text=["some words"] * 50)
    path.write_bytes(path.read_bytes()[:-20])
    return path


@maker
def parquet_of_numbers(folder, there):
    return table(folder, text=[1, 2, 3])


@maker
def parquet_without_text(folder, there):
    return table(folder, body=["one", "two"])


@maker
def parquet_with_a_hole(folder, there):
    return table(folder, text=["one", None])


@maker
def parquet_damaged_inside(folder, there):
    path = table(folder, text=[f"some words and the number {number}" for number in range(2000)])
    content = bytearray(path.read_bytes())
    content[8:900] = bytes(892)
    path.write_bytes(content)
    return path


@maker
def empty_folder(folder, there):
    return folder


@maker
def folder_of_pictures(folder, there):
    (folder / "a.png").write_bytes(b"\x89PNG")
    return folder


@maker
def folder_with_a_bad_file(folder, there):
    (folder / "a.txt").write_text("The old ship left the harbour at dawn. " * 9)
    (folder / "b.jsonl").write_text("{")
    return folder


@maker
def folder_named_like_text(folder, there):
    (folder / "a.txt").mkdir()
    return folder / "a.txt"


@maker
def link_to_nowhere(folder, there):
    (folder / "a.txt").symlink_to(folder / "gone.txt")
    return folder / "a.txt"


@maker
def link_to_itself(folder, there):
    (folder / "a.txt").symlink_to(folder / "a.txt")
    return folder / "a.txt"


@maker
def text_pipe(folder, there):
    os.mkfifo(folder / "a.txt")
    return folder / "a.txt"


@maker
def endless_device(folder, there):
    (folder / "a.txt").symlink_to("/dev/zero")
    return folder / "a.txt"


# Checkpoints.
FILES |= {
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


# Models.


def model_of(change):
    """A maker of a copy of the model's folder that was changed."""

    def make(folder, there):
        path = shutil.copytree(there["model"], folder / "model")
        change(path)
        return path

    return make


def without(name):
    return model_of(lambda path: (path / name).unlink())


def with_file(name, content):
    return model_of(lambda path: (path / name).write_bytes(content if isinstance(content, bytes) else content.encode()))


def with_settings(name="config.json", **settings):
    def change(path):
        content = json.loads((path / name).read_text())
        (path / name).write_text(json.dumps(content | settings))

    return model_of(change)


def with_weights(change):
    def make(path):
        weights = change(load_file(path / "model.safetensors"))
        save_file(
            {key: value.contiguous() for key, value in weights.items()}, path / "model.safetensors", {"format": "pt"}
        )

    return model_of(make)


def ended(name, keep):
    return model_of(lambda path: (path / name).write_bytes((path / name).read_bytes()[:keep]))


def _with_code(path):
    (path / "code.py").write_text("open('/tmp/executed-by-a-model', 'w')\n")
    content = json.loads((path / "config.json").read_text()) | {
        "model_type": "own",
        "auto_map": {"AutoConfig": "code.Own", "AutoModelForCausalLM": "code.Own"},
    }
    (path / "config.json").write_text(json.dumps(content))


def _pickled(path):
    (path / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Call(os.system, "touch /tmp/executed-by-a-model")}, path / "pytorch_model.bin")


def _sharded(path):
    (path / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def _more_words(path):
    """Give the tokenizer words that the model has no embeddings for."""
    content = json.loads((path / "tokenizer.json").read_text())
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 5000, "content": "ship", "special": False})
    (path / "tokenizer.json").write_text(json.dumps(content))


FILES |= {
    "no_config": without("config.json"),
    "no_weights": without("model.safetensors"),
    "no_tokenizer": model_of(
        lambda path: [(path / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")]
    ),
    "empty_config": with_file("config.json", ""),
    "broken_config": with_file("config.json", '{"model_type": "llama", '),
    "config_of_a_list": with_file("config.json", "[]"),
    "binary_config": with_file("config.json", b"\xff\xfe\x00"),
    "unknown_type": with_settings(model_type="no-such-model"),
    "no_type": with_file("config.json", "{}"),
    "no_language_model": with_file("config.json", '{"model_type": "vit"}'),
    "width_of_words": with_settings(hidden_size="wide"),
    "width_of_nothing": with_settings(hidden_size=0),
    "width_below_nothing": with_settings(hidden_size=-16),
    "width_of_others": with_settings(hidden_size=32),
    "layers_of_nothing": with_settings(num_hidden_layers=0),
    "more_layers": with_settings(num_hidden_layers=LAYERS + 2),
    "uneven_heads": with_settings(num_attention_heads=3),
    "unknown_activation": with_settings(hidden_act="no-such-function"),
    "huge_vocabulary": with_settings(vocab_size=10**12),
    "other_vocabulary": with_settings(vocab_size=400),
    "empty_model_weights": with_file("model.safetensors", ""),
    "garbage_weights": with_file("model.safetensors", b"\x93" * 1000),
    "pointer_weights": with_file("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"),
    "cut_weights": ended("model.safetensors", -1000),
    "cut_weights_header": ended("model.safetensors", 100),
    "lacking_weights": with_weights(lambda w: {key: value for key, value in w.items() if key != "lm_head.weight"}),
    "other_weights": with_weights(lambda w: {f"other.{key}": value for key, value in w.items()}),
    "wrong_shapes": with_weights(lambda w: w | {"lm_head.weight": torch.ones(320, 3)}),
    "nan_weights": with_weights(lambda w: w | {"model.embed_tokens.weight": torch.full((320, D_MODEL), torch.nan)}),
    "lacking_shards": model_of(_sharded),
    "pickled_code": model_of(_pickled),
    "own_code": model_of(_with_code),
    "broken_tokenizer": with_file("tokenizer.json", '{"version": "1.0", '),
    "empty_tokenizer": with_file("tokenizer.json", ""),
    "tokenizer_of_a_list": with_file("tokenizer.json", "[]"),
    "tokenizer_of_nothing": with_file("tokenizer.json", "{}"),
    "broken_tokenizer_config": with_file("tokenizer_config.json", "{"),
    "more_words_than_embeddings": model_of(_more_words),
}


@maker
def sae_as_model(folder, there):
    return there["sae"]


@maker
def text_as_model(folder, there):
    return there["corpus"]


# Results.


def result_of(change, name="real"):
    """A maker of a result of the earlier run that was changed: ``change`` gets its content."""

    def make(folder, there):
        content = json.loads(there[name].read_bytes())
        change(content)
        (folder / f"{name}.json").write_text(json.dumps(content))
        return folder / f"{name}.json"

    return make


def feature_of(change, name="real"):
    return result_of(lambda content: change(content["features"][0]), name)


def example_of(change, name="real"):
    return result_of(lambda content: change(content["features"][0]["examples"][0]), name)


def run_of(name="real", **changes):
    return result_of(lambda content: content["provenance"].update(changes), name)


FILES |= {
    "empty_result": file("real.json", ""),
    "no_result": file("real.json", "{}"),
    "list_as_result": file("real.json", "[1, 2]"),
    "null_as_result": file("real.json", "null"),
    "binary_result": file("real.json", b"\xff\xfe\x00"),
    "deep_result": file("real.json", "[" * 100_000),
    "page_as_result": file("real.json", "<!DOCTYPE html>"),
    "future_result": result_of(lambda content: content.update(schema_version=2)),
    "result_of_words": result_of(lambda content: content.update(schema_version="one")),
    "without_provenance": result_of(lambda content: content.pop("provenance")),
    "without_features": result_of(lambda content: content.pop("features")),
    "features_of_words": result_of(lambda content: content.update(features="0-9")),
    "features_of_numbers": result_of(lambda content: content.update(features=[1, 2])),
    "no_features": result_of(lambda content: content.update(features=[])),
    "unknown_field": result_of(lambda content: content.update(extra=1)),
    "model_is_a_number": run_of(model=3),
    "options_of_lists": run_of(options={"k": [1]}),
    "density_of_words": feature_of(lambda one: one.update(density="often")),
    "density_of_nothing": feature_of(lambda one: one.update(density=None)),
    "nan_density": feature_of(lambda one: one.update(density=float("nan"))),
    "infinite_maximum": feature_of(lambda one: one.update(max_activation=float("inf"))),
    "true_count": feature_of(lambda one: one.update(active_count=True)),
    "half_count": feature_of(lambda one: one.update(active_count=0.5)),
    "endless_count": feature_of(lambda one: one.update(active_count=10**30)),
    "without_histogram": feature_of(lambda one: one.pop("histogram")),
    "edges_too_few": feature_of(lambda one: one["histogram"]["edges"].pop()),
    "edges_turned": feature_of(lambda one: one["histogram"]["edges"].reverse()),
    "counts_below_nothing": feature_of(
        lambda one: one["histogram"].update(counts=[-1] * len(one["histogram"]["counts"]))
    ),
    "triple": feature_of(lambda one: one["top_boosted_tokens"].insert(0, [" the", 1.0, 2])),
    "tokens_turned": feature_of(lambda one: one["top_boosted_tokens"].insert(0, [1.0, " the"])),
    "peak_outside": example_of(lambda one: one.update(peak_position=10**6)),
    "peak_below_nothing": example_of(lambda one: one.update(peak_position=-1)),
    "activations_too_few": example_of(lambda one: one["activations"].pop()),
    "tokens_of_numbers": example_of(lambda one: one.update(tokens=[1] * len(one["tokens"]))),
    "text_as_tokens": example_of(lambda one: one.update(tokens=one["text"])),
    "other_model": run_of(model="gpt2", model_sha256="0" * 64),
    "other_sae": run_of(sae_sha256="0" * 64),
    "other_hook": run_of(hook="blocks.0.hook_resid_post"),
    "other_features": result_of(
        lambda content: content.update(
            features=[one | {"feature_idx": 40 + at} for at, one in enumerate(content["features"])]
        ),
        "synthetic",
    ),
    "search_of_another": run_of("synthetic", sae_sha256="0" * 64),
    "unknown_analysis": run_of(analysis="dream"),
    "asked_by_hand": run_of(asked={"mode": "dreaming"}),
    "asked_by_nobody": run_of(asked={}),
    "asked_of_lists": run_of(asked={"mode": "real", "features": [[1]]}),
    "asked_too_much": run_of(asked={"mode": "real", "wings": 2}),
    "asked_for_nonsense": run_of(asked={"mode": "real", "seq_len": "many"}),
    "verdict_of_numbers": result_of(lambda content: content["features"][0].update(verdict=3), "comparison"),
    "likeness_of_nothing": result_of(lambda content: content["features"][0].update(likeness=None), "comparison"),
    "reasons_of_words": result_of(lambda content: content["features"][0].update(reasons="because"), "comparison"),
    "comparison_alone": result_of(dict, "comparison"),
}


@maker
def cut_result(folder, there):
    (folder / "real.json").write_bytes(there["real"].read_bytes()[:-100])
    return folder / "real.json"


@maker
def tokens_of_another_vocabulary(folder, there):
    def change(content):
        for feature in content["features"]:
            for example in feature["examples"]:
                example["token_ids"] = [10**6] * len(example["tokens"])

    return result_of(change)(folder, there)


@maker
def result_pipe(folder, there):
    os.mkfifo(folder / "real.json")
    return folder / "real.json"


@maker
def comparison_of_strangers(folder, there):
    """A comparison beside results of other features."""
    for name in ("comparison", "real"):
        (folder / f"{name}.json").write_bytes(there[name].read_bytes())
    FILES["other_features"](folder, there)
    return folder / "comparison.json"


@maker
def comparison_beside_damage(folder, there):
    (folder / "comparison.json").write_bytes(there["comparison"].read_bytes())
    (folder / "real.json").write_text("{")
    return folder / "comparison.json"


# Outputs.
FILES |= {"mine": file("mine", "mine")}


# Parts.
FILES |= {"empty_part": file("real.part", ""), "text_as_part": file("real.part", "Not a part. " * 9)}


def part_with(**header):
    """A sound part, of no chunk, with that header."""

    def make(folder, there):
        storage = Storage(folder)
        storage.write("real.part", Part(header=header, arrays={"chunks": np.empty(0, np.int64)}))
        return folder / "real.part"

    return make


@maker
def cut_part(folder, there):
    path = part_with()(folder, there)
    path.write_bytes(path.read_bytes()[:-1])
    return path


@maker
def flipped_part(folder, there):
    path = part_with()(folder, there)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    return path


FILES |= {
    "unfinished_part": part_with(fingerprint="f" * 64),
    "part_of_lists": part_with(fingerprint=[], shards=3, count="x", corpus_sha256=1, truncated=2, asked=[]),
}


@maker
def output_pipe(folder, there):
    os.mkfifo(folder / "out")
    return folder / "out"


# --- the catalogue -------------------------------------------------------------------------------------------------

NUMBERS = {
    "real": {
        "expected a whole number from 1, got": (
            "seq-len batch-size max-tokens max-examples dictionary-tokens chunk-size num-workers"
        ),
        "expected a whole number from 1 to 1,024, got": "threads",
        "expected a whole number from 1 to 600, got": "dpi",
        "expected a number above 1, got": "norm-outliers",
    },
    "synthetic": {
        "expected a whole number from 1, got": "budget seq-len batch-size max-tokens max-examples",
        "expected a whole number from 1 to 600, got": "dpi",
        "expected a number above 0, at most 1,000,000, got": "learning-rate",
    },
    "compare": {"expected a whole number from 1, got": "budget seq-len batch-size max-tokens max-examples"},
    "redraw": {
        "expected a whole number from 1 to 1,024, got": "threads",
        "expected a whole number from 1 to 600, got": "dpi",
    },
    "inspect": {"expected a whole number from 1 to 1,024, got": "threads"},
}
"""Options that take a number which zero is not, by mode and by what is said of another."""

COUNTS = {"real": "seed firings", "synthetic": "seed firings n-steps", "compare": "seed firings n-steps"}
"""Options that take a whole number from 0."""

NO_NUMBERS = ("0", "-1", "nan", "inf", "-inf", "many", "''", "1e999", "0x10", "1,5")
NO_COUNTS = ("-1", "2.5", "nan", "inf", "none", "''", "1_000", "9999999999999")

CATALOGUE = [
    # Shards, workers, interruptions.
    *(
        (f"real --shard={spec}", f"argument --shard: expected a shard such as 3/16, got '{spec}'")
        for spec in ("0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", "1/9999999999999", "½/2")
    ),
    *(
        (f"{mode} --checkpoint-every={value}", f"argument --checkpoint-every: expected a number of seconds, got '{value}'")
        for mode in ("real", "synthetic", "compare")
        for value in ("-1", "nan", "inf", "often")
    ),
    ("real --engine spark", "argument --engine: invalid choice: 'spark'"),
    ("real --chunk-size 100 --engine ray --ray-address 127.0.0.1:1", "The Ray cluster at 127.0.0.1:1 cannot be had: [Errno 111] Connection refused."),
    ("synthetic --engine ray --ray-address nowhere.invalid:1", "The Ray cluster at nowhere.invalid:1 cannot be had: "),
    ("real --ray-address ''", "argument --ray-address: expected a path or a name, got nothing"),
    ("real --storage ''", "argument --storage: expected a path or a name, got nothing"),
    ("real --storage nowhere://bucket/run", "Storage nowhere://bucket/run cannot be used: Protocol not known: nowhere."),
    ("real --shard 1/2 --chunk-size 100 --engine ray --ray-address 127.0.0.1:1", "The Ray cluster at 127.0.0.1:1 cannot be had: "),
    ("merge", "the following arguments are required: PART"),
    ("merge ''", "argument PART: expected a path or a name, got nothing"),
    ("merge {tmp}/gone", "Part {tmp}/gone/real.part cannot be read: No such file or directory. Give one that a shard wrote."),
    ("merge {tmp}", "Part {tmp}/real.part cannot be read: No such file or directory."),
    ("merge {tmp}/gone.part", "Part {tmp}/gone.part cannot be read: No such file or directory."),
    ("merge {real}", "Part {real}/real.part cannot be read: Not a directory."),
    ("merge nowhere://a", "Storage nowhere://a cannot be used: Protocol not known: nowhere."),
    ("merge {empty_part}", "Part {empty_part} is damaged ("),
    ("merge {text_as_part}", "Part {text_as_part} is damaged ("),
    ("merge {cut_part}", "Part {cut_part} is damaged (its checksum is wrong). Read this part of the text again."),
    ("merge {flipped_part}", "Part {flipped_part} is damaged (its checksum is wrong)."),
    ("merge {unfinished_part}", "Part {unfinished_part} is of a run that has not ended: "),
    ("merge {part_of_lists}", "Part {part_of_lists} is of a run that has not ended: "),
    # What to do.
    ("", "the following arguments are required: MODE"),
    ("bogus", "argument MODE: invalid choice: 'bogus'"),
    ("real --no-such-option", "unrecognized arguments: --no-such-option"),
    ("real results.json", "unrecognized arguments: results.json"),
    ("real --corpus", "argument --corpus: expected one argument"),
    ("redraw --theme dark", "the following arguments are required: FILE"),
    ("export {real}", "the following arguments are required: --to"),
    ("export --to parquet", "the following arguments are required: FILE"),
    # Choices.
    ("real --text-unit line", "argument --text-unit: invalid choice: 'line' (choose from"),
    ("real --bos maybe", "argument --bos: invalid choice: 'maybe'"),
    *((f"{mode} --encoder sparse", "argument --encoder: invalid choice: 'sparse'") for mode in ("real", "synthetic", "compare")),
    ("real --theme pink", "argument --theme: invalid choice: 'pink'"),
    ("real --format gif", "argument --format: invalid choice: 'gif'"),
    ("real --center-residual yes", "argument --center-residual: invalid choice: 'yes'"),
    ("real --vsae-sign plus", "argument --vsae-sign: invalid choice: 'plus'"),
    ("synthetic --bos ''", "argument --bos: invalid choice: ''"),
    ("synthetic --corpus {corpus} --real {real}", "argument --real: not allowed with argument --corpus"),
    ("redraw {real} --theme pink", "argument --theme: invalid choice: 'pink'"),
    ("redraw {real} --format jpeg", "argument --format: invalid choice: 'jpeg'"),
    ("export {real} --to html", "argument --to: invalid choice: 'html'"),
    ("inspect --text-unit line", "argument --text-unit: invalid choice: 'line'"),
    # Numbers that are none.
    *(
        (f"{mode} --{option}={value}", f"argument --{option}: {says} '{value.strip(chr(39))}'")
        for mode, kinds in NUMBERS.items()
        for says, options in kinds.items()
        for option in options.split()
        for value in NO_NUMBERS
    ),
    *(
        (f"{mode} --{option}={value}", f"argument --{option}: expected a whole number from 0, got '{value.strip(chr(39))}'")
        for mode, options in COUNTS.items()
        for option in options.split()
        for value in NO_COUNTS
    ),
    ("real --seq-len 2.5", "argument --seq-len: expected a whole number from 1, got '2.5'"),
    ("real --max-examples 9999999999999", "argument --max-examples: expected a whole number from 1, got '9999999999999'"),
    (f"real --seed {'9' * 5000}", "argument --seed: expected a whole number from 0, got '9999"),
    ("real --norm-outliers 1", "argument --norm-outliers: expected a number above 1, got '1'"),
    ("real --threads 1025", "argument --threads: expected a whole number from 1 to 1,024, got '1025'"),
    ("real --dpi 601", "argument --dpi: expected a whole number from 1 to 600, got '601'"),
    ("redraw {real} --dpi 100000", "argument --dpi: expected a whole number from 1 to 600, got '100000'"),
    ("synthetic --fluency 1.1", "argument --fluency: expected a number from 0 to 1, got '1.1'"),
    ("synthetic --fluency -0.1", "argument --fluency: expected a number from 0 to 1, got '-0.1'"),
    ("synthetic --fluency nan", "argument --fluency: expected a number from 0 to 1, got 'nan'"),
    ("compare --fluency most", "argument --fluency: expected a number from 0 to 1, got 'most'"),
    ("synthetic --learning-rate 1e300", "argument --learning-rate: expected a number above 0, at most 1,000,000, got '1e300'"),
    ("real --seq-len 129", "seq_len 129 is more than {model} was made for: give at most 128."),
    ("real --seq-len 1 --bos always", "seq_len 1 leaves no token beside BOS: give at least 2."),
    ("real --max-tokens 15", "The corpus has 15 tokens to count, in 1 document: statistics need at least 16. Give more text."),
    ("synthetic --seq-len 129", "seq_len 129 is more than {model} was made for: give at most 128."),
    ("synthetic --seq-len 128 --bos always", "seq_len 128 is more than {model} was made for beside BOS: give at most 127."),
    # Features.
    *(
        (f"{mode} --features {shlex.quote(text)}", f"features '{text.strip()}' cannot be read at '{part}': expected {GRAMMAR}.")
        for mode in ("real", "synthetic", "compare")
        for text, part in {"0-5;7": "0-5;7", "": "", "1,": "", "all,1": "all", "0--1": "0--1", "1e3": "1e3"}.items()
    ),
    ("real --features=-1", "features '-1' cannot be read at '-1'"),
    ("real --features '0 1'", "features '0 1' cannot be read at '0 1'"),
    ("real --features ٣", "features '٣' cannot be read at '٣'"),
    ("real --features random:", "features 'random:' cannot be read at 'random:'"),
    ("real --features random:ten", "features 'random:ten' cannot be read"),
    ("real --features top:5:min", "features 'top:5:min' cannot be read"),
    ("real --features top:0", "features 'top:0' asks for nothing that exists"),
    ("real --features random:5:max", "features 'random:5:max' asks for nothing that exists"),
    ("real --features 9-3", "features '9-3' has the empty range 9-3: write 3-9."),
    ("real --features 9999999999", "features '9999999999' cannot be read"),
    (f"real --features {'x' * 9000}", f"features '{'x' * 100}…' cannot be read"),
    ("real --features 0,48", "Feature 48 does not exist: the SAE has features 0 to 47."),
    ("real --features 0-999999999", "Feature 48 does not exist: the SAE has features 0 to 47."),
    ("real --features random:49", "49 features were asked for: the SAE has 48. Ask for fewer."),
    ("real --features top:49", "49 features were asked for: the SAE has 48. Ask for fewer."),
    ("synthetic --features 0,48", "Feature 48 does not exist: the SAE has features 0 to 47."),
    ("synthetic --features random:49", "49 features were asked for: the SAE has 48. Ask for fewer."),
    (
        "synthetic --features dead:3",
        "features top:N, top:N:max and dead:N ask what features do on text, and no text was read: give a corpus to "
        "scan, or a real result of all features.",
    ),
    ("synthetic --features top:3 --real {real}", "the real result describes 2 of 48 features: give a corpus to scan, or"),
    ("compare --features 0,48", "Feature 48 does not exist: the SAE has features 0 to 47."),
    (
        "compare --features 7 --real {real}",
        "The real result describes 2 features (0 to 1), and features asks for feature 7: they have none in "
        "common. Give a result of these features, or leave features out.",
    ),
    ("compare --features 7 --synthetic {synthetic}", "The synthetic result describes 2 features (0 to 1), and features asks"),
    # Names that name nothing.
    *(
        (f"real --{option} ''", f"argument --{option}: expected a path or a name, got nothing")
        for option in ("model", "sae", "corpus", "hook", "hook-out", "text-field", "device", "dtype")
    ),
    ("synthetic --real ''", "argument --real: expected a path or a name, got nothing"),
    ("compare --synthetic ''", "argument --synthetic: expected a path or a name, got nothing"),
    ("inspect --sae ''", "argument --sae: expected a path or a name, got nothing"),
    (f"real --model {'x' * 256}", "argument --model: expected a path or a name, got 256 characters of something else"),
    (f"real --corpus {'/'.join(['d' * 200] * 30)}.txt", "argument --corpus: expected a path or a name, got 6033 characters"),
    # Hooks.
    ("real --hook blocks.1.hook_resid_pst", "Hook 'blocks.1.hook_resid_pst' does not exist in {model}: did you mean blocks.1.hook_resid_post?"),
    ("real --hook 1", "Hook '1' does not exist in {model}: did you mean blocks.1.hook_resid_post?"),
    ("real --hook blocks.99.hook_resid_post", "Hook 'blocks.99.hook_resid_post' does not exist in {model}, which has layers 0 to 2: did"),
    ("real --hook ../../etc", "Hook '../../etc' does not exist in {model}. Nearest: "),
    (
        "real --hook blocks.1.mlp.hook_post",
        "The SAE reads 16-wide activations, but hook blocks.1.mlp.hook_post of {model} gives 40. Hooks that fit: "
        "blocks.0.hook_resid_pre, blocks.0.attn.hook_z, blocks.0.hook_attn_out, blocks.0.hook_resid_mid, "
        "blocks.0.mlp.hook_in, blocks.0.hook_mlp_out and 13 more.",
    ),
    ("real --hook-out blocks.1.hook_mlp_out", "hook_out is where a transcoder writes, and this SAE writes where it reads: drop the option."),
    ("synthetic --hook nowhere", "Hook 'nowhere' does not exist in {model}. Nearest: "),
    # Machine.
    ("real --device gpu", "device gpu cannot be used: Expected one of cpu, cuda"),
    ("real --device meta", "device meta cannot be used: it computes nothing. Try device cpu."),
    ("real --device hpu", "device hpu cannot be used: "),
    ("real --device 'cpu cuda'", "device cpu cuda cannot be used: "),
    ("synthetic --device tpu", "device tpu cannot be used: "),
    ("inspect --model {model} --device gpu", "device gpu cannot be used: "),
    ("real --dtype int4", "dtype int4 is not one of auto, float32, bfloat16, float16."),
    ("real --dtype Float32", "dtype Float32 is not one of auto, float32, bfloat16, float16."),
    ("synthetic --dtype int4", "dtype int4 is not one of auto, float32, bfloat16, float16."),
    ("inspect --model {model} --dtype int4", "dtype int4 is not one of auto, float32, bfloat16, float16."),
    # Models.
    ("real --model {tmp}/no", "Model folder {tmp}/no does not exist: give the folder"),
    ("real --model no-one/no-such-model", "Model 'no-one/no-such-model' is no local folder, and no hub or cache could give it: "),
    ("real --model 'two words'", "Model 'two words' is no local folder, and no hub or cache could give it: "),
    ("real --model {text_as_model}", "Model {text_as_model} is a file: give the folder with config.json, tokenizer and safetensors."),
    ("real --model {sae_as_model}", "Model folder {sae_as_model} cannot be loaded: "),
    ("real --model {empty_folder}", "Model folder {empty_folder} cannot be loaded: "),
    *(
        (f"real --model {{{name}}}", f"Model folder {{{name}}} cannot be loaded: ")
        for name in (
            *("no_config", "no_weights", "no_tokenizer", "empty_config", "broken_config", "config_of_a_list"),
            *("binary_config", "unknown_type", "no_type", "no_language_model", "width_of_words", "width_of_nothing"),
            *("width_below_nothing", "width_of_others", "uneven_heads", "unknown_activation", "huge_vocabulary"),
            *("other_vocabulary", "empty_model_weights", "garbage_weights", "pointer_weights", "cut_weights"),
            *("cut_weights_header", "wrong_shapes", "lacking_shards", "pickled_code", "own_code", "broken_tokenizer"),
            *("empty_tokenizer", "tokenizer_of_a_list", "tokenizer_of_nothing", "broken_tokenizer_config"),
        )
    ),
    (
        "real --model {lacking_weights}",
        "Model {lacking_weights} lacks 1 of its parameters (first: lm_head.weight): its weight file does not belong to its "
        "config.json. Fetch it again.",
    ),
    ("real --model {other_weights}", "Model {other_weights} lacks 30 of its parameters (first: lm_head.weight)"),
    ("real --model {more_layers}", "Model {more_layers} lacks 18 of its parameters (first: model.layers.3."),
    ("real --model {layers_of_nothing}", "{layers_of_nothing} has no stack of 0 layers that hooks could name: it is not supported."),
    ("real --model {nan_weights}", "gives values that are not finite in torch.float32"),
    (
        "real --model {more_words_than_embeddings}",
        "The model's tokenizer gives token 320, but there are embeddings for 320 tokens: the two do not belong together. "
        "Fetch the model's folder again.",
    ),
    ("synthetic --model {nan_weights}", "gives values that are not finite in torch.float32"),
    ("synthetic --model {cut_weights}", "Model folder {cut_weights} cannot be loaded: "),
    ("inspect --model {broken_config}", "Model folder {broken_config} cannot be loaded: "),
    # SAEs.
    ("real --sae {tmp}/no", "SAE {tmp}/no does not exist: give a checkpoint file, the folder that holds it, or a hub name such as owner/repository/folder."),
    ("real --sae no-one/no-such/sae", "SAE 'no-one/no-such/sae' is no local path, and no hub or cache could give it: "),
    ("real --sae saelens:no/such", "SAE 'saelens:no/such' is a name of SAELens, which is not installed"),
    ("real --sae {empty_folder}", "SAE folder {empty_folder} holds no weight file (.safetensors, .npz, .pt, .pth, .bin): give the checkpoint's folder."),
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
    ("real --sae {model_as_sae}", "SAE {model_as_sae}/model.safetensors is in no known layout. Found keys: "),
    ("real --sae {no_tensors}", "SAE {no_tensors} is in no known layout. Found keys: none."),
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
    ("real --sae {k_of_nothing}", "k"),
    ("real --sae {k_below_nothing}", "k"),
    ("real --sae {k_beyond_all}", "k"),
    ("real --sae {k_of_a_half}", "has a k that is no whole number: its file is damaged."),
    (
        "real --sae {wide_sae}",
        "The SAE reads 40-wide activations, but hook blocks.1.hook_resid_post of {model} gives 16. Hooks that fit: "
        + ", ".join(f"blocks.{layer}.mlp.hook_post" for layer in range(LAYERS)) + ".",
    ),
    ("real --sae {odd_width_sae}", "The SAE reads 7-wide activations, but hook blocks.1.hook_resid_post of {model} gives 16."),
    ("real --sae {odd_width_sae} --hook auto", "7"),
    (
        "real --sae {shifted_sae}",
        "and a mean would reach 0. Check hook (inspect tries them all), bos and model, or look at the results anyway with "
        "allow_poor_fit.",
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
    ("inspect --sae {cut_pt}", "SAE {cut_pt} is damaged or cut short: "),
    ("inspect --sae {code_in_a_zip} --json", "SAE {code_in_a_zip} is not a plain file of tensors: "),
    ("inspect --sae {empty_folder}", "SAE folder {empty_folder} holds no weight file"),
    # Text.
    ("real --corpus {tmp}/no.txt", "Corpus {tmp}/no.txt does not exist: give a .txt, .jsonl, .json, .parquet file, a folder or a data set."),
    ("real --corpus ./no-such-folder", "Corpus no-such-folder does not exist: give a"),
    ("real --corpus no-such-set", "Corpus 'no-such-set' is no file or folder here and could not be loaded as a data set: "),
    ("real --corpus {empty_folder}", "Corpus folder {empty_folder} holds no .txt, .jsonl, .json, .parquet file: put text files into it."),
    ("real --corpus {folder_of_pictures}", "Corpus folder {folder_of_pictures} holds no .txt"),
    ("real --corpus {folder_named_like_text}", "Corpus folder {folder_named_like_text} holds no .txt"),
    ("real --corpus {folder_with_a_bad_file}", "Corpus {folder_with_a_bad_file}/b.jsonl line 1 is not JSON: "),
    ("real --corpus {word_document}", "Corpus {word_document} has the type .docx: expected one of .txt, .jsonl, .json, .parquet."),
    ("real --corpus {no_suffix}", "Corpus {no_suffix} has the type none: expected one of .txt"),
    ("real --corpus {link_to_nowhere}", "Corpus {link_to_nowhere} does not exist: give a"),
    ("real --corpus {link_to_itself}", "Corpus {link_to_itself} "),
    ("real --corpus {text_pipe}", "Corpus {text_pipe} is no regular file: give a .txt, .jsonl, .json, .parquet file or a folder."),
    ("real --corpus {endless_device}", "Corpus {endless_device} is no regular file: give a"),
    ("real --corpus {empty_text}", "The corpus has 0 tokens to count, in 1 document: statistics need at least 16. Give more text."),
    ("real --corpus {empty_list}", "The corpus has 0 tokens to count, in 0 documents: statistics need at least 16. Give more text."),
    ("real --corpus {one_word}", "The corpus has 3 tokens to count, in 1 document: statistics need at least 16. Give more text."),
    ("real --corpus {blank_text} --text-unit blank-line", "The corpus has 0 tokens to count, in 0 documents"),
    ("real --corpus {empty_text} --hook auto", "The corpus has no text to look for the SAE's place on: give more, or name the hook."),
    ("real --corpus {latin_text}", "Corpus {latin_text} is not UTF-8: byte 0xe9 at offset 3. Convert it, for instance with iconv."),
    ("real --corpus {latin_text} --text-unit blank-line", "Corpus {latin_text} is not UTF-8: byte 0xe9 at offset 3."),
    ("real --corpus {utf16_text}", "Corpus {utf16_text} is not UTF-8: byte 0xff at offset 0."),
    ("real --corpus {binary_text}", "Corpus {binary_text} is not UTF-8: byte 0x80 at offset 0."),
    ("real --corpus {broken_line}", "Corpus {broken_line} line 2 is not JSON: Expecting value. Mend or remove the line."),
    ("real --corpus {cut_line}", "Corpus {cut_line} line 2 is not JSON: "),
    ("real --corpus {latin_line}", "Corpus {latin_line} is not UTF-8: byte 0xe9 at offset "),
    ("real --corpus {bracket_line}", "Corpus {bracket_line} line 1 is not JSON: "),
    ("real --corpus {digits_line}", "Corpus {digits_line} line 1 is not JSON: "),
    ("real --corpus {surrogate_line}", "Corpus {surrogate_line} line 1 holds half a surrogate pair, which is no text. Mend or remove it."),
    ("real --corpus {number_line}", "Corpus {number_line} line 2 has no text in field 'text': found int. Name it with text_field."),
    ("real --corpus {null_line}", "Corpus {null_line} line 1 has no text in field 'text': found fields text."),
    ("real --corpus {nested_line}", "Corpus {nested_line} line 1 has no text in field 'text': found fields text."),
    ("real --text-field body", "Corpus {corpus} line 1 has no text in field 'body': found fields text. Name it with text_field."),
    ("real --corpus {broken_list}", "Corpus {broken_list} is not JSON: "),
    ("real --corpus {lines_as_list}", "A file of one object a line is .jsonl."),
    ("real --corpus {object_file}", "Corpus {object_file} holds a JSON dict: expected a list of texts or objects."),
    ("real --corpus {word_file}", "Corpus {word_file} holds a JSON str: expected a list of texts or objects."),
    ("real --corpus {latin_list}", "Corpus {latin_list} is not UTF-8: byte 0xe9 at offset 5."),
    ("real --corpus {list_of_numbers}", "Corpus {list_of_numbers} item 1 has no text in field 'text': found int."),
    *(
        (f"real --corpus {{{name}}}", f"Corpus {{{name}}} is not a readable parquet file: ")
        for name in ("text_as_parquet", "empty_parquet", "cut_parquet")
    ),
    ("real --corpus {image_as_parquet}", "Corpus {image_as_parquet} cannot be read: Couldn't deserialize thrift"),
    ("real --corpus {parquet_damaged_inside}", "Corpus {parquet_damaged_inside} cannot be read: Couldn't deserialize thrift"),
    ("real --corpus {parquet_of_numbers}", "Corpus {parquet_of_numbers} row 1 has no text in field 'text': found int."),
    ("real --corpus {parquet_without_text}", "Corpus {parquet_without_text} has no column 'text': found body. Name it with text_field."),
    ("real --corpus {parquet_with_a_hole}", "Corpus {parquet_with_a_hole} row 2 has no text in field 'text': found NoneType."),
    ("synthetic --corpus {tmp}/no.txt", "Corpus {tmp}/no.txt does not exist: give a"),
    ("synthetic --corpus {empty_text}", "The corpus has 0 tokens to count, in 1 document: statistics need at least 16. Give more text."),
    ("compare --corpus {broken_line}", "Corpus {broken_line} line 2 is not JSON: "),
    ("inspect --corpus {latin_text}", "Corpus {latin_text} is not UTF-8: byte 0xe9 at offset 3."),
    ("inspect --corpus {empty_text} --model {model}", "The corpus has no text to look for the SAE's place on"),
    # Results.
    ("redraw {tmp}/no.json", "Result {tmp}/no.json cannot be read: No such file or directory. Give a real.json, synthetic.json or comparison.json."),
    ("redraw {tmp}", "Result {tmp} cannot be read: Is a directory. Give a real.json, synthetic.json or comparison.json."),
    ("redraw {result_pipe}", "Result {result_pipe} is no regular file: give a real.json, synthetic.json or comparison.json."),
    ("real --config {tmp}/no.json", "Result {tmp}/no.json cannot be read: No such file or directory. Give a result of real."),
    ("real --config {tmp}", "Result {tmp} cannot be read: Is a directory. Give a result of real."),
    ("real --config", "argument --config: expected one argument"),
    ("compare --config {cut_result}", "is not JSON: it is damaged or cut short. Run the analysis again."),
    ("synthetic --config {asked_by_hand}", "was made by dreaming, and synthetic cannot repeat it"),
    ("real --config {asked_by_nobody}", "was made from Python, or by an earlier version, and real cannot repeat it"),
    ("real --config {asked_of_lists}", "provenance.asked"),
    ("real --config {asked_too_much}", "unrecognized arguments: --wings=2"),
    ("real --config {asked_for_nonsense}", "argument --seq-len: expected a whole number from 1, got 'many'"),
    ("real --verbose --quiet", "argument --quiet: not allowed with argument --verbose"),
    ("--print-completion fish", "argument --print-completion: invalid choice: 'fish'"),
    *(
        (f"redraw {{{name}}}", f"Result {{{name}}} is not JSON: it is damaged or cut short. Run the analysis again.")
        for name in ("empty_result", "cut_result", "binary_result", "deep_result", "page_as_result", "nan_density", "infinite_maximum")
    ),
    ("redraw {no_result}", "Result {no_result} has schema version None: this version reads 1. Run the analysis again."),
    ("redraw {list_as_result}", "has schema version None"),
    ("redraw {null_as_result}", "has schema version None"),
    ("redraw {future_result}", "Result {future_result} has schema version 2: this version reads 1."),
    ("redraw {result_of_words}", "has schema version 'one': this version reads 1."),
    *(
        (f"redraw {{{name}}}", f"Result {{{name}}} lacks what it should hold ({says}")
        for name, says in {
            "without_provenance": "provenance is missing)",
            "without_features": "features is missing)",
            "features_of_words": "features is '0-9': expected a list)",
            "features_of_numbers": "features[0] is 1: expected an object)",
            "unknown_field": "it has the unknown field 'extra')",
            "model_is_a_number": "provenance.model is 3: expected text)",
            "options_of_lists": "provenance.options.k is [1]: expected a number, text, true or false)",
            "density_of_words": "features[0].density is 'often': expected a number)",
            "density_of_nothing": "features[0].density is None: expected a number)",
            "true_count": "features[0].active_count is True: expected a whole number)",
            "half_count": "features[0].active_count is 0.5: expected a whole number)",
            "endless_count": "features[0].active_count is 1",
            "without_histogram": "features[0].histogram is missing)",
            "edges_too_few": "features[0].histogram does not fit together: ",
            "edges_turned": "features[0].histogram does not fit together: edges ascend",
            "counts_below_nothing": "features[0].histogram does not fit together: edges ascend and counts are not below zero)",
            "triple": "features[0].top_boosted_tokens[0] is [' the', 1.0, 2]: expected a list of 2)",
            "tokens_turned": "features[0].top_boosted_tokens[0] is 1.0: expected text)",
            "peak_outside": "features[0].examples[0] does not fit together: ",
            "peak_below_nothing": "features[0].examples[0] does not fit together: ",
            "activations_too_few": "features[0].examples[0] does not fit together: ",
            "tokens_of_numbers": "features[0].examples[0].tokens[0] is 1: expected text)",
            "text_as_tokens": "features[0].examples[0].tokens is '",
            "verdict_of_numbers": "features[0].verdict is 3: expected text)",
            "likeness_of_nothing": "features[0].likeness is None: expected an object)",
            "reasons_of_words": "features[0].reasons is 'because': expected a list)",
        }.items()
    ),
    ("redraw {unknown_analysis}", "(provenance does not fit together: an analysis of the kind 'dream')"),
    ("redraw {real} --features 0,5", "Feature 5 is not in result {real}, which describes 2 features (0 to 1): give some of these."),
    ("redraw {real} --features top:1", "features top:1 cannot be redrawn: give numbers, such as 0,5,10-20."),
    ("redraw {real} --features x", "features 'x' cannot be read at 'x'"),
    ("redraw {real} {tmp}/no.json", "Result {tmp}/no.json cannot be read: No such file or directory. Give a real.json, synthetic.json or comparison.json."),
    ("redraw {comparison_alone}", "real.json cannot be read: No such file or directory. Give the real.json that comparison.json was made of beside it."),
    (
        "redraw {comparison_of_strangers}",
        "which the real.json and synthetic.json beside it do not both describe: put those beside it that it was made of.",
    ),
    ("redraw {comparison_beside_damage}", "real.json is not JSON: it is damaged or cut short. Run the analysis again."),
    ("export {tmp}/no.json --to parquet", "Result {tmp}/no.json cannot be read: No such file or directory."),
    ("export {cut_result} --to neuronpedia", "Result {cut_result} is not JSON: it is damaged or cut short."),
    ("export {density_of_words} --to circuit-tracer", "features[0].density is 'often': expected a number"),
    (
        "export {comparison} --to neuronpedia",
        "A comparison cannot be exported to neuronpedia: give a real.json or synthetic.json, or parquet.",
    ),
    ("export {real} --to parquet --sae-name ''", "argument --sae-name: expected a path or a name, got nothing"),
    ("export {real} --to parquet --model-name ' '", "argument --model-name: expected a path or a name, got nothing"),
    ("export '' --to parquet", "argument FILE: expected a path or a name, got nothing"),
    ("export {real} {synthetic} --to parquet", "unrecognized arguments: {synthetic}"),
    ("export {no_result} --to parquet", "Result {no_result} has schema version None: this version reads 1. Run the analysis again."),
    ("export {future_result} --to neuronpedia", "Result {future_result} has schema version 2: this version reads 1."),
    ("export {result_pipe} --to parquet", "Result {result_pipe} is no regular file: give a real.json, synthetic.json or comparison.json."),
    ("export {corpus} --to parquet", "Result {corpus} is not JSON: it is damaged or cut short. Run the analysis again."),
    ("export {sae} --to parquet", "Result {sae} cannot be read: Is a directory. Give a real.json, synthetic.json or comparison.json."),
    ("export {comparison} --to circuit-tracer", "A comparison cannot be exported to circuit-tracer: give"),
    ("synthetic --real {tmp}/no.json", "Result {tmp}/no.json cannot be read: No such file or directory. Give a real.json."),
    ("synthetic --real {cut_result}", "Result {cut_result} is not JSON: it is damaged or cut short. Run the analysis again."),
    ("synthetic --real {comparison}", "Result {comparison} is a comparison: give the real.json or synthetic.json that it was made of."),
    ("synthetic --real {synthetic}", "A result of 'synthetic' was given as real text to begin with: give a real.json, or drop --real."),
    ("synthetic --real {other_model}", "The real result is of another model: it was made with gpt2 (hash 000000000000), and the search is to run on {model} (hash "),
    ("synthetic --real {other_sae}", "The real result is of another SAE: it was made with "),
    (
        "synthetic --real {real} --hook blocks.0.hook_resid_post",
        "The real result is of another hook: it was made with blocks.1.hook_resid_post, and the search is to run on "
        "blocks.0.hook_resid_post. Give a real.json of the same model, SAE and hook, or drop --real.",
    ),
    (
        "synthetic --real {tokens_of_another_vocabulary}",
        "The real result has token 1000000, and {model} has tokens 0 to 319: it is damaged. Run the analysis again.",
    ),
    ("compare --real {comparison} --synthetic {synthetic}", "Result {comparison} is a comparison: give the real.json"),
    ("compare --real {synthetic} --synthetic {real}", "A result of 'synthetic' was given as the real one: give a real.json."),
    ("compare --real {real} --synthetic {real}", "A result of 'real' was given as the synthetic one: give a synthetic.json."),
    ("compare --real {real} --synthetic {cut_result}", "Result {cut_result} is not JSON"),
    ("compare --real {real} --synthetic {synthetic} {tmp}/no.json", "Result {tmp}/no.json cannot be read"),
    ("compare --real {other_model} --synthetic {synthetic}", "The two results do not belong together: model is 0000"),
    ("compare --real {other_sae} --synthetic {synthetic}", "The two results do not belong together: sae is 0000"),
    ("compare --real {other_hook} --synthetic {synthetic}", "The two results do not belong together: hook is blocks.0.hook_resid_post in the real one"),
    ("compare --real {real} --synthetic {other_features}", "they have none in common. Give results of the same features."),
    ("compare --real {no_features} --synthetic {synthetic}", "The real result describes no features"),
    ("compare --real {other_model}", "The real result is of another model: it was made with gpt2"),
    ("compare --synthetic {search_of_another}", "The synthetic result is of another SAE: it was made with "),
    ("compare --synthetic {real}", "A result of 'real' was given as a search: give a synthetic.json, or drop --synthetic."),
    # Outputs.
    *(
        (f"{command} --output {{mine}}", "Output folder {mine} cannot be written to: File exists. Choose another folder.")
        for command in ("real", "synthetic", "compare", "redraw {real}", "export {real} --to parquet")
    ),
    ("real --output {mine}/below", "Output folder {mine}/below cannot be written to: Not a directory. Choose another folder."),
    ("real --output {output_pipe}", "Output folder {output_pipe} cannot be written to: File exists."),
    ("real --output /dev/null/out", "Output folder /dev/null/out cannot be written to: Not a directory."),
    ("real --output /proc/out", "Output folder /proc/out cannot be written to: "),
    (f"real --output {{tmp}}/{'x' * 300}", "cannot be written to: File name too long. Choose another folder."),
    ("export {real} --to parquet --output /sys/out", "Output folder /sys/out cannot be written to: "),
]  # fmt: skip


# --- how each is given ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def there(tmp_path_factory, model_folder, fitting_sae_folder):
    """Model, SAE, text, and the results of a run on them, which is the earlier run that nothing may harm."""
    root = tmp_path_factory.mktemp("there")
    corpus = root / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": " ".join(TEXTS[i % 5 :] + TEXTS[: i % 3])}) for i in range(24)))
    given = {"model": model_folder, "sae": fitting_sae_folder, "corpus": corpus}
    run = "compare --features 0,1 --seq-len 4 --budget 600 --n-steps 2 --batch-size 2 --no-figures"
    subject = [part for name, path in given.items() for part in (f"--{name}", str(path))]
    assert main([*shlex.split(run), *subject, "--output", str(root / "earlier")]) == 0
    (root / "earlier" / "feature_0_real.png").write_bytes(b"a picture")
    return given | {name: root / "earlier" / f"{name}.json" for name in ("real", "synthetic", "comparison")}


DEFAULTS = {
    "real": "--model {model} --sae {sae} --corpus {corpus} --features 0-1 --seq-len 32 --no-figures --output {earlier}",
    "synthetic": "--model {model} --sae {sae} --features 0-1 --seq-len 4 --budget 600 --n-steps 2 --no-figures "
    "--output {earlier}",
    "compare": "--model {model} --sae {sae} --corpus {corpus} --seq-len 4 --budget 600 --n-steps 2 --no-figures "
    "--output {earlier}",
    "merge": "--output {earlier} --no-figures",
    "redraw": "--output {earlier}",
    "export": "--output {earlier}",
    "inspect": "--sae {sae}",
}
"""What a command gives where its row gives nothing; of what is given twice, the last counts."""


@pytest.fixture
def given(there, tmp_path):
    """Return the arguments of a row, with its files made, and what its message must say."""

    def arguments(command, says):
        mode, *rest = shlex.split(command) or [""]
        paths = {"tmp": tmp_path, "earlier": tmp_path / "earlier", "locked": tmp_path / "locked"} | there
        for name in FILES:
            if f"{{{name}}}" in command:
                (folder := tmp_path / name).mkdir()
                paths[name] = FILES[name](folder, there)
        words = [mode, *DEFAULTS.get(mode, "").split(), *rest] if mode else []
        return [word.format_map(paths) for word in words], says.format_map(paths)

    shutil.copytree(there["real"].parent, tmp_path / "earlier")
    return arguments


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def check_refused(code, out, err, says):
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert len(err) < 1500
    assert says in err


@pytest.mark.parametrize(("command", "says"), CATALOGUE, ids=[row[0][:80] for row in CATALOGUE])
def test_a_mistake_is_one_line_and_harms_nothing(*, given, tmp_path, capfd, recwarn, command, says):
    arguments, message = given(command, says)
    before = contents(tmp_path / "earlier")
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    printed = capfd.readouterr()
    check_refused(code, printed.out, printed.err, message)
    shown = [str(one.message) for one in recwarn if not issubclass(one.category, DeprecationWarning)]
    assert shown == [], "these would be lines too"
    assert contents(tmp_path / "earlier") == before


LOCKED = [
    ("real --corpus {locked}/a.txt", "Corpus {locked}/a.txt cannot be read: Permission denied. Check the file."),
    ("real --corpus {locked}", "Corpus {locked} cannot be read: Permission denied. Check the file."),
    ("real --sae {locked}/ae.pt", "SAE {locked}/ae.pt cannot be read: Permission denied. Check the file."),
    ("real --model {locked}/model", "Model {locked}/model cannot be read: Permission denied. Check the folder."),
    (
        "redraw {locked}/real.json",
        "Result {locked}/real.json cannot be read: Permission denied. Give a real.json, synthetic.json or comparison.json.",
    ),
    ("synthetic --real {locked}/real.json", "Result {locked}/real.json cannot be read: Permission denied."),
    ("real --output {locked}/out", "Output folder {locked}/out cannot be written to: Permission denied."),
]


@pytest.mark.parametrize(("command", "says"), LOCKED)
def test_what_may_not_be_looked_at_is_one_line(*, given, tmp_path, capfd, monkeypatch, command, says):
    """As for someone who is not the administrator, who may look at everything."""
    locked = str(tmp_path / "locked")
    arguments, message = given(command, says)

    def refusing(call):
        def refuse(path, *rest, **options):
            if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(locked):
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return call(path, *rest, **options)

        return refuse

    for call in ("stat", "mkdir", "scandir", "listdir"):
        monkeypatch.setattr(os, call, refusing(getattr(os, call)))
    code = main(arguments)
    printed = capfd.readouterr()
    check_refused(code, printed.out, printed.err, message)


def test_the_catalogue_is_one():
    assert len({command for command, _ in CATALOGUE}) == len(CATALOGUE) > 150
    used = " ".join(command for command, _ in CATALOGUE)
    assert [name for name in FILES if f"{{{name}}}" not in used] == []
    assert not Path("/tmp/executed-by-a-checkpoint").exists()
    assert not Path("/tmp/executed-by-a-model").exists()


AS_TYPED = [
    ("real --corpus {latin_text}", "is not UTF-8: byte 0xe9 at offset 3."),
    ("real --model {lacking_weights}", "lacks 1 of its parameters (first: lm_head.weight)"),
    ("real --model {own_code}", "cannot be loaded: "),
    ("real --sae {code_in_a_zip}", "is not a plain file of tensors"),
    ("synthetic --learning-rate 1e300", "expected a number above 0"),
    ("redraw {peak_outside}", "does not fit together"),
]
"""Rows in a process of their own, where the libraries' warnings would show."""


@pytest.mark.parametrize(("command", "says"), AS_TYPED)
def test_a_mistake_as_typed_is_one_line(given, tmp_path, command, says):
    arguments, message = given(command, says)
    before = contents(tmp_path / "earlier")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "main.py", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip
    check_refused(found.returncode, found.stdout, found.stderr, message)
    assert contents(tmp_path / "earlier") == before
