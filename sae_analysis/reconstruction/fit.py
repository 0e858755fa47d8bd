"""How well an SAE fits the place it is read at: what it explains there, and what the model loses by it."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sae_analysis.accumulators import FitStatistics
from sae_analysis.corpus import TokenBatch
from sae_analysis.errors import FitError, ModelError
from sae_analysis.language_model import LanguageModel
from sae_analysis.sae_interface import SparseCode, UnifiedSAEInterface

logger = logging.getLogger(__name__)

BosPolicy = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """An SAE at the place it is read at: what every analysis needs to get from token ids to activations."""

    sae: UnifiedSAEInterface
    model: LanguageModel
    hook: str

    prepend_bos: bool
    """Whether BOS stands in front of every window."""

    bos: str
    """The BOS policy in words, and where it comes from."""

    @property
    def name(self) -> str:
        """Hook and model in words, for messages."""
        return f"{self.hook} of {self.model.name}"


def attach(sae: UnifiedSAEInterface, model: LanguageModel, hook: str | None, bos: BosPolicy = "auto") -> Site:
    """Bring an SAE and a model together, on the model's device.

    The hook is the one asked for, else the checkpoint's, else the only one of the SAE's width. BOS ``auto`` follows
    the checkpoint, and where it says nothing the model.

    Raises:
        ModelError: no such hook, or several of the right width and nothing that says which.
        FitError: the hook's width is not the SAE's, or the SAE writes another width than it reads.
    """
    if (d_out := sae.decoder_weights.shape[1]) != sae.activation_dim:
        raise FitError(
            f"The SAE reads {sae.activation_dim}-wide activations and writes {d_out}-wide ones: transcoders are not "
            "supported yet. Give an SAE that reconstructs what it reads."
        )
    hook = _choose_hook(sae, model, hook)
    trained_on = str(sae.metadata.get("model", ""))
    ours, theirs = (name.rstrip("/").rpartition("/")[2].lower() for name in (model.name, trained_on))
    if ours not in theirs and theirs not in ours:
        logger.warning("The SAE says that it was trained on %s, and is read on %s.", trained_on, model.name)
    if bos != "auto":
        prepend, reason = bos == "always", f"--bos {bos}"
    elif "prepend_bos" in sae.metadata:
        prepend, reason = bool(sae.metadata["prepend_bos"]), "the SAE's configuration says so"
    else:
        prepend, reason = model.prepends_bos, model.bos_reason
    words = f"{'prepended, not counted' if prepend else 'not prepended'} ({reason})"
    return Site(sae=sae.to(model.device), model=model, hook=hook, prepend_bos=prepend, bos=words)


def _choose_hook(sae: UnifiedSAEInterface, model: LanguageModel, hook: str | None) -> str:
    width = sae.activation_dim
    fitting = model.hooks_of_width(width)
    listed = ", ".join(fitting[:6]) + (f" and {len(fitting) - 6} more" if len(fitting) > 6 else "")
    named = hook or sae.metadata.get("hook")
    if named is None:
        if len(fitting) == 1:
            return fitting[0]
        raise ModelError(
            f"The SAE reads {width}-wide activations and does not say where; {model.name} has {len(fitting)} hooks "
            f"of that width. Choose one with --hook: {listed}."
            if fitting
            else f"The SAE reads {width}-wide activations, and {model.name} has no hook of that width: it belongs to "
            "another model."
        )
    if (found := model.tap(named).width) != width:
        raise FitError(
            f"The SAE reads {width}-wide activations, but hook {named} of {model.name} gives {found}. "
            + (f"Hooks that fit: {listed}." if fitting else "No hook of this model fits: it belongs to another model.")
        )
    return named


def update_fit(
    fit: FitStatistics,
    x: Float[Tensor, "tokens d_in"],
    reconstruction: Float[Tensor, "tokens d_in"],
    code: SparseCode,
) -> None:
    """Add a batch of kept tokens to the statistics of explained variance, cosine and L0."""
    error = (x - reconstruction).double()
    cosine = torch.nn.functional.cosine_similarity(x, reconstruction, dim=-1)
    fit.update(
        tokens=len(x),
        active=len(code.value),
        input_sum=x.double().sum(0).cpu().numpy(),
        squared_input=float(x.double().square().sum()),
        squared_error=float(error.square().sum()),
        cosine=float(cosine.double().sum()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SplicedLoss:
    """Next-token cross-entropy (nats per token) with the activations at a hook replaced."""

    clean: float
    """Nothing replaced."""

    spliced: float
    """Replaced by the SAE's reconstruction."""

    zero: float
    """Replaced by zeros."""

    mean: float
    """Replaced by their mean over kept tokens."""

    tokens: int
    """Predictions averaged over."""

    @property
    def recovered_against_zero(self) -> float:
        """Share of the loss added by zeroing that the reconstruction avoids; 1 is lossless."""
        return (self.zero - self.spliced) / (self.zero - self.clean)

    @property
    def recovered_against_mean(self) -> float:
        """Share of the loss added by mean-ablation that the reconstruction avoids; 1 is lossless."""
        return (self.mean - self.spliced) / (self.mean - self.clean)


def spliced_loss(site: Site, batches: Callable[[], Iterable[TokenBatch]]) -> SplicedLoss:
    """Measure what replacing the activations at a hook costs; ``batches`` is called twice, for mean and losses.

    All positions of a window are replaced but BOS; predictions of kept tokens from the window's first token on count.
    The caller holds the grad mode.

    Raises:
        FitError: fewer than two kept tokens in every window, so that nothing is predicted.
    """
    mean = _mean_activation(site, batches())

    def reconstruct(x: Tensor) -> Tensor:
        flat = x.float().flatten(0, -2)
        return site.sae.decode_sparse(site.sae.encode_sparse(flat), len(flat)).reshape(x.shape)

    replacements: dict[str, Callable[[Tensor], Tensor]] = {
        "clean": lambda x: x,
        "spliced": reconstruct,
        "zero": torch.zeros_like,
        "mean": mean.expand_as,
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
    model, hook = site.model, site.hook
    total, count = torch.zeros(model.tap(hook).width, dtype=torch.float64, device=model.device), 0
    for batch in batches:
        keep = torch.from_numpy(batch.windows.keep).to(model.device)
        x = model.activations(batch.ids, hook)[:, batch.bos_columns :][keep]
        total += x.double().sum(0)
        count += len(x)
    return (total / max(count, 1)).float()


def _loss(site: Site, batch: TokenBatch, replace: Callable[[Tensor], Tensor], keep: Tensor) -> float:
    def replace_after_bos(x: Tensor) -> Tensor:
        return torch.cat((x[:, : batch.bos_columns], replace(x[:, batch.bos_columns :]).to(x.dtype)), dim=1)

    logits = site.model.logits(batch.ids, site.hook, replace_after_bos)[:, batch.bos_columns : -1]
    targets = batch.ids[:, batch.bos_columns + 1 :].to(logits.device)
    loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return float(loss[keep.flatten().to(loss.device)].double().sum())


def check_fit(explained_variance: float, description: str) -> None:
    """Refuse an SAE that explains less than the mean would.

    Raises:
        FitError: explained variance is below zero or not a number.
    """
    if not explained_variance >= 0:
        raise FitError(
            f"The SAE does not fit {description}: its explained variance is {explained_variance:.3g}, and a mean "
            "would reach 0. Check --hook, --bos and --model, or look at the results anyway with --allow-poor-fit."
        )
