"""Measure the shipped SAE on documents it was never trained on, and print the model card's table.

    python demo/evaluate_sae.py --model MODEL --sotu SPEECHES --factbook PROFILES

Folders as in train_sae.py. Everything runs in float32 on the weights as they are in the file, so the numbers
are those of what ships. Reconstruction is measured on every held-out token; loss, which needs the whole model
four times, on every ``--loss-every``-th window, spread over all held-out documents.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from texts import factbook_documents, sotu_documents, split, windows
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

LAYER = 9
BATCH = 16
PADDING = -100
"""Marks positions past the end of a window; also the label that cross-entropy ignores."""


Replacement = Callable[[Tensor], Tensor]
"""What is spliced in: residuals ``[batch, seq, width]`` to residuals of the same shape."""


def unchanged(residual: Tensor) -> Tensor:
    """The replacement that leaves the model as it is."""
    return residual


class ShippedSAE:
    """``f = topk(relu(W (x - b_dec) + b))``, ``xhat = decoder(f) + b_dec``, read from ae.pt into float32."""

    def __init__(self, path: Path) -> None:
        """Read the state dict at ``path``."""
        state = torch.load(path, weights_only=True)
        self.k = int(state["k"])
        self.enc, self.b_enc = state["encoder.weight"].float(), state["encoder.bias"].float()
        self.dec, self.b_dec = state["decoder.weight"].float(), state["b_dec"].float()

    def latents(self, x: Tensor) -> Tensor:
        """Activations ``[..., dict_size]``, at most k of them above zero."""
        pre = F.linear(x - self.b_dec, self.enc, self.b_enc).relu()
        values, indices = pre.topk(self.k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, indices, values)

    def decode(self, latents: Tensor) -> Tensor:
        """Reconstruction ``[..., activation_dim]``."""
        return F.linear(latents, self.dec) + self.b_dec


class Variance:
    """Explained variance over a stream of tokens: ``1 - sum |x - xhat|^2 / sum |x - mean|^2``."""

    def __init__(self, width: int) -> None:
        """Start empty; sums are float64, since a variance is a small difference of large ones."""
        self.count, self.squares, self.errors = 0, 0.0, 0.0
        self.total = torch.zeros(width, dtype=torch.float64)

    def update(self, x: Tensor, reconstruction: Tensor) -> None:
        """Add tokens ``[tokens, width]``."""
        self.count += len(x)
        self.total += x.double().sum(0)
        self.squares += x.double().square().sum().item()
        self.errors += (x - reconstruction).double().square().sum().item()

    @property
    def mean(self) -> Tensor:
        """Mean of the tokens seen so far."""
        return (self.total / self.count).float()

    @property
    def explained(self) -> float:
        """One for a perfect reconstruction, zero for one no better than the mean."""
        return 1 - self.errors / (self.squares - self.total.square().sum().item() / self.count)


@dataclass(kw_only=True)
class Measured:
    """What the table says of one source."""

    documents: int
    variance: Variance
    later_variance: Variance
    firings: Tensor
    cosine: float
    loss_tokens: int
    losses: dict[str, float]

    def recovered(self, ablation: str) -> float:
        """Share of the loss that ``ablation`` costs which the reconstruction gives back."""
        ablated = self.losses[ablation]
        return (ablated - self.losses["sae"]) / (ablated - self.losses["clean"])


def batches(all_windows: list[list[int]]) -> Iterator[Tensor]:
    """Token ids ``[batch, seq]``, padded on the right: attention is causal, nothing before changes."""
    for at in range(0, len(all_windows), BATCH):
        rows = [torch.tensor(window) for window in all_windows[at : at + BATCH]]
        yield nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING)


class SplicedModel:
    """The language model with one place to read or replace the residual after decoder layer ``LAYER``."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Hook the layer of ``model``; ``replacement`` is applied to the residual in every forward pass."""
        self.model = model
        self.residual = torch.empty(0)
        self.replacement: Replacement = unchanged
        model.model.layers[LAYER].register_forward_hook(self._on_output)

    def _on_output(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        self.residual = output
        return self.replacement(output)

    def residuals(self, ids: Tensor) -> Tensor:
        """Residuals ``[batch, seq, width]``; the layers above are not run."""
        core, every_layer = self.model.model, self.model.model.layers
        core.layers = every_layer[: LAYER + 1]
        try:
            core(ids.clamp(min=0), use_cache=False)
        finally:
            core.layers = every_layer
        return self.residual

    def loss(self, ids: Tensor, replacement: Replacement) -> float:
        """Summed cross-entropy of every next token inside the windows, with ``replacement`` spliced in."""
        self.replacement = replacement
        logits = self.model(ids.clamp(min=0), use_cache=False).logits[:, :-1]
        self.replacement = unchanged
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PADDING, reduction="sum").item()


def measure(
    model: SplicedModel, sae: ShippedSAE, held_out: list[list[int]], documents: int, loss_every: int
) -> Measured:
    """All numbers of one source from its windows ``held_out``."""
    width, dict_size = sae.dec.shape
    variance, later_variance = Variance(width), Variance(width)
    firings, cosine = torch.zeros(dict_size, dtype=torch.long), 0.0
    for ids in batches(held_out):
        residual, keep = model.residuals(ids), ids >= 0
        x = residual[keep]
        latents = sae.latents(x)
        reconstruction = sae.decode(latents)
        first = torch.zeros_like(keep)
        first[:, 0] = True
        later = ~first[keep]
        variance.update(x, reconstruction)
        later_variance.update(x[later], reconstruction[later])
        firings += (latents > 0).sum(0)
        cosine += F.cosine_similarity(x, reconstruction, dim=-1).sum().item()
    losses, loss_tokens = spliced_losses(model, sae, variance.mean, held_out[::loss_every])
    return Measured(
        documents=documents,
        variance=variance,
        later_variance=later_variance,
        firings=firings,
        cosine=cosine / variance.count,
        loss_tokens=loss_tokens,
        losses=losses,
    )


def spliced_losses(
    model: SplicedModel, sae: ShippedSAE, mean: Tensor, held_out: list[list[int]]
) -> tuple[dict[str, float], int]:
    """Mean cross-entropy for each replacement of the residual at all positions, and the tokens predicted."""
    replacements: dict[str, Replacement] = {
        "clean": unchanged,
        "sae": lambda residual: sae.decode(sae.latents(residual)),
        "mean": mean.expand_as,
        "zero": torch.zeros_like,
    }
    predicted = sum(len(window) - 1 for window in held_out)
    sums = dict.fromkeys(replacements, 0.0)
    for ids in batches(held_out):
        for name, replacement in replacements.items():
            sums[name] += model.loss(ids, replacement)
    return {name: total / predicted for name, total in sums.items()}, predicted


def table(measured: dict[str, Measured]) -> str:
    """The card's Markdown table, one column a source."""
    columns = measured.values()
    rows = {
        "held-out documents": [f"{m.documents}" for m in columns],
        "tokens": [f"{m.variance.count:,}" for m in columns],
        "explained variance": [f"{m.variance.explained:.4f}" for m in columns],
        "explained variance without each window's first token": [f"{m.later_variance.explained:.4f}" for m in columns],
        "cosine of residual and reconstruction": [f"{m.cosine:.4f}" for m in columns],
        "L0 (latents above zero per token)": [f"{m.firings.sum().item() / m.variance.count:.2f}" for m in columns],
        "latents alive (fired at least once)": [f"{(m.firings > 0).float().mean().item():.2%}" for m in columns],
        "loss recovered, against zero-ablation": [f"{m.recovered('zero'):.4f}" for m in columns],
        "loss recovered, against mean-ablation": [f"{m.recovered('mean'):.4f}" for m in columns],
        "cross-entropy clean / spliced / mean / zero (nats)": [
            " / ".join(f"{m.losses[name]:.3f}" for name in ("clean", "sae", "mean", "zero")) for m in columns
        ],
        "tokens predicted for the loss": [f"{m.loss_tokens:,}" for m in columns],
    }
    lines = [
        ["", *measured],
        ["---", *("---:" for _ in measured)],
        *([name, *cells] for name, cells in rows.items()),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parse_args() -> argparse.Namespace:
    """Folders to read, and how much of the loss to measure."""
    parser = argparse.ArgumentParser(description="Measure the demo SAE on held-out documents.")
    for name in ("model", "sotu", "factbook"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"folder of the {name} files")
    parser.add_argument("--sae", type=Path, default=Path(__file__).parent / "sae", help="folder with ae.pt")
    parser.add_argument("--loss-every", type=int, default=8, help="measure the loss on every n-th window")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    """Measure both sources and print the table."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = SplicedModel(AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval())
    sae = ShippedSAE(args.sae / "ae.pt")
    measured = {}
    for name, documents in (
        ("sotu", sotu_documents(args.sotu)),
        ("factbook", factbook_documents(args.factbook)),
    ):
        texts = split(documents)[1]
        measured[name] = measure(model, sae, windows(tokenizer, texts), len(texts), args.loss_every)
    print(table(measured))
    fired = torch.stack([m.firings for m in measured.values()]).sum(0)
    print(f"\nLatents alive on all held-out tokens together: {(fired > 0).float().mean().item():.2%}")


if __name__ == "__main__":
    main()
