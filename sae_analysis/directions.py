"""What a feature's weights say without any text: norms, neighbours, and effect on the logits."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_analysis.language_model import TokenText
from sae_analysis.products import product
from sae_analysis.reconstruction import Site
from sae_analysis.records import Histogram, TokenValues
from sae_analysis.sae_interface import UnifiedSAEInterface

LOGIT_BINS = 64
"""Bins of the distribution of logit effects."""

_NARROWEST = 1e-3
"""Least range of a distribution, as a share of its largest value."""

_FEATURES_AT_ONCE = 128
"""Features whose logit effects or neighbours are held at a time: 128 x vocabulary floats are some 25 MB."""

_MEASURED_AT_ONCE = 256
"""Features whose directions are in float64 at a time: few enough for the caches, and no copy of the dictionary."""

_SUMMARISED_AT_ONCE = 16
"""Features whose logit effects are summed up at a time: few enough for what is made of them to stay in the caches."""

_GROUP = 64
"""Columns of which the largest stands for all when the largest of a row are looked for."""


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
    """What one feature's decoder direction does to the logits; empty where no linear path leads there.

    Source: Bloom and Lin 2024, "Understanding SAE features with the logit lens", for the shape of their distribution.
    """

    boosted: TokenValues = ()
    suppressed: TokenValues = ()
    histogram: Histogram = Histogram(edges=(), counts=())  # noqa: RUF009 - frozen
    skew: float | None = None
    kurtosis: float | None = None


def norms(sae: UnifiedSAEInterface) -> Norms:
    """Return the norms and encoder-decoder cosines of all features, in float64."""
    encoders = sae.encoder_weights.split(_MEASURED_AT_ONCE, dim=1)
    decoders = sae.decoder_weights.split(_MEASURED_AT_ONCE)
    parts = [_norms(*few, sae.is_transcoder) for few in zip(encoders, decoders, strict=True)]
    decoder, encoder, cosine = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return Norms(decoder=decoder, encoder=encoder, cosine=cosine)


def _norms(encoder: Tensor, decoder: Tensor, is_transcoder: bool) -> tuple[Tensor, Tensor, Tensor]:
    encoder, decoder = encoder.double(), decoder.double()
    encoder_norm, decoder_norm = encoder.norm(dim=0), decoder.norm(dim=1)
    cosine = torch.full_like(decoder_norm, torch.nan)
    if not is_transcoder:
        cosine = (encoder.T * decoder).sum(1) / (encoder_norm * decoder_norm)
    return decoder_norm, encoder_norm, cosine


def nearest_features(
    sae: UnifiedSAEInterface, features: Sequence[int], most: int
) -> Iterator[tuple[tuple[int, float], ...]]:
    """Yield for each feature the ``most`` others whose decoder directions are nearest, as (feature, cosine)."""
    directions = torch.nn.functional.normalize(sae.decoder_weights, dim=1)
    for begin in range(0, len(features), _FEATURES_AT_ONCE):
        chunk = torch.tensor(features[begin : begin + _FEATURES_AT_ONCE], device=directions.device)
        cosines = product(directions[chunk], directions)
        cosines.scatter_(1, chunk[:, None], -torch.inf)
        found = cosines.topk(min(most, sae.dict_size - 1), dim=1)
        for indices, values in zip(found.indices.tolist(), found.values.tolist(), strict=True):
            yield tuple(zip(indices, values, strict=True))


def logit_effects(
    site: Site, features: Sequence[int], most: int, binned: Collection[int] | None = None
) -> Iterator[LogitEffects]:
    """Yield for each feature the ``most`` promoted and suppressed tokens and the distribution over the vocabulary.

    The distribution has bins where a feature is among those ``binned`` (None: all): they take longer than the product.
    """
    for begin in range(0, len(features), _FEATURES_AT_ONCE):
        chunk = list(features[begin : begin + _FEATURES_AT_ONCE])
        effects = site.model.logit_effects(site.sae.decoder_weights[chunk], site.hook_out)
        if effects is None:
            yield from [LogitEffects()] * len(chunk)
        else:
            for first in range(0, len(chunk), _SUMMARISED_AT_ONCE):
                few = slice(first, first + _SUMMARISED_AT_ONCE)
                has_bins = [binned is None or feature in binned for feature in chunk[few]]
                yield from _summaries(effects[few], site.model.tokens, most, has_bins)


def _summaries(
    effects: Float[Tensor, "features vocab"], tokens: TokenText, most: int, has_bins: Sequence[bool]
) -> Iterator[LogitEffects]:
    most = min(most, effects.shape[1])
    up, ids_up = largest(effects, most)
    down, ids_down = largest(-effects, most)
    shapes = _shapes(effects, torch.maximum(up[:, :1], down[:, :1]))
    lists = (part.tolist() for part in (up, ids_up, -down, ids_down))
    for row, bins, shape, most_up, ids_up, most_down, ids_down in zip(effects, has_bins, shapes, *lists, strict=True):
        yield LogitEffects(
            boosted=tuple(zip(tokens.strings(ids_up), most_up, strict=True)),
            suppressed=tuple(zip(tokens.strings(ids_down), most_down, strict=True)),
            histogram=distribution(row.cpu().numpy(), LOGIT_BINS) if bins else Histogram(edges=(), counts=()),
            skew=shape[0],
            kurtosis=shape[1],
        )


def largest(values: Float[Tensor, "rows columns"], most: int) -> tuple[Tensor, Tensor]:
    """Return the ``most`` largest of each row, in order and in their unit, and their columns, both ``[rows, most]``.

    Of equal ones any.

    They are in the groups of columns that have the largest maxima, or in what is left over: to look there alone takes
    a third of torch's time.
    """
    columns = values.shape[1]
    groups = columns // _GROUP
    if groups <= most:
        return values.topk(most, dim=1)
    left_over = torch.arange(groups * _GROUP, columns, device=values.device)
    maxima = values[:, : groups * _GROUP].unflatten(1, (groups, _GROUP)).amax(dim=2)
    chosen = maxima.topk(most, dim=1).indices[:, :, None] * _GROUP + torch.arange(_GROUP, device=values.device)
    candidates = torch.cat((chosen.flatten(1), left_over.expand(len(values), -1)), dim=1)
    found, places = values.gather(1, candidates).topk(most, dim=1)
    return found, candidates.gather(1, places)


def _shapes(
    values: Float[Tensor, "rows columns"], size: Float[Tensor, "rows 1"]
) -> list[tuple[float, float] | tuple[None, None]]:
    """Return skewness and excess kurtosis of rows whose mean is zero and whose largest magnitude is ``size``.

    Scaled by that, no power leaves the range of float32, in which torch adds up pairwise: to about 1e-6.
    """
    scaled = values / size
    squares = scaled.square()
    moments = (squares.mean(dim=1), (squares * scaled).mean(dim=1), squares.square().mean(dim=1))
    return [
        (third / variance**1.5, fourth / variance**2 - 3) if variance > 0 else (None, None)
        for variance, third, fourth in zip(*(moment.tolist() for moment in moments), strict=True)
    ]


def distribution(values: np.ndarray, bins: int) -> Histogram:
    """Return equal bins over the values ``[n]`` that are numbers; empty if there are none.

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
