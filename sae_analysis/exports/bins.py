"""Histograms as other viewers draw them: bars of one width. Ours are eight to an octave, which keeps their counts."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sae_analysis.records import FeatureStats, Histogram

_Array = npt.NDArray[np.float64]


def span(stats: FeatureStats) -> tuple[float, float]:
    """Return the ends of an axis that has zero and every activation on it."""
    return min(0.0, stats.min_activation), max(0.0, stats.max_activation)


def even(stats: FeatureStats, number: int) -> tuple[_Array, _Array]:
    """Return edges ``[number + 1]`` of bars of one width and their heights ``[number]``; nothing if it never fired.

    A bin of ours counts towards each bar by the part of it that the bar covers, so heights are no whole numbers;
    their sum is.
    """
    if not stats.histogram.total:
        return np.zeros(0), np.zeros(0)
    at, below = _cumulative(stats)
    edges = np.linspace(*span(stats), number + 1)
    reached = np.interp(edges, at, below)
    reached[0] = 0.0  # a bin that begins with the lowest activation, and so has no width left, is in the first bar
    return edges, np.diff(reached)


def percentiles(stats: FeatureStats, probabilities: Sequence[float]) -> list[float]:
    """Return the activation below which each share of the firings lies, within a bin of ours (9 %)."""
    if not stats.histogram.total:
        return []
    at, below = _cumulative(stats)
    ranks = np.array(probabilities) * below[-1]
    # The bin that holds a rank is never an empty one, so that no percentile lies where nothing fired.
    of = np.maximum(np.searchsorted(below, ranks) - 1, np.flatnonzero(np.diff(below))[0])
    part = (ranks - below[of]) / np.diff(below)[of]
    return (at[of] + part * np.diff(at)[of]).tolist()


def interval(
    stats: FeatureStats, lower_quantile: float, upper_quantile: float, *, is_negative: bool
) -> tuple[float, float, float]:
    """Return the ends of a band of the magnitude on one side of zero, and the share of the firings that is there.

    Ends, in the unit of the activation, are right within a bin of ours (9 %); shares of both sides add up to the band.
    """
    edges, above, below = _sides(stats)
    both = above + below
    magnitudes = replace(
        stats,
        histogram=Histogram(edges=tuple(edges), counts=tuple(both.tolist())),
        min_activation=0.0,
        max_activation=abs(stats.largest_activation),
    )
    lower, upper = percentiles(magnitudes, (lower_quantile, upper_quantile))
    reached = np.concatenate([[0.0], np.cumsum(both) / both.sum()])
    inside = np.diff(np.clip(reached, lower_quantile, upper_quantile))
    side = below if is_negative else above
    share = float((inside * side / np.maximum(both, 1)).sum())
    return (-upper, -lower, share) if is_negative else (lower, upper, share)


def _sides(stats: FeatureStats) -> tuple[Sequence[float], _Array, _Array]:
    """Return edges of the magnitude, and counts above and below zero."""
    edges, counts = stats.histogram.edges, np.array(stats.histogram.counts)
    if edges[0] >= 0:
        return edges, counts, np.zeros_like(counts)
    half = len(counts) // 2  # the same bins on either side of an empty one
    return edges[half + 1 :], counts[half + 1 :], counts[:half][::-1]


def _cumulative(stats: FeatureStats) -> tuple[_Array, _Array]:
    """Return where bins end and how many activations lie below; none lies beyond the extremes."""
    at = np.clip(np.array(stats.histogram.edges), *span(stats))
    return at, np.concatenate([[0.0], np.cumsum(stats.histogram.counts)])
