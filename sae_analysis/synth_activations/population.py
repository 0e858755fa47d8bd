"""Sequences that live on, side by side for all features."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sae_analysis.synth_activations.operators import Ids
from sae_analysis.synth_activations.terms import Found


@dataclass(frozen=True, slots=True, kw_only=True)
class Brood:
    """Sequences tried for some features, and what each does to the feature that it was tried for."""

    places: np.ndarray
    """Of the features among those searched for ``[rows]``."""

    ids: Ids
    """``[rows, siblings, seq]``."""

    origin: np.ndarray
    """What their populations began with ``[rows]``."""

    value: np.ndarray
    position: np.ndarray
    """``[rows, siblings]``."""


class Population:
    """A number of slots for each feature, each with a sequence and what is known of it; an empty one has -inf.

    A sequence never stands in two slots of a feature.
    """

    def __init__(self, features: int, slots: int, length: int, candidates: int, operators: Sequence[str]) -> None:
        """Begin empty; ``candidates`` tokens to try are kept for each place of a sequence."""
        self.ids = np.zeros((features, slots, length), np.int64)
        self.has_held = np.zeros((features, slots), bool)
        self.value = np.full((features, slots), -np.inf)
        self.position = np.zeros((features, slots), np.int64)
        """Where each fires."""
        self.origin = np.full((features, slots), "", object)
        self.cross_entropy = np.full((features, slots), np.nan)
        self.found_at = np.zeros((features, slots), np.int64)
        """Token-evaluations of its feature when each came."""
        self.promising = np.zeros((features, slots, length, candidates), np.int64)
        """Tokens to try in each place, the best first; only where ``has_promising``."""
        self.has_promising = np.zeros((features, slots), bool)
        self.gain = dict.fromkeys(operators, 1.0)
        """Share of each operator's children that were better, over all features, the latest counting most."""

    def clear(self, places: np.ndarray) -> None:
        """Empty the slots of some features, ``[n]``."""
        self.value[places] = -np.inf

    def held(self, places: np.ndarray) -> np.ndarray:
        """Return how many sequences some features have, ``[n]``."""
        return (self.value[places] > -np.inf).sum(axis=1)

    def known(self, place: int) -> set[tuple[int, ...]]:
        """Return a feature's sequences."""
        return {tuple(ids) for ids in self.ids[place][self.value[place] > -np.inf].tolist()}

    def found(self, place: int) -> Iterator[Found]:
        """Yield a feature's sequences, with all that is known of them."""
        for slot in np.flatnonzero(self.value[place] > -np.inf):
            surprise = float(self.cross_entropy[place, slot])
            yield Found(
                ids=tuple(self.ids[place, slot].tolist()),
                value=float(self.value[place, slot]),
                position=int(self.position[place, slot]),
                provenance=str(self.origin[place, slot]),
                evaluations=int(self.found_at[place, slot]),
                cross_entropy=None if np.isnan(surprise) else surprise,
            )

    def mates(self, places: np.ndarray) -> Ids:
        """Return the sequences of features that have had any, to cross with ``[places, slots, seq]``.

        What stood in a slot before it was emptied is still good to cross with. In the place of a slot that never held
        one stands another's sequence.
        """
        held = self.has_held[places]
        first = np.argsort(~held, axis=1, kind="stable")
        turn = np.arange(held.shape[1]) % held.sum(axis=1, keepdims=True)
        return self.ids[places[:, None], first[np.arange(len(places))[:, None], turn]]

    def put(self, place: int, slot: int, ids: Ids, value: float, position: int) -> None:
        """Replace what is in a slot; ``value`` is an activation or margin, as in ``Scores``.

        What else is known of it is the caller's to say.
        """
        self.ids[place, slot], self.value[place, slot], self.position[place, slot] = ids, value, position
        self.has_held[place, slot] = True
        self.cross_entropy[place, slot] = np.nan
        self.has_promising[place, slot] = False
