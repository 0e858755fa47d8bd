"""How well an SAE fits the place it is read at: what it explains there, and what the model loses by it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae_analysis.accumulators import FitStatistics
from sae_analysis.corpus import TokenBatch
from sae_analysis.errors import FitError
from sae_analysis.reconstruction.site import Site
from sae_analysis.sae_interface import SparseCode


def update_fit(
    fit: FitStatistics,
    target: Float[Tensor, "tokens d_out"],
    reconstruction: Float[Tensor, "tokens d_out"],
    code: SparseCode,
) -> None:
    """Add a batch of kept tokens to the statistics of explained variance, cosine and L0.

    Source: as ``FitStatistics``: Gao et al. 2024, "Scaling and evaluating sparse autoencoders".
    """
    error = (target - reconstruction).double()
    cosine = torch.nn.functional.cosine_similarity(target, reconstruction, dim=-1)
    fit.update(
        tokens=len(target),
        active=len(code.value),
        input_sum=target.double().sum(0).cpu().numpy(),
        squared_input=float(target.double().square().sum()),
        squared_error=float(error.square().sum()),
        cosine=float(cosine.double().sum()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SplicedLoss:
    """Next-token cross-entropy (nats per token) with the activations at a hook replaced."""

    clean: float
    """Nats per token with nothing replaced."""

    spliced: float
    """Nats per token with the SAE's reconstruction instead."""

    zero: float
    """Nats per token with zeros instead."""

    mean: float
    """Nats per token with their mean over kept tokens instead."""

    tokens: int
    """Predictions averaged over."""

    @property
    def recovered_against_zero(self) -> float:
        """Share of the loss added by zeroing that the reconstruction avoids; 1 is lossless.

        Source: loss recovered of Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse
        autoencoders"; ``frac_recovered`` of saprmarks/dictionary_learning.
        """
        return (self.zero - self.spliced) / (self.zero - self.clean)

    @property
    def recovered_against_mean(self) -> float:
        """Share of the loss added by mean-ablation that the reconstruction avoids; 1 is lossless.

        Source: the mean-ablation of Wang et al. 2022, "Interpretability in the wild".
        """
        return (self.mean - self.spliced) / (self.mean - self.clean)


Replacement = Callable[[Tensor, Tensor], Tensor]
"""What takes the place of the activations at the hook written to, from those read and those replaced."""


def spliced_loss(site: Site, batches: Callable[[], Iterable[TokenBatch]]) -> SplicedLoss:
    """Measure what replacing the activations that the SAE reproduces costs; ``batches`` is called twice.

    All positions of a window are replaced but BOS; predictions of kept tokens from the window's first token on count.
    The caller holds the grad mode.

    Source: Bricken et al. 2023, "Towards Monosemanticity", for replacing activations by their reconstruction and
    by zeros; Wang et al. 2022, "Interpretability in the wild", for their mean.

    Raises:
        FitError: fewer than two kept tokens in every window, so that nothing is predicted.
    """
    mean = _mean_activation(site, batches())

    def reconstruct(x: Tensor, replaced: Tensor) -> Tensor:
        flat = x.float().flatten(0, -2)
        return site.sae.decode_sparse(site.sae.encode_sparse(flat), flat).reshape(replaced.shape)

    replacements: dict[str, Replacement] = {
        "clean": lambda _, replaced: replaced,
        "spliced": reconstruct,
        "zero": lambda _, replaced: torch.zeros_like(replaced),
        "mean": lambda _, replaced: mean.expand_as(replaced),
    }
    losses, tokens = dict.fromkeys(replacements, 0.0), 0
    for batch in batches():
        keep = torch.from_numpy(batch.windows.keep)[:, 1:]
        tokens += int(keep.sum())
        for name, replace in replacements.items():
            losses[name] += _loss(site, batch, replace, keep)
    if tokens == 0:
        raise FitError("No window has two tokens that count, so no prediction can be measured: give more text.")
    return SplicedLoss(**{name: loss / tokens for name, loss in losses.items()}, tokens=tokens)


def _mean_activation(site: Site, batches: Iterable[TokenBatch]) -> Tensor:
    total, count = torch.zeros(site.sae.output_dim, dtype=torch.float64, device=site.model.device), 0
    for batch in batches:
        keep = torch.from_numpy(batch.windows.keep).to(site.model.device)
        x = site.model.activations(batch.ids, site.hook_out)[:, batch.bos_columns :][keep]
        total += x.double().sum(0)
        count += len(x)
    return (total / max(count, 1)).float()


def _loss(site: Site, batch: TokenBatch, replace: Replacement, keep: Tensor) -> float:
    # What a transcoder reads comes before what it writes and is not changed by it, so it can be had beforehand.
    read = site.model.activations(batch.ids, site.hook) if site.hook != site.hook_out else None

    def replace_after_bos(found: Tensor) -> Tensor:
        x, replaced = (found if read is None else read)[:, batch.bos_columns :], found[:, batch.bos_columns :]
        return torch.cat((found[:, : batch.bos_columns], replace(x, replaced).to(found.dtype)), dim=1)

    logits = site.model.logits(batch.ids, site.hook_out, replace_after_bos)[:, batch.bos_columns : -1]
    targets = batch.ids[:, batch.bos_columns + 1 :].to(logits.device)
    loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return float(loss[keep.flatten().to(loss.device)].double().sum())


def check_fit(explained_variance: float, description: str) -> None:
    """Refuse an SAE that explains less than the mean would.

    Source: the mean is the baseline of the normalised MSE of Gao et al. 2024, "Scaling and evaluating sparse
    autoencoders".

    Raises:
        FitError: explained variance is below zero or not a number.
    """
    if not explained_variance >= 0:
        raise FitError(
            f"The SAE does not fit {description}: its explained variance is {explained_variance:.3g}, and a mean "
            "would reach 0. Check `hook` (inspect tries them all), `bos` and `model`, or look at the results anyway "
            "with allow_poor_fit."
        )
