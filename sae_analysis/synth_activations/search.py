"""The search: populations of token sequences, one for each feature, that learn from each other.

Every round each feature's population has children by several operators; all children of all features go through the
model in one batch, and every feature looks at all of them. Only sequences that are text are admitted. A population
that no longer improves is put aside and begun anew, and the best of all end in a last one. A share of the rounds goes
to a second population, which keeps the strongest sequences at each level of fluency.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from sae_analysis.synth_activations.evaluation import GRADIENT_COST, Evaluator, Fluency, Scores
from sae_analysis.synth_activations.fluency import LIKELY, FluentPopulation
from sae_analysis.synth_activations.operators import OPERATORS, Ids, Parents
from sae_analysis.synth_activations.population import Brood, Population
from sae_analysis.synth_activations.relaxation import relax
from sae_analysis.synth_activations.starts import Starts
from sae_analysis.synth_activations.terms import Found, Searched, SearchSettings
from sae_analysis.synth_activations.vocabulary import Vocabulary

Progress = Callable[[int], None]
"""Called with the number of token-evaluations spent since the last call."""

_LIKELY_CANDIDATES = 16
"""How many of the tokens that the model expects count as promising, by slope."""

_SWEPT_CANDIDATES = 256
"""Tokens of a place through which the best of a population is swept, by slope."""

_MOST_SIBLINGS = 4
"""How many times as many children there are at most where they share a beginning."""

_LEAST_SHARE = 0.06
"""Share of the children that every operator makes, however little it gains."""

_ATTEMPTS = 4
"""Further changes made to a child that was tried before, until it is a new one."""

_ANOTHER = "another feature"


class Search:
    """One run over some features; ``run`` spends the budget.

    Source: populations along fluency are of Thompson, Straznickas and Sklar 2024, "Fluent dreaming for language models"
    (EPO), swaps by slope of Zou et al. 2023 (GCG), operators weighed by what they gain of ADAPT 2026.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        vocabulary: Vocabulary,
        settings: SearchSettings,
        seeds: Mapping[int, Sequence[Sequence[int]]] | None = None,
    ) -> None:
        """Prepare.

        ``seeds`` are sequences of real text to begin with, by feature; what is too long keeps its end.
        """
        if settings.seq_len == 1 and not evaluator.site.prepend_bos:
            settings = replace(settings, fluency=0.0)  # before the only token there is nothing that could expect it
        self._evaluator, self._vocabulary, self._settings = evaluator, vocabulary, settings
        self._rng = np.random.default_rng(settings.seed)
        self._allowed = vocabulary.ids.numpy()
        self._seeds = [(seeds or {}).get(feature, ()) for feature in evaluator.features]
        features, length = len(evaluator.features), settings.seq_len
        candidates, makers = min(_SWEPT_CANDIDATES, len(vocabulary)), settings.operators
        self._free = Population(features, settings.population, length, candidates, makers)
        self._fluent = FluentPopulation(features, length, len(vocabulary), makers)
        self._elites: list[dict[tuple[int, ...], Found]] = [{} for _ in range(features)]
        self._factors = self._rng.integers(2**63, size=length) | 1
        self._tried: set[int] = set()
        self._swept = np.zeros((features, length), np.int64)
        self._stale = np.zeros(features, np.int64)
        self._convergence: list[list[tuple[int, float]]] = [[] for _ in range(features)]
        self._relaxations: list[tuple[float, float] | None] = [None] * features
        self._is_last = False
        self._beginnings = 0

    def run(self, progress: Progress | None = None) -> dict[int, Searched]:
        """Spend the budget and return what was found, by feature."""
        settings, everyone = self._settings, np.arange(len(self._evaluator.features))
        budget, spent_on_fluent = settings.budget * len(everyone), 0
        told = 0

        def tell() -> None:
            nonlocal told
            if progress:
                progress(self._evaluator.token_evaluations - told)
            told = self._evaluator.token_evaluations

        most_a_round = len(everyone) * settings.seq_len * (3 * settings.children // 2 + GRADIENT_COST + 1)
        with torch.no_grad():
            self._begin_all(everyone, tell)
            self._beginnings = self._spent
            while (before := self._evaluator.token_evaluations) + most_a_round <= budget:
                if spent_on_fluent < settings.fluency * before:
                    self._round(self._fluent)
                    spent_on_fluent += self._evaluator.token_evaluations - before
                else:
                    if not self._is_last and before > (1 - settings.last_share) * budget:
                        self._gather(everyone)
                    self._round(self._free)
                    self._begin_stale()
                tell()
                if self._evaluator.token_evaluations == before:
                    break  # no population has a sequence: nothing that was begun with is text
        return {feature: self._outcome(place) for place, feature in enumerate(self._evaluator.features)}

    # --- beginnings ------------------------------------------------------------------------------------------------

    def _begin_all(self, everyone: np.ndarray, tell: Callable[[], None]) -> None:
        settings = self._settings
        self._starts = Starts(settings.sources, self._allowed, self._seeds, self._rng)
        self._begin(everyone)
        tell()
        if settings.n_steps:
            self._relax(everyone)
            tell()
        if settings.fluency:
            self._begin_fluent(everyone)
            tell()

    def _begin(self, places: np.ndarray) -> None:
        """Fill populations anew, each from the source whose turn it is."""
        settings = self._settings
        begun = [self._starts.next(int(place), settings.pool, settings.seq_len) for place in places]
        ids, origin = np.stack([rows for _, rows in begun]), np.array([name for name, _ in begun], object)
        self._free.clear(places)
        self._stale[places] = 0
        self._try(places, ids, origin)
        for row in np.flatnonzero(2 * self._free.held(places) < settings.population):
            if len(texts := self._texts_near(ids[row])):
                self._try(places[row : row + 1], texts[None], origin[row : row + 1])

    def _texts_near(self, rows: Ids) -> Ids:
        """Return texts that end about as sequences ``[rows, seq]`` do, at most as many."""
        front = self._rng.choice(self._allowed, size=rows.shape)  # neighbours that are cut as one token make it shorter
        texts = self._vocabulary.nearby(np.concatenate((front, rows), axis=1).tolist(), rows.shape[1])
        return np.array(texts, np.int64)

    def _relax(self, places: np.ndarray) -> None:
        """Go up the slope in embedding space from each population's best, and try what the mixtures are made of."""
        settings = self._settings
        places = places[self._free.held(places) > 0]
        if not len(places):
            return
        best = self._free.ids[places, self._free.value[places].argmax(axis=1)]
        relaxed = relax(
            self._evaluator,
            self._vocabulary.ids,
            torch.from_numpy(best),
            torch.from_numpy(places),
            n_steps=settings.n_steps,
            learning_rate=settings.learning_rate,
        )
        weights = relaxed.mixtures.flatten(0, 1)
        drawn = torch.multinomial(weights, settings.pool, replacement=True, generator=self._generator())
        sequences = drawn.reshape(len(places), settings.seq_len, settings.pool).transpose(1, 2)
        sequences[:, 0] = relaxed.mixtures.argmax(dim=-1)
        brood = self._try(places, self._vocabulary.ids[sequences].numpy(), self._named("relaxed", places))
        for row, place in enumerate(places):
            self._relaxations[place] = float(relaxed.value[row]), float(brood.value[row, 0])

    def _begin_fluent(self, everyone: np.ndarray) -> None:
        """Begin with what the model writes by itself, and with what the other population begins with."""
        settings, free = self._settings, self._free
        written = self._evaluator.sample(settings.pool, settings.seq_len, self._vocabulary.ids, self._generator())
        scores = self._evaluator.score(written)
        value, position = scores.value.T.numpy(), scores.position.T.numpy()
        ids, origin = np.repeat(written[None].numpy(), len(everyone), axis=0), self._named("model text", everyone)
        is_text = self._are_texts(ids[0], np.arange(len(written)))
        for place, ranked in enumerate(np.argsort(-value, axis=1, kind="stable")):
            order = ranked[is_text[ranked]]
            names = np.repeat(origin[:1], len(order))
            self._admit_to(place, ids[place, order], value[place, order], position[place, order], names)
        nothing = np.full(len(everyone), -np.inf)
        brood = Brood(places=everyone, ids=ids, origin=origin, value=value, position=position)
        self._admit_fluent(brood, nothing)
        for slot in np.argsort(-free.value, axis=1, kind="stable").T:
            at = everyone, slot
            ids, value, position = (found[at][:, None] for found in (free.ids, free.value, free.position))
            brood = Brood(places=everyone, ids=ids, origin=free.origin[at], value=value, position=position)
            self._admit_fluent(brood, nothing)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(int(self._rng.integers(2**31)))

    @staticmethod
    def _named(source: str, places: np.ndarray) -> np.ndarray:
        return np.full(len(places), source, object)

    # --- rounds ----------------------------------------------------------------------------------------------------

    def _round(self, population: Population) -> None:
        """Make children of one parent a feature, and admit the best."""
        settings = self._settings
        if population is self._fluent:
            places, chosen = self._fluent.parents(self._rng)
            is_swept = np.zeros(len(places), bool)
        else:
            places, chosen, is_swept = self._free_parents()
        self._fill_promising(population, places, chosen)
        last = population.position[places, chosen]
        shared = int(self._rng.integers(settings.seq_len)) if settings.caching else settings.seq_len
        for rows, beginning in ((np.flatnonzero(last >= shared), shared), (np.flatnonzero(last < shared), 0)):
            if len(rows):
                self._breed(population, places[rows], chosen[rows], is_swept[rows], beginning)

    def _breed(
        self, population: Population, places: np.ndarray, slots: np.ndarray, is_swept: np.ndarray, shared: int
    ) -> None:
        """Make, try and admit children that share their first tokens with their parents."""
        settings, last = self._settings, population.position[places, slots]
        anywhere = (self._rng.random(len(places)) * (last + 1)).astype(np.int64)
        parents = Parents(
            place=np.full(len(places), shared) if shared else anywhere,
            last=last,
            mates=population.mates(places),
            **self._tokens_to_try(population, places, slots),
        )
        # What a beginning that is run once saves is spent on more children.
        more = min(settings.seq_len / (settings.seq_len - shared), _MOST_SIBLINGS)
        children = np.repeat(population.ids[places, slots][:, None], int(settings.children * more), axis=1)
        made_by = self._operate(population, children, parents)
        for row in np.flatnonzero(is_swept):
            self._sweep(int(places[row]), int(slots[row]), int(parents.place[row]), children[row])
        self._renew(children, parents)
        value = population.value[places, slots]
        brood = self._try(places, children, population.origin[places, slots], shared)
        if population is self._fluent:
            better = self._admit_fluent(brood, self._fluent.bars(places, slots))
        else:
            better = brood.value > np.where(is_swept, np.inf, value)[:, None]  # sweeps reward no operator
        self._reward(population, made_by, better)

    def _free_parents(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return features that have any, a slot of each, and whether it is the best and swept through."""
        value = self._free.value
        held = self._free.held(np.arange(len(value)))
        # The better of two picks: good ones are parents more often, and none is left out.
        rank = (self._rng.random((2, len(value))) * held).astype(np.int64).min(axis=0)
        is_swept = self._rng.random(len(value)) < self._settings.swept_share
        order = np.argsort(-value, axis=1, kind="stable")
        self._stale += 1
        places = np.flatnonzero(held)
        return places, order[places, np.where(is_swept, 0, rank)[places]], is_swept[places]

    def _tokens_to_try(self, population: Population, places: np.ndarray, slots: np.ndarray) -> dict[str, Ids]:
        promising = population.promising[places, slots]
        if population is self._fluent:
            return {"promising": promising[:, :, :_LIKELY_CANDIDATES], "others": promising}
        others = np.broadcast_to(self._allowed, (*promising.shape[:2], len(self._allowed)))
        return {"promising": promising[:, :, : self._settings.candidates], "others": others}

    def _fill_promising(self, population: Population, places: np.ndarray, slots: np.ndarray) -> None:
        """Put the tokens to try in order of slope, where that was not done before."""
        new = ~population.has_promising[places, slots]
        places, slots = places[new], slots[new]
        if not len(places):
            return
        slopes = self._evaluator.gradient(
            torch.from_numpy(population.ids[places, slots]),
            torch.from_numpy(places),
            torch.from_numpy(population.position[places, slots]),
            self._vocabulary.ids,
        )
        if population is self._fluent:
            likely = torch.from_numpy(population.promising[places, slots])
            best = likely.gather(2, slopes.gather(2, likely).argsort(dim=2, descending=True, stable=True))
        else:
            best = slopes.topk(population.promising.shape[3], dim=2).indices
        population.promising[places, slots] = self._allowed[best.numpy()]
        population.has_promising[places, slots] = True

    def _operate(self, population: Population, children: Ids, parents: Parents) -> np.ndarray:
        """Change the children, each column of them by one operator, and return which."""
        gain = population.gain
        shares = _LEAST_SHARE + np.array(list(gain.values())) / sum(gain.values())
        made_by = self._rng.choice(len(gain), size=children.shape[1], p=shares / shares.sum())
        for number, name in enumerate(gain):
            columns = np.flatnonzero(made_by == number)
            if len(columns):
                part = children[:, columns]
                OPERATORS[name](part, parents, self._rng)
                children[:, columns] = part
        return made_by

    def _renew(self, children: Ids, parents: Parents) -> None:
        """Change children that were tried before, or are twice among these, once more."""
        flat = children.reshape(-1, children.shape[2])
        old = np.arange(len(flat))
        for attempt in range(_ATTEMPTS + 1):
            hashes = (flat[old] * self._factors).sum(axis=1).tolist()
            is_old = np.zeros(len(old), bool)
            for row, code in enumerate(hashes):
                is_old[row] = code in self._tried
                self._tried.add(code)
            old = old[is_old]
            if not len(old) or attempt == _ATTEMPTS:
                return
            parent = old // children.shape[1]
            span = parents.last[parent] - parents.place[parent] + 1
            where = parents.place[parent] + (self._rng.random(len(old)) * span).astype(np.int64)
            tokens = parents.others[parent, where]
            flat[old, where] = tokens[np.arange(len(old)), self._rng.integers(tokens.shape[1], size=len(old))]

    def _reward(self, population: Population, made_by: np.ndarray, better: np.ndarray) -> None:
        """Let operators whose children are better make more of them."""
        gain = population.gain
        for number, name in enumerate(gain):
            mine = better[:, made_by == number]
            if mine.size:
                gain[name] = 0.9 * gain[name] + 0.1 * float(mine.mean())

    def _sweep(self, place: int, slot: int, at: int, children: Ids) -> None:
        """Make a best sequence's children its next single swaps; none comes twice while it is the best."""
        begin = self._swept[place, at]
        tokens = self._free.promising[place, slot, at, begin : begin + len(children)]
        self._swept[place, at] += len(tokens)
        children[: len(tokens)] = self._free.ids[place, slot]
        children[np.arange(len(tokens)), at] = tokens

    # --- admission -------------------------------------------------------------------------------------------------

    def _try(self, places: np.ndarray, children: Ids, origin: np.ndarray, shared: int = 0) -> Brood:
        """Score children of some features, and admit the best to the populations of all."""
        rows, siblings, length = children.shape
        flat = torch.from_numpy(children.reshape(-1, length))
        scores = self._evaluator.score(flat, shared, siblings if shared else 1)
        self._admit(places, children, origin, scores)
        value, position = (
            found.numpy().reshape(rows, siblings, -1)[np.arange(rows), :, places]
            for found in (scores.value, scores.position)
        )
        return Brood(places=places, ids=children, origin=origin, value=value, position=position)

    def _admit(self, places: np.ndarray, children: Ids, origin: np.ndarray, scores: Scores) -> None:
        """Let the best live on: what was tried for one feature, another may fire on more."""
        siblings, flat = children.shape[1], children.reshape(-1, children.shape[2])
        value, position = scores.value.numpy(), scores.position.numpy()
        most = min(2 * self._settings.population, len(flat))
        hopeful = np.argpartition(-value, most - 1, axis=0)[:most]
        own = {int(place): row for row, place in enumerate(places)}
        wanted = {}
        for place in range(len(self._free.ids)):
            rows = hopeful[:, place]
            if not self._settings.harvest:
                rows = np.arange(siblings) + siblings * own[place] if place in own else rows[:0]
            rows = rows[value[rows, place] > self._free.value[place].min()]
            wanted[place] = rows[np.argsort(-value[rows, place], kind="stable")]
        is_text = self._are_texts(flat, np.concatenate(list(wanted.values())))
        for place, rows in wanted.items():
            if len(rows := rows[is_text[rows]]):
                names = np.where(places[rows // siblings] == place, origin[rows // siblings], _ANOTHER)
                self._admit_to(place, flat[rows], value[rows, place], position[rows, place], names)

    def _are_texts(self, flat: Ids, rows: np.ndarray) -> np.ndarray:
        """Return which sequences are text, of those in some rows; each is asked for once, whoever wants it."""
        answer, asked = np.zeros(len(flat), bool), np.unique(rows)
        answer[asked] = [text is not None for text in self._vocabulary.texts(flat[asked].tolist())]
        return answer

    def _admit_to(self, place: int, ids: Ids, value: np.ndarray, position: np.ndarray, origin: np.ndarray) -> None:
        """Admit sequences, which are text, to a feature's population, best first, if they are better than the worst."""
        free, known = self._free, self._free.known(place)
        best = free.value[place].max()
        for row, sequence in enumerate(map(tuple, ids.tolist())):
            worst = int(free.value[place].argmin())
            if value[row] > free.value[place, worst] and sequence not in known:
                known.add(sequence)
                free.put(place, worst, ids[row], float(value[row]), int(position[row]))
                free.origin[place, worst], free.found_at[place, worst] = origin[row], self._spent
        now = float(free.value[place].max())
        if now > best:
            self._stale[place] = self._swept[place] = 0
            line = self._convergence[place]
            if not line or now > line[-1][1]:
                line.append((self._spent, now))

    def _admit_fluent(self, brood: Brood, bars: np.ndarray) -> np.ndarray:
        """Run whole what is text, new and above its bar, strongest first, and keep the best of each level."""
        most, picked = self._settings.children // 2, []
        for row, place in enumerate(brood.places):
            order = np.argsort(-brood.value[row], kind="stable")
            order = order[brood.value[row, order] > bars[row]][: 2 * most]
            seen = self._fluent.known(int(place))
            fresh = []
            for column in order:
                if (ids := tuple(brood.ids[row, column].tolist())) not in seen:
                    seen.add(ids)
                    fresh.append(int(column))
            texts = self._vocabulary.texts(brood.ids[row, fresh].tolist())
            picked += [(row, column) for column, text in zip(fresh, texts, strict=True) if text is not None][:most]
        return self._fluent.admit(brood, picked, self._measure, self._spent)

    def _measure(self, ids: Ids) -> Fluency:
        return self._evaluator.fluency(torch.from_numpy(ids), self._vocabulary.ids, LIKELY)

    # --- populations that end --------------------------------------------------------------------------------------

    @property
    def _spent(self) -> int:
        """Token-evaluations of one feature so far."""
        return self._evaluator.token_evaluations // len(self._evaluator.features)

    def _begin_stale(self) -> None:
        """Put populations aside that no longer improve, and begin them anew; the last ones stay."""
        stale = np.flatnonzero(self._stale > self._settings.patience)
        if len(stale) and not self._is_last:
            for place in stale:
                self._put_aside(self._free, int(place))
            self._begin(stale)

    def _put_aside(self, population: Population, place: int) -> None:
        """Keep what a population came to."""
        for found in population.found(place):
            known = self._elites[place].setdefault(found.ids, found)
            if found.evaluations < known.evaluations:  # the other population had it first
                self._elites[place][found.ids] = replace(known, evaluations=found.evaluations)

    def _gather(self, everyone: np.ndarray) -> None:
        """Make the last populations of the best of all before."""
        self._is_last = True
        for place in everyone.tolist():
            self._put_aside(self._free, place)
            best = sorted(self._elites[place].values(), key=lambda found: -found.value)
            self._free.clear(np.array([place]))
            for slot, found in enumerate(best[: self._settings.population]):
                self._free.put(place, slot, np.array(found.ids), found.value, found.position)
                self._free.origin[place, slot], self._free.found_at[place, slot] = found.provenance, found.evaluations

    def _outcome(self, place: int) -> Searched:
        for population in (self._fluent, self._free):  # of the same sequence, that which knows more
            self._put_aside(population, place)
        return Searched(
            found=tuple(sorted(self._elites[place].values(), key=lambda found: -found.value)),
            token_evaluations=self._spent,
            beginnings=self._beginnings,
            convergence=tuple(self._convergence[place]),
            relaxation=self._relaxations[place],
        )
