"""What every accumulator is fed: the windows of one batch and the non-zero activations on them."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from sae_analysis.accumulators.exact import IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """The context windows of one batch, without BOS; rows may end in padding, which is never kept."""

    sequence: IntArray
    """Number of each window, ``[rows]``, in the order of the corpus, with gaps; it settles all ties."""

    token_ids: IntArray
    """``[rows, seq]``; padding is -1."""

    keep: npt.NDArray[np.bool_]
    """``[rows, seq]``: the tokens that count."""

    document: tuple[str, ...]
    """Name of the document of each window."""

    start: IntArray
    """Token of its document at which each window begins, ``[rows]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseActs:
    """The non-zero activations of one batch on kept tokens, as parallel arrays ``[n]``, with their windows."""

    feature: IntArray
    """Feature, from 0; below the accumulator's number of features."""

    row: IntArray
    """Row of ``windows``."""

    position: IntArray
    """Position in the window, from 0."""

    value: npt.NDArray[np.float32]
    """Activation, never zero."""

    windows: Windows

    def only(self, local_index: IntArray) -> Self:
        """Return the activations of some features, renumbered: ``local_index [d_sae]`` is -1 where not wanted."""
        feature = local_index[self.feature]
        chosen = feature >= 0
        if chosen.all():
            return replace(self, feature=feature)
        return type(self)(
            feature=feature[chosen],
            row=self.row[chosen],
            position=self.position[chosen],
            value=self.value[chosen],
            windows=self.windows,
        )
