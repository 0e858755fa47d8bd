"""The strongest sequences at each level of fluency: the way from text to what fires hardest, level by level."""

from collections.abc import Callable, Sequence

import numpy as np

from sae_analysis.synth_activations.evaluation import Fluency
from sae_analysis.synth_activations.operators import Ids
from sae_analysis.synth_activations.population import Brood, Population

LEVEL_EDGES = (3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
"""Edges between the levels, in nats per token."""

LEVEL_SLOTS = 2
"""Sequences kept of each level."""

LIKELY = 64
"""Tokens that the model expects most in a place, of which children of fluent sequences are made."""


class FluentPopulation(Population):
    """A population with slots for each level of fluency, the most fluent first.

    No weight between fluency and activation has to be chosen: parents come from all levels, and a child competes with
    those of its own. ``promising`` holds places among the allowed tokens until these are put in order of slope.

    Source: the archive of Mouret and Clune 2015, "Illuminating search spaces by mapping elites".
    """

    def __init__(self, features: int, length: int, allowed: int, operators: Sequence[str]) -> None:
        """Begin empty."""
        slots = (len(LEVEL_EDGES) + 1) * LEVEL_SLOTS
        super().__init__(features, slots, length, min(LIKELY, allowed), operators)

    def parents(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return features that have any ``[n]``, and a slot of each ``[n]``.

        The slot is of the least fluent level only if there is no other.
        """
        filled = self.value > -np.inf
        filled[:, -LEVEL_SLOTS:] &= ~filled[:, :-LEVEL_SLOTS].any(axis=1, keepdims=True)
        places = np.flatnonzero(filled.any(axis=1))
        return places, np.where(filled[places], rng.random((len(places), filled.shape[1])), -1).argmax(axis=1)

    def bars(self, places: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Return what children of these parents ``[n]`` must exceed, ``[n]``, to be of use a level more fluent."""
        best = self.value.reshape(len(self.value), -1, LEVEL_SLOTS).max(axis=2)
        level = slots // LEVEL_SLOTS
        more_fluent = np.maximum.accumulate(best, axis=1)[places, np.maximum(level - 1, 0)]
        return np.where(level > 0, more_fluent, self.value[places, :LEVEL_SLOTS].min(axis=1))

    def admit(
        self, brood: Brood, picked: list[tuple[int, int]], measure: Callable[[Ids], Fluency], spent: int
    ) -> np.ndarray:
        """Measure the picked children (row, sibling), and keep the strongest of each level.

        Returns which were kept, ``[rows siblings]``.
        """
        kept = np.zeros(brood.value.shape, bool)
        if not picked:
            return kept
        rows, columns = (np.array(part) for part in zip(*picked, strict=True))
        ids, which = np.unique(brood.ids[rows, columns], axis=0, return_inverse=True)
        found = measure(ids)
        surprise, likely = found.cross_entropy.numpy(), found.likely.numpy()
        for row, column, one in zip(rows, columns, which, strict=True):
            place, level = int(brood.places[row]), int(np.digitize(surprise[one], LEVEL_EDGES))
            first = level * LEVEL_SLOTS
            slot = first + int(self.value[place, first : first + LEVEL_SLOTS].argmin())
            if brood.value[row, column] > self.value[place, slot]:
                self.put(place, slot, ids[one], float(brood.value[row, column]), int(brood.position[row, column]))
                self.origin[place, slot], self.found_at[place, slot] = brood.origin[row], spent
                self.cross_entropy[place, slot] = surprise[one]
                self.promising[place, slot] = likely[one]
                kept[row, column] = True
        return kept
