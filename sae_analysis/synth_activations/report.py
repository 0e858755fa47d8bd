"""From what a search found to what is said of a feature: chosen, read anew, counted.

Of the search's own numbers only what it cost and how it went are passed on; every activation comes from ``Reader``.
"""

import functools
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from sae_analysis.accumulators import PositionStatistics, SparseActs, TokenStatistics, ValueStatistics, Windows
from sae_analysis.feature_stats import Counted, WeightSide
from sae_analysis.language_model import LanguageModel
from sae_analysis.records import ActivationExample, FeatureSearch, FeatureStats, Relaxation, Synthesis
from sae_analysis.synth_activations.scoring import Ids, Reader, without
from sae_analysis.synth_activations.terms import Found, Searched
from sae_analysis.synth_activations.vocabulary import Vocabulary

_ROUNDING = 1.0001
"""Activations this close are equal: batches of other sizes round otherwise."""

SUFFICIENT = 0.95
"""Share of the strongest activation that the shortest text for it keeps."""

_PADDING = -1


class Reporter:
    """Puts together what is said of each feature that was searched for. The caller holds the grad mode."""

    def __init__(
        self,
        model: LanguageModel,
        reader: Reader,
        vocabulary: Vocabulary,
        contexts: Int64[Tensor, "contexts seq"],
        *,
        max_examples: int,
        list_length: int,
        seed: int,
    ) -> None:
        """Prepare; ``contexts`` are what triggers are tried behind, ``seed`` is that of the search, for the record."""
        self._model, self._reader, self._vocabulary, self._contexts = model, reader, vocabulary, contexts
        self._max_examples, self._list_length, self._seed = max_examples, list_length, seed

    def feature_stats(
        self,
        feature: int,
        searched: Searched,
        weights: WeightSide,
        single_token: Ids,
        begun_with: Sequence[Ids] = (),
    ) -> FeatureStats:
        """Return the statistics of a feature over the tokens of its examples, strongest first.

        ``single_token`` is the one that fires it most, behind what stood in front of it; ``begun_with`` is the real
        text that its search was given.
        """
        alone = self._single_token(single_token, feature)
        excerpts = [self._excerpt(ids, feature) for ids in begun_with[: self._max_examples]]
        excerpts.sort(key=_strength, reverse=True)
        begun = [one for one in excerpts if _synthesis(one).is_text and one.max_activation > 0]
        # However little was spent, neither a single token nor a beginning should be better than what is reported.
        floor = [(alone[1], _alone(single_token)), *((one.max_activation, _begun(one.token_ids)) for one in begun)]
        highest = max((one.value for one in searched.found), default=0.0)
        found, texts = self._texts((*searched.found, *(one for value, one in floor if value > highest)))
        ranked, along = self._ranked([one.ids for one in found], feature)
        sequences = [found[place].ids for place in ranked]

        @functools.cache
        def made(place: int) -> ActivationExample:
            return self._example(found[place], texts[place], feature)

        def by_strength(chosen: Sequence[int]) -> list[ActivationExample]:
            return sorted((made(ranked[place]) for place in chosen), key=_strength, reverse=True)

        examples = by_strength(differing(sequences, self._max_examples))
        strongest = examples[0] if examples and examples[0].max_activation > 0 else None
        fluent = [*map(made, along), *begun]
        kept = frontier([(_synthesis(one).cross_entropy, _but_for_rounding(one.max_activation)) for one in fluent])
        shortest = strongest and self._shortest(strongest, feature)
        if strongest and shortest and _strength(shortest)[0] > _strength(strongest)[0]:  # what went was in the way
            others = differing([shortest.token_ids, *sequences], self._max_examples)[1:]
            examples = [shortest, *by_strength([place - 1 for place in others])]
        reached = max((one.max_activation for one in examples), default=0.0)
        return self._count(examples).feature_stats(
            feature,
            0,
            weights,
            examples=tuple(examples),
            search=FeatureSearch(
                token_evaluations=int(searched.token_evaluations),
                beginnings=int(searched.beginnings),
                convergence=_improvements(searched.convergence, searched.token_evaluations, reached),
                single_token=alone,
                frontier=tuple(fluent[place] for place in kept),
                shortest=shortest,
                relaxation=_relaxation(searched.relaxation),
                excerpts=tuple(excerpts),
                behind_text=self._behind_text(shortest, feature) if shortest else (),
                ceiling=self._reader.ceiling_of(feature),
            ),
        )

    def _behind_text(self, shortest: ActivationExample, feature: int) -> tuple[float, ...]:
        """Return what is left of an activation behind other text, as shares of it."""
        whole = [(*text, *shortest.token_ids) for text in self._contexts.tolist()]
        values = self._reader.activations(whole, feature)
        return tuple(max(found[-len(shortest.token_ids) :]) / shortest.max_activation for found in values)

    def _single_token(self, ids: Ids, feature: int) -> tuple[str, float]:
        """Return the text of a token, with what stood in front, and what its last place does."""
        value = self._reader.read(ids, feature).activations[-1]
        return "".join(self._model.tokens.strings(ids)), max(0.0, value)

    def _texts(self, found: Sequence[Found]) -> tuple[list[Found], list[str]]:
        """Return what is text, and the texts."""
        texts = self._vocabulary.texts([one.ids for one in found])
        pairs = [(one, text) for one, text in zip(found, texts, strict=True) if text is not None]
        return [one for one, _ in pairs], [text for _, text in pairs]

    def _ranked(self, sequences: Sequence[Ids], feature: int) -> tuple[list[int], list[int]]:
        """Return the places of sequences, the strongest first, and of those along the frontier of fluency.

        Where some fire the feature, those that do not are left out; where none does, the nearest are kept.
        """
        screened = self._reader.screen(sequences, feature)
        order = [_order(*found[:2], ids) for found, ids in zip(screened, sequences, strict=True)]
        ranked = sorted(range(len(sequences)), key=order.__getitem__, reverse=True)
        firing = [place for place in ranked if screened[place][0] > 0]
        along = frontier([(screened[place][2], order[place][0]) for place in firing])
        return firing or ranked, [firing[place] for place in along]

    def _shortest(self, example: ActivationExample, feature: int) -> ActivationExample:
        """Return what is left of an example when tokens go: its end, its beginning, then one by one.

        Source: the pruning of Foote et al. 2023, "Neuron to Graph" (N2G), which keeps half of the activation.
        """
        enough = SUFFICIENT * example.max_activation
        ids = example.token_ids[: example.peak_position + 1]
        ids = self._sufficient([example.token_ids, *(ids[begin:] for begin in range(len(ids)))], enough, feature)
        while len(ids) > 1:
            fewer = self._sufficient([ids, *(without(ids, place) for place in range(len(ids)))], enough, feature)
            if fewer == ids:
                break
            ids = fewer
        origin = _synthesis(example)
        found = Found(
            ids=ids,
            value=example.max_activation,
            position=example.peak_position,
            provenance=origin.provenance,
            evaluations=origin.token_evaluations,
        )
        return self._example(found, self._vocabulary.texts([ids])[0] or "", feature)

    def _sufficient(self, sequences: Sequence[Ids], enough: float, feature: int) -> Ids:
        """Return the shortest, and of the shortest the strongest, that is text and enough; the first one if none is."""
        texts = self._vocabulary.texts(sequences)
        left = [
            (len(ids), -max(values), ids)
            for ids, text, values in zip(sequences, texts, self._reader.activations(sequences, feature), strict=True)
            if text is not None and max(values) >= enough
        ]
        return min(left)[2] if left else sequences[0]

    def _example(self, found: Found, text: str, feature: int) -> ActivationExample:
        """Return what was found as its text is read again."""
        [encoded] = self._model.tokens.tokenize([text])
        return self._read(encoded, text, found, feature, is_text=tuple(encoded) == found.ids)

    def _excerpt(self, ids: Ids, feature: int) -> ActivationExample:
        """Return real text as the search met it, whether or not its text is cut into these tokens."""
        [text] = self._vocabulary.texts([ids])
        decoded = self._model.tokens.decode(ids) if text is None else text
        return self._read(ids, decoded, _begun(ids), feature, is_text=text is not None)

    def _read(self, ids: Sequence[int], text: str, found: Found, feature: int, *, is_text: bool) -> ActivationExample:
        reading = self._reader.read(ids, feature)
        return ActivationExample(
            text=text,
            tokens=self._model.tokens.strings(ids),
            token_ids=reading.ids,
            activations=reading.activations,
            max_activation=reading.value,
            peak_position=reading.peak,
            source=found.provenance,
            synthesis=Synthesis(
                pre_activation=reading.pre_activation,
                cross_entropy=reading.cross_entropy,
                attribution=self._reader.attribution(reading, feature),
                is_text=is_text,
                is_sink=reading.is_sink,
                provenance=found.provenance,
                seed=self._seed,
                token_evaluations=int(found.evaluations),
            ),
        )

    def _count(self, examples: Sequence[ActivationExample]) -> Counted:
        """Count the examples' tokens, all of which are kept, as tokens of a text are."""
        longest = max((len(example.token_ids) for example in examples), default=1)
        values, tokens = ValueStatistics(1), TokenStatistics(1, self._model.d_vocab)
        positions = PositionStatistics(1, longest)
        acts = _as_batch(examples, longest)
        for accumulator in (values, tokens, positions):
            accumulator.update(acts)
        return Counted(
            values=values,
            tokens=tokens,
            positions=positions,
            token_count=int(acts.windows.keep.sum()),
            text=self._model.tokens,
            list_length=self._list_length,
        )


# --- choosing ------------------------------------------------------------------------------------------------------


def differing(sequences: Sequence[Ids], most: int) -> list[int]:
    """Return the places of at most ``most`` sequences, taken in order, leaving out what is much like one taken before.

    Much like another is a sequence that shares more than half of its tokens with it, each as often as both have it.
    """
    chosen: list[int] = []
    for place, ids in enumerate(sequences):
        if len(chosen) == most:
            break
        shared = (_shared(ids, sequences[other]) for other in chosen)
        if all(2 * count <= len(ids) for count in shared):
            chosen.append(place)
    return chosen


def _shared(left: Ids, right: Ids) -> int:
    return (Counter(left) & Counter(right)).total()


def frontier(points: Sequence[tuple[float | None, float]]) -> list[int]:
    """Return the places of (cross-entropy, activation) that none equals or beats in both; both ascend.

    A point without cross-entropy is none of them.

    Source: the Pareto frontier of Thompson, Straznickas and Sklar 2024, "Fluent dreaming for language models" (EPO).
    """
    fluent = [(entropy, -value, place) for place, (entropy, value) in enumerate(points) if entropy is not None]
    highest, chosen = -float("inf"), []
    for _, negative, place in sorted(fluent):
        if -negative > highest:
            highest = -negative
            chosen.append(place)
    return chosen


# --- records -------------------------------------------------------------------------------------------------------


def _synthesis(example: ActivationExample) -> Synthesis:
    assert example.synthesis is not None, "made above"
    return example.synthesis


def _strength(example: ActivationExample) -> tuple[float, float, int]:
    return _order(example.max_activation, _synthesis(example).pre_activation, example.token_ids)


def _order(activation: float, pre_activation: float, ids: Ids) -> tuple[float, float, int]:
    """Return what sequences are ranked by, descending: of two that do the same, the shorter comes first."""
    return _but_for_rounding(activation), _but_for_rounding(pre_activation), -len(ids)


def _but_for_rounding(value: float) -> float:
    """Return the digits that machines agree on: a text and its beginning often have the same peak, but for the rest."""
    return float(f"{value:.5g}")


def _alone(ids: Ids) -> Found:
    """Return the best single token, with what stood in front: no search should come to less."""
    return Found(ids=ids, value=0.0, position=len(ids) - 1, provenance="single token", evaluations=len(ids))


def _begun(ids: Ids) -> Found:
    """Return real text that the search was given, as it was."""
    return Found(ids=ids, value=0.0, position=len(ids) - 1, provenance="real text", evaluations=0)


def _improvements(
    convergence: Sequence[tuple[int, float]], spent: int, reached: float
) -> tuple[tuple[int, float], ...]:
    """Return (token-evaluations, largest activation so far) at each improvement; nearing is none before it fires.

    ``reached`` is what is reported after ``spent``; it counts if it is more than the search found, rounding aside.
    """
    improved: list[tuple[int, float]] = []
    for at, value in convergence:
        if value > (improved[-1][1] if improved else 0.0):
            improved.append((int(at), float(value)))
    if reached > (improved[-1][1] * _ROUNDING if improved else 0.0):
        improved.append((int(spent), float(reached)))
    return tuple(improved)


def _relaxation(measured: tuple[float, float] | None) -> Relaxation | None:
    return None if measured is None else Relaxation(relaxed=float(measured[0]), discrete=float(measured[1]))


def _as_batch(examples: Sequence[ActivationExample], longest: int) -> SparseActs:
    """Return the examples as a batch of windows for the accumulators."""
    token_ids = np.full((len(examples), longest), _PADDING, np.int64)
    values = np.zeros((len(examples), longest), np.float32)
    for row, example in enumerate(examples):
        token_ids[row, : len(example.token_ids)] = example.token_ids
        values[row, : len(example.token_ids)] = example.activations
    row, position = np.nonzero(values)
    return SparseActs(
        feature=np.zeros(len(row), np.int64),
        row=row,
        position=position,
        value=values[row, position],
        windows=Windows(
            sequence=np.arange(len(examples)),
            token_ids=token_ids,
            keep=token_ids != _PADDING,
            document=tuple(example.source for example in examples),
            start=np.zeros(len(examples), np.int64),
        ),
    )
