"""Made-up corpora for accumulators."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from sae_analysis.accumulators import SparseActs, Windows

FEATURES, VOCABULARY, SEQ_LEN, TOP, SAMPLED = 3, 5, 6, 2, 3


@dataclass(frozen=True)
class Window:
    """One window of a made-up corpus: its tokens, which of them count, and what fires where."""

    sequence: int
    ids: tuple[int, ...]
    keep: tuple[bool, ...]
    acts: dict[tuple[int, int], float]
    """Value by (feature, position)."""


VALUES = st.one_of(
    st.sampled_from([1.0, 2.0, -1.0, 2.0**-149, 1e-38, 3.0e38, 1.0000001]),
    st.floats(width=32, allow_nan=False, allow_infinity=False).filter(lambda value: value != 0),
)


@st.composite
def corpora(draw: st.DrawFn) -> list[Window]:
    windows = []
    for sequence in range(draw(st.integers(0, 9))):
        ids = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=SEQ_LEN))
        keep = tuple(draw(st.booleans()) or position == 0 for position in range(len(ids)))
        places = st.tuples(st.integers(0, FEATURES - 1), st.sampled_from([p for p, kept in enumerate(keep) if kept]))
        acts = draw(st.dictionaries(places, VALUES, max_size=8))
        windows.append(Window(sequence, tuple(ids), keep, acts))
    return windows


def as_batch(windows: list[Window]) -> SparseActs:
    width = max(len(window.ids) for window in windows)
    token_ids = np.full((len(windows), width), -1, np.int64)
    keep = np.zeros((len(windows), width), np.bool_)
    rows = []
    for row, window in enumerate(windows):
        token_ids[row, : len(window.ids)] = window.ids
        keep[row, : len(window.ids)] = window.keep
        rows += [(feature, row, position, value) for (feature, position), value in window.acts.items()]
    rows.sort(key=lambda entry: (entry[1], entry[2]))
    feature, row, position, value = np.array(rows, np.float64).reshape(-1, 4).T
    return SparseActs(
        feature=feature.astype(np.int64),
        row=row.astype(np.int64),
        position=position.astype(np.int64),
        value=value.astype(np.float32),
        windows=Windows(
            sequence=np.array([window.sequence for window in windows], np.int64),
            token_ids=token_ids,
            keep=keep,
            document=tuple(f"doc {window.sequence:06}" for window in windows),
            start=np.array([7 * window.sequence for window in windows], np.int64),
        ),
    )


def run(make: Callable[[], object], parts: list[list[Window]]) -> object:
    accumulator = make()
    for part in parts:
        if part:
            accumulator.update(as_batch(part))
    return accumulator


def fired(corpus: list[Window], feature: int) -> list[tuple[Window, int, np.float32]]:
    return [
        (window, position, np.float32(value))
        for window in corpus
        for (which, position), value in sorted(window.acts.items())
        if which == feature
    ]
