"""Tails of activations: against distributions whose tail is known, and SciPy's over the same grid."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_factory import comparison_pair, with_values
from scipy.special import logsumexp
from scipy.stats import genpareto, norm

from sae_analysis.comparison import compare_features, fitted_tail
from sae_analysis.comparison.tails import EXCEEDANCES, LEAST_EXCEEDANCES, MOST_TOKENS, Interval, Tail
from sae_analysis.records import Histogram


@pytest.mark.parametrize("shape", [-0.4, -0.2, 0.0])
def test_intervals_hold_what_a_longer_scan_would_meet(shape):
    """Of a tail that is known: nine intervals of ten hold the maximum of nine times as much text, give or take."""
    real, _ = comparison_pair()
    rng = np.random.default_rng(0)
    held, told = 0, []
    for _ in range(150):
        values = 2.0 + genpareto.rvs(shape, scale=1.0, size=300, random_state=rng)
        later = 2.0 + genpareto.rvs(shape, scale=1.0, size=2_700, random_state=rng).max()
        tail = fitted_tail(with_values(real, values, 10_000))
        expected = tail.largest_on(90_000)
        held += expected.low <= later <= expected.high
        value = 2.0 + genpareto.ppf(1 - 1 / 1_500, shape)
        told.append(tail.tokens_until(value))
    assert 0.8 <= held / 150 <= 0.99
    true = 10_000 / 300 * 1_500
    assert 0.8 <= np.mean([span.low <= true <= span.high for span in told]) <= 0.99
    assert np.median([span.median for span in told]) == pytest.approx(true, rel=0.6)


@given(st.lists(st.floats(0.01, 50.0), min_size=LEAST_EXCEEDANCES, max_size=200), st.integers(1_000, 10**9))
def test_more_takes_longer_and_longer_gives_more(values, token_count):
    real, _ = comparison_pair()
    tail = fitted_tail(with_values(real, values, token_count))
    largest = max(values)
    spans = [tail.tokens_until(largest * factor) for factor in (0.9, 1.0, 1.1, 3.0)]
    for low, high in itertools.pairwise(spans):
        assert low.low <= high.low
        assert low.median <= high.median
        assert low.high <= high.high
    assert all(span.low <= span.median <= span.high for span in spans)
    assert all(value <= MOST_TOKENS or math.isinf(value) for value in (spans[-1].median, spans[-1].high))
    shorter, longer = tail.largest_on(token_count), tail.largest_on(10.0 * token_count)
    assert shorter.low <= shorter.median <= shorter.high
    assert shorter.median <= longer.median


@pytest.mark.parametrize("below", [(0.1, 1.0), (7.4, 7.9)], ids=["far below", "in the next bin"])
def test_the_tail_is_the_largest_few(below):
    """What is below the threshold changes nothing but how rare the largest are."""
    real, _ = comparison_pair()
    rng = np.random.default_rng(1)
    large = rng.uniform(8.0, 12.0, EXCEEDANCES)
    few, many = (fitted_tail(with_values(real, [*large, *rng.uniform(*below, count)], 10_000)) for count in (1, 5_000))
    assert few.tokens_until(12.5) == many.tokens_until(12.5)


def test_few_firings_say_nothing():
    real, _ = comparison_pair()
    assert fitted_tail(with_values(real, [1.0] * (LEAST_EXCEEDANCES - 1), 100)) is None
    assert fitted_tail(with_values(real, [], 100)) is None
    assert fitted_tail(with_values(real, [1.0] * LEAST_EXCEEDANCES, 100)) is not None


def test_a_signed_feature_has_the_tail_of_what_lies_above_zero():
    real, _ = comparison_pair()
    plain = with_values(real, np.random.default_rng(3).uniform(0.5, 3.0, 200), 10_000)
    edges, counts = plain.histogram.edges, plain.histogram.counts
    mirrored = tuple(-edge for edge in reversed(edges))
    signed = replace(plain, histogram=Histogram(edges=(*mirrored, *edges), counts=(*[7] * len(counts), 0, *counts)))
    assert fitted_tail(signed).largest_on(50_000) == fitted_tail(plain).largest_on(50_000)


def posterior_by_hand(tail_of):
    """Return weights, shapes and scales of the documented grid, with the tail of SciPy."""
    edges, counts, largest = (tail_of[name] for name in ("edges", "counts", "largest"))
    shapes = np.linspace(-1.0, 0.8, 37)
    scales = (max(largest, edges[1]) - edges[0]) * np.exp(np.linspace(-4.0, 1.5, 56))
    shape, scale = (each.ravel() for each in np.meshgrid(shapes, scales, indexing="ij"))
    fit = norm.logpdf(shape, -0.2, 0.3)
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        share = -np.subtract(*genpareto.sf([[high], [low]], shape, loc=edges[0], scale=scale))
        with np.errstate(divide="ignore"):
            fit += count * np.log(share) if count else 0.0
    return np.exp(fit - logsumexp(fit)), shape, scale


@pytest.mark.parametrize("counts", [(9, 4, 0, 5, 2), (1, 1, 2, 1)])
def test_intervals_are_those_of_scipys_tail_over_the_grid(counts):
    tail_of = {"edges": 2.0 ** (1 + np.arange(len(counts) + 1) / 8), "counts": np.array(counts), "largest": 3.0}
    weight, shape, scale = posterior_by_hand(tail_of)
    found, begin, tokens, firings = Tail(**tail_of, token_count=1_000), tail_of["edges"][0], 1_000, sum(counts)

    def stays_below(value, on):
        return float(weight @ (1 + genpareto.sf(value, shape, loc=begin, scale=scale) * on / tokens) ** -firings)

    for on in (500, 1_000, 90_000):
        interval = found.largest_on(on)
        for probability, end in ((0.05, interval.low), (0.5, interval.median), (0.95, interval.high)):
            if stays_below(begin, on) >= probability:  # so short a text that it may hold none of the tail
                assert end == pytest.approx(begin)
            else:
                assert stays_below(end, on) == pytest.approx(probability, rel=1e-6)
    for value in (2.5, 3.1, 4.0):
        with np.errstate(divide="ignore"):
            needed = tokens / (firings * genpareto.sf(value, shape, loc=begin, scale=scale))
        needed[needed > 1e12] = np.inf
        order = np.argsort(needed)
        places = np.searchsorted(np.cumsum(weight[order]), (0.05, 0.5, 0.95))
        span = found.tokens_until(value)
        assert [span.low, span.median, span.high] == pytest.approx(needed[order][places], rel=1e-6)


def test_equal_values_have_a_tail():
    tail = Tail(edges=np.array([1.0, 1.09]), counts=np.array([30]), largest=1.0, token_count=1_000)
    assert 1.0 <= tail.largest_on(1_000).median < 1.5


def test_another_text_as_long_is_told_in_units_of_what_was_found():
    assert Interval(low=2.0, median=3.0, high=8.0).divided_by(4.0) == Interval(low=0.5, median=0.75, high=2.0)
    real, synthetic = comparison_pair(potential=20.0)
    real = with_values(real, 2.0 + np.random.default_rng(0).exponential(size=300), 10_000)
    expected, found = fitted_tail(real).largest_on(10_000), compare_features(real, synthetic)
    assert found.realised_low == pytest.approx(expected.low / synthetic.max_activation)
    assert found.realised_high == pytest.approx(expected.high / synthetic.max_activation)
