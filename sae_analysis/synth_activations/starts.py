"""What populations begin with, each source in its turn."""

from collections.abc import Sequence

import numpy as np

from sae_analysis.synth_activations.operators import Ids

SOURCES = ("real text", "random")
"""In the order of their turns."""


class Starts:
    """Makes sequences to begin with; every source has its turn, so that no lineage takes over."""

    def __init__(
        self,
        sources: Sequence[str],
        allowed: np.ndarray,
        seeds: Sequence[Sequence[Sequence[int]]],
        rng: np.random.Generator,
    ) -> None:
        """Prepare; ``allowed [n]`` are the tokens to take, ``seeds`` real text for each feature."""
        self._sources, self._allowed = sources, allowed
        self._seeds, self._rng = seeds, rng
        self._turn = [0] * len(seeds)

    def next(self, place: int, count: int, length: int) -> tuple[str, Ids]:
        """Return the source whose turn it is with a feature, and sequences ``[count, length]``."""
        sources = [source for source in self._sources if source != "real text" or self._seeds[place]]
        source = sources[self._turn[place] % len(sources)]
        self._turn[place] += 1
        rows = self._rng.choice(self._allowed, size=(count, length))
        if source == "real text":
            self._lay_real_text(rows, self._seeds[place])
        return source, rows

    def _lay_real_text(self, rows: Ids, seeds: Sequence[Sequence[int]]) -> None:
        """Put the end of a text, where it fired, at the end of each row as far as there are texts."""
        for row, pick in enumerate(self._rng.permutation(len(seeds))[: len(rows)]):
            end = list(seeds[pick])[-rows.shape[1] :]
            rows[row, -len(end) :] = end
