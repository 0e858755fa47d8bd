"""Statistics of each feature: how strongly, on which tokens and where in the window it fires."""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from sae_analysis.accumulators.batch import SparseActs
from sae_analysis.accumulators.exact import MANTISSA_BITS, SMALLEST_EXPONENT, IntArray, KeyedSums, mantissas, run_starts

State = dict[str, npt.NDArray]

BUCKETS_PER_OCTAVE = 64
"""Resolution of the stored histogram: a bucket is at most 1/64 of its value wide."""

HISTOGRAM_BINS_PER_OCTAVE = 8
"""Resolution of the histogram that is handed out."""

POSITION_BINS = 64
"""Most bins over the positions of a window; shorter windows have one bin a position."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Probabilities at which quantiles are handed out."""

# A bucket is the top of a float32's bits: sign, exponent and the first bits of the mantissa.
_BUCKET_SHIFT = MANTISSA_BITS - int(math.log2(BUCKETS_PER_OCTAVE))
_BIN_SHIFT = MANTISSA_BITS - int(math.log2(HISTOGRAM_BINS_PER_OCTAVE))
_BUCKET_BITS = 32 - _BUCKET_SHIFT
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

    def finish(self) -> tuple[ValueSummary, ...]:
        """Return one summary a feature, in order."""
        keys, sums = self._sums.table()
        bounds = np.searchsorted(keys, np.arange(len(self.maximum) + 1) << _BUCKET_BITS)
        return tuple(
            _summarise(keys[begin:end] & ((1 << _BUCKET_BITS) - 1), sums[begin:end])
            for begin, end in itertools.pairwise(bounds)
        )

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


def _summarise(buckets: IntArray, sums: IntArray) -> ValueSummary:
    if not len(buckets):
        return ValueSummary()
    magnitudes = buckets & _MAGNITUDE_MASK
    negative = buckets > _MAGNITUDE_MASK
    counts = sums[:, 0]
    mean, std = _moments(magnitudes, sums)
    ascending = np.concatenate((np.flatnonzero(negative)[::-1], np.flatnonzero(~negative)))
    means = np.ldexp(sums[:, 1] / counts, _shifts(magnitudes) + SMALLEST_EXPONENT)
    by_magnitude = np.argsort(magnitudes, kind="stable")
    quartiles = _quantiles(np.abs(means)[by_magnitude], counts[by_magnitude], (0.25, 0.5, 0.75))
    edges, bins = _histogram(magnitudes, counts, negative)
    return ValueSummary(
        active_count=int(counts.sum()),
        negative_count=int(counts[negative].sum()),
        mean=mean,
        std=std,
        quantiles=_quantiles(means[ascending], counts[ascending], QUANTILES),
        magnitude_quartiles=tuple(value for _, value in quartiles),
        histogram_edges=edges,
        histogram_counts=bins,
    )


def _moments(magnitudes: IntArray, sums: IntArray) -> tuple[float, float]:
    """Return mean and standard deviation, in Python's integers, which nothing rounds before the last division."""
    count = int(sums[:, 0].sum())
    shifts = _shifts(magnitudes).tolist()
    total = sum(int(value) << shift for value, shift in zip(sums[:, 1], shifts, strict=True))
    square = sum(
        ((int(high) << _HALF_BITS) + int(low)) << 2 * shift
        for high, low, shift in zip(sums[:, 2], sums[:, 3], shifts, strict=True)
    )
    unit = -SMALLEST_EXPONENT
    variance = (count * square - total * total) / (count * count << 2 * unit)
    return total / (count << unit), math.sqrt(variance)


def _lower_edges(magnitudes: IntArray, shift: int) -> npt.NDArray[np.float64]:
    """Return where buckets of that shift begin; the one past the largest float32 ends at the largest float32."""
    largest = np.float32(np.finfo(np.float32).max).view(np.uint32)
    return np.minimum(magnitudes << shift, largest).astype(np.uint32).view(np.float32).astype(np.float64)


def _shifts(magnitudes: IntArray) -> IntArray:
    """Return by how many bits the mantissas in each bucket stand above SMALLEST_EXPONENT."""
    return np.maximum(magnitudes >> (MANTISSA_BITS - _BUCKET_SHIFT), 1) - 1


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
        pairs, shifts = keys >> 8, keys & 0xFF
        vocabulary = len(self.occurrences)
        bounds = np.searchsorted(pairs, np.arange(self.features + 1) * vocabulary)
        return tuple(
            _most_frequent(pairs[begin:end] % vocabulary, shifts[begin:end], sums[begin:end], most)
            for begin, end in itertools.pairwise(bounds)
        )

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


def _most_frequent(tokens: IntArray, shifts: IntArray, sums: IntArray, most: int) -> tuple[tuple[int, int, float], ...]:
    if not len(tokens):
        return ()
    first = run_starts(tokens)
    ends = np.append(first[1:], len(tokens))
    counts = np.add.reduceat(sums[:, 0], first)
    rows = []
    for index in np.lexsort((tokens[first], -counts))[:most]:
        span = slice(first[index], ends[index])
        count = int(counts[index])
        total = sum(int(value) << int(shift) for value, shift in zip(sums[span, 1], shifts[span], strict=True))
        rows.append((int(tokens[first[index]]), count, total / (count << -SMALLEST_EXPONENT)))
    return tuple(rows)


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
        np.add.at(self.counts.reshape(-1), acts.feature * bins + self._bin(acts.position), 1)

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
