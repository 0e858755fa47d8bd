"""The page of a feature read back: what was set, where, in which colour."""

import re
from dataclasses import replace

import figure_stress as stress
import matplotlib as mpl
import numpy as np
import pytest
import record_factory as make
from page_reader import EVERY_GLYPH_IS_THERE, HEADER, HOSTILE, bars, words

from sae_analysis.records import ExampleBand
from sae_analysis.visualizer import LIGHT, Header, feature_page, summary_page
from sae_analysis.visualizer.examples import activation_scale
from sae_analysis.visualizer.plots import bin_position
from sae_analysis.visualizer.theme import mix

pytestmark = EVERY_GLYPH_IS_THERE


def test_the_subtitle_is_the_answer():
    said = words(feature_page(make.stats(), HEADER), "title")
    assert said.startswith(
        "Feature 7 fires on 0.312 % of tokens , mostly ship , vessel , fleet ; pushes towards yard , board , ment "
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dead", "never fired in 1.00 M tokens ; would push towards yard"),
        ("once", "fired once in 1.00 M tokens , on ship ;"),
        ("below-zero", "fires on 0.312 % of tokens, always below zero , mostly"),
        ("both-signs", "fires on 0.312 % of tokens, on 48.1 % of them below zero , mostly"),
        ("almost-always", "fires on >99.9 % of tokens"),
    ],
)
def test_the_subtitle_of_an_unusual_feature(name, said):
    title = words(feature_page(HOSTILE[name]), "title")
    assert re.sub(r" (?=[,;])", "", said) in re.sub(r" (?=[,;])", "", title)


def test_weak_tokens_are_not_called_mostly():
    tokens = tuple(replace(item, share=item.share / 10) for item in make.stats().top_tokens)
    assert "many different ones, such as" in words(feature_page(make.stats(top_tokens=tokens)), "title")


def test_the_header_names_where_the_numbers_come_from():
    said = words(feature_page(make.stats(), HEADER), "title")
    for part in ("demo/sae.safetensors", "gelu-1l", "blocks.0.hook_mlp_out", "tiny-stories", "0.821", "0.931", "31.8"):
        assert part in said


def test_a_poor_fit_is_an_alarm_on_every_page():
    assert "POOR FIT" not in words(feature_page(make.stats(), HEADER), "title")
    poor = replace(HEADER, fit=make.fit(explained_variance=-0.1))
    assert "POOR FIT, the mean explains more: nothing here can be trusted." in words(feature_page(make.stats(), poor))


def test_the_statistics_are_those_of_the_record():
    said = words(feature_page(make.stats(), HEADER), "statistics")
    for part in ("0.312 %", "99.7 % sparse", "10.0", "2.56", "± 1.62", "2.00", "95 % ≤ 4.80", "1.00", "0.812", "0.713",
                 "1.21", "kurtosis 8.02", "412 (0.830)"):  # fmt: skip
        assert part in said


def test_bars_are_the_counts():
    stats = make.stats()
    page = feature_page(stats)
    assert bars(page, "activation histogram") == list(stats.histogram.counts)
    assert bars(page, "logit effects") == list(stats.logit_histogram.counts)
    rates = [many / 62_500 for many in stats.position_histogram.counts]
    assert bars(page, "positions") == pytest.approx(rates)


def test_bars_behind_tokens_are_as_long_as_their_numbers():
    stats = make.stats(top_boosted_tokens=((" a", 0.4), (" b", 0.1)), top_suppressed_tokens=())
    (rectangles,) = feature_page(stats).findobj(mpl.collections.PolyCollection)
    tint = mix(LIGHT.paper, LIGHT.real, 0.22)
    bars = [
        np.ptp(path.vertices[:, 0])
        for path, colour in zip(rectangles.get_paths(), rectangles.get_facecolor(), strict=True)
        if np.allclose(colour[:3], tint)
    ]
    shares = [item.share / stats.top_tokens[0].share for item in stats.top_tokens]
    assert [bar / bars[0] for bar in bars[:10]] == pytest.approx(shares)
    assert 30 < bars[10] == pytest.approx(4 * bars[11])


def test_bars_below_zero_have_the_second_hue():
    stats = HOSTILE["both-signs"]
    below, above = feature_page(stats).plots["activation histogram"].patches
    assert [*below.get_data().values, *above.get_data().values] == list(stats.histogram.counts)
    assert below.get_facecolor()[:3] == pytest.approx(LIGHT.negative)
    assert above.get_facecolor()[:3] == pytest.approx(LIGHT.real)


@pytest.mark.parametrize("name", [name for name, stats in HOSTILE.items() if not stats.is_dead])
def test_every_histogram_has_a_scale(name):
    page = feature_page(HOSTILE[name])
    for panel, axes in page.plots.items():
        below = (1 - axes.get_position().y0) * page.get_figheight() * 72
        labels = [item for item in page.lettering if item.panel == panel and below < item.box.bottom < below + 20]
        assert labels, panel


def test_ticks_of_a_signed_histogram_mirror_each_other():
    page = feature_page(HOSTILE["both-signs"])
    below = (1 - page.plots["activation histogram"].get_position().y0) * page.get_figheight() * 72
    ticks = [item.text for item in page.lettering if item.panel == "activation histogram" and item.box.y > below]
    assert ticks == ["−5", "−0.5", "0.5", "5"]


def test_a_tick_label_stands_below_its_value():
    stats = make.stats()
    page = feature_page(stats)
    axes = page.plots["activation histogram"]
    (label,) = (item.box for item in page.lettering if item.panel == "activation histogram" and item.text == "2")
    value = axes.transData.transform((bin_position(stats.histogram.edges, 2.0), 1.0))[0] * 72 / page.dpi
    assert label.x + label.width / 2 == pytest.approx(value, abs=0.1)


def test_real_and_synthetic_have_their_hues():
    for kind, hue in (("real", LIGHT.real), ("synthetic", LIGHT.synthetic)):
        (patch,) = feature_page(make.stats(), None, kind).plots["activation histogram"].patches
        assert patch.get_facecolor()[:3] == pytest.approx(hue)


def test_cells_have_the_colour_of_their_activation():
    stats = make.stats()
    page = feature_page(stats)
    shown = [*stats.examples, *(item for band in stats.example_bands for item in band.examples)]
    assert {cell.row for cell in page.cells} == set(range(len(shown)))
    for cell in page.cells:
        assert cell.value == shown[cell.row].activations[cell.token]
        assert cell.colour == LIGHT.activation(cell.value / activation_scale(stats), 1.0)
    drawn = {
        tuple(colour[:3]) for item in page.findobj(mpl.collections.PolyCollection) for colour in item.get_facecolor()
    }
    for cell in page.cells:
        assert cell.colour == LIGHT.paper or any(np.allclose(cell.colour, colour) for colour in drawn)


def test_the_peak_is_bold_and_its_value_stands_at_the_right():
    example = make.example(make.window(12), 4, 8.25)
    page = feature_page(make.stats(examples=(example,), example_bands=()))
    bold = [item for item in page.lettering if item.panel == "examples" and item.bold]
    assert [item.text for item in bold[1:]] == [example.tokens[4].strip(), "8.25"]
    assert bold[2].box.x > bold[1].box.right
    paths = page.findobj(mpl.collections.PathCollection)
    strokes = {round(float(width), 2) for item in paths for width in item.get_linewidths()}
    assert 0.42 in strokes
    assert "document 12 token 344" in words(page, "examples")


@pytest.mark.parametrize(("begins_at", "front"), [(0, ""), (340, "… ")])
def test_a_window_in_the_middle_of_its_document_is_shown_to_be_cut(begins_at, front):
    example = make.example(("ill", " make", " my", " wish", "es"), 3, 8.25, source_position=begins_at)
    stats = make.stats(examples=(example,), example_bands=())
    assert f"activation at the right {front}ill make my wish es 8.25" in words(feature_page(stats), "examples")
    assert f" {front}ill make my wish es" in words(summary_page({7: stats}, 1, HEADER), "feature 7").replace("10.0", "")


def test_the_drawn_token_of_a_band_gives_the_value_not_the_windows_maximum():
    stats = make.stats()
    weak = make.example((" a", " b"), 0, activations=(0.123, 9.0), max_activation=9.0)
    bands = (*stats.example_bands[:2], replace(stats.example_bands[2], examples=(weak,)))
    assert "0.123" in words(feature_page(replace(stats, example_bands=bands)), "bands")


def test_nothing_is_taken_for_mathematics_or_markup():
    page = feature_page(make.stats(examples=(make.example((" $\\frac{", "$x^2$", "<b>", "&amp;"), 1),)))
    for text in ("$\\frac{", "$x^2$", "<b>", "&amp;"):
        assert text in words(page, "examples")


def test_one_token_is_no_plural():
    page = feature_page(make.dead_stats(token_count=1), HEADER)
    assert "It never fired in 1 token: there is no example to show." in words(page, "examples")


def test_a_dead_feature_says_so_and_shows_what_is_left():
    page = feature_page(make.dead_stats(), HEADER)
    assert "It never fired in 1.00 M tokens: there is no example to show." in words(page, "examples")
    assert "yard" in words(page, "logit effects")
    assert "412 (0.830)" in words(page, "statistics")
    assert "activation histogram" not in page.plots


def test_a_hook_without_path_to_the_logits_says_so():
    said = words(feature_page(HOSTILE["dead-without-logits"]), "logit effects")
    assert "linear" in said
    assert "logits." in said


def test_a_page_grows_with_its_examples():
    heights = [feature_page(make.stats(example_count=many)).get_figheight() for many in (5, 30, 50)]
    assert heights[0] < heights[1] < heights[2]
    fifty = feature_page(make.stats(example_count=50, example_bands=()))
    assert {cell.row for cell in fifty.cells} == set(range(50))


def test_many_examples_go_on_over_the_whole_width_below_the_narrow_column():
    page = feature_page(make.stats(example_count=50, example_bands=()))
    aside = [item.box for item in page.lettering if item.panel in {"firing tokens", "logit effects", "positions"}]
    left, end = min(box.x for box in aside), max(box.bottom for box in aside)
    beside = [cell.box for cell in page.cells if cell.box.y < end - 60]
    below = [cell.box for cell in page.cells if cell.box.y > end + 60]
    assert max(box.right for box in beside) < left < max(box.right for box in below)


def test_the_origin_takes_as_few_lines_as_hold_it_whole():
    def heights(header: Header) -> list[float]:
        title = [item for item in feature_page(make.stats(), header).lettering if item.panel == "title"]
        return sorted({round(item.box.y, 3) for item in title})

    long = replace(HEADER, model=stress.LONG_NAME)
    assert len(heights(HEADER)) == 4
    assert len(heights(long)) == 6


def test_examples_over_the_range_are_named_by_what_they_span():
    """A feature of few firings has weak examples alone: none of them is strong for being the first."""
    quarters = make.stats().example_bands[0].examples
    for bands, named in (
        (((0.75, 1), (0.5, 0.75), (0.25, 0.5), (0, 0.25)), ["strong", "middle", "middle", "weak"]),
        (((0.25, 0.5), (0, 0.25)), ["middle", "weak"]),
        (((0, 0.25),), ["weak"]),
        (((0, 1),), []),
        (((0.5, 1), (0, 0.5)), ["strong", "weak"]),
    ):
        made = [
            ExampleBand(lower_quantile=lower, upper_quantile=upper, examples=quarters[:1]) for lower, upper in bands
        ]
        page = feature_page(make.stats(example_bands=tuple(made)))
        assert re.findall(r"(\w+): quantiles", words(page, "bands")) == named
        for lower, upper in bands:
            assert f"quantiles {lower * 100:.3g}–{upper * 100:.3g} % of its activation" in words(page, "bands")


def test_a_document_has_one_name_beside_narrow_and_wide_examples():
    stats = make.stats(example_count=30)
    named = [replace(example, source="tinystories_of_the_year_1000.jsonl#748") for example in stats.examples]
    page = feature_page(replace(stats, examples=tuple(named), example_bands=()))
    shown = [item.text for item in page.lettering if item.panel == "examples" and item.text.endswith("#748")]
    assert len(shown) == 30
    assert len({*shown}) == 1
