"""What benchmarks/real.py runs on: the shape of gelu-1l with random weights, an SAE and a text, as files.

Everything random is drawn by seed 0, and everybody loads the same files by their own library: the model from a hub
cache by its name, the SAE from SAELens' format, the text by us from words and by the others as the same tokens.
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

D_MODEL, D_MLP, HEADS, D_HEAD, CONTEXT, VOCAB = 512, 2048, 8, 64, 1024, 48_262
HOOK = "blocks.0.hook_resid_post"
K = 32
CONTEXTS, LENGTH = 512, 128
"""Contexts of the text, and their tokens with BOS."""

_REVISION = "0123456789abcdef0123456789abcdef01234567"


def build(folder: Path) -> None:
    """Write model, tokenizer and text below ``folder``, unless they are there."""
    if (folder / "done").exists():
        return
    draw = torch.Generator().manual_seed(0)
    model = _cached(folder / "hub", "NeelNanda/GELU_1L512W_C4_Code")
    torch.save(_model_weights(draw), model / "model_final.pth")
    settings = {"d_model": D_MODEL, "n_layers": 1, "d_mlp": D_MLP, "d_head": D_HEAD, "n_heads": HEADS, "n_ctx": CONTEXT}
    settings |= {"d_vocab": VOCAB, "act_fn": "gelu", "attn_only": False, "normalization": "LN"}
    settings |= {"tokenizer_name": "NeelNanda/gpt-neox-tokenizer-digits"}
    (model / "config.json").write_text(json.dumps(settings))
    tokenizer = _cached(folder / "hub", "NeelNanda/gpt-neox-tokenizer-digits")
    _save_tokenizer(tokenizer)
    (absent := tokenizer.parents[1] / ".no_exist" / _REVISION).mkdir(parents=True)
    (absent / "config.json").touch()
    # Tokens as frequent as words are: the n-th of them comes 1 / n as often as the first (Zipf).
    frequency = 1 / torch.arange(1, VOCAB - 2).double()
    words = 3 + torch.multinomial(frequency, CONTEXTS * (LENGTH - 1), replacement=True, generator=draw)
    words = words.reshape(CONTEXTS, LENGTH - 1)
    with (folder / "text.jsonl").open("w") as lines:
        for row in words.tolist():
            lines.write(json.dumps({"text": " ".join(f"w{word}" for word in row)}) + "\n")
    np.save(folder / "tokens.npy", torch.cat((torch.zeros(CONTEXTS, 1).long(), words), dim=1).numpy())
    (folder / "done").touch()


def sae_folder(folder: Path, rule: str, d_sae: int, k: int = K) -> Path:
    """Return where an SAE is."""
    return folder / (f"{rule}-{d_sae}" if k == K else f"{rule}-{d_sae}-k{k}")


def build_sae(folder: Path, rule: str, d_sae: int, x: torch.Tensor, k: int = K) -> Path:
    """Write an SAE of random directions for activations like ``x [tokens, d_model]``; return its folder.

    JumpReLU has one threshold, by which as many features fire on average as TopK keeps.
    """
    path = sae_folder(folder, rule, d_sae, k)
    if (path / "cfg.json").exists():
        return path
    path.mkdir(exist_ok=True)
    draw = torch.Generator().manual_seed(d_sae)
    directions = torch.nn.functional.normalize(torch.randn(D_MODEL, d_sae, generator=draw), dim=0)
    weights = {"W_enc": directions, "W_dec": directions.T.contiguous(), "b_dec": x.mean(0), "b_enc": torch.zeros(d_sae)}
    config = {"architecture": rule, "d_in": D_MODEL, "d_sae": d_sae, "dtype": "float32", "device": "cpu"}
    config |= {"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"}
    config["metadata"] = {"model_name": "gelu-1l", "hook_name": HOOK, "prepend_bos": True, "context_size": LENGTH}
    if rule == "topk":
        config |= {"k": k, "rescale_acts_by_decoder_norm": True}  # without it SAEDashboard refuses TopK
    else:
        pre_activation = ((x - x.mean(0)) @ directions).flatten()
        highest = pre_activation.topk(k * len(x)).values[-1]
        weights["threshold"] = torch.full((d_sae,), float(highest))
    save_file(weights, path / "sae_weights.safetensors")
    (path / "cfg.json").write_text(json.dumps(config))
    return path


def _cached(cache: Path, repository: str) -> Path:
    """Return the folder of a repository's only snapshot, as the hub's client lays it out."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(_REVISION)
    (snapshot := folder / "snapshots" / _REVISION).mkdir(parents=True, exist_ok=True)
    return snapshot


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<bos>", "<eos>", "<pad>", *(f"w{number}" for number in range(3, VOCAB))]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    # The name that every version of transformers knows.
    said = json.loads((folder / "tokenizer_config.json").read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


def _model_weights(draw: torch.Generator) -> dict[str, torch.Tensor]:
    def normal(*shape: int, scale: float = 0.05) -> torch.Tensor:
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
