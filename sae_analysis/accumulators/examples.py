"""The windows worth keeping for each feature: the strongest, and a uniform sample of all on which it fires.

Both are the same question asked of two priorities, the activation's magnitude and a hash: of all windows seen, keep
the ``capacity`` of highest priority. Until a feature's list is full everything is admitted; from then on only what
could enter it. Admitted pairs of feature and window wait in a buffer and are pruned in bulk, so the cost of an update
falls as the lists settle, and memory depends on features, capacity and window length alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from sae_analysis.accumulators.batch import SparseActs, Windows
from sae_analysis.accumulators.exact import IntArray, run_starts

Priority = npt.NDArray[np.uint64]

_WindowsBySequence = dict[int, tuple[npt.NDArray[np.int32], str, int]]
"""Token ids without padding, document and start of each window that is kept."""

_IGNORED_BITS = 10
"""Low mantissa bits that do not count when magnitudes are ranked (1.2e-4 of the value): windows that begin alike have
the same activations there but for float32 rounding, which differs between batches and must not decide their rank."""

_MAGNITUDE_BITS = 32 - _IGNORED_BITS
"""Bits of the priority by magnitude: a float32 without its sign, rounded up at most once."""

_HASH_BITS = 64

_FIRST_BITS = 40
"""Bits of a priority that are sorted together with the feature."""

_PAIR_SEQUENCE_BITS = 40
"""A pair of feature and window fits into 64 bits: 2^40 windows, 2^23 features."""

MOST_WINDOWS = 1 << _PAIR_SEQUENCE_BITS
"""Numbers of windows are lower than this."""

_BUFFER_PAIRS = 1 << 15
"""Admitted pairs that may wait before the first pruning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldExample:
    """One window kept for one feature."""

    token_ids: IntArray
    """``[seq]``, without padding."""

    activations: npt.NDArray[np.float32]
    """The feature's activation at each token, ``[seq]``."""

    peak: int
    """Position the window was kept for."""

    document: str
    start: int
    sequence: int


def magnitude_priority(values: npt.NDArray[np.float32]) -> Priority:
    """Return integers that order activations ``[n]`` by magnitude, equal where only rounding tells them apart."""
    magnitude = np.abs(values).view(np.uint32).astype(np.uint64)
    return (magnitude + np.uint64(1 << (_IGNORED_BITS - 1))) >> np.uint64(_IGNORED_BITS)


def hash_priority(seed: int, *columns: IntArray) -> Priority:
    """Return a reproducible pseudo-random integer for each row of ``columns``."""
    state = np.full(len(columns[0]), np.uint64(seed % (1 << 64)))
    for column in columns:
        state = _mix(state ^ column.astype(np.uint64))
    return state


def window_content(token_ids: IntArray) -> Priority:
    """Return one integer for the tokens of each window ``[rows, seq]``, however much padding (-1) follows them."""
    state = np.zeros(len(token_ids), np.uint64)
    for column in token_ids.T:
        state = np.where(column >= 0, _mix(state ^ column.astype(np.uint64)), state)
    return state


def _mix(state: Priority) -> Priority:
    """Scramble 64-bit integers one to one.

    Source: splitmix64 of Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 17.
    """
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


class _Ranking:
    """For each feature the ``capacity`` pairs of highest priority, at most one per distinct window.

    Order: priority, then place in the corpus. Windows of equal tokens are one window: the first in that order stands
    for all its copies.
    """

    _COLUMNS = ("feature", "sequence", "position", "content", "priority")

    def __init__(self, features: int, capacity: int, priority_bits: int) -> None:
        self.capacity, self._priority_bits = capacity, priority_bits
        self._table = self._empty()
        self._pending: list[dict[str, npt.NDArray]] = []
        self.pending_rows = 0
        self._admission = np.zeros(features, np.uint64)

    @property
    def held_rows(self) -> int:
        """Pairs that survived the last pruning."""
        return len(self._table["feature"])

    @staticmethod
    def _empty() -> dict[str, npt.NDArray]:
        kinds = (np.int64, np.int64, np.int64, np.uint64, np.uint64)
        return {name: np.empty(0, kind) for name, kind in zip(_Ranking._COLUMNS, kinds, strict=True)}

    def offer(self, acts: SparseActs, priority: Priority, content: Priority) -> IntArray:
        """Take what could enter the lists; return the indices into ``acts`` of what was taken, one a pair."""
        possible = np.flatnonzero(priority >= self._admission[acts.feature])
        if not len(possible):
            return possible
        pair = acts.feature[possible] * len(content) + acts.row[possible]
        order = _in_order(pair.astype(np.uint64), ~priority[possible], acts.position[possible])
        taken = possible[order[run_starts(pair[order])]]
        rows = acts.row[taken]
        self._add(
            {
                "feature": acts.feature[taken],
                "sequence": acts.windows.sequence[rows],
                "position": acts.position[taken],
                "content": content[rows],
                "priority": priority[taken],
            }
        )
        return taken

    def _add(self, rows: dict[str, npt.NDArray]) -> None:
        self._pending.append(rows)
        self.pending_rows += len(rows["feature"])

    def merge(self, other: Self) -> None:
        self._add(other.table())

    def table(self) -> dict[str, npt.NDArray]:
        """Return the lists as columns, by feature, then in the order of the lists."""
        if not self._pending:
            return self._table
        parts = [self._table, *self._pending]
        rows = {name: np.concatenate([part[name] for part in parts]) for name in self._COLUMNS}
        priority = rows["priority"]
        first_bits = priority >> np.uint64(max(self._priority_bits - _FIRST_BITS, 0))
        coarse = ((rows["feature"].astype(np.uint64) + np.uint64(1)) << np.uint64(_FIRST_BITS)) - first_bits
        rows = _take(rows, _in_order(coarse, ~priority, rows["sequence"], rows["position"]))
        rows = _take(rows, _first_of_each(rows["feature"], rows["content"]))
        begins = np.searchsorted(rows["feature"], np.arange(len(self._admission) + 1))
        rank = np.arange(len(rows["feature"])) - begins[rows["feature"]]
        full = np.diff(begins) >= self.capacity
        last = begins[:-1][full] + self.capacity - 1
        self._admission[full] = rows["priority"][last]
        self._table = _take(rows, rank < self.capacity)
        self._pending, self.pending_rows = [], 0
        return self._table


def _take(rows: dict[str, npt.NDArray], chosen: npt.NDArray) -> dict[str, npt.NDArray]:
    return {name: column[chosen] for name, column in rows.items()}


def _in_order(coarse: Priority, *fine: npt.NDArray) -> IntArray:
    """Return the order by ``coarse``, and by the columns of ``fine``, the first first, among rows equal in it.

    NumPy sorts one column several times as fast as several, and few rows need the others.
    """
    order = np.argsort(coarse)
    tied = _tied(coarse[order])
    if tied.any():
        rows = order[tied]
        columns = (*(column[rows] for column in reversed(fine)), coarse[rows])
        order[tied] = rows[np.lexsort(columns)]
    return order


def _tied(ordered: npt.NDArray) -> npt.NDArray[np.bool_]:
    """Mark what has an equal beside it."""
    tied = np.zeros(len(ordered), np.bool_)
    same = ordered[1:] == ordered[:-1]
    tied[1:] |= same
    tied[:-1] |= same
    return tied


def _first_of_each(feature: IntArray, content: Priority) -> npt.NDArray[np.bool_]:
    """Mark the first row of each (feature, content), in the order given."""
    marks = np.ones(len(feature), np.bool_)
    mixed = _mix(feature.astype(np.uint64)) ^ content  # equal where both are, and hardly ever elsewhere
    order = np.argsort(mixed)
    rows = order[_tied(mixed[order])]
    by_pair = rows[np.lexsort((rows, content[rows], feature[rows]))]
    same = (feature[by_pair][1:] == feature[by_pair][:-1]) & (content[by_pair][1:] == content[by_pair][:-1])
    marks[by_pair[1:][same]] = False
    return marks


class ExampleStatistics:
    """The strongest windows of each feature and a uniform sample of its firings, with all their activations."""

    def __init__(self, features: int, top: int, sampled: int, seed: int) -> None:
        """Start empty: ``top`` strongest and ``sampled`` random windows for each of the features."""
        self._features, self._seed = features, seed
        self._rankings = (_Ranking(features, top, _MAGNITUDE_BITS), _Ranking(features, sampled, _HASH_BITS))
        self._pairs, self._positions, self._values = _no_activations()
        self._pending: list[tuple[IntArray, IntArray, npt.NDArray[np.float32]]] = []
        self._windows: _WindowsBySequence = {}

    def update(self, acts: SparseActs) -> None:
        """Consider the activations of one batch."""
        windows = acts.windows
        sequence = windows.sequence[acts.row]
        priorities = (
            magnitude_priority(acts.value),
            # Of the place alone: a feature's sample must not depend on which others are looked at.
            hash_priority(self._seed, sequence, acts.position),
        )
        content = window_content(windows.token_ids)
        admitted = np.zeros((self._features, len(content)), np.bool_)
        for ranking, priority in zip(self._rankings, priorities, strict=True):
            taken = ranking.offer(acts, priority, content)
            admitted[acts.feature[taken], acts.row[taken]] = True
        kept = admitted[acts.feature, acts.row]
        pairs = (acts.feature[kept] << _PAIR_SEQUENCE_BITS) | sequence[kept]
        self._pending.append((pairs, acts.position[kept], acts.value[kept]))
        self._remember(windows, np.flatnonzero(admitted.any(axis=0)))
        if any(ranking.pending_rows > max(_BUFFER_PAIRS, ranking.held_rows) for ranking in self._rankings):
            self._prune()

    def _remember(self, windows: Windows, rows: IntArray) -> None:
        for row in rows.tolist():
            ids = windows.token_ids[row]
            window = (ids[ids >= 0].astype(np.int32), windows.document[row], int(windows.start[row]))
            self._windows[int(windows.sequence[row])] = window

    def _prune(self) -> None:
        """Drop the activations and windows that no list needs any more."""
        tables = [ranking.table() for ranking in self._rankings]
        needed = _distinct(
            np.concatenate([(table["feature"] << _PAIR_SEQUENCE_BITS) | table["sequence"] for table in tables])
        )
        parts = [(self._pairs, self._positions, self._values), *self._pending]
        pairs, positions, values = (np.concatenate(column) for column in zip(*parts, strict=True))
        kept = np.flatnonzero(_are_in(pairs, needed))
        order = kept[_in_order(pairs[kept].astype(np.uint64), positions[kept])]
        self._pairs, self._positions, self._values = pairs[order], positions[order], values[order]
        self._pending = []
        sequences = _distinct(needed & ((1 << _PAIR_SEQUENCE_BITS) - 1)).tolist()
        self._windows = {sequence: self._windows[sequence] for sequence in sequences}

    def merge(self, other: Self) -> None:
        """Add what ``other`` saw; the two must have seen different windows. ``other`` keeps its content."""
        other._prune()
        for mine, theirs in zip(self._rankings, other._rankings, strict=True):
            mine.merge(theirs)
        self._pending.append((other._pairs, other._positions, other._values))
        self._windows |= other._windows
        self._prune()

    def finish(self) -> "HeldExamples":
        """Return for each feature its strongest windows, in order, and its sample, in random order."""
        self._prune()
        return HeldExamples(
            self._features,
            tables=(ranking.table() for ranking in self._rankings),
            pairs=self._pairs,
            positions=self._positions,
            values=self._values,
            windows=self._windows,
        )

    def state(self) -> dict[str, npt.NDArray]:
        """Return everything needed to go on, as arrays."""
        self._prune()
        sequences = sorted(self._windows)
        windows = [self._windows[sequence] for sequence in sequences]
        tables = {
            f"{name}_{index}": column
            for index, ranking in enumerate(self._rankings)
            for name, column in ranking.table().items()
        }
        return tables | {
            "shape": np.array([self._features, *(ranking.capacity for ranking in self._rankings), self._seed]),
            "pairs": self._pairs,
            "positions": self._positions,
            "values": self._values,
            "windows": np.array(sequences, np.int64),
            "lengths": np.array([len(ids) for ids, _, _ in windows], np.int64),
            "token_ids": np.concatenate([np.empty(0, np.int32), *(ids for ids, _, _ in windows)]),
            "documents": np.array([document for _, document, _ in windows], dtype=np.str_),
            "starts": np.array([start for _, _, start in windows], np.int64),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray]) -> Self:
        """Restore what ``state`` returned."""
        restored = cls(*state["shape"].tolist())
        for index, ranking in enumerate(restored._rankings):
            ranking._add({name: state[f"{name}_{index}"] for name in _Ranking._COLUMNS})
        restored._pending.append((state["pairs"], state["positions"], state["values"]))
        token_ids = np.split(state["token_ids"], np.cumsum(state["lengths"])[:-1])
        columns = (state["windows"].tolist(), token_ids, state["documents"].tolist(), state["starts"].tolist())
        for sequence, ids, document, start in zip(*columns, strict=True) if len(state["windows"]) else ():
            restored._windows[sequence] = (ids, document, start)
        restored._prune()
        return restored


class HeldExamples:
    """The lists of each feature, made when it is asked for: for all features at once they are gigabytes."""

    def __init__(
        self,
        features: int,
        *,
        tables: Iterable[Mapping[str, npt.NDArray]],
        pairs: IntArray,
        positions: IntArray,
        values: npt.NDArray[np.float32],
        windows: _WindowsBySequence,
    ) -> None:
        """Hold what ``ExampleStatistics`` holds, which never changes these arrays; three are ``[activations]``."""
        self._features = features
        bounds = np.arange(features + 1)
        self._lists = [(table, np.searchsorted(table["feature"], bounds)) for table in tables]
        self._pairs, self._positions, self._values, self._windows = pairs, positions, values, windows

    def __len__(self) -> int:
        """Return the number of features."""
        return self._features

    def __getitem__(self, feature: int) -> tuple[tuple[HeldExample, ...], tuple[HeldExample, ...]]:
        """Return the strongest windows and the sample of one feature."""
        if not 0 <= feature < self._features:
            raise IndexError(feature)
        strongest, sampled = (self._list(which, feature) for which in range(2))
        return strongest, sampled

    def strongest(self, feature: int, most: int) -> tuple[HeldExample, ...]:
        """Return at most so many of the strongest windows of one feature."""
        return self._list(0, feature, most)

    def _list(self, which: int, feature: int, most: int | None = None) -> tuple[HeldExample, ...]:
        table, bounds = self._lists[which]
        return tuple(
            self._example(feature, int(table["sequence"][row]), int(table["position"][row]))
            for row in range(bounds[feature], bounds[feature + 1])[:most]
        )

    def _example(self, feature: int, sequence: int, peak: int) -> HeldExample:
        token_ids, document, start = self._windows[sequence]
        pair = (feature << _PAIR_SEQUENCE_BITS) | sequence
        begin, end = np.searchsorted(self._pairs, [pair, pair + 1])
        activations = np.zeros(len(token_ids), np.float32)
        activations[self._positions[begin:end]] = self._values[begin:end]
        return HeldExample(
            token_ids=token_ids.astype(np.int64),
            activations=activations,
            peak=peak,
            document=document,
            start=start,
            sequence=sequence,
        )


def _distinct(values: IntArray) -> IntArray:
    """Return each value once, ascending; NumPy's own way of late is to hash them, which is slower."""
    ascending = np.sort(values)
    return ascending[run_starts(ascending)] if len(ascending) else ascending


def _are_in(values: IntArray, ascending: IntArray) -> npt.NDArray[np.bool_]:
    """Return which values are among others."""
    if not len(ascending):
        return np.zeros(len(values), np.bool_)
    return ascending[np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)] == values


def _no_activations() -> tuple[IntArray, IntArray, npt.NDArray[np.float32]]:
    return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
