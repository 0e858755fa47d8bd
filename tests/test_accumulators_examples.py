"""The examples that are kept of each feature: the strongest, and a random sample."""

import numpy as np
import pytest
from hypothesis import given
from made_up_windows import FEATURES, SAMPLED, TOP, Window, as_batch, corpora, fired, run

from sae_analysis.accumulators import ExampleStatistics
from sae_analysis.accumulators.examples import hash_priority, magnitude_priority

pytestmark = pytest.mark.usefixtures("buffers_that_are_always_full")


def example_statistics() -> ExampleStatistics:
    return ExampleStatistics(FEATURES, TOP, SAMPLED, seed=3)


@given(corpus=corpora())
def test_strongest_examples_equal_brute_force(corpus: list[Window]) -> None:
    finished = run(example_statistics, [corpus]).finish()
    for feature, (strongest, _) in enumerate(finished):
        ranked = sorted(
            fired(corpus, feature),
            key=lambda entry: (-int(magnitude_priority(np.array([entry[2]]))[0]), entry[0].sequence, entry[1]),
        )
        expected, seen = [], set()
        for window, position, _ in ranked:
            if window.ids not in seen:
                seen.add(window.ids)
                expected.append((window, position))
        assert len(strongest) == min(TOP, len(expected))
        assert [one.sequence for one in finished.strongest(feature, 1)] == [one.sequence for one in strongest[:1]]
        for held, (window, position) in zip(strongest, expected, strict=False):
            assert (held.sequence, held.peak) == (window.sequence, position)
            assert held.token_ids.tolist() == list(window.ids)
            dense = [np.float32(window.acts.get((feature, place), 0.0)) for place in range(len(window.ids))]
            assert held.activations.tolist() == [float(value) for value in dense]
            assert (held.document, held.start) == (f"doc {window.sequence:06}", 7 * window.sequence)


@given(corpus=corpora())
def test_sampled_examples_are_distinct_windows_on_which_the_feature_fires(corpus: list[Window]) -> None:
    for feature, (_, sample) in enumerate(run(example_statistics, [corpus]).finish()):
        windows = {window.ids for window, _, _ in fired(corpus, feature)}
        assert len(sample) == min(SAMPLED, len(windows))
        assert len({tuple(held.token_ids.tolist()) for held in sample}) == len(sample)
        assert all(held.activations[held.peak] != 0 for held in sample)


def test_a_sample_does_not_depend_on_which_features_are_looked_at() -> None:
    """A feature is numbered by its place among those asked for."""
    corpus = [Window(n, (n % 5, n // 5), (True,) * 2, {(0, 0): 1.0 + n, (3, 0): 2.0 + n}) for n in range(25)]
    batch = as_batch(corpus)
    statistics = ExampleStatistics(4, 1, 10, seed=3)
    statistics.update(batch)
    (_, first), *_, (_, last) = statistics.finish()
    assert [held.sequence for held in first] == [held.sequence for held in last]


def test_sampling_is_uniform_over_windows() -> None:
    """Of 40 windows that fire once, each is held about equally often over 600 seeds."""
    corpus = [Window(n, (n % 5, n // 5 % 5, n // 25), (True,) * 3, {(0, 0): float(n + 1)}) for n in range(40)]
    batch = as_batch(corpus)
    held = np.zeros(40)
    for seed in range(600):
        statistics = ExampleStatistics(1, 1, 10, seed)
        statistics.update(batch)
        held[[example.sequence for example in statistics.finish()[0][1]]] += 1
    assert held.sum() == 600 * 10
    assert np.all(np.abs(held - 150) < 5 * np.sqrt(150 * 0.75)), "five standard deviations"


def test_padding_does_not_change_what_a_window_is() -> None:
    """The same window in two batches of different widths is one window."""
    short = Window(0, (1, 2), (True, True), {(0, 0): 1.0})
    again = Window(1, (1, 2), (True, True), {(0, 0): 1.0})
    longer = Window(2, (1, 2, 0), (True,) * 3, {(0, 0): 1.0})
    statistics = run(lambda: ExampleStatistics(1, 5, 5, 0), [[short], [again, longer]])
    assert [held.sequence for held in statistics.finish()[0][0]] == [0, 2]


def test_rounding_differences_between_batches_do_not_reorder_ties() -> None:
    value = np.float32(3.7)
    neighbour = np.nextafter(value, np.float32(4))
    early = Window(0, (1, 2), (True, True), {(0, 0): float(value)})
    late = Window(1, (2, 1), (True, True), {(0, 0): float(neighbour)})
    strongest, _ = run(lambda: ExampleStatistics(1, 1, 1, 0), [[late], [early]]).finish()[0]
    assert strongest[0].sequence == 0


@pytest.mark.parametrize(("steps", "first"), [(0.4, 0), (0.9, 1)])
def test_what_differs_by_a_whole_step_of_the_ranking_is_ranked(steps: float, first: int) -> None:
    values = [1.0, 1 + steps * 2.0**-13]
    corpus = [Window(n, (1, n), (True, True), {(0, 0): value}) for n, value in enumerate(values)]
    strongest, _ = run(lambda: ExampleStatistics(1, 1, 1, 0), [corpus]).finish()[0]
    assert strongest[0].sequence == first


def test_a_seed_may_be_negative() -> None:
    statistics = run(lambda: ExampleStatistics(1, 1, 1, -1), [[Window(0, (1,), (True,), {(0, 0): 1.0})]])
    assert len(statistics.finish()[0][1]) == 1


def test_memory_of_examples_does_not_grow_with_the_stream() -> None:
    statistics = ExampleStatistics(2, TOP, SAMPLED, 0)
    sizes = []
    for begin in range(0, 60_000, 2_000):
        windows = [
            Window(n, (n % 5, n // 5 % 5), (True, True), {(n % 2, 0): float(n % 977 + 1)})
            for n in range(begin, begin + 2_000)
        ]
        statistics.update(as_batch(windows))
        sizes.append(sum(array.nbytes for array in statistics.state().values()))
    assert max(sizes) <= max(sizes[:3]) * 1.05


def test_what_decides_about_random_examples_is_splitmix64() -> None:
    """The generator's published first two numbers from a state of zero; the second state is the first's increment."""
    first, second = hash_priority(0, np.array([0, 0x9E3779B97F4A7C15 - (1 << 64)])).tolist()
    assert (first, second) == (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4)
