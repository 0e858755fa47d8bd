"""Real beside synthetic: the page of a feature and the overview of a comparison read back."""

from dataclasses import replace
from itertools import pairwise

import pytest
import record_factory as make
from hypothesis import given
from hypothesis import strategies as st
from page_reader import EVERY_GLYPH_IS_THERE, HEADER, HOSTILE, assert_legible, assert_margin_is_paper, compared, words

from sae_analysis.comparison import compare, compare_features
from sae_analysis.records import TokenSpan
from sae_analysis.visualizer import (
    comparison_page,
    digits,
    feature_comparison_page,
    feature_page,
    search_page,
    summary_page,
    write_page,
)
from sae_analysis.visualizer.plots import apart, bin_position
from sae_analysis.visualizer.theme import PAGE_WIDTH
from sae_analysis.wording import NOT_SEARCHED

pytestmark = EVERY_GLYPH_IS_THERE

CHANGES = {
    "usual": {},
    "superstimulus": {"potential": 20.0},
    "search falls short": {"potential": 4.0},
    "never fires in text": {"real_is_dead": True},
    "search failed": {"synthetic_is_dead": True},
    "dead": {"real_is_dead": True, "synthetic_is_dead": True},
    "sink": {"is_sink": True},
    "huge": {"potential": 3e7},
}


@pytest.mark.parametrize("name", CHANGES)
def test_pages_of_comparisons_are_legible(name, tmp_path):
    one, real, synthetic = compared(**CHANGES[name])
    page = feature_comparison_page(one, real, synthetic, HEADER)
    assert_legible(page)
    assert_margin_is_paper(write_page(page, tmp_path / "page.png"))
    assert one.verdict in words(page, "title")


@pytest.mark.parametrize("script", HOSTILE)
def test_pages_of_comparisons_hold_any_example(script):
    real, synthetic = make.comparison_pair()
    hostile = HOSTILE[script]
    looked_at = [replace(example, firing=make.firing()) for example in hostile.examples[:3]]
    real = replace(hostile, examples=(*looked_at, *hostile.examples[3:]))
    page = feature_comparison_page(compare_features(real, synthetic), real, synthetic, HEADER)
    assert_legible(page)


def test_numbers_on_the_page_are_those_of_the_comparison():
    one, real, synthetic = compared(potential=20.0)
    page = feature_comparison_page(one, real, synthetic, HEADER)
    said = words(page)
    shown = [digits.number(value) for value in (one.real_max, one.synthetic_max, one.fluent_max, one.excerpt_max)]
    shown += [digits.share(one.realised), digits.share(one.behind_text), digits.number(one.single_token_max)]
    shown.append(f"{digits.share(one.realised_low)} to {digits.share(one.realised_high)}")
    likeness = one.likeness
    shown.append(f"{digits.number(likeness.residual)} ({digits.number(likeness.residual_among_real)})")
    shown.append(f"{digits.number(likeness.length_synthetic)} ({digits.number(likeness.length_real)})")
    for stats in (real, synthetic):
        ablation = stats.examples[0].firing.ablation
        shown.append(f"divergence there {digits.number(ablation.divergence)} nats")
        shown += [digits.signed(change) for _, change in (*ablation.raised, *ablation.lowered)]
    assert [text for text in shown if " ".join(text.split()) not in said] == []
    fluency = page.plots["fluency"]
    drawn = {(x, y) for line in fluency.lines for x, y in zip(*line.get_data(), strict=True)}
    for example in (*synthetic.search.excerpts, *synthetic.search.frontier):
        assert (example.synthesis.cross_entropy, example.max_activation) in drawn


def test_the_line_under_the_title_says_nothing_twice():
    one, real, synthetic = compared(potential=20.0)
    assert one.verdict == "superstimulus"
    title = words(feature_comparison_page(one, real, synthetic, HEADER), "title")
    assert title.count(" reaches ") == 1
    assert one.reasons[1] in title


def test_a_verdict_that_is_not_settled_is_said_to_be_so():
    one, real, synthetic = compared(potential=20.0)
    for is_settled in (True, None, False):
        judged = replace(one, is_settled=is_settled)
        for page in (
            feature_comparison_page(judged, real, synthetic, HEADER),
            comparison_page([judged], 1_000, HEADER),
        ):
            assert ("superstimulus, unsettled" in words(page)) is (is_settled is False)
            assert_legible(page)


def test_a_search_without_a_step_is_said_to_be_none():
    for change in ({}, {"potential": 20.0}, {"synthetic_is_dead": True}):
        real, synthetic = make.comparison_pair(**change)
        spent = synthetic.search.token_evaluations
        for beginnings in (None, 10, spent):
            stats = replace(synthetic, search=replace(synthetic.search, beginnings=beginnings))
            one = compare_features(real, stats)
            for page in (feature_page(stats, HEADER), feature_comparison_page(one, real, stats, HEADER)):
                assert (NOT_SEARCHED in words(page, "title")) is (beginnings == spent)
                assert_legible(page)
    searched = replace(make.synthetic_stats(3), search=replace(make.search(), beginnings=7))
    hasty = replace(make.synthetic_stats(4), search=replace(make.search(), beginnings=100_000))
    for features, many in (((searched, hasty), 1), ((hasty,), 1), ((searched,), 0)):
        by_feature = {one.feature_idx: one for one in features}
        summary = summary_page(by_feature, 1, HEADER, "synthetic")
        for page in (search_page(by_feature, HEADER), summary):
            assert (f"; for {many} of them {NOT_SEARCHED}" in words(page, "title")) is bool(many)
            assert_legible(page)
        for one in features:
            assert ("not searched" in words(summary, f"feature {one.feature_idx}")) is (one is hasty)


def test_other_seeds_are_said_where_there_are_any():
    one, real, synthetic = compared()
    assert "seeds" not in words(feature_comparison_page(one, real, synthetic, HEADER))
    page = feature_comparison_page(replace(one, other_seeds=(11.0, 12.5)), real, synthetic, HEADER)
    assert f"other seeds found {digits.number(11.0)} to {digits.number(12.5)}" in words(page, "title")


def test_a_ceiling_is_said_where_there_is_one():
    one, real, synthetic = compared()
    assert "ceiling" not in words(feature_comparison_page(one, real, synthetic, HEADER))
    page = feature_comparison_page(replace(one, ceiling=31.25), real, synthetic, HEADER)
    assert f"ceiling {digits.number(31.25)}" in words(page)


def test_marks_stand_at_their_values():
    one, real, synthetic = compared(potential=20.0)
    page = feature_comparison_page(one, real, synthetic, HEADER)
    [letter] = [
        item for item in page.lettering if item.panel == "activation histogram" and item.text == "S" and item.bold
    ]
    axes = page.plots["activation histogram"]
    area = axes.get_position()
    left, right = axes.get_xlim()
    edges = [*real.histogram.edges]
    while edges[-1] <= 20.0:
        edges.append(edges[-1] ** 2 / edges[-2])
    at = (bin_position(edges, 20.0) - left) / (right - left)
    middle = letter.box.x + letter.box.width / 2
    assert middle == pytest.approx(PAGE_WIDTH * (area.x0 + at * area.width), abs=0.1)


@given(st.lists(st.floats(0, 100), max_size=6).map(sorted), st.floats(0.1, 20))
def test_letters_stand_apart_and_no_further_than_they_must(places, gap):
    found = apart(places, gap)
    assert all(right - left >= gap - 1e-9 for left, right in pairwise(found))
    for at, (there, wanted) in enumerate(zip(found, places, strict=True)):
        is_free = all(abs(other - wanted) >= gap * len(places) for k, other in enumerate(places) if k != at)
        assert abs(there - wanted) <= (1e-9 if is_free else gap * len(places) / 2)


def test_letters_of_marks_that_lie_close_are_read_apart():
    one, real, synthetic = compared(potential=10.1)
    page = feature_comparison_page(one, real, synthetic, HEADER)
    letters = {item.text: item.box for item in page.lettering if item.panel == "activation histogram" and item.bold}
    boxes = sorted((box for text, box in letters.items() if text in "RSF"), key=lambda box: box.x)
    assert len(boxes) == 3
    assert all(left.x + left.width <= right.x for left, right in pairwise(boxes))
    [bars] = [page.plots["activation histogram"].get_position()]
    height = page.figure.get_figheight() * 72
    assert all(box.bottom <= height * (1 - bars.y1) for box in boxes), "above the bars, not on them"


@pytest.mark.parametrize("many", [1, 8, 200])
def test_the_overview_holds_any_number_of_features(many, tmp_path):
    pairs = [make.comparison_pair(**[*CHANGES.values()][at % len(CHANGES)]) for at in range(many)]
    result = compare(*make.results_of(pairs))
    page = comparison_page(result.features, result.token_count, HEADER)
    assert_legible(page)
    assert_margin_is_paper(write_page(page, tmp_path / "page.png"))
    said = words(page, "features")
    for one in result.features[:60]:
        assert " ".join(digits.number(one.synthetic_max).split()) in said
        assert one.verdict in said
    if many > 60:
        assert f"the 60 least realised of {many}" in said
    if any(one.realised for one in result.features):
        [dots] = [line for line in page.plots["realised"].lines if line.get_marker() == "o"]
        known = [one.realised for one in result.features if one.realised is not None]
        assert dots.get_ydata().tolist() == [min(value, 1.5) for value in known]
        ends = [max(one.realised or 0.0, one.realised_high or 0.0) for one in result.features]
        assert ("what goes beyond 150 % is cut there" in words(page, "realised")) == (max(ends) > 1.5)
        assert ("cut at 125 %" in said) == (max(ends[:60]) > 1.25)


def test_the_overview_says_that_it_cuts_an_interval():
    one, *_ = compared()
    assert one.realised is not None
    for high, is_cut in ((1.2, False), (1.7, True)):
        page = comparison_page([replace(one, realised_low=0.4, realised_high=high)], 1000, HEADER)
        assert ("goes beyond 150 %" in words(page, "realised")) == is_cut
        assert ("cut at 125 %" in words(page, "features")) == is_cut


@pytest.mark.parametrize(
    ("ends", "on_the_page", "in_the_overview"),
    [
        ((2e6, 1.281e9, None), "1.28 B 2.00 M to never", "1.28 B (2.00 M–never)"),
        ((999e6, 888.8e9, 999.4e9), "889 B 999 M to 999 B", "889 B (999 M–999 B)"),
        ((5e6, None, None), "never 5.00 M to never", "never (5.00 M–never)"),
        ((None, None, None), "never", "never"),
    ],
)
def test_tokens_to_meet_it_are_the_same_on_the_page_and_in_the_overview(ends, on_the_page, in_the_overview):
    one, real, synthetic = compared()
    known = replace(one, tokens_until=TokenSpan(**dict(zip(("low", "median", "high"), ends, strict=True))))
    page, overview = feature_comparison_page(known, real, synthetic, HEADER), comparison_page([known], 1000, HEADER)
    assert f"tokens to meet it {on_the_page} as fluent as text" in words(page)
    assert f" {in_the_overview} {one.verdict}" in words(overview, "features")
    assert_legible(page)
    assert_legible(overview)


def test_the_overview_leaves_no_cell_empty():
    one, *_ = compared()
    few = replace(one, realised_low=None, realised_high=None, tokens_until=None)
    assert words(comparison_page([few], 1000, HEADER), "features").count("too few firings") == 2
    unfired, real, synthetic = compared(synthetic_is_dead=True)
    assert (unfired.realised, unfired.tokens_until) == (None, None)
    said = words(comparison_page([unfired], 1000, HEADER), "features")
    assert "–: nothing fired it in the search" in said
    assert said.endswith("– – – search failed")
    assert "–:" not in words(comparison_page([one], 1000, HEADER), "features")
    page = feature_comparison_page(few, real, synthetic, HEADER)
    assert words(page).count("too few firings") == 2
    assert "too few firings" not in words(feature_comparison_page(unfired, real, synthetic, HEADER))


def test_the_headline_of_the_overview_says_how_many_verdicts_are_unsettled():
    one, *_ = compared()
    doubtful, settled = replace(one, is_settled=False), replace(one, is_settled=True)
    for features, said in (
        ([doubtful, doubtful, settled], f": 3 {one.verdict} (2 unsettled)"),
        ([settled, settled], f": 2 {one.verdict} SAE"),
        ([doubtful, replace(doubtful, verdict="second sense")], f"1 {one.verdict} (1 unsettled), 1 second sense (1 "),
    ):
        assert said in words(comparison_page(features, 1000, HEADER), "title")


def test_ranks_cannot_be_taken_for_numbers_of_features():
    one, *_ = compared()
    assert "rank of the feature, 1 the least realised" in words(comparison_page([one] * 4, 1000, HEADER), "realised")
    page = search_page({at: make.synthetic_stats(at) for at in range(4)}, HEADER)
    assert "rank of the feature, 1 the least gain" in words(page, "Gain over one token")


def test_real_text_that_is_not_text_and_circles_above_the_steps_are_explained():
    one, real, synthetic = compared()
    shown = [*synthetic.search.excerpts]
    odd = replace(shown[0], synthesis=replace(shown[0].synthesis, is_text=False))
    for excerpts, is_odd, lies_above in (
        (shown, False, False),
        ([odd, *shown[1:]], True, True),
        ([make.synthetic_example(make.window(12), 11, 1.0, cross_entropy=40.0, token_evaluations=0)], False, False),
    ):
        found = replace(synthetic, search=replace(synthetic.search, excerpts=tuple(excerpts)))
        page = feature_comparison_page(one, real, found, HEADER)
        assert ("; not text: read again, its text is other tokens" in words(page, "real text cut short")) is is_odd
        assert ("; above the steps: not text" in words(page, "fluency")) is lies_above


def test_a_list_of_tokens_that_is_empty_says_so():
    one, real, synthetic = compared()
    strongest = synthetic.examples[0]
    silent = replace(strongest.firing, ablation=replace(strongest.firing.ablation, raised=()))
    found = replace(synthetic, examples=(replace(strongest, firing=silent), *synthetic.examples[1:]))
    assert "raises none" not in words(feature_comparison_page(one, real, synthetic, HEADER))
    assert "raises none lowers" in words(feature_comparison_page(one, real, found, HEADER))


def test_names_of_the_numbers_stand_apart():
    one, real, synthetic = compared()
    page = feature_comparison_page(one, real, synthetic, HEADER)
    names = ["real maximum", "synthetic maximum", "realised", "tokens to meet it", "as fluent as text"]
    names += ["one token alone", "behind other text"]
    boxes = [next(item.box for item in page.lettering if item.text == name) for name in names]
    assert all(right.x - left.right > 8 for left, right in pairwise(boxes))
