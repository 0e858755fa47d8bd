"""The search: populations of token sequences, one for each feature, that learn from each other.

Every round each feature's population has children by several operators; all children of all features go through the
model in one batch, and every feature looks at all of them. Only sequences that are text are admitted. A population
that no longer improves is put aside and begun anew, and the best of all end in a last one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sae_analysis.synth_activations.evaluation import GRADIENT_COST, Evaluator
from sae_analysis.synth_activations.vocabulary import Vocabulary

Ids = np.ndarray
"""Integer tokens; sequences lie in the last dimension."""

Progress = Callable[[int], None]
"""Called with the number of token-evaluations spent since the last call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """How hard and how to look."""

    seq_len: int = 12
    """Tokens of a sequence, BOS not counted."""

    budget: int = 100_000
    """Token-evaluations for each feature; what a batch does for several is counted once, and shared."""

    population: int = 8
    children: int = 16
    """Sequences of a feature that live on, and new ones a round."""

    candidates: int = 64
    """Tokens at each place among which the slope's choice falls."""

    patience: int = 30
    """Rounds without a better sequence after which a population begins anew."""

    last_share: float = 0.3
    """Share of the budget that the last population gets, made of the best of all before."""

    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A sequence that fires a feature, on integer tokens."""

    ids: tuple[int, ...]
    value: float
    position: int
    provenance: str
    """What the population began with that it came from: ``random``, ``real``, ``other feature`` …"""

    evaluations: int
    """Token-evaluations of its feature when it was found."""


# --- operators -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Parents:
    """One parent a feature, and what its children may be made of."""

    last: np.ndarray
    """Place where each fires; what comes after does not matter ``[features]``."""

    mates: Ids
    """Populations ``[features, population, seq]``."""

    promising: Ids
    """Tokens by descending slope ``[features, seq, candidates]``."""

    allowed: Ids


def _places(rng: np.random.Generator, last: np.ndarray, children: int) -> np.ndarray:
    """Return a place for each child that matters to its parent's value."""
    return (rng.random((len(last), children)) * (last[:, None] + 1)).astype(np.int64)


def _swap_by_slope(children: Ids, parents: Parents, rng: np.random.Generator) -> None:
    features, count, _ = children.shape
    place = _places(rng, parents.last, count)
    choice = rng.integers(parents.promising.shape[2], size=(features, count))
    rows, columns = np.arange(features)[:, None], np.arange(count)[None]
    children[rows, columns, place] = parents.promising[rows, place, choice]


def _swap_twice_by_slope(children: Ids, parents: Parents, rng: np.random.Generator) -> None:
    _swap_by_slope(children, parents, rng)
    _swap_by_slope(children, parents, rng)


def _swap_at_random(children: Ids, parents: Parents, rng: np.random.Generator) -> None:
    features, count, _ = children.shape
    rows, columns = np.arange(features)[:, None], np.arange(count)[None]
    children[rows, columns, _places(rng, parents.last, count)] = rng.choice(parents.allowed, size=(features, count))


def _cross(children: Ids, parents: Parents, rng: np.random.Generator) -> None:
    """Take one end from a mate."""
    features, count, length = children.shape
    mate = rng.integers(parents.mates.shape[1], size=(features, count))
    others = parents.mates[np.arange(features)[:, None], mate]
    cut = rng.integers(1, max(length, 2), size=(features, count, 1))
    takes_front = rng.random((features, count, 1)) < 0.5
    front = np.arange(length) < cut
    children[...] = np.where(front == takes_front, others, children)


def _shift(children: Ids, parents: Parents, rng: np.random.Generator) -> None:
    """Delete a token, and insert one elsewhere."""
    features, count, length = children.shape
    deleted = rng.integers(length, size=(features, count, 1))
    inserted = rng.integers(length, size=(features, count, 1))
    place = np.arange(length)
    source = np.where((place >= deleted) & (place < inserted), place + 1, place)
    source = np.where((place <= deleted) & (place > inserted), place - 1, source)
    children[...] = np.take_along_axis(children, source, axis=2)
    np.put_along_axis(children, inserted, rng.choice(parents.allowed, size=(features, count, 1)), axis=2)


OPERATORS: Mapping[str, Callable[[Ids, Parents, np.random.Generator], None]] = {
    "swap by slope": _swap_by_slope,
    "swap twice by slope": _swap_twice_by_slope,
    "swap at random": _swap_at_random,
    "cross": _cross,
    "shift": _shift,
}
"""Each changes children that begin as copies of their parent, in place."""

_SWEPT_SHARE = 0.3
"""Share of the rounds in which a population goes through all single swaps of its best, instead of drawing some."""

_LONGEST_SWEEP = 4096
_LEAST_SHARE = 0.06
"""Share of the children that every operator makes, however little it gains."""


# --- the search ----------------------------------------------------------------------------------------------------


class Search:
    """One run over some features; ``run`` spends the budget."""

    def __init__(
        self,
        evaluator: Evaluator,
        vocabulary: Vocabulary,
        settings: SearchSettings,
        seeds: Mapping[int, Sequence[Sequence[int]]] | None = None,
    ) -> None:
        """Prepare; ``seeds`` are sequences of real text to begin with, by feature, cut or filled to length."""
        self._evaluator, self._vocabulary, self._settings = evaluator, vocabulary, settings
        self._rng = np.random.default_rng(settings.seed)
        self._allowed = vocabulary.ids.numpy()
        self._gain = dict.fromkeys(OPERATORS, 1.0)
        self._seeds = seeds or {}
        count, size, length = len(evaluator.features), settings.population, settings.seq_len
        self._ids = np.zeros((count, size, length), np.int64)
        self._value = np.full((count, size), -np.inf)
        self._position = np.zeros((count, size), np.int64)
        self._elites: list[dict[tuple[int, ...], Found]] = [{} for _ in range(count)]
        self._stale = np.zeros(count, np.int64)
        self._queues: list[tuple[tuple[int, ...], np.ndarray]] = [((), np.zeros(0, np.int64))] * count
        self._is_last = False
        self._origin = ["random"] * count

    def run(self, progress: Progress | None = None) -> dict[int, list[Found]]:
        """Return for each feature the best sequences of each population, best first."""
        features, settings = len(self._evaluator.features), self._settings
        for place in range(features):
            self._begin(place)
        self._admit(self._ids.reshape(features, -1, settings.seq_len).copy())
        round_cost = features * settings.seq_len * (settings.children + GRADIENT_COST)
        budget = settings.budget * features
        before = 0
        while self._evaluator.token_evaluations + round_cost <= budget:
            if not self._is_last and self._evaluator.token_evaluations > (1 - settings.last_share) * budget:
                self._gather()
            self._admit(self._breed())
            for place in np.flatnonzero(self._stale > settings.patience):
                self._put_aside(int(place))
                self._begin(int(place))
            if progress:
                progress(self._evaluator.token_evaluations - before)
                before = self._evaluator.token_evaluations
        for place in range(features):
            self._put_aside(place)
        ranked = [sorted(elites.values(), key=lambda found: -found.value) for elites in self._elites]
        return dict(zip(self._evaluator.features, ranked, strict=True))

    def _begin(self, place: int) -> None:
        """Fill a population anew: with real text the first time, else at random."""
        size, length = self._ids.shape[1:]
        self._ids[place] = self._rng.choice(self._allowed, size=(size, length))
        self._value[place] = -np.inf
        self._stale[place] = 0
        seeds = [list(seed) for seed in self._seeds.get(self._evaluator.features[place], ())][:size]
        self._origin[place] = "real" if seeds and not self._elites[place] else "random"
        if self._origin[place] == "real":
            for row, seed in enumerate(seeds):
                self._ids[place, row, -min(length, len(seed)) :] = seed[-length:]

    def _breed(self) -> Ids:
        """Return children of one parent a feature ``[features, children, seq]``."""
        features, settings = len(self._ids), self._settings
        rows = np.arange(features)
        # The better of two picks: good ones are parents more often, and none is left out.
        rank = self._rng.integers(settings.population, size=(2, features)).min(axis=0)
        order = np.argsort(-self._value, axis=1, kind="stable")
        is_swept = self._rng.random(features) < _SWEPT_SHARE
        chosen = order[rows, np.where(is_swept, 0, rank)]
        ids, last = self._ids[rows, chosen], self._position[rows, chosen]
        slopes = self._evaluator.gradient(
            torch.from_numpy(ids), torch.from_numpy(rows), torch.from_numpy(last), self._vocabulary.ids
        )
        best = slopes.topk(min(settings.candidates, len(self._vocabulary)), dim=2).indices.numpy()
        parents = Parents(last=last, mates=self._ids, promising=self._allowed[best], allowed=self._allowed)
        children = np.repeat(ids[:, None], settings.children, axis=1)
        total = sum(self._gain.values())
        shares = [_LEAST_SHARE + (1 - _LEAST_SHARE * len(OPERATORS)) * gain / total for gain in self._gain.values()]
        self._made_by = self._rng.choice(len(OPERATORS), size=settings.children, p=np.array(shares) / sum(shares))
        for number, operate in enumerate(OPERATORS.values()):
            mine = np.flatnonzero(self._made_by == number)
            if len(mine):
                part = children[:, mine]
                operate(part, parents, self._rng)
                children[:, mine] = part
        for place in np.flatnonzero(is_swept):
            children[place] = self._swept(int(place), ids[place], int(last[place]), slopes[place])
        self._parent_value = np.where(is_swept, np.inf, self._value[rows, chosen])  # sweeps reward no operator
        return children

    def _swept(self, place: int, ids: Ids, last: int, slopes: torch.Tensor) -> Ids:
        """Return the next single swaps of a best sequence, by slope; none comes twice while it is the best."""
        best, queue = self._queues[place]
        if best != tuple(ids):
            flat = slopes[: last + 1].flatten()
            queue = flat.topk(min(_LONGEST_SWEEP, len(flat))).indices.numpy()
        count = self._settings.children
        self._queues[place] = tuple(ids), queue[count:]
        where, token = np.divmod(queue[:count], len(self._allowed))
        children = np.repeat(ids[None], count, axis=0)
        children[np.arange(len(where)), where] = self._allowed[token]
        return children

    def _admit(self, children: Ids) -> None:
        """Score children, reward the operators that made better ones, and let the best that are text live on."""
        features, count, length = children.shape
        flat = children.reshape(-1, length)
        with torch.no_grad():
            scores = self._evaluator.score(torch.from_numpy(flat))
        value, position = scores.value.numpy(), scores.position.numpy()
        own = value.reshape(features, count, features)[np.arange(features), :, np.arange(features)]
        if hasattr(self, "_made_by") and count == self._settings.children:
            better = (own > self._parent_value[:, None]).mean(axis=0)
            for number, name in enumerate(OPERATORS):
                mine = better[self._made_by == number]
                if len(mine):
                    self._gain[name] = 0.9 * self._gain[name] + 0.1 * float(mine.mean())
        # All children are looked at by all features: what one was made for, another may fire on more.
        hopeful = np.argpartition(-value, min(2 * self._settings.population, len(flat) - 1), axis=0)
        hopeful = hopeful[: 2 * self._settings.population]
        self._stale += 1
        for place in range(features):
            self._admit_to(place, flat, value[:, place], position[:, place], hopeful[:, place])

    def _admit_to(self, place: int, flat: Ids, value: np.ndarray, position: np.ndarray, hopeful: np.ndarray) -> None:
        known = {tuple(ids) for ids in self._ids[place][self._value[place] > -np.inf].tolist()}
        better = []
        for row in hopeful[np.argsort(-value[hopeful], kind="stable")]:
            ids = tuple(flat[row].tolist())
            if value[row] > self._value[place].min() and ids not in known:
                known.add(ids)
                better.append(row)
        best = self._value[place].max()
        for row, text in zip(better, self._vocabulary.texts(flat[better].tolist()), strict=True):
            worst = int(self._value[place].argmin())
            if text is not None and value[row] > self._value[place, worst]:
                self._ids[place, worst], self._value[place, worst] = flat[row], value[row]
                self._position[place, worst] = position[row]
        if self._value[place].max() > best:
            self._stale[place] = 0

    def _put_aside(self, place: int) -> None:
        """Keep what a population came to."""
        spent = self._evaluator.token_evaluations // len(self._ids)
        for ids, value, position in zip(self._ids[place], self._value[place], self._position[place], strict=True):
            if value > -np.inf:
                found = Found(
                    ids=tuple(ids.tolist()),
                    value=float(value),
                    position=int(position),
                    provenance=self._origin[place],
                    evaluations=spent,
                )
                self._elites[place].setdefault(found.ids, found)

    def _gather(self) -> None:
        """Make the last populations of the best of all before."""
        self._is_last = True
        for place in range(len(self._ids)):
            self._put_aside(place)
            best = sorted(self._elites[place].values(), key=lambda found: -found.value)[: self._ids.shape[1]]
            for row, found in enumerate(best):
                self._ids[place, row], self._value[place, row] = found.ids, found.value
                self._position[place, row] = found.position
