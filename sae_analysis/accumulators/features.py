"""Statistics of each feature: how strongly, on which tokens and where in the window it fires."""

import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from sae_analysis.accumulators.batch import SparseActs
from sae_analysis.accumulators.exact import MANTISSA_BITS, SMALLEST_EXPONENT, IntArray, KeyedSums, mantissas, run_starts

State = dict[str, npt.NDArray]

BUCKET_BITS_PER_OCTAVE = 6
"""Resolution of the stored histogram: 64 buckets an octave, each at most 1/64 of its value wide."""

BIN_BITS_PER_OCTAVE = 3
"""Resolution of the histogram that is handed out: 8 bins an octave."""

POSITION_BINS = 64
"""Most bins over the positions of a window; shorter windows have one bin a position."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Probabilities at which quantiles are handed out."""

# A bucket is the top of a float32's bits: sign, exponent and the first bits of the mantissa.
_BUCKET_SHIFT = MANTISSA_BITS - BUCKET_BITS_PER_OCTAVE
_BIN_SHIFT = MANTISSA_BITS - BIN_BITS_PER_OCTAVE
_BUCKET_BITS = 32 - _BUCKET_SHIFT
_BUCKET_MASK = (1 << _BUCKET_BITS) - 1
_MAGNITUDE_MASK = (1 << (_BUCKET_BITS - 1)) - 1

# Squared mantissas have 48 bits; they are summed in two halves, so that 2^39 of them fit into 64 bits.
_HALF_BITS = 24
_HALF_MASK = (1 << _HALF_BITS) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueSummary:
    """What one feature's activations amount to; nothing is invented for a feature that never fired."""

    active_count: int = 0
    negative_count: int = 0
    mean: float | None = None
    std: float | None = None
    quantiles: tuple[tuple[float, float], ...] = ()
    magnitude_quartiles: tuple[float, ...] = ()
    """Quantiles 0.25, 0.5 and 0.75 of the magnitude."""
    histogram_edges: tuple[float, ...] = ()
    histogram_counts: tuple[int, ...] = ()


class ValueStatistics:
    """Count, mean, deviation, extremes, quantiles and histogram of each feature's non-zero activations."""

    def __init__(self, features: int) -> None:
        """Start empty for that many features."""
        self._sums = KeyedSums(columns=4)
        self.maximum = np.zeros(features, np.float32)
        """Largest activation so far, ``[features]``; 0 if none was positive."""
        self.minimum = np.zeros(features, np.float32)
        """Most negative activation so far, ``[features]``; 0 if none was negative."""

    def update(self, acts: SparseActs) -> None:
        """Count the activations of one batch."""
        mantissa, _ = mantissas(acts.value)
        square = mantissa * mantissa
        bucket = (acts.value.view(np.uint32) >> _BUCKET_SHIFT).astype(np.int64)
        columns = (np.ones_like(mantissa), mantissa, square >> _HALF_BITS, square & _HALF_MASK)
        self._sums.add((acts.feature << _BUCKET_BITS) | bucket, np.stack(columns, axis=1))
        np.maximum.at(self.maximum, acts.feature, acts.value)
        np.minimum.at(self.minimum, acts.feature, acts.value)

    def merge(self, other: Self) -> None:
        """Add what ``other`` counted; ``other`` stays as it is."""
        self._sums.merge(other._sums)
        self.maximum = np.maximum(self.maximum, other.maximum)
        self.minimum = np.minimum(self.minimum, other.minimum)

    def finish(self, in_full: Collection[int] | None = None) -> tuple[ValueSummary, ...]:
        """Return one summary a feature, in order; quantiles and histogram of those ``in_full`` (None: all) alone."""
        keys, sums = self._sums.table()
        begins = np.arange(len(self.maximum) + 1) << _BUCKET_BITS
        bounds = np.searchsorted(keys, begins)
        octaves, rows = _by_octave(keys, sums)
        octave_bounds = np.searchsorted(octaves, begins >> BUCKET_BITS_PER_OCTAVE).tolist()
        summaries = [_moments(rows[begin:end]) for begin, end in itertools.pairwise(octave_bounds)]
        for feature in range(len(summaries)) if in_full is None else in_full:
            if summaries[feature].active_count:
                part = slice(bounds[feature], bounds[feature + 1])
                summaries[feature] = _with_distribution(summaries[feature], keys[part] & _BUCKET_MASK, sums[part])
        return tuple(summaries)

    def state(self) -> State:
        """Return everything needed to go on, as arrays."""
        keys, sums = self._sums.table()
        return {"keys": keys, "sums": sums, "maximum": self.maximum.copy(), "minimum": self.minimum.copy()}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray]) -> Self:
        """Restore what ``state`` returned."""
        restored = cls(len(state["maximum"]))
        restored._sums.add(state["keys"], state["sums"])
        restored.maximum, restored.minimum = state["maximum"].copy(), state["minimum"].copy()
        return restored


def _by_octave(keys: IntArray, sums: IntArray) -> tuple[IntArray, list[list[int]]]:
    """Add up buckets of one feature, sign and exponent; return these as keys, and (is negative, shift, *sums)."""
    if not len(keys):
        return keys, []
    octave = keys >> BUCKET_BITS_PER_OCTAVE
    first = run_starts(octave)
    octave, totals = octave[first], np.add.reduceat(sums, first, axis=0)
    bucket = keys[first] & _BUCKET_MASK
    return octave, np.column_stack((bucket > _MAGNITUDE_MASK, _shifts(bucket & _MAGNITUDE_MASK), totals)).tolist()


def _moments(octaves: list[list[int]]) -> ValueSummary:
    """Return counts, mean and deviation, in Python's integers, which nothing rounds before the last division."""
    if not octaves:
        return ValueSummary()
    count = negative_count = total = square = 0
    for is_negative, shift, number, mantissa, high, low in octaves:
        count += number
        negative_count += is_negative * number
        total += mantissa << shift
        square += ((high << _HALF_BITS) + low) << 2 * shift
    unit = -SMALLEST_EXPONENT
    variance = (count * square - total * total) / (count * count << 2 * unit)
    mean = total / (count << unit)
    return ValueSummary(active_count=count, negative_count=negative_count, mean=mean, std=math.sqrt(variance))


def _with_distribution(summary: ValueSummary, buckets: IntArray, sums: IntArray) -> ValueSummary:
    """Add quantiles and histogram."""
    magnitudes = buckets & _MAGNITUDE_MASK
    negative = buckets > _MAGNITUDE_MASK
    counts = sums[:, 0]
    ascending = np.concatenate((np.flatnonzero(negative)[::-1], np.flatnonzero(~negative)))
    means = np.ldexp(sums[:, 1] / counts, _shifts(magnitudes) + SMALLEST_EXPONENT)
    by_magnitude = np.argsort(magnitudes, kind="stable")
    quartiles = _quantiles(np.abs(means)[by_magnitude], counts[by_magnitude], (0.25, 0.5, 0.75))
    edges, bins = _histogram(magnitudes, counts, negative)
    return replace(
        summary,
        quantiles=_quantiles(means[ascending], counts[ascending], QUANTILES),
        magnitude_quartiles=tuple(value for _, value in quartiles),
        histogram_edges=edges,
        histogram_counts=bins,
    )


def _lower_edges(magnitudes: IntArray, shift: int) -> npt.NDArray[np.float64]:
    """Return where buckets of that shift begin; the one past the largest float32 ends at the largest float32."""
    largest = np.float32(np.finfo(np.float32).max).view(np.uint32)
    return np.minimum(magnitudes << shift, largest).astype(np.uint32).view(np.float32).astype(np.float64)


def _shifts(magnitudes: IntArray) -> IntArray:
    """Return by how many bits the mantissas in each bucket stand above SMALLEST_EXPONENT."""
    return np.maximum(magnitudes >> BUCKET_BITS_PER_OCTAVE, 1) - 1


def _quantiles(
    values: npt.NDArray[np.float64], counts: IntArray, probabilities: Iterable[float]
) -> tuple[tuple[float, float], ...]:
    """Return for each probability p the mean of the bucket that holds the value of rank ceil(p n); both ascend."""
    cumulative = np.cumsum(counts)
    pairs = []
    for probability in probabilities:
        rank = max(math.ceil(probability * int(cumulative[-1])), 1)
        pairs.append((probability, float(values[np.searchsorted(cumulative, rank)])))
    return tuple(pairs)


def _histogram(
    magnitudes: IntArray, counts: IntArray, negative: npt.NDArray[np.bool_]
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Coarsen buckets into bins; a signed feature has the same bins below zero and an empty one round it."""
    bins = magnitudes >> (_BIN_SHIFT - _BUCKET_SHIFT)
    lowest = int(bins.min())
    width = int(bins.max()) - lowest + 1
    edges = _lower_edges(np.arange(lowest, lowest + width + 1), _BIN_SHIFT).tolist()
    below, above = np.zeros(width, np.int64), np.zeros(width, np.int64)
    np.add.at(below, bins[negative] - lowest, counts[negative])
    np.add.at(above, bins[~negative] - lowest, counts[~negative])
    if not negative.any():
        return tuple(edges), tuple(above.tolist())
    return (*(-edge for edge in reversed(edges)), *edges), (*below[::-1].tolist(), 0, *above.tolist())


class TokenStatistics:
    """For each feature the vocabulary tokens it fires on, with exact counts and means.

    Memory is bounded by features x vocabulary and in practice far below it: a feature fires on few distinct tokens.
    """

    def __init__(self, features: int, vocabulary: int) -> None:
        """Start empty."""
        self.features = features
        self._sums = KeyedSums(columns=2)
        self.occurrences = np.zeros(vocabulary, np.int64)
        """Kept occurrences of each token, ``[vocabulary]``."""

    def update(self, acts: SparseActs) -> None:
        """Count the activations and all kept tokens of one batch."""
        windows, vocabulary = acts.windows, len(self.occurrences)
        self.occurrences += np.bincount(windows.token_ids[windows.keep], minlength=vocabulary)
        mantissa, shift = mantissas(acts.value)
        pair = acts.feature * vocabulary + windows.token_ids[acts.row, acts.position]
        # The exponent is part of the key: only mantissas of one exponent may be added.
        self._sums.add((pair << 8) | shift, np.stack((np.ones_like(mantissa), mantissa), axis=1))

    def merge(self, other: Self) -> None:
        """Add what ``other`` counted; ``other`` stays as it is."""
        self._sums.merge(other._sums)
        self.occurrences = self.occurrences + other.occurrences

    def finish(self, most: int) -> tuple[tuple[tuple[int, int, float], ...], ...]:
        """Return for each feature its ``most`` tokens as (token id, firings, mean activation), by firings then id."""
        keys, sums = self._sums.table()
        if not len(keys):
            return ((),) * self.features
        vocabulary = len(self.occurrences)
        first = run_starts(keys >> 8)
        pairs, counts = keys[first] >> 8, np.add.reduceat(sums[:, 0], first)
        terms = np.stack((sums[:, 1], keys & 0xFF), axis=1)
        ends = np.append(first[1:], len(keys))
        bounds = np.searchsorted(pairs, np.arange(self.features + 1) * vocabulary).tolist()
        found = []
        for begin, end in itertools.pairwise(bounds):
            rows = begin + np.argsort(-counts[begin:end], kind="stable")[:most]  # tokens of one count ascend already
            columns = (pairs[rows] % vocabulary, counts[rows], first[rows], ends[rows])
            found.append(
                tuple(
                    (token, count, _sum(terms[start:stop].tolist()) / (count << -SMALLEST_EXPONENT))
                    for token, count, start, stop in zip(*(column.tolist() for column in columns), strict=True)
                )
            )
        return tuple(found)

    def state(self) -> State:
        """Return everything needed to go on, as arrays."""
        keys, sums = self._sums.table()
        features = np.array(self.features)
        return {"keys": keys, "sums": sums, "occurrences": self.occurrences.copy(), "features": features}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray]) -> Self:
        """Restore what ``state`` returned."""
        restored = cls(int(state["features"]), len(state["occurrences"]))
        restored._sums.add(state["keys"], state["sums"])
        restored.occurrences = state["occurrences"].copy()
        return restored


def _sum(terms: list[list[int]]) -> int:
    """Add up mantissas, each with its shift, in Python's integers."""
    return sum(mantissa << shift for mantissa, shift in terms)


def position_edges(seq_len: int) -> IntArray:
    """Return the edges of at most POSITION_BINS nearly equal bins over positions 0 … seq_len - 1, ``[bins + 1]``."""
    bins = min(seq_len, POSITION_BINS)
    return np.ceil(np.arange(bins + 1) * seq_len / bins).astype(np.int64)


class PositionStatistics:
    """Where in the window each feature fires, beside the number of kept tokens there."""

    def __init__(self, features: int, seq_len: int) -> None:
        """Start empty for windows of at most ``seq_len`` tokens."""
        self._seq_len = seq_len
        bins = len(position_edges(seq_len)) - 1
        self.counts = np.zeros((features, bins), np.int64)
        """Firings, ``[features, bins]``."""
        self.token_counts = np.zeros(bins, np.int64)
        """Kept tokens, ``[bins]``."""

    @property
    def edges(self) -> IntArray:
        """Edges of the bins, ``[bins + 1]``."""
        return position_edges(self._seq_len)

    def update(self, acts: SparseActs) -> None:
        """Count the activations and kept tokens of one batch."""
        bins = len(self.token_counts)
        _, kept = np.nonzero(acts.windows.keep)
        self.token_counts += np.bincount(self._bin(kept), minlength=bins)
        np.add.at(self.counts.ravel(), acts.feature * bins + self._bin(acts.position), 1)

    def _bin(self, positions: IntArray) -> IntArray:
        return np.searchsorted(self.edges, positions, side="right") - 1

    def merge(self, other: Self) -> None:
        """Add what ``other`` counted; ``other`` stays as it is."""
        self.counts = self.counts + other.counts
        self.token_counts = self.token_counts + other.token_counts

    def finish(self) -> IntArray:
        """Return the firings by feature and bin, ``[features, bins]``."""
        return self.counts.copy()

    def state(self) -> State:
        """Return everything needed to go on, as arrays."""
        seq_len = np.array(self._seq_len)
        return {"counts": self.counts.copy(), "token_counts": self.token_counts.copy(), "seq_len": seq_len}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray]) -> Self:
        """Restore what ``state`` returned."""
        restored = cls(len(state["counts"]), int(state["seq_len"]))
        restored.counts, restored.token_counts = state["counts"].copy(), state["token_counts"].copy()
        return restored
