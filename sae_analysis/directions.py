"""What a feature's weights say without any text: norms, neighbours, and effect on the logits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_analysis.language_model import TokenText
from sae_analysis.reconstruction import Site
from sae_analysis.records import Histogram, TokenValues
from sae_analysis.sae_interface import UnifiedSAEInterface

LOGIT_BINS = 64
"""Bins of the distribution of logit effects."""

_NARROWEST = 1e-3
"""Least range of a distribution, as a share of its largest value."""

_FEATURES_AT_ONCE = 64
"""Features whose logit effects or neighbours are held at a time: 64 x vocabulary floats are some 13 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Norms:
    """Lengths and angles of every feature's directions, ``[d_sae]``."""

    decoder: np.ndarray
    """L2 norms of the decoder rows."""

    encoder: np.ndarray
    """L2 norms of the encoder columns."""

    cosine: np.ndarray
    """Cosine between the two; nan where one is zero, and for transcoders, whose directions lie in two places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitEffects:
    """What one feature's decoder direction does to the logits; empty where no linear path leads there."""

    boosted: TokenValues = ()
    suppressed: TokenValues = ()
    histogram: Histogram = Histogram(edges=(), counts=())  # noqa: RUF009 - frozen
    skew: float | None = None
    kurtosis: float | None = None


def norms(sae: UnifiedSAEInterface) -> Norms:
    """Return the norms and encoder-decoder cosines of all features."""
    encoder, decoder = sae.encoder_weights.double(), sae.decoder_weights.double()
    encoder_norm, decoder_norm = encoder.norm(dim=0), decoder.norm(dim=1)
    cosine = torch.full_like(decoder_norm, torch.nan)
    if not sae.is_transcoder:
        cosine = (encoder.T * decoder).sum(1) / (encoder_norm * decoder_norm)
    return Norms(decoder=decoder_norm.cpu().numpy(), encoder=encoder_norm.cpu().numpy(), cosine=cosine.cpu().numpy())


def nearest_features(
    sae: UnifiedSAEInterface, features: Sequence[int], most: int
) -> Iterator[tuple[tuple[int, float], ...]]:
    """Yield for each feature the ``most`` others whose decoder directions are nearest, as (feature, cosine)."""
    directions = torch.nn.functional.normalize(sae.decoder_weights, dim=1)
    for begin in range(0, len(features), _FEATURES_AT_ONCE):
        chunk = torch.tensor(features[begin : begin + _FEATURES_AT_ONCE], device=directions.device)
        cosines = directions[chunk] @ directions.T
        cosines.scatter_(1, chunk[:, None], -torch.inf)
        found = cosines.topk(min(most, sae.dict_size - 1), dim=1)
        for indices, values in zip(found.indices.tolist(), found.values.tolist(), strict=True):
            yield tuple(zip(indices, values, strict=True))


def logit_effects(site: Site, features: Sequence[int], most: int) -> Iterator[LogitEffects]:
    """Yield for each feature the ``most`` promoted and suppressed tokens and the distribution over the vocabulary."""
    for begin in range(0, len(features), _FEATURES_AT_ONCE):
        chunk = list(features[begin : begin + _FEATURES_AT_ONCE])
        effects = site.model.logit_effects(site.sae.decoder_weights[chunk], site.hook_out)
        if effects is None:
            yield from [LogitEffects()] * len(chunk)
        else:
            yield from _summaries(effects, site.model.tokens, most)


def _summaries(effects: Float[Tensor, "features vocab"], tokens: TokenText, most: int) -> Iterator[LogitEffects]:
    most = min(most, effects.shape[1])
    up, down = ([part.tolist() for part in effects.topk(most, largest=largest)] for largest in (True, False))
    values = effects.double()
    centred = values - values.mean(dim=1, keepdim=True)
    squares = centred.square()
    moments = (squares.mean(dim=1), (squares * centred).mean(dim=1), squares.square().mean(dim=1))
    rows = zip(values.cpu().numpy(), *up, *down, *(moment.tolist() for moment in moments), strict=True)
    for row, most_up, ids_up, most_down, ids_down, variance, third, fourth in rows:
        yield LogitEffects(
            boosted=tuple(zip(tokens.strings(ids_up), most_up, strict=True)),
            suppressed=tuple(zip(tokens.strings(ids_down), most_down, strict=True)),
            histogram=distribution(row, LOGIT_BINS),
            skew=third / variance**1.5 if variance > 0 else None,
            kurtosis=fourth / variance**2 - 3 if variance > 0 else None,
        )


def distribution(values: np.ndarray, bins: int) -> Histogram:
    """Return equal bins over the values that are numbers; empty if there are none.

    Values that differ by no more than rounding get bins of a thousandth of their size, not of their differences.
    """
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return Histogram(edges=(), counts=())
    lowest, highest = float(values.min()), float(values.max())
    width = max(abs(lowest), abs(highest), 1e-9) * _NARROWEST
    if highest - lowest < width:
        lowest, highest = (lowest + highest - width) / 2, (lowest + highest + width) / 2
    counts, edges = np.histogram(values, bins=bins, range=(lowest, highest))
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))
