"""The page of a feature that was searched read back: its answer, its examples and its charts."""

import re
from dataclasses import replace

import numpy as np
import pytest
import record_factory as make
from page_reader import EVERY_GLYPH_IS_THERE, HEADER, SEARCHED, compared, hanging_bars, lines_of, words

from sae_analysis.comparison import compare_features
from sae_analysis.records import Histogram, Relaxation
from sae_analysis.visualizer import LIGHT, Header, digits, feature_comparison_page, feature_page, summary_page
from sae_analysis.visualizer.theme import PAGE_WIDTH, mix

pytestmark = EVERY_GLYPH_IS_THERE


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("usual", "reaches 10.0 on where in built of was of old the where town of was … , found after 69.4 k of 100 k "
                  "token-evaluations; vessel alone gives 8.73 ; pushes towards yard , board , ment"),
        ("one-token", "reaches 10.0 on ship , found after 69.4 k of"),
        ("no-single-token", "; no token alone fires it; pushes towards"),
        ("single-token-is-best", "; ↵ alone gives 10.0"),
        ("below-zero", "reaches −7.00 on the in"),
        ("unfired", "nothing fired it in 100 k token-evaluations, at best −0.310 before the activation rule; would"),
        ("unfired-without-examples", "nothing fired it in 100 k token-evaluations; would push"),
        ("nothing-recorded", " in 0 token-evaluations;"),
        ("odd-tokens", "reaches 10.0 on xxxxxxxxxxxxxxxx xx… , found"),
        ("scripts", "on yard in The old ship yard stood at … ,"),
    ],
)  # fmt: skip
def test_the_subtitle_of_a_search_is_its_answer(name, said):
    def closed(text: str) -> str:
        return re.sub(r" (?=[,;])", "", text)

    assert closed(said) in closed(words(feature_page(SEARCHED[name]), "title"))


@pytest.mark.parametrize("name", SEARCHED)
def test_a_search_claims_nothing_about_a_corpus(name):
    page = feature_page(SEARCHED[name], HEADER)
    assert not {item.panel for item in page.lettering} & {"activation histogram", "positions", "bands"}
    said = words(page, "title") + words(page, "statistics") + words(page, "examples")
    for claim in ("fires on", "of tokens", "sparse", "mean active", "never fired", "one a window"):
        assert claim not in said


def test_a_search_has_its_hue_however_it_is_asked_for():
    (patch,) = feature_page(make.synthetic_stats()).plots["logit effects"].patches
    assert patch.get_facecolor()[:3] == pytest.approx(LIGHT.synthetic)


def test_the_numbers_of_a_search_are_those_of_the_record():
    said = words(feature_page(make.synthetic_stats()), "statistics")
    for part in ("10.0 pre-act. 10.4", "8.73 gain × 1.15", "9.21 nats per token", "100 k best after 69.4 k", "0.812"):
        assert part in said


def plain_count(value: int) -> str:
    """Return a count as ``words`` returns it."""
    return digits.count(value).replace("\xa0", " ")


@pytest.mark.parametrize("later", [0, 5_000])
def test_title_number_and_curve_agree_on_when_the_strongest_was_reached(later):
    """The sequence that is shown may have come up later than the first as strong."""
    stats = make.synthetic_stats()
    best, reached = stats.examples[0], stats.search.convergence[-1][0]
    first = replace(best, synthesis=replace(best.synthesis, token_evaluations=reached + later))
    page = feature_page(replace(stats, examples=(first, *stats.examples[1:])))
    assert f"found after {plain_count(reached)} of 100 k token-evaluations" in words(page, "title")
    assert f"best after {plain_count(reached)}" in words(page, "statistics")
    assert lines_of(page, "convergence")[1][0][-2] == reached
    assert f"found after {plain_count(reached + later)} evaluations" in words(page, "examples")
    said = f"; one as strong as the first was known after {plain_count(reached)}"
    assert (said in words(page, "examples")) is bool(later)
    assert "at its end" not in words(page, "convergence")


def test_a_strongest_example_that_was_made_after_the_search_is_said_to_be_so():
    stats = make.synthetic_stats()
    best, spent = stats.examples[0], stats.search.token_evaluations
    before = stats.search.convergence[-2][0]
    late = replace(stats.search, convergence=(*stats.search.convergence[:-1], (spent, 10.0)))
    early = replace(best, synthesis=replace(best.synthesis, token_evaluations=before))
    alone = replace(early, synthesis=replace(early.synthesis, provenance="single token", token_evaluations=1))
    shortened = f"what is left of one found after {plain_count(before)}, without tokens that were in the way"
    for first, shortest, beside in (
        (early, early, shortened),
        (alone, late.shortest, "a single token, tried beside the search"),
    ):
        search = replace(late, shortest=shortest)
        page = feature_page(replace(stats, examples=(first, *stats.examples[1:]), search=search))
        assert f"; the first is {beside}" in words(page, "examples")
        assert f"; at its end the strongest example: {beside}" in words(page, "convergence")
        assert "found after 100 k of 100 k token-evaluations" in words(page, "title")
        assert "best after 100 k" in words(page, "statistics")


def test_every_example_of_a_search_has_its_numbers():
    stats = make.synthetic_stats(example_count=9)
    said = words(feature_page(stats), "examples")
    for example in stats.examples:
        origin, value = example.synthesis, digits.number(example.max_activation)
        numbers = (
            f"pre-activation {digits.number(origin.pre_activation)} {digits.number(origin.cross_entropy)} nats per"
            f" token found after {digits.count(origin.token_evaluations)} evaluations start: {origin.provenance}"
            f" {value}"
        )
        assert numbers.replace("\xa0", " ") in said.replace("\xa0", " ")
    assert "document" not in said
    assert "token 0" not in said


@pytest.mark.parametrize("began", ["real text", "model text", "single token", "another feature"])
def test_what_an_example_began_with_stands_on_one_line(began):
    best = make.synthetic_example(make.window(5, 1), 4, 9.0, provenance=began)
    page = feature_page(replace(make.synthetic_stats(), examples=(best,)), HEADER)
    lines = {}
    for item in page.lettering:
        if item.panel == "examples":
            lines.setdefault(round(item.box.y, 1), []).append(item.text.strip())
    assert any(f"start: {began}" in " ".join(filter(None, line)) for line in lines.values())


def test_only_text_that_was_read_as_it_is_is_called_real_text():
    """What the search began with real text and changed says that it began so; the same on the page of a comparison."""
    one, real, synthetic = compared()
    begun = [make.synthetic_example(make.window(5, at), 4, 9.0, provenance="real text") for at in range(2)]
    synthetic = replace(synthetic, examples=tuple(begun))
    assert all(example.synthesis.token_evaluations == 0 for example in synthetic.search.excerpts)
    page = feature_comparison_page(one, real, synthetic, HEADER)
    assert words(page, "Found by the search").count("start: real text") == 2
    assert "start" not in words(page, "real text cut short")
    assert words(page, "real text cut short").count(" real text") >= 2
    said = words(feature_page(synthetic), "examples")
    assert (said.count("start: real text"), said.count("real text")) == (2, 2)
    assert "; start: what the search began with" in said


def test_an_example_without_cross_entropy_says_nothing_of_fluency():
    page = feature_page(SEARCHED["one-token"])
    assert "nats" not in words(page, "examples") + words(page, "statistics")


def test_sinks_and_what_is_not_text_are_marked_and_explained():
    page = feature_page(SEARCHED["doubtful"])
    marks = [item.text for item in page.lettering if item.bold and item.text in {"sink", "not text"}]
    assert marks == ["sink", "not text", "sink", "not text"]
    said = words(page, "examples")
    assert "; sink: the peak is an attention sink" in said
    assert "; not text: read again, its text is other tokens" in said
    usual = words(feature_page(SEARCHED["usual"]), "examples")
    assert "sink" not in usual
    assert "not text" not in usual
    assert "sink" in words(summary_page({7: SEARCHED["doubtful"]}), "feature 7")


def test_bars_below_tokens_are_as_deep_as_what_is_lost_without_them():
    lost = (0.0, 1.0, 4.0, 8.0, 20.0, -2.0)
    example = make.synthetic_example(make.window(6), 3, 8.0, attribution=lost, cross_entropy=None)
    stats = make.synthetic_stats(
        examples=(example,),
        search=make.search(frontier=(), relaxation=None, shortest=None),
        logit_histogram=Histogram(edges=(), counts=()),
    )
    page = feature_page(stats)
    bars, gained = (hanging_bars(page, colour) for colour in (LIGHT.synthetic, LIGHT.negative))
    deep = [bar for bar in bars if bar.width > 0.1]
    cells = {cell.token: cell.box for cell in page.cells}
    by_token = {token: [bar for bar in deep if box.x - 0.1 < bar.x < box.right] for token, box in cells.items()}
    full = by_token[4][0].height
    assert [max((bar.height for bar in by_token[token]), default=0) / full for token in range(6)] == pytest.approx(
        [0, 1 / 8, 1 / 2, 1, 1, 0]
    )
    assert {round(bar.height / full, 6) for bar in gained} == {0.25}
    assert all(bar.y >= cells[0].bottom for bar in deep)
    assert "(pale: gained)" in words(page, "examples")


def test_what_nothing_fires_has_no_bars_below_its_tokens():
    assert not hanging_bars(
        feature_page(make.unfired_stats(logit_histogram=Histogram(edges=(), counts=()))), LIGHT.synthetic
    )


def test_cells_of_a_search_include_the_frontier_without_repeating_examples():
    stats = make.synthetic_stats()
    page = feature_page(stats)
    shown = [*stats.examples, *stats.search.frontier[:-1], stats.search.shortest]
    assert stats.search.frontier[-1] in stats.examples
    assert {cell.row for cell in page.cells} == set(range(len(shown)))
    assert all(cell.value == shown[cell.row].activations[cell.token] for cell in page.cells)
    for example in stats.search.frontier[:-1]:
        assert digits.number(example.max_activation) in words(page, "frontier examples")


def test_the_shortest_example_stands_by_itself_or_not_at_all():
    stats = make.synthetic_stats()
    said = words(feature_page(stats), "shortest example")
    assert digits.number(stats.search.shortest.max_activation) in said
    without = replace(stats, search=replace(stats.search, shortest=None))
    assert not [item for item in feature_page(without).lettering if item.panel == "shortest example"]


def test_a_long_frontier_is_shown_at_even_steps():
    stats = SEARCHED["frontier-of-thirty"]
    said = words(feature_page(stats), "frontier examples")
    assert "; 8 of 30 " in said
    values = [item.text for item in feature_page(stats).lettering if item.panel == "frontier examples" and item.bold]
    assert [text for text in values if text[0].isdigit()] == [
        digits.number(example.max_activation) for example in stats.search.frontier[::4]
    ]


def test_the_fluency_chart_has_the_frontier_the_examples_and_the_single_token():
    stats = make.synthetic_stats()
    alone, steps, corners, dots = lines_of(feature_page(stats), "fluency")
    known = sorted((item.synthesis.cross_entropy, item.max_activation)
                   for item in (*stats.search.frontier, *stats.examples))  # fmt: skip
    frontier = [point for at, point in enumerate(known) if all(point[1] > other for _, other in known[:at])]
    assert max(known, key=lambda point: point[1]) in frontier
    assert set(alone[1]) == {stats.search.single_token[1]}
    assert [*zip(*steps, strict=True)][:-1] == frontier == [*zip(*corners, strict=True)]
    assert steps[0][-1] > frontier[-1][0]
    assert steps[1][-1] == frontier[-1][1]
    assert [*zip(*dots, strict=True)] == [
        (item.synthesis.cross_entropy, item.max_activation) for item in stats.examples
    ]
    assert digits.number(stats.search.single_token[1]) in words(feature_page(stats), "fluency")


def test_no_example_lies_above_the_steps_of_fluency():
    """A strongest example that was shortened is none of the search's own frontier, but it was found."""
    stats = make.synthetic_stats()
    strongest = make.synthetic_example(make.window(2), 1, 12.0, cross_entropy=19.0, token_ids=(5, 6))
    stats = replace(stats, examples=(strongest, *stats.examples), max_activation=12.0)
    _, steps, _, dots = lines_of(feature_page(stats), "fluency")
    for surprise, value in zip(*dots, strict=True):
        assert value <= max(y for x, y in zip(*steps, strict=True) if x <= surprise)
    assert (19.0, 12.0) in [*zip(*steps, strict=True)]
    real, _ = make.comparison_pair()
    beside = lines_of(feature_comparison_page(compare_features(real, stats), real, stats), "fluency")
    assert (19.0, 12.0) in [*zip(*beside[0], strict=True)]


def test_the_fluency_chart_says_what_its_dots_are():
    said = words(feature_page(make.synthetic_stats()), "fluency")
    assert "steps and dots: the strongest found within a cross-entropy; circles: the strongest examples" in said


def test_without_bos_a_single_token_is_said_to_stand_behind_another():
    stats = make.synthetic_stats()
    behind = ", one token behind a common one, gives 8.73"
    for bos, is_behind in (("prepended, not counted (bos always)", False), ("not prepended (bos never)", True)):
        header = Header.of(make.result(provenance=make.provenance(bos=bos)))
        assert (behind in words(feature_page(stats, header), "title")) is is_behind
        head = words(summary_page({7: stats}, 1, header, "synthetic"), "summary head")
        assert ("the one token that fires it most, behind a common one →" in head) is is_behind


def test_where_no_token_alone_fires_it_there_are_no_dashes():
    page = feature_page(SEARCHED["no-single-token"])
    assert [len(lines_of(page, panel)) for panel in ("fluency", "convergence")] == [3, 1]
    for panel in ("fluency", "convergence"):
        assert "no token alone fires it" in words(page, panel)
        assert "dashes" not in words(page, panel)


def test_steps_hold_until_the_next_value():
    page = feature_page(make.synthetic_stats())
    drawn = [line.get_drawstyle() for line in page.plots["fluency"].get_lines()]
    assert drawn == ["default", "steps-post", "default", "default"]


def test_the_convergence_chart_is_the_record_up_to_the_last_evaluation():
    stats = make.synthetic_stats()
    alone, steps = lines_of(feature_page(stats), "convergence")
    assert [*zip(*steps, strict=True)] == [*stats.search.convergence, (100_000, 10.0)]
    assert set(alone[1]) == {stats.search.single_token[1]}
    assert feature_page(stats).plots["convergence"].get_xscale() == "log"


def test_a_search_that_cost_nothing_begins_at_one_evaluation():
    steps = lines_of(feature_page(SEARCHED["free-of-charge"]), "convergence")[1]
    assert steps[0][0] == 1.0


def test_what_was_not_recorded_is_not_drawn_and_said():
    page = feature_page(SEARCHED["nothing-recorded"])
    assert "Nothing to show: nothing it tried was an improvement." in words(page, "convergence")
    assert not words(page, "relaxation")
    said = words(feature_page(SEARCHED["no-frontier"]), "fluency")
    assert "Nothing to show: no example has a cross-entropy." in said
    assert "no example to show" in words(feature_page(SEARCHED["unfired-without-examples"]), "examples")


def test_a_relaxed_stage_below_zero_is_explained():
    lacking = "; below zero: what is lacking to fire"
    for relaxed, discrete, is_said in ((-3.0, 4.0, True), (3.0, -4.0, True), (3.0, 0.0, False)):
        search = make.search(relaxation=Relaxation(relaxed=relaxed, discrete=discrete))
        said = words(feature_page(make.synthetic_stats(search=search)), "relaxation")
        assert (lacking in said) is is_said


def test_the_relaxed_stage_is_set_beside_what_tokens_reached():
    stats = make.synthetic_stats(search=make.search(relaxation=Relaxation(relaxed=16.0, discrete=4.0)))
    page = feature_page(stats)
    said = words(page, "relaxation")
    for part in (
        "never a result; tokens keep 25.0 % of it",
        "mixtures of embeddings 16.0",
        "tokens 4.00",
        "search 10.0",
    ):
        assert part in said
    tints = (LIGHT.faint, mix(LIGHT.paper, LIGHT.synthetic, 0.22))
    top = next(item.box for item in page.lettering if item.text == "16.0").y
    bars = [bar for tint in tints for bar in hanging_bars(page, tint) if top - 2 < bar.y < top + 30 and bar.height > 10]
    beside = [bar.width for bar in bars if bar.x > PAGE_WIDTH / 2]
    assert [width / beside[0] for width in beside] == pytest.approx([1, 0.25, 0.625])


@pytest.mark.parametrize("name", ["relaxed-to-nothing", "relaxed-without-activation"])
def test_nothing_relaxed_has_no_share(name):
    assert "keep" not in words(feature_page(SEARCHED[name]), "relaxation")


@pytest.mark.parametrize("name", SEARCHED)
def test_every_chart_of_a_search_has_scales_whose_labels_stand_at_their_values(name):
    page = feature_page(SEARCHED[name])
    for panel in {"fluency", "convergence"} & set(page.plots):
        axes = page.plots[panel]
        place = axes.get_position()
        height = page.get_figheight() * 72
        left, bottom = place.x0 * PAGE_WIDTH, (1 - place.y0) * height
        labels = [item for item in page.lettering if item.panel == panel]
        power = next((item.text for item in labels if "in units of" in item.text), "10⁰").split()[-1]
        factor = as_number(f"1×{power}")
        top = (1 - place.y1) * height
        beside = [item for item in labels if item.box.right < left and top - 8 < item.box.y < bottom - 1]
        below = [item for item in labels if bottom < item.box.bottom < bottom + 14 and item not in beside]
        assert beside, panel
        assert below, panel
        for item in beside:
            y = axes.transData.inverted().transform(
                (0, (height - item.box.y - 0.63 * item.box.height) * page.dpi / 72)
            )[1]
            spread = abs(np.ptp(axes.get_ylim()))
            assert as_number(item.text) * factor == pytest.approx(y, abs=0.02 * spread), (panel, item)


def as_number(text: str) -> float:
    mantissa, _, power = text.replace("\xa0", "").replace("−", "-").replace(",", "").partition("×10")
    return float(f"{mantissa}e{(power or '⁰').translate(str.maketrans('⁻⁰¹²³⁴⁵⁶⁷⁸⁹', '-0123456789'))}")


def test_charts_of_very_small_and_large_activations_name_their_unit():
    assert "activation, in units of 10⁻⁶" in words(feature_page(SEARCHED["tiny"]), "fluency")
    assert "activation, in units of 10⁶" in words(feature_page(SEARCHED["huge"]), "convergence")
    assert "in units" not in words(feature_page(SEARCHED["usual"]))


def test_a_feature_without_any_firing_shows_its_closest_sequences():
    page = feature_page(make.unfired_stats())
    said = words(page, "examples")
    for part in ("Closest examples", "none of them fires it", "pre-activation −0.310", "pre-activation −0.510"):
        assert part in said
    assert not {"fluency", "convergence"} & {item.panel for item in page.lettering}
