"""Every accumulator against brute force, and through one tester: any split, any order, any merge, state and back."""

import itertools
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_windows import FEATURES, SAMPLED, SEQ_LEN, TOP, VOCABULARY, Window, as_batch, corpora, fired, run

from sae_analysis.accumulators import (
    DictionaryStatistics,
    ExampleStatistics,
    FitStatistics,
    HeldExamples,
    PositionStatistics,
    SparseActs,
    TokenStatistics,
    ValueStatistics,
    exact,
    examples,
    position_edges,
)
from sae_analysis.accumulators.exact import ExactSum, mantissas

pytestmark = pytest.mark.usefixtures("buffers_that_are_always_full")


class FitFromActs(FitStatistics):
    """FitStatistics, fed per window with numbers that sum badly in floating point."""

    def update(self, acts: SparseActs) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for sequence in acts.windows.sequence.tolist():
            odd = 0.1 * 10.0 ** (sequence % 7)
            super().update(
                tokens=1,
                active=2,
                input_sum=np.array([odd, -odd / 3]),
                squared_input=odd * odd,
                squared_error=odd / 7,
                cosine=0.3,
            )


MAKERS: dict[str, Callable[[], object]] = {
    "values": lambda: ValueStatistics(FEATURES),
    "tokens": lambda: TokenStatistics(FEATURES, VOCABULARY),
    "positions": lambda: PositionStatistics(FEATURES, SEQ_LEN),
    "examples": lambda: ExampleStatistics(FEATURES, TOP, SAMPLED, seed=3),
    "dictionary": lambda: DictionaryStatistics(FEATURES, SEQ_LEN),
    "fit": lambda: FitFromActs(2),
}


def outcome(accumulator: object) -> object:
    """Everything an accumulator says, as plain comparable values; NaN equals NaN."""

    def plain(value: object) -> object:
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, (tuple, list, HeldExamples)):
            return [plain(item) for item in value]
        if hasattr(value, "__dataclass_fields__"):
            return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
        return value

    if isinstance(accumulator, FitStatistics) and accumulator.token_count == 0:
        return "empty"
    arguments = (VOCABULARY,) if isinstance(accumulator, TokenStatistics) else ()
    public = {name: plain(value) for name, value in vars(accumulator).items() if not name.startswith("_")}
    return repr((plain(accumulator.finish(*arguments)), public))


@pytest.mark.parametrize("kind", MAKERS)
@given(corpus=corpora(), data=st.data())
def test_any_split_order_and_merge_gives_the_same_result(kind: str, corpus: list[Window], data: st.DataObject) -> None:
    make = MAKERS[kind]
    whole = outcome(run(make, [corpus]))
    shuffled = data.draw(st.permutations(corpus))
    labels = data.draw(st.lists(st.integers(0, 2), min_size=len(corpus), max_size=len(corpus)))
    shards = [[window for window, label in zip(shuffled, labels, strict=True) if label == shard] for shard in range(3)]

    assert outcome(run(make, [[window] for window in shuffled])) == whole, "one window a batch"

    left, middle, right = (run(make, [shard]) for shard in shards)
    before = outcome(right)
    middle.merge(right)
    left.merge(middle)
    assert outcome(left) == whole, "merged"
    assert outcome(right) == before, "the merged one is unchanged"

    first, second = run(make, [shards[0]]), run(make, [shards[1]])
    second.merge(first)
    if shards[2]:
        second.update(as_batch(shards[2]))
    assert outcome(second) == whole, "merge, then update"


@pytest.mark.parametrize("kind", MAKERS)
@given(corpus=corpora(), cut=st.integers(0, 9))
def test_state_restores_an_accumulator_that_goes_on(kind: str, corpus: list[Window], cut: int) -> None:
    make = MAKERS[kind]
    paused = run(make, [corpus[:cut]])
    state = {name: array.copy() for name, array in paused.state().items()}
    assert all(array.dtype != object for array in state.values()), "states must be storable without pickling"
    resumed = type(paused).from_state(state)
    assert outcome(resumed) == outcome(paused)
    if corpus[cut:]:
        resumed.update(as_batch(corpus[cut:]))
    assert outcome(resumed) == outcome(run(make, [corpus]))
    assert all(np.array_equal(array, paused.state()[name]) for name, array in state.items()), (
        "the original is unchanged"
    )


@given(corpus=corpora())
def test_value_statistics_equal_brute_force(corpus: list[Window]) -> None:
    statistics = run(MAKERS["values"], [corpus])
    for feature, summary in enumerate(statistics.finish()):
        values = np.array([value for _, _, value in fired(corpus, feature)], np.float32)
        assert summary.active_count == len(values)
        assert summary.negative_count == int((values < 0).sum())
        assert statistics.maximum[feature] == max([0.0, *values])
        assert statistics.minimum[feature] == min([0.0, *values])
        if not len(values):
            assert (summary.mean, summary.std, summary.quantiles, summary.histogram_counts) == (None, None, (), ())
            continue
        exact = [Fraction(float(value)) for value in values]
        mean = sum(exact) / len(exact)
        variance = sum((value - mean) ** 2 for value in exact) / len(exact)
        assert summary.mean == float(mean), "rounded once"
        assert summary.std == pytest.approx(float(variance) ** 0.5, rel=1e-12)
        assert summary.histogram_counts == histogram_by_hand(values, summary.histogram_edges)
        assert sum(summary.histogram_counts) == len(values), "every value is counted"
        quartiles = zip((0.25, 0.5, 0.75), summary.magnitude_quartiles, strict=True)
        for of, quantiles in ((values, summary.quantiles), (np.abs(values), quartiles)):
            ordered = np.sort(of.astype(np.float64))
            for probability, found in quantiles:
                true = ordered[max(int(np.ceil(probability * len(ordered))), 1) - 1]
                assert abs(found - true) <= max(abs(true) / 64, 2.0**-126 / 64)


@given(corpus=corpora(), chosen=st.sets(st.integers(0, FEATURES - 1)))
def test_features_that_are_not_in_full_lack_their_distribution_alone(corpus: list[Window], chosen: set[int]) -> None:
    statistics = run(MAKERS["values"], [corpus])
    for feature, (whole, found) in enumerate(zip(statistics.finish(), statistics.finish(chosen), strict=True)):
        without = {"quantiles": (), "magnitude_quartiles": (), "histogram_edges": (), "histogram_counts": ()}
        assert found == (whole if feature in chosen else replace(whole, **without))


def histogram_by_hand(values: np.ndarray, edges: tuple[float, ...]) -> tuple[int, ...]:
    """Count values in [a, b) above zero, and in (a, b] below: a magnitude on an edge belongs to the larger bin."""
    counts = [0] * (len(edges) - 1)
    for value in values.astype(np.float64):
        for index, (low, high) in enumerate(itertools.pairwise(edges)):
            top = index == len(counts) - 1 and value == high
            bottom = index == 0 and value == low
            if (value > 0 and low <= value < high) or (value < 0 and low < value <= high) or top or bottom:
                counts[index] += 1
                break
    return tuple(counts)


@given(corpus=corpora())
def test_token_statistics_equal_brute_force(corpus: list[Window]) -> None:
    statistics = run(MAKERS["tokens"], [corpus])
    kept = [index for window in corpus for index, keep in zip(window.ids, window.keep, strict=True) if keep]
    assert statistics.occurrences.tolist() == [kept.count(index) for index in range(VOCABULARY)]
    for feature, rows in enumerate(statistics.finish(VOCABULARY)):
        by_token: dict[int, list[Fraction]] = {}
        for window, position, value in fired(corpus, feature):
            by_token.setdefault(window.ids[position], []).append(Fraction(float(value)))
        expected = [(index, len(values), float(sum(values) / len(values))) for index, values in by_token.items()]
        assert list(rows) == sorted(expected, key=lambda row: (-row[1], row[0]))


@given(corpus=corpora())
def test_position_and_dictionary_statistics_equal_brute_force(corpus: list[Window]) -> None:
    positions, dictionary = run(MAKERS["positions"], [corpus]), run(MAKERS["dictionary"], [corpus])
    kept = [p for window in corpus for p, keep in enumerate(window.keep) if keep]
    assert positions.token_counts.tolist() == [kept.count(position) for position in range(SEQ_LEN)]
    for feature in range(FEATURES):
        places = [position for _, position, _ in fired(corpus, feature)]
        assert positions.counts[feature].tolist() == [places.count(position) for position in range(SEQ_LEN)]
        magnitudes = [abs(value) for _, _, value in fired(corpus, feature)]
        assert dictionary.active_counts[feature] == len(magnitudes)
        assert dictionary.max_magnitudes[feature] == max([0.0, *magnitudes])
    everything = [position for feature in range(FEATURES) for _, position, _ in fired(corpus, feature)]
    l0 = dictionary.finish()[2]
    assert l0.tolist() == [everything.count(p) / max(kept.count(p), 1) for p in range(SEQ_LEN)]


def test_memory_of_sums_grows_with_the_keys_and_not_with_the_stream() -> None:
    sums = exact.KeyedSums(columns=1)
    for _ in range(20):
        sums.add(np.arange(1000) % 7, np.ones((1000, 1), np.int64))
        assert sum(len(keys) for keys, _ in sums._pending) <= 7
    assert sums.table()[1].sum() == 20_000


def test_what_waits_is_folded_in_once_it_outgrows_buffer_and_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact.KeyedSums, "_BUFFER_ROWS", 3)
    monkeypatch.setattr(examples, "_BUFFER_PAIRS", 3)
    sums, strongest = exact.KeyedSums(columns=1), ExampleStatistics(1, 9, 9, 0)
    waiting = []
    for n in range(12):
        sums.add(np.array([n]), np.ones((1, 1), np.int64))
        strongest.update(as_batch([Window(n, (n,), (True,), {(0, 0): 1.0})]))
        waiting.append((len(sums._pending), len(strongest._pending)))
    assert waiting == [(rows, rows) for rows in (1, 2, 3, 0, 1, 2, 3, 4, 0, 1, 2, 3)]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_mantissas_give_back_the_value(values: list[float]) -> None:
    mantissa, shift = mantissas(np.array(values, np.float32))
    rebuilt = [Fraction(int(m)) * 2 ** int(s) / 2**149 for m, s in zip(mantissa, shift, strict=True)]
    assert rebuilt == [Fraction(value) for value in values]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300), max_size=20))
def test_exact_sum_is_the_true_sum_rounded_once(values: list[float]) -> None:
    total = ExactSum(1)
    for value in values:
        total.add(np.array([value]))
    assert total.values()[0] == float(sum((Fraction(value) for value in values), Fraction(0)))


@given(st.integers(1, 600))
def test_position_bins_cover_every_position_once(seq_len: int) -> None:
    edges = position_edges(seq_len)
    assert edges[0] == 0
    assert edges[-1] == seq_len
    assert len(edges) - 1 == min(seq_len, 64)
    widths = np.diff(edges)
    assert widths.min() >= 1
    assert widths.max() - widths.min() <= 1


def test_fit_of_a_constant_input_is_not_a_number_and_of_nothing_an_error() -> None:
    fit = FitStatistics(2)
    with pytest.raises(ZeroDivisionError):
        fit.finish()
    fit.update(tokens=2, active=0, input_sum=np.array([2.0, 4.0]), squared_input=10.0, squared_error=0.0, cosine=2.0)
    explained, cosine, l0 = fit.finish()
    assert np.isnan(explained)
    assert (cosine, l0) == (1.0, 0.0)


def test_quantiles_of_a_feature_that_fired_once_are_that_value() -> None:
    value = float(np.float32(7.81))
    statistics = run(lambda: ValueStatistics(1), [[Window(0, (1, 2), (True, True), {(0, 0): value})]])
    assert {found for _, found in statistics.finish()[0].quantiles} == {value}


def test_a_quantile_is_the_mean_of_its_bucket_of_which_there_are_64_an_octave() -> None:
    """1.0 and 1.0125 share a bucket, 1.015625 is where the next begins."""
    values = {(0, 0): 1.0, (0, 1): 1.0125, (0, 2): 1.015625, (0, 3): 1.0235}
    window = Window(0, (1, 2, 3, 4), (True,) * 4, values)
    [summary] = run(lambda: ValueStatistics(1), [[window]]).finish()
    below, above = (1.0 + 1.0125) / 2, (1.015625 + 1.0235) / 2
    assert [value for _, value in summary.quantiles] == pytest.approx([below] * 4 + [above] * 3, abs=1e-6)


def test_quartiles_of_magnitudes_ascend_whatever_the_signs() -> None:
    window = Window(0, (1, 2), (True, True), {(0, 0): 1.02, (0, 1): -1.0})
    [summary] = run(lambda: ValueStatistics(1), [[window]]).finish()
    assert summary.magnitude_quartiles == pytest.approx((1.0, 1.0, 1.02))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_explained_variance_does_not_depend_on_the_unit(scale: float) -> None:
    x = np.array([[1.0, 2.0], [3.0, 2.0], [2.0, 5.0]]) * scale
    fit = FitStatistics(2)
    squared_error = 0.25 * ((x - x.mean(axis=0)) ** 2).sum()
    fit.update(
        tokens=3,
        active=3,
        input_sum=x.sum(axis=0),
        squared_input=(x**2).sum(),
        squared_error=squared_error,
        cosine=1.5,
    )
    assert fit.finish() == pytest.approx((0.75, 0.5, 1.0))


def test_a_histogram_has_eight_bins_an_octave() -> None:
    values = {(0, position): 1.0 + position / 16 for position in range(16)}
    window = Window(0, tuple(range(1, 17)), (True,) * 16, values)
    summary = run(lambda: ValueStatistics(1), [[window]]).finish()[0]
    assert summary.histogram_counts == (2,) * 8
    assert summary.histogram_edges == pytest.approx([1 + bin_ / 8 for bin_ in range(9)])


def test_what_several_accumulators_are_fed_and_what_they_hand_out_cannot_be_changed() -> None:
    corpus = [Window(0, (1, 2), (True, True), {(0, 0): 1.0})]
    batch = as_batch(corpus)
    summary, (strongest, _) = (run(MAKERS[kind], [corpus]).finish()[0] for kind in ("values", "examples"))
    for record in (batch, batch.windows, summary, strongest[0]):
        for field in fields(record):
            with pytest.raises(FrozenInstanceError):
                setattr(record, field.name, None)
        assert not hasattr(record, "__dict__"), "nothing can be added either"
        with pytest.raises(TypeError, match="takes 1 positional argument"):
            type(record)(None)
