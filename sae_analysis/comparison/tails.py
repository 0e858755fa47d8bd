"""How far real text would go: the tail of a feature's activations, fitted, and what it says of a longer scan.

Activations above a threshold are taken for a generalised Pareto distribution. Its shape and scale are not estimated
but weighed, all of them, by their posterior on a grid: few exceedances leave much open, and the intervals say so.
Firings are taken for independent; those that come in bursts are fewer than they seem.
"""

from dataclasses import dataclass

import numpy as np

from sae_analysis.records import FeatureStats

EXCEEDANCES = 20
"""Largest activations that the tail is fitted to: with fewer intervals grow, with more the fit is no longer the
tail's. Chosen by hiding nine tenths of a corpus; ``benchmarks/tails.py`` repeats it."""

LEAST_EXCEEDANCES = 5
"""Activations below which nothing is said."""

MOST_TOKENS = 1e12
"""A text longer than all that was ever written says "never"."""

_SHAPES = np.linspace(-1.0, 0.8, 37)[:, None]
_SHAPE_MEAN, _SHAPE_DEVIATION = -0.2, 0.3
"""Prior of the shape: activations are bounded by the residual stream's norm, so most tails end (shape below 0)."""

_SCALES = np.exp(np.linspace(-4.0, 1.5, 56))[None]
"""In units of the largest excess; a prior that is flat in the logarithm."""

_BISECTIONS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A median with the ends of the interval that holds nine tenths of the probability."""

    low: float
    median: float
    high: float

    def divided_by(self, unit: float) -> "Interval":
        """Return it in another unit."""
        return Interval(low=self.low / unit, median=self.median / unit, high=self.high / unit)


class Tail:
    """The largest activations of one feature on some text, as a generalised Pareto distribution.

    Source: Pickands 1975, "Statistical inference using extreme order statistics"; the prior and the grid are ours.
    """

    def __init__(self, *, edges: np.ndarray, counts: np.ndarray, largest: float, token_count: int) -> None:
        """Fit; see ``fitted_tail`` for how to come by one.

        Args:
            edges: Of the bins above the threshold, which is the first of them ``[bins + 1]``.
            counts: Activations in each bin ``[bins]``.
            largest: The largest of them.
            token_count: Tokens they were found on.
        """
        self._threshold, self._count = float(edges[0]), int(counts.sum())
        self._largest, self._token_count = largest, token_count
        self._unit = max(largest, float(edges[1])) - self._threshold
        share = self._survival(edges[:-1, None, None]) - self._survival(edges[1:, None, None])
        with np.errstate(divide="ignore", invalid="ignore"):  # empty bins may be impossible ones
            fit = (counts[:, None, None] * np.log(share)).sum(axis=0, where=counts[:, None, None] > 0)
        log_weight = fit - 0.5 * ((_SHAPES - _SHAPE_MEAN) / _SHAPE_DEVIATION) ** 2
        self._weight = np.exp(log_weight - log_weight.max())
        self._weight /= self._weight.sum()

    def largest_on(self, token_count: float) -> Interval:
        """Return what the largest activation on so many other tokens would be."""
        return Interval(
            low=self._largest_quantile(token_count, 0.05),
            median=self._largest_quantile(token_count, 0.5),
            high=self._largest_quantile(token_count, 0.95),
        )

    def tokens_until(self, value: float) -> Interval:
        """Return how many tokens it takes on average until an activation exceeds a value; infinite beyond the tail.

        From ``MOST_TOKENS`` on, no number is told from never.
        """
        share = self._survival(np.array(value)).ravel()
        with np.errstate(divide="ignore", over="ignore"):
            tokens = self._token_count / (self._count * share)
        tokens[tokens > MOST_TOKENS] = np.inf
        order = np.argsort(tokens, kind="stable")
        upto = np.cumsum(self._weight.ravel()[order])
        low, median, high = tokens[order[np.searchsorted(upto, [0.05, 0.5, 0.95]).clip(max=len(order) - 1)]].tolist()
        return Interval(low=low, median=median, high=high)

    def _survival(self, value: np.ndarray) -> np.ndarray:
        """Return the share of exceedances above a value ``[..., shapes, scales]``."""
        excess = np.maximum(value - self._threshold, 0.0) / (self._unit * _SCALES)
        base = np.maximum(1.0 + _SHAPES * excess, 0.0)
        is_exponential = np.abs(_SHAPES) < 1e-9
        with np.errstate(divide="ignore", over="ignore"):
            power = base ** (-1.0 / np.where(is_exponential, 1.0, _SHAPES))
        return np.where(is_exponential, np.exp(-excess), power)

    def _largest_quantile(self, token_count: float, probability: float) -> float:
        low, high = self._threshold, self._threshold + 2 * self._unit
        while self._stays_below(high, token_count) < probability:
            high += 2 * (high - low)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if self._stays_below(middle, token_count) < probability:
                low = middle
            else:
                high = middle
        return high

    def _stays_below(self, value: float, token_count: float) -> float:
        """Return the probability that so many tokens hold no activation above a value.

        Exceedances come at a rate that the number seen leaves open: gamma-distributed, so that their number on other
        tokens is negative binomial.
        """
        expected = self._survival(np.array(value)) * token_count / self._token_count
        return float((self._weight * (1.0 + expected) ** -self._count).sum())


def fitted_tail(stats: FeatureStats) -> Tail | None:
    """Return the tail of a feature's activations above zero on real text; None where too few are known."""
    edges, counts = np.array(stats.histogram.edges), np.array(stats.histogram.counts, dtype=np.int64)
    above = np.flatnonzero((edges[:-1] > 0) & (counts > 0))
    if not len(above) or counts[above].sum() < LEAST_EXCEEDANCES:
        return None
    end = above[-1] + 1
    from_here = np.cumsum(counts[above[0] : end][::-1])[::-1]
    begin = above[0] + max(0, int((from_here >= min(EXCEEDANCES, from_here[0])).sum()) - 1)
    return Tail(
        edges=edges[begin : end + 1],
        counts=counts[begin:end],
        largest=stats.max_activation,
        token_count=stats.token_count,
    )
