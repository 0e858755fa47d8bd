"""The overview and the page of a whole search read back."""

import math
from dataclasses import replace

import numpy as np
import pytest
import record_factory as make
from page_reader import EVERY_GLYPH_IS_THERE, HEADER, SEARCHED, hanging_bars, lines_of, words

from sae_analysis.records import FeatureStats
from sae_analysis.visualizer import LIGHT, digits, search_page, summary_page
from sae_analysis.visualizer.theme import mix

pytestmark = EVERY_GLYPH_IS_THERE


def reached(points: list[tuple[float, float]], level: float) -> float:
    """Return the largest value at or before a level, 0 if there is none: what steps show, read naively."""
    return max([0.0, *(value for at, value in points if at <= level)])


def test_the_summary_of_a_search_begins_with_the_strongest():
    features = {at: make.synthetic_stats(at, scale=at) for at in (3, 9, 5)} | {1: make.unfired_stats(1)}
    page = summary_page(features)
    names = [name for name in dict.fromkeys(item.panel for item in page.lettering) if name.startswith("feature")]
    assert names == ["feature 9", "feature 5", "feature 3", "feature 1"]
    assert "4 features, strongest first; nothing fired 1 of them" in words(page, "title")
    assert "nothing fired it in 100 k" in words(summary_page({3: SEARCHED["unfired-without-examples"]}), "feature 3")


def test_a_summary_row_of_a_search_holds_the_features_own_numbers():
    stats = make.synthetic_stats()
    row = words(summary_page({7: stats}), "feature 7")
    assert row.startswith("7 10.0 8.73 9.21 × 1.15 built of was")
    assert row.endswith("· vessel → · yard · board ment · wreck shape · owner")


def test_the_spark_of_a_search_is_its_convergence():
    stats = make.synthetic_stats()
    page = summary_page({7: stats, 8: make.synthetic_stats(8, seed=3)})
    (patch,) = page.plots["feature 7"].patches
    values, edges, _ = patch.get_data()
    spent, reached_so_far = zip(*stats.search.convergence, strict=True)
    assert list(values) == pytest.approx([value / 10.0 for value in reached_so_far])
    assert list(edges) == pytest.approx([*map(math.log10, spent), 5.0])
    assert page.plots["feature 7"].get_xlim() == page.plots["feature 8"].get_xlim()
    heights = [line.get_ydata()[0] for line in page.plots["feature 7"].get_lines()]
    assert heights == pytest.approx([0.873, 0.0], abs=0.001)


@pytest.fixture(scope="module")
def searched():
    features = {at: make.synthetic_stats(at, seed=at, scale=1.0 + at) for at in range(9)}
    return features | {50: make.unfired_stats(50)}


def strongest_of(features: dict[int, FeatureStats]) -> list[FeatureStats]:
    return [stats for stats in features.values() if not stats.is_dead]


def test_the_search_page_says_what_came_of_it(searched):
    said = words(search_page(searched, HEADER), "title")
    fired = strongest_of(searched)
    gain = np.median([stats.max_activation / stats.search.single_token[1] for stats in fired])
    fluent = np.median([stats.examples[0].synthesis.cross_entropy for stats in fired])
    assert f"9 of 10 features made to fire in 1.00 M token-evaluations; the strongest examples reach {gain:.2f} ×" in (
        said.replace("\xa0", " ")
    )
    assert f"at {fluent:.2f} nats per token (medians)" in said
    marked = search_page({1: SEARCHED["doubtful"], 2: SEARCHED["no-single-token"]})
    assert words(marked, "title").endswith("; 1 on attention sinks")
    assert "2 of 2 features made to fire, 1 of them by no token alone, in 200" in words(marked, "title")


def test_fluency_over_features_is_the_median_between_quartiles(searched):
    page = search_page(searched)
    curves = [
        [
            (item.synthesis.cross_entropy, item.max_activation / stats.max_activation)
            for item in (*stats.search.frontier, *stats.examples)
        ]
        for stats in strongest_of(searched)
    ]
    ((levels, middle),) = lines_of(page, "Fluency")
    expected = np.array([[reached(curve, level) for curve in curves] for level in levels[:-1]])
    assert middle[:-1] == pytest.approx(np.median(expected, axis=1))
    (band,) = page.plots["Fluency"].collections
    edges = {(round(x, 9), round(y, 9)) for x, y in band.get_paths()[0].vertices}
    for level, (low, high) in zip(levels, np.quantile(expected, (0.25, 0.75), axis=1).T, strict=False):
        assert {(round(level, 9), round(low, 9)), (round(level, 9), round(high, 9))} <= edges


def test_convergence_over_features_has_a_line_each_and_their_median(searched):
    *thin, thick = lines_of(search_page(searched), "How the searches went")
    curves = [
        [(spent, value / stats.max_activation) for spent, value in stats.search.convergence]
        for stats in strongest_of(searched)
    ]
    assert len(thin) == len(curves)
    for line, curve in zip(thin, curves, strict=True):
        assert np.transpose(line)[:-1] == pytest.approx(np.array(curve))
    assert {line[0][-1] for line in thin} == {100_000}
    for level, value in zip(*thick, strict=True):
        assert value == pytest.approx(np.median([reached(curve, level) for curve in curves]))
    assert thick[0][-1] == 100_000


def test_gains_are_sorted_one_dot_a_feature(searched):
    page = search_page(searched | {60: replace(SEARCHED["no-single-token"], feature_idx=60)})
    floor, (ranks, gains) = lines_of(page, "Gain over one token")
    expected = sorted(stats.max_activation / stats.search.single_token[1] for stats in strongest_of(searched))
    assert ranks == [*range(1, 10)]
    assert gains == pytest.approx(expected)
    assert set(floor[1]) == {1.0}
    said = words(page, "Gain over one token")
    assert (
        f"median {digits.number(float(np.median(expected)))}; dashes: no gain; without 1 feature that no token" in said
    )


def test_provenances_of_the_winners_are_counted(searched):
    page = search_page(searched)
    panel = "Where the strongest began"
    winners = [stats.examples[0].synthesis.provenance for stats in strongest_of(searched)]
    said = words(page, panel).replace("\xa0", " ")
    assert "strongest example of 9 features" in said
    for name in set(winners):
        many = winners.count(name)
        assert f"{name} {many} ({digits.share(many / 9)})".replace("\xa0", " ") in said
    values = [item.box for item in page.lettering if item.panel == panel and "(" in item.text]
    bars = [bar for bar in hanging_bars(page, mix(LIGHT.paper, LIGHT.synthetic, 0.22)) if bar.height > 10]
    longest, *_ = beside = [next(bar for bar in bars if abs(bar.y - value.y) < 4) for value in values]
    widths = [bar.width for bar in beside]
    assert longest.right == pytest.approx(min(value.x for value in values) - 4)
    assert [width / widths[0] for width in widths] == pytest.approx(
        [many / max(map(winners.count, winners)) for many in sorted(map(winners.count, set(winners)), reverse=True)]
    )


def test_many_provenances_are_cut_and_said():
    features = {
        at: make.synthetic_stats(at, examples=(make.synthetic_example(make.window(5), provenance=f"origin {at}"),))
        for at in range(13)
    }
    assert "and 3 provenances more" in words(search_page(features), "Where the strongest began")


def test_the_discretisation_gap_has_a_dot_a_feature(searched):
    page = search_page(searched)
    expected = [
        (
            stats.search.relaxation.relaxed / stats.max_activation,
            stats.search.relaxation.discrete / stats.max_activation,
        )
        for stats in strongest_of(searched)
    ]
    _, dots = lines_of(page, "What relaxing promised")
    assert [*zip(*dots, strict=True)] == [pytest.approx(point) for point in expected]
    without = make.synthetic_stats(search=make.search(relaxation=None))
    assert "What relaxing promised" not in search_page({7: without}).plots


def test_a_search_that_fired_nothing_says_so():
    page = search_page({3: make.unfired_stats()})
    assert "0 of 1 feature made to fire in 100 k token-evaluations" in words(page).replace("\xa0", " ")
    assert "Nothing to show: nothing fired any of the features." in words(page)
    assert not page.plots
