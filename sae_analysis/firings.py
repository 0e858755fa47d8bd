"""What is going on where a feature fires: measured on the examples of an analysis, while the model is at hand.

What compares two analyses later needs no model, because this was stored with their examples.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_analysis.reconstruction import Site
from sae_analysis.records import Ablation, ActivationExample, FeatureStats, Firing

COACTIVE = 64
"""Most features listed that fire where the example peaks."""

USUAL = 3
"""Strongest examples of a feature that are looked at where nobody says how many."""

MOST_FEATURES = 50
"""Features up to which they are: each example takes two runs of the whole model."""

RESIDUAL_DIGITS = 4
"""Digits that are kept of the residual vector's numbers."""


def looked_at(asked: int | None, feature_count: int) -> int:
    """Return how many examples of each feature are looked at."""
    if asked is not None:
        return asked
    return USUAL if feature_count <= MOST_FEATURES else 0


class FiringReader:
    """Reads examples again, each no further than its peak. The caller holds the grad mode."""

    def __init__(self, site: Site, list_length: int) -> None:
        """Prepare; ``list_length`` is that of tokens raised and lowered."""
        self._site, self._list_length = site, list_length
        bos = site.model.tokens.bos_token_id
        self._prefix = [bos] if site.prepend_bos and bos is not None else []

    def look(self, stats: FeatureStats, most: int) -> FeatureStats:
        """Return the statistics with the firings of the strongest examples."""
        closer = (
            replace(example, firing=self.read(example, stats.feature_idx)) if example.max_activation else example
            for example in stats.examples[:most]
        )
        return replace(stats, examples=(*closer, *stats.examples[most:]))

    def read(self, example: ActivationExample, feature: int) -> Firing:
        """Return what is going on at an example's peak."""
        ids = example.token_ids[: example.peak_position + 1]
        x = self._site.model.activations(self._batch([ids]), self._site.hook)[0, -1:].float()
        activations = self._site.sae.encode(x).sparse_features
        return Firing(
            coactive=self._coactive(activations[0].clone(), feature),
            residual=tuple(_rounded((x - self._centre(x))[0])),
            ablation=self._ablate(ids, feature, x, activations),
        )

    def _ablate(
        self, ids: Sequence[int], feature: int, x: Float[Tensor, "1 d_in"], with_it: Float[Tensor, "1 d_sae"]
    ) -> Ablation:
        """Return what the last token's logits lose without the feature there.

        What the feature adds to the reconstruction is taken off the activation that the SAE writes to; what the SAE
        does not explain stays.

        Source: the ablations of Bricken et al. 2023, "Towards Monosemanticity".
        """
        site, batch = self._site, self._batch([ids, ids])
        without_it = with_it.clone()
        without_it[:, feature] = 0.0
        added = (site.sae.decode(with_it, x) - site.sae.decode(without_it, x))[0]

        def take_off(activation: Tensor) -> Tensor:
            edited = activation.clone()
            edited[1, -1] -= added.to(edited.dtype)
            return edited

        logits = site.model.logits(batch, site.hook_out, take_off)[:, -1].float()
        log_with, log_without = logits.log_softmax(dim=-1)
        change = (logits[0] - logits[1]).cpu()
        most = min(self._list_length, len(change))
        raised, lowered = change.topk(most), change.topk(most, largest=False)
        strings = site.model.tokens.strings

        def pairs(top: torch.return_types.topk) -> tuple[tuple[str, float], ...]:
            return tuple(zip(strings(top.indices.tolist()), top.values.tolist(), strict=True))

        return Ablation(
            divergence=float((log_with.exp() * (log_with - log_without)).sum()),
            raised=tuple(pair for pair in pairs(raised) if pair[1] > 0),  # some firings lower all there is
            lowered=tuple(pair for pair in pairs(lowered) if pair[1] < 0),
        )

    def _coactive(self, activations: Float[Tensor, " d_sae"], feature: int) -> tuple[tuple[int, float], ...]:
        others = activations.abs()
        others[feature] = 0.0
        order = others.argsort(descending=True, stable=True)[: min(COACTIVE, int((others > 0).sum()))]
        return tuple((int(other), float(activations[other])) for other in order)

    def _centre(self, x: Float[Tensor, "1 d_in"]) -> Float[Tensor, "1 d_in"]:
        """Return what residual vectors have in common: the reconstruction of a token on which nothing fires."""
        if self._site.sae.is_transcoder:
            return torch.zeros_like(x)
        return self._site.sae.decode(x.new_zeros(1, self._site.sae.dict_size), x)

    def _batch(self, sequences: Sequence[Sequence[int]]) -> Int64[Tensor, "batch seq"]:
        return torch.tensor([[*self._prefix, *ids] for ids in sequences], dtype=torch.int64)


def _rounded(vector: Float[Tensor, " d"]) -> list[float]:
    return [float(f"{value:.{RESIDUAL_DIGITS}g}") for value in vector.tolist()]
