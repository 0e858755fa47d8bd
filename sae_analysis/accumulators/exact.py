"""Sums that do not depend on the order of their terms.

A float32 is an integer mantissa times a power of two. Mantissas of one power add up in 64-bit integers without
rounding (2^39 of them at least), so any split of a stream over shards gives the same bits in the end.
"""

from typing import Self

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

MANTISSA_BITS = 23
"""Stored mantissa bits of a float32."""

SMALLEST_EXPONENT = -149
"""Every finite float32 is an integer times two to this power."""

_DOUBLE_EXPONENT = -1074
"""Every finite float64 is an integer times two to this power."""


def mantissas(values: npt.NDArray[np.float32]) -> tuple[IntArray, IntArray]:
    """Split float32 ``[n]`` into signed integers m and shifts s with ``value = (m << s) * 2**SMALLEST_EXPONENT``.

    The unit of the values, whichever they have, stays theirs.
    """
    bits = values.view(np.uint32)
    exponent = ((bits >> MANTISSA_BITS) & 0xFF).astype(np.int64)
    fraction = (bits & ((1 << MANTISSA_BITS) - 1)).astype(np.int64)
    mantissa = fraction | ((exponent > 0).astype(np.int64) << MANTISSA_BITS)
    return np.where(bits >> 31, -mantissa, mantissa), np.maximum(exponent, 1) - 1


class KeyedSums:
    """Integer sums in several columns under sparse integer keys.

    Batches wait in a buffer and are folded in when it outgrows the table, so an update costs amortised constant time.
    """

    _BUFFER_ROWS = 1 << 16

    def __init__(self, columns: int) -> None:
        """Start empty with that many columns."""
        self._keys = np.empty(0, np.int64)
        self._sums = np.empty((0, columns), np.int64)
        self._pending: list[tuple[IntArray, IntArray]] = []
        self._pending_rows = 0

    def add(self, keys: IntArray, values: IntArray) -> None:
        """Add ``values [n, columns]`` under ``keys [n]``; keys may repeat."""
        if not len(keys):
            return
        self._pending.append((keys, values))
        self._pending_rows += len(keys)
        if self._pending_rows > max(len(self._keys), self._BUFFER_ROWS):
            self._fold()

    def table(self) -> tuple[IntArray, IntArray]:
        """Return the keys ``[n]``, ascending, and their sums ``[n, columns]``."""
        self._fold()
        return self._keys, self._sums

    def merge(self, other: Self) -> None:
        """Add all sums of ``other``, which stays as it is."""
        self.add(*other.table())

    def _fold(self) -> None:
        if self._pending:
            parts = [(self._keys, self._sums), *self._pending]
            keys = np.concatenate([part_keys for part_keys, _ in parts])
            self._keys, self._sums = _sum_by_key(keys, np.concatenate([sums for _, sums in parts]))
            self._pending, self._pending_rows = [], 0


def _sum_by_key(keys: IntArray, values: IntArray) -> tuple[IntArray, IntArray]:
    order = np.argsort(keys)  # sums do not care for the order of equal keys, and a sort that does is slower
    keys = keys[order]
    first = run_starts(keys)
    return keys[first], np.add.reduceat(values[order], first, axis=0)


def run_starts(ordered: IntArray) -> IntArray:
    """Return where each run of equal values in ``ordered [n]``, which must not be empty, begins: ``[runs]``."""
    return np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))


class ExactSum:
    """Sums of a few float64 quantities, each in a unit of its own, one batch total at a time, without rounding."""

    def __init__(self, size: int) -> None:
        """Start ``size`` sums at zero."""
        self._units = [0] * size

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Add one value to each sum, in its unit; ``values`` must be finite, ``[size]``."""
        for index, value in enumerate(values.tolist()):
            numerator, denominator = value.as_integer_ratio()
            self._units[index] += (numerator << -_DOUBLE_EXPONENT) // denominator

    def merge(self, other: Self) -> None:
        """Add the sums of ``other``, which stays as it is."""
        self._units = [mine + theirs for mine, theirs in zip(self._units, other._units, strict=True)]

    def values(self) -> npt.NDArray[np.float64]:
        """Return the sums, each in its unit and rounded once, ``[size]``."""
        return np.array([units / (1 << -_DOUBLE_EXPONENT) for units in self._units])

    def state(self) -> npt.NDArray[np.str_]:
        """Return the sums ``[size]`` as hexadecimal text, which holds integers of any size."""
        return np.array([hex(units) for units in self._units], dtype=np.str_)

    @classmethod
    def from_state(cls, state: npt.NDArray[np.str_]) -> Self:
        """Restore what ``state`` returned, ``[size]``."""
        restored = cls(len(state))
        restored._units = [int(text, 16) for text in state.tolist()]
        return restored
