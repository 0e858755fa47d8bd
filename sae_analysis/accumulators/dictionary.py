"""Statistics of the whole dictionary: every feature's density and maximum, and how well the SAE fits the hook."""

from collections.abc import Mapping
from typing import Self

import numpy as np
import numpy.typing as npt

from sae_analysis.accumulators.batch import SparseActs
from sae_analysis.accumulators.exact import ExactSum, IntArray
from sae_analysis.accumulators.features import State, position_edges


class DictionaryStatistics:
    """For every feature of the SAE how often it fires and its largest magnitude; active features by position."""

    def __init__(self, d_sae: int, seq_len: int) -> None:
        """Start empty."""
        self._seq_len = seq_len
        self.active_counts = np.zeros(d_sae, np.int64)
        """Firings of each feature, ``[d_sae]``."""
        self.max_magnitudes = np.zeros(d_sae, np.float32)
        """Largest absolute activation of each feature, ``[d_sae]``; 0 if it never fired."""
        bins = len(position_edges(seq_len)) - 1
        self.position_active = np.zeros(bins, np.int64)
        """Firings of all features by position bin, ``[bins]``."""
        self.position_tokens = np.zeros(bins, np.int64)
        """Kept tokens by position bin, ``[bins]``."""

    def update(self, acts: SparseActs) -> None:
        """Count the activations and kept tokens of one batch."""
        self.active_counts += np.bincount(acts.feature, minlength=len(self.active_counts))
        np.maximum.at(self.max_magnitudes, acts.feature, np.abs(acts.value))
        _, kept = np.nonzero(acts.windows.keep)
        self.position_active += self._by_position(acts.position)
        self.position_tokens += self._by_position(kept)

    def _by_position(self, positions: IntArray) -> IntArray:
        bins = np.searchsorted(position_edges(self._seq_len), positions, side="right") - 1
        return np.bincount(bins, minlength=len(self.position_tokens))

    def merge(self, other: Self) -> None:
        """Add what ``other`` counted; ``other`` stays as it is."""
        self.active_counts = self.active_counts + other.active_counts
        self.max_magnitudes = np.maximum(self.max_magnitudes, other.max_magnitudes)
        self.position_active = self.position_active + other.position_active
        self.position_tokens = self.position_tokens + other.position_tokens

    def finish(self) -> tuple[IntArray, npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """Return firings ``[d_sae]``, largest magnitudes ``[d_sae]`` and mean active features by position bin."""
        l0 = self.position_active / np.maximum(self.position_tokens, 1)
        return self.active_counts.copy(), self.max_magnitudes.copy(), l0

    def state(self) -> State:
        """Return everything needed to go on, as arrays."""
        names = ("active_counts", "max_magnitudes", "position_active", "position_tokens")
        return {name: getattr(self, name).copy() for name in names} | {"seq_len": np.array(self._seq_len)}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray]) -> Self:
        """Restore what ``state`` returned."""
        restored = cls(len(state["active_counts"]), int(state["seq_len"]))
        for name in state.keys() - {"seq_len"}:
            setattr(restored, name, state[name].copy())
        return restored


class FitStatistics:
    """Explained variance, cosine and L0 from batch totals, added without rounding.

    Source: explained variance is one less the normalised MSE of Gao et al. 2024, "Scaling and evaluating sparse
    autoencoders"; cosine and L0 are those of saprmarks/dictionary_learning, ``evaluation.py``.
    """

    _SCALARS = ("squared_input", "squared_error", "cosine")

    def __init__(self, d_in: int) -> None:
        """Start empty for reconstructions of that width."""
        self.token_count = 0
        """Kept tokens."""
        self.active_count = 0
        """Firings of all features."""
        self._sums = ExactSum(d_in + len(self._SCALARS))

    def update(
        self,
        *,
        tokens: int,
        active: int,
        input_sum: npt.NDArray[np.float64],
        squared_input: float,
        squared_error: float,
        cosine: float,
    ) -> None:
        """Add one batch: its kept tokens and firings, the sum of x ``[d_in]``, of |x|², |x - x̂|² and cos(x, x̂).

        x and its reconstruction x̂ are in the model's own units.
        """
        self.token_count += tokens
        self.active_count += active
        self._sums.add(np.concatenate((input_sum, [squared_input, squared_error, cosine])))

    def merge(self, other: Self) -> None:
        """Add the batches of ``other``, which stays as it is."""
        self.token_count += other.token_count
        self.active_count += other.active_count
        self._sums.merge(other._sums)

    def finish(self) -> tuple[float, float, float]:
        """Return explained variance, mean cosine and mean active features per kept token.

        Explained variance is 1 - Σ|x - x̂|² / Σ|x - mean(x)|²; it is nan where the input never varies.

        Raises:
            ZeroDivisionError: no token was kept.
        """
        sums = self._sums.values()
        squared_input, squared_error, cosine = sums[-len(self._SCALARS) :].tolist()
        input_sum = sums[: -len(self._SCALARS)]
        variance = squared_input - float(input_sum @ input_sum) / self.token_count
        explained = 1 - squared_error / variance if variance > 0 else float("nan")
        return explained, cosine / self.token_count, self.active_count / self.token_count

    def state(self) -> State:
        """Return everything needed to go on, as arrays."""
        return {"counts": np.array([self.token_count, self.active_count]), "sums": self._sums.state()}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray]) -> Self:
        """Restore what ``state`` returned."""
        restored = cls(len(state["sums"]) - len(cls._SCALARS))
        restored.token_count, restored.active_count = state["counts"].tolist()
        restored._sums = ExactSum.from_state(state["sums"])
        return restored
