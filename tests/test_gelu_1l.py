"""``gelu-1l`` by name, from a hub cache with the true files and random weights, with a VSAETopK file beside it.

The published model has a vocabulary of 48,262; the weights here are as wide and have the tokenizer's few tokens.
Runs with TransformerLens 3.9 (HookedTransformer) and 4.x (TransformerBridge) alike.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_tokenizer
from hub_cache import REVISION, cached

pytest.importorskip("transformer_lens")

from sae_analysis import main as command_line
from sae_analysis.artifacts import read_result

ROOT = Path(command_line.__file__).resolve().parents[2]
D_MODEL, D_MLP, HEADS, D_HEAD, CONTEXT, VOCAB = 512, 2048, 8, 64, 1024, 320
RANK = 96


def random_weights():
    draw = torch.Generator().manual_seed(0)

    def normal(*shape, scale=0.05):
        return scale * torch.randn(*shape, generator=draw)

    heads = {f"blocks.0.attn.W_{part}": normal(HEADS, D_MODEL, D_HEAD) for part in "QKV"}
    biases = {f"blocks.0.attn.b_{part}": normal(HEADS, D_HEAD) for part in "QKV"}
    return heads | biases | {
        "embed.W_E": normal(VOCAB, D_MODEL, scale=0.5),
        "pos_embed.W_pos": normal(CONTEXT, D_MODEL),
        "blocks.0.ln1.w": 1 + normal(D_MODEL),
        "blocks.0.ln1.b": normal(D_MODEL),
        "blocks.0.attn.W_O": normal(HEADS, D_HEAD, D_MODEL),
        "blocks.0.attn.b_O": normal(D_MODEL),
        "blocks.0.ln2.w": 1 + normal(D_MODEL),
        "blocks.0.ln2.b": normal(D_MODEL),
        "blocks.0.mlp.W_in": normal(D_MODEL, D_MLP),
        "blocks.0.mlp.b_in": normal(D_MLP),
        "blocks.0.mlp.W_out": normal(D_MLP, D_MODEL),
        "blocks.0.mlp.b_out": normal(D_MODEL),
        "ln_final.w": 1 + normal(D_MODEL),
        "ln_final.b": normal(D_MODEL),
        "unembed.W_U": normal(D_MODEL, VOCAB),
        "unembed.b_U": torch.zeros(VOCAB),
    }  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub cache that holds the model and its tokenizer."""
    home = tmp_path_factory.mktemp("hub")
    model = cached(home / "hub", "NeelNanda/GELU_1L512W_C4_Code")
    torch.save(random_weights(), model / "model_final.pth")
    settings = {"d_model": D_MODEL, "n_layers": 1, "d_mlp": D_MLP, "d_head": D_HEAD, "n_heads": HEADS, "n_ctx": CONTEXT}
    settings |= {"d_vocab": VOCAB, "act_fn": "gelu", "attn_only": False, "normalization": "LN"}
    settings |= {"tokenizer_name": "NeelNanda/gpt-neox-tokenizer-digits"}
    (model / "config.json").write_text(json.dumps(settings))
    tokenizer = cached(home / "hub", "NeelNanda/gpt-neox-tokenizer-digits")
    make_tokenizer(tokenizer, adds_bos=False)
    # The client notes that this repository has no configuration, once it has asked.
    (absent := tokenizer.parents[1] / ".no_exist" / REVISION).mkdir(parents=True)
    (absent / "config.json").touch()
    return home


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python with that cache and no network."""
    offline = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment | offline, capture_output=True, text=True, check=False
    )


COLLECT = """
import sys, torch
from sae_analysis.language_model import load_model
model = load_model("gelu-1l", device="cpu")
ids = torch.randint(3, 320, (40, 64), generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    torch.save(model.activations(ids, "blocks.0.hook_resid_post")[:, 1:].flatten(0, 1).clone(), sys.argv[1])
"""


@pytest.fixture(scope="module")
def sae_file(hub, tmp_path_factory):
    """A VSAETopK whose features are the model's main directions at its last residual stream, and their opposites."""
    folder = tmp_path_factory.mktemp("vsae")
    done = run(hub, "-c", COLLECT, str(folder / "x.pt"))
    assert done.returncode == 0, done.stderr
    x = torch.load(folder / "x.pt", weights_only=True)
    directions = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:RANK]
    both = torch.cat((directions, -directions))
    torch.save(
        {
            "encoder.weight": both,
            "encoder.bias": -both @ x.mean(0),
            "decoder.weight": both.T.contiguous(),
            "decoder.bias": x.mean(0),
            "k": torch.tensor(RANK, dtype=torch.int32),
        },
        folder / "sae.pt",
    )
    return folder / "sae.pt"


def test_the_command_of_the_brief_finds_the_hook_by_itself(hub, sae_file, tmp_path):
    corpus = tmp_path / "data.txt"
    corpus.write_text("The old ship left the harbour at dawn, and the crew sang of the sea. " * 40)
    arguments = ("real", "--model", "gelu-1l", "--sae", str(sae_file), "--features", "0,1,2,3,4")
    done = run(hub, "main.py", *arguments, "--corpus", str(corpus), "--output", str(tmp_path / "out"), "--no-figures")
    assert done.returncode == 0, done.stderr
    result = read_result(tmp_path / "out" / "real.json")
    run_of = result.provenance
    assert run_of.hook == "blocks.0.hook_resid_post"
    assert run_of.hook_reason.startswith("found by search: explained variance 0.")
    assert (run_of.sae_format.split(" (")[0], run_of.activation_rule) == ("VSAETopK", f"TopK(k={RANK})")
    assert {score.reading for score in run_of.hook_search} == {"relu", "signed"}, "what the file leaves open"
    assert "blocks.0.hook_resid_post, relu" in done.stderr, "the table is printed"
    assert run_of.bos == "prepended, not counted (TransformerLens' default for it is on)"
    assert [feature.feature_idx for feature in result.features] == [0, 1, 2, 3, 4]
    assert all(feature.active_count > 0 for feature in result.features)


def test_inspect_says_where_it_belongs(hub, sae_file):
    done = run(hub, "main.py", "inspect", "--sae", str(sae_file), "--model", "gelu-1l", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["format"], found["d_in"], found["d_sae"], found["k"]) == ("VSAETopK", D_MODEL, 2 * RANK, RANK)
    assert found["place"]["winner"]["hook"] == "blocks.0.hook_resid_post"
    assert found["place"]["winner"]["reading"] == "relu"


def test_weights_with_code_in_them_are_refused(hub, tmp_path):
    """TransformerLens 3.9 would run what a model's file holds; here it is data whatever the library asks for."""
    import pickle
    import shutil

    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    home = tmp_path / "home"
    shutil.copytree(hub, home)
    [weights] = home.rglob("model_final.pth")
    weights.write_bytes(pickle.dumps({"embed.W_E": Trap()}))
    done = run(home, "main.py", "inspect", "--sae", "demo/sae", "--model", "gelu-1l")
    assert done.returncode == 2
    assert "error: Model 'gelu-1l' (TransformerLens: NeelNanda/GELU_1L512W_C4_Code) could not be loaded" in done.stderr
    assert not (tmp_path / "executed").exists()
