"""Measure the shipped SAE on documents it was never trained on, and print the model card's table.

    python demo/evaluate_sae.py --factbook PROFILES

PROFILES as for train_sae.py; model, SAE and addresses are the demo's own. Everything runs in float32 on the weights as
they are in the file, so the numbers are those of what ships. Reconstruction is measured on every held-out token;
loss, which needs the whole model five times, on every ``--loss-every``-th window, spread over all documents.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from texts import factbook_documents, split

from sae_analysis.accumulators import FitStatistics
from sae_analysis.corpus import Corpus, Document, TokenBatch, TokenStream, Windowing
from sae_analysis.demo import default_corpus, default_model_folder, default_sae_path
from sae_analysis.language_model import load_model
from sae_analysis.machine import prepare
from sae_analysis.reconstruction import Site, SplicedLoss, attach, spliced_loss, update_fit
from sae_analysis.sae_formats import load_sae


@dataclass(frozen=True)
class Measured:
    """What one set of documents says of the SAE."""

    fit: tuple[float, float, float]
    """Explained variance, cosine, L0."""

    later_explained_variance: float
    """Explained variance without the first token of each window."""

    alive: torch.Tensor
    """Latents that fired, ``[d_sae]``."""

    tokens: int
    loss: SplicedLoss


def measure(site: Site, documents: Sequence[Document], loss_every: int) -> Measured:
    """Measure reconstruction on all windows of ``documents`` and loss on every ``loss_every``-th batch of one."""
    everywhere, later = FitStatistics(site.sae.activation_dim), FitStatistics(site.sae.activation_dim)
    alive = torch.zeros(site.sae.dict_size, dtype=torch.bool)
    for batch in batches(site, documents, batch_size=16):
        x = site.model.activations(batch.ids, site.hook)
        keep = torch.from_numpy(batch.windows.keep)
        for statistics, chosen in ((everywhere, keep), (later, keep & (torch.arange(keep.shape[1]) > 0))):
            code = site.sae.encode_sparse(x[chosen])
            update_fit(statistics, x[chosen], site.sae.decode_sparse(code, x[chosen]), code)
            alive[code.feature] = True

    def every_so_often() -> Iterator[TokenBatch]:
        return (batch for number, batch in enumerate(batches(site, documents, 1)) if number % loss_every == 0)

    return Measured(
        everywhere.finish(), later.finish()[0], alive, everywhere.token_count, spliced_loss(site, every_so_often)
    )


def batches(site: Site, documents: Sequence[Document], batch_size: int) -> Iterator[TokenBatch]:
    """Yield the windows of the documents as the SAE was trained on them."""
    return iter(
        TokenStream(documents, site.model.tokens, Windowing(batch_size=batch_size), prepend_bos=site.prepend_bos)
    )


def print_table(columns: dict[str, Measured]) -> None:
    """Print the card's table, one column a set of documents."""
    every_alive = torch.stack([measured.alive for measured in columns.values()]).any(0).float().mean()
    rows = {
        "Tokens": [f"{m.tokens:,}" for m in columns.values()],
        "Explained variance": [f"{m.fit[0]:.4f}" for m in columns.values()],
        "… without the first token of each window": [f"{m.later_explained_variance:.4f}" for m in columns.values()],
        "Cosine": [f"{m.fit[1]:.4f}" for m in columns.values()],
        "L0": [f"{m.fit[2]:.2f}" for m in columns.values()],
        "Latents alive": [f"{m.alive.float().mean():.2%}" for m in columns.values()],
        "Loss, nats per token": [f"{m.loss.clean:.4f}" for m in columns.values()],
        "… with the reconstruction": [f"{m.loss.spliced:.4f}" for m in columns.values()],
        "… with zero": [f"{m.loss.zero:.4f}" for m in columns.values()],
        "… with the mean": [f"{m.loss.mean:.4f}" for m in columns.values()],
        "Loss recovered against zero": [f"{m.loss.recovered_against_zero:.4f}" for m in columns.values()],
        "Loss recovered against the mean": [f"{m.loss.recovered_against_mean:.4f}" for m in columns.values()],
    }
    print(f"| | {' | '.join(columns)} |")
    print(f"|---|{'---:|' * len(columns)}")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\nLatents alive on both together: {every_alive:.2%}")


def main() -> None:
    """Measure both kinds of held-out documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factbook", type=Path, required=True)
    parser.add_argument("--loss-every", type=int, default=8)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    prepare(options.threads)
    site = attach(load_sae(default_sae_path()), load_model(str(default_model_folder()), device="cpu"), None)
    _, profiles = split(factbook_documents(options.factbook))
    held_out = {
        "held-out addresses": list(Corpus(source=default_corpus())),
        "held-out profiles": [Document(name=str(number), text=text) for number, text in enumerate(profiles)],
    }
    with torch.inference_mode():
        print_table({name: measure(site, documents, options.loss_every) for name, documents in held_out.items()})


if __name__ == "__main__":
    main()
