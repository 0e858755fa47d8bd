"""Bad folders of models, and what a command says of each."""

import json
import os
import shutil

import torch
from checkpoint_factory import Call
from conftest import D_MODEL, LAYERS
from file_makers import into
from safetensors.torch import load_file, save_file


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


FILES = {
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
maker = into(FILES)


@maker
def sae_as_model(folder, there):
    return there["sae"]


@maker
def text_as_model(folder, there):
    return there["corpus"]


ROWS = [
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
    ("inspect --model {tmp}/none", "Model folder {tmp}/none does not exist: give the folder"),
    ("inspect --model {broken_config}", "Model folder {broken_config} cannot be loaded: "),
]  # fmt: skip
