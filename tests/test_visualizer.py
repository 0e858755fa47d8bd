"""Pages read back: what was set, where, in which colour; and what must never happen to a page."""

import doctest
import math
import re
import subprocess
import sys
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import figure_stress as stress
import matplotlib as mpl
import numpy as np
import pytest
import record_factory as make
from hypothesis import example as tried_with
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sae_analysis import wording
from sae_analysis.comparison import compare, compare_features
from sae_analysis.errors import OutputError
from sae_analysis.records import ActivationExample, FeatureStats, Histogram, Relaxation, TokenSpan
from sae_analysis.visualizer import (
    LIGHT,
    THEMES,
    Drawing,
    Header,
    Page,
    comparison_page,
    digits,
    feature_comparison_page,
    feature_page,
    fonts,
    plots,
    search_page,
    statistics_page,
    summary_page,
    visualize_comparison,
    visualize_features,
    write_page,
)
from sae_analysis.visualizer import sheet as sheet_module
from sae_analysis.visualizer import tokens as tokens_module
from sae_analysis.visualizer.examples import MOST_LINES, activation_scale
from sae_analysis.visualizer.plots import apart, bin_position
from sae_analysis.visualizer.sheet import Box
from sae_analysis.visualizer.summary import ROWS_PER_SUMMARY
from sae_analysis.visualizer.theme import PAGE_WIDTH, Colour, mix
from sae_analysis.visualizer.tokens import Kind, pieces_of, set_label, set_lines, set_round
from sae_analysis.wording import NOT_SEARCHED

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # Matplotlib warns of a glyph it had to replace

HEADER = Header.of(make.result())
HOSTILE = stress.hostile_features()


def words(page: Page, panel: str = "") -> str:
    """Return the text of a panel in the order it was set, its pieces parted by single spaces."""
    return " ".join(" ".join(item.text for item in page.lettering if panel in ("", item.panel)).split())


def bars(page: Page, panel: str) -> list[float]:
    return [value for patch in page.plots[panel].patches for value in patch.get_data().values]


def assert_legible(page: Page) -> None:
    """No text leaves the page, none lies on other text, and the margin holds no ink."""
    height = page.get_figheight() * 72
    for item in page.lettering:
        assert item.box.x >= 0, item
        assert item.box.right <= PAGE_WIDTH, item
        assert item.box.y >= 0, item
        assert item.box.bottom <= height, item
    solid = [item for item in page.lettering if item.box.width > 0.5]
    x0, x1, y0, y1 = (
        np.array([pick(item.box) for item in solid])
        for pick in (lambda b: b.x, lambda b: b.right, lambda b: b.y, lambda b: b.bottom)
    )
    wide = np.minimum.outer(x1, x1) - np.maximum.outer(x0, x0)
    high = np.minimum.outer(y1, y1) - np.maximum.outer(y0, y0)
    allowed = 0.45 * np.minimum.outer(y1 - y0, y1 - y0)  # line boxes are taller than letters
    overlaps = np.argwhere(np.triu((wide > 0.75) & (high > allowed), 1))
    assert not len(overlaps), [(solid[a], solid[b]) for a, b in overlaps[:3]]


def assert_margin_is_paper(path: Path) -> None:
    pixels = np.asarray(Image.open(path).convert("RGB"))
    for edge in (pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:]):
        assert (edge == 255).all()


# Numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.07123, "0.0712"), (9.996, "10.0"), (-12345.0, "−12,300"), (1e-6, "1.00 × 10⁻⁶"),
        (99_960.0, "1.00 × 10⁵"), (0.00099999, "0.00100"), (math.nan, "–"), (None, "–"), (-2.5e-12, "−2.50 × 10⁻¹²"),
    ],
)  # fmt: skip
def test_number_keeps_three_digits(value, text):
    assert digits.number(value).replace("\xa0", " ") == text


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300))
def test_number_can_be_read_back(value):
    text = digits.number(value).replace("\xa0", "").replace("−", "-").replace(",", "")
    match = re.fullmatch(r"(-?[0-9.]+)(?:×10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?", text)
    assert match
    power = (match[2] or "⁰").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    assert float(f"{match[1]}e{power}") == pytest.approx(value, rel=0.0051, abs=1e-320)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 %"), (1.0, "100 %"), (0.999999, ">99.9 %"), (0.9996, ">99.9 %"), (0.0031, "0.310 %"),
        (0.5, "50.0 %"), (2e-5, "0.00200 %"), (9e-7, "9.00 × 10⁻⁷"), (math.inf, "–"),
    ],
)  # fmt: skip
def test_share(value, text):
    assert digits.share(value).replace("\xa0", " ") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (9999, "9,999"), (10_000, "10.0 k"), (999_999, "1.00 M"), (1_234_567, "1.23 M"), (2 * 10**15, "2000 T")],
)
def test_count(value, text):
    assert digits.count(value).replace("\xa0", " ") == text


def test_examples_in_the_documentation_of_numbers():
    assert [doctest.testmod(module).failed for module in (digits, plots, wording)] == [0, 0, 0]


# Fonts


@pytest.mark.parametrize("script", make.SCRIPTS)
def test_every_visible_character_of_every_script_has_a_glyph(script):
    for piece in pieces_of(make.SCRIPTS[script]):
        if piece.kind is Kind.TEXT:
            assert "⟨" not in fonts.shape(piece.text).text
            assert all(fonts.has_glyph(part) for part in fonts.graphemes(piece.text))


def test_a_character_without_glyph_is_shown_as_its_code_point():
    page = feature_page(make.stats(examples=(make.example((" a", "\U000f1234", "b"), 1),)))
    assert "⟨U+F1234⟩" in words(page, "examples")


def test_a_name_with_a_character_without_glyph_keeps_its_place():
    assert fonts.shape("a\U000f1234b").advance == pytest.approx(fonts.shape("a⟨U+F1234⟩b").advance)


def test_a_machine_without_the_noto_fonts_shows_code_points(monkeypatch):
    bare = tuple(path for path in fonts.font_files() if "DejaVu" in path)
    caches = (fonts._font_for, fonts.shape, fonts._open_fonts, tokens_module._pieces_of_one)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(fonts, "font_files", lambda: bare)
    try:
        text = words(feature_page(make.stats(examples=(make.example((" water", "水"), 1),))), "examples")
    finally:
        monkeypatch.undo()
        for cache in caches:
            cache.cache_clear()
    assert "water" in text
    assert "⟨U+6C34⟩" in text


def test_arabic_letters_join_across_tokens():
    whole = fonts.shape("سلام").advance
    parts = sum(piece.width(1.0) for piece in pieces_of(["سل", "ام"]))
    apart = fonts.shape("سل").advance + fonts.shape("ام").advance
    assert parts == pytest.approx(whole, rel=0.15)
    assert parts < apart


# Tokens as text


def test_bytes_are_joined_where_they_form_a_character_and_shown_where_not():
    pieces = pieces_of(["<0xE4>", "<0xBD>", "<0xA0>", "<0xFF>", " <0xC3>", "<0xA9>", "<0xE4><0xBD>"])
    assert [(piece.text.strip("\u2009"), piece.owners) for piece in pieces if piece.kind is not Kind.GAP] == [
        ("你", (0, 1, 2)), ("FF", (3,)), ("é", (4, 5)), ("E4", (6,)), ("BD", (6,)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("token", "seen"),
    [
        ("\n", "↵"), ("\t", "⇥"), ("\r", "\\r"), ("\x1b", "⟨U+001B⟩"), ("\u202e", "⟨U+202E⟩"), ("\u200b", "⟨U+200B⟩"),
        ("\xa0", "⍽"), (" ", "·"), (" " * 12, "␣×12"), ("", "⟨⟩"), ("\ud800", "⟨U+D800⟩"), ("\n\u0301", "↵◌\u0301"),
    ],
)  # fmt: skip
def test_what_has_no_ink_is_shown_by_a_sign(token, seen):
    assert "".join(piece.text for piece in pieces_of(["a", token, "b"])) == f"a{seen}b"


def test_tokens_that_share_a_character_each_have_a_cell_of_their_own_colour():
    example = make.example(("<0xE4>", "<0xBD>", "<0xA0>"), 1, activations=(2.0, 10.0, 0.0))
    page = feature_page(make.stats(examples=(example,), example_bands=()))
    (drawn,) = (item.box for item in page.lettering if item.text == "你")
    cells = page.cells
    assert [cell.value for cell in cells] == [2.0, 10.0, 0.0]
    assert (cells[0].box.x, cells[-1].box.right) == pytest.approx((drawn.x, drawn.right), abs=1)
    assert all(left.box.right <= right.box.x + 1e-9 for left, right in pairwise(cells))


def test_right_to_left_text_begins_at_the_right_and_keeps_its_numbers():
    tokens = ("كانت", " السفينة", " عام", " 1", "9", "2", "4")
    (line,) = set_lines(pieces_of(tokens), 400, 10)
    seen = [placed.piece.owners[0] for placed in line.placed if placed.piece.kind is Kind.TEXT]
    assert seen == [3, 4, 5, 6, 2, 1, 0]
    assert line.placed[-1].x + line.placed[-1].width == pytest.approx(400)


def test_right_to_left_words_inside_a_sentence_turn_on_the_spot():
    (line,) = set_lines(pieces_of(("the word", " שלום", " עולם", " (here)")), 400, 10)
    assert [placed.piece.owners[0] for placed in line.placed if placed.piece.kind is Kind.TEXT] == [0, 0, 2, 1, 3, 3, 3]


@pytest.mark.parametrize("script", make.SCRIPTS)
@pytest.mark.parametrize("peak", [0, 150, 299])
def test_a_long_window_is_cut_round_its_peak(script, peak):
    tokens = (make.SCRIPTS[script] * 60)[:300]
    lines = set_round(pieces_of(tokens), peak, 270, 10, MOST_LINES)
    placed = [place for line in lines for place in line.placed]
    assert len(lines) <= MOST_LINES
    assert all(line.width <= 270 for line in lines)
    assert any(peak in place.piece.owners for place in placed)
    assert sum(place.piece.text == "…" for place in placed) == (1 if peak in (0, 299) else 2)


def test_a_short_window_is_shown_whole():
    tokens = make.window(12)
    lines = set_round(pieces_of(tokens), 3, 270, 10, MOST_LINES)
    text = "".join(place.piece.text for line in lines for place in line.placed)
    assert text.replace(" ", "") == "".join(tokens).replace(" ", "")


@settings(deadline=None)
@given(st.lists(st.text(alphabet="aZ9 .,-\n\t\xa0é“ЖΩ水あ한。\u3000", max_size=8), max_size=6))
def test_tokens_set_one_by_one_are_as_when_set_together(tokens):
    together = tokens_module._with_breaks(tokens_module._pieces_together(tokens, spaces_shown=False))
    assert pieces_of(tokens) == together


def test_a_label_is_cut_at_its_end():
    line = set_label("x" * 80, 60, 10)
    assert line.width <= 60
    assert line.placed[-1].piece.text == "…"


# What a feature page says


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


# What must never happen


PAGES = dict(stress.pages())


@pytest.mark.parametrize("name", PAGES)
def test_a_stress_page_is_legible(name):
    assert_legible(PAGES[name]())


TOKEN = st.one_of(
    st.text(max_size=12),
    st.sampled_from([token for run in make.SCRIPTS.values() for token in run]),
    st.lists(st.integers(0, 255), min_size=1, max_size=3).map(lambda run: "".join(f"<0x{byte:02X}>" for byte in run)),
    st.text(alphabet="aWآ水 ", min_size=30, max_size=200),
)
VALUE = st.one_of(st.floats(-1e6, 1e6, width=32), st.just(0.0), st.floats(-(2.0**-20), 2.0**-20, width=32))


@st.composite
def hostile_stats(draw: st.DrawFn) -> FeatureStats:
    windows = draw(st.lists(st.lists(TOKEN, min_size=1, max_size=40), min_size=1, max_size=2))
    examples = []
    for tokens in windows:
        values = [draw(VALUE) for _ in tokens]
        peak = max(range(len(values)), key=lambda at: abs(values[at]))
        source = draw(st.text(max_size=40))
        examples.append(make.example(tokens, peak, activations=values, source=source))
    values = [value for item in examples for value in item.activations if value]
    named = [item.tokens[0] for item in examples]
    return make.stats(
        examples=tuple(examples), example_bands=(), histogram=make.histogram(values),
        max_activation=max([0.0, *values]), min_activation=min([0.0, *values]),
        top_tokens=tuple(replace(make.stats().top_tokens[0], token=token) for token in named),
        top_boosted_tokens=tuple((token, 1e-9) for token in named),
    )  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(hostile_stats(), st.text(max_size=150))
def test_any_feature_is_legible(stats, name):
    header = replace(HEADER, model=name, corpus=name)
    assert_legible(feature_page(stats, header))
    assert_legible(summary_page({7: stats}, 1, header))


def test_no_ink_reaches_the_edge(tmp_path):
    for name in ("odd-tokens", "scripts", "huge"):
        assert_margin_is_paper(write_page(feature_page(HOSTILE[name], HEADER), tmp_path / f"{name}.png"))


# Colours


def luminance(colour: Colour) -> float:
    linear = [((part + 0.055) / 1.055) ** 2.4 if part > 0.04045 else part / 12.92 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", THEMES)
def test_more_activation_is_further_from_paper(name, sign):
    theme = THEMES[name]
    steps = [luminance(theme.activation(sign * value / 50, 1.0)) for value in range(51)]
    assert steps[0] == luminance(theme.paper)
    assert steps == sorted(set(steps), reverse=name != "dark")


@pytest.mark.parametrize("ground", ["paper", "positive", "negative"])
@pytest.mark.parametrize("name", THEMES)
def test_text_is_legible_on_the_deepest_colour(name, ground):
    one, other = (luminance(getattr(THEMES[name], part)) + 0.05 for part in (ground, "ink"))
    assert max(one, other) / min(one, other) >= 4.5


@pytest.mark.parametrize("name", THEMES)
def test_captions_are_legible(name):
    one, other = (luminance(getattr(THEMES[name], part)) + 0.05 for part in ("paper", "quiet"))
    assert max(one, other) / min(one, other) >= 4.5


@pytest.mark.parametrize("eye", stress.COLOUR_VISION)
@pytest.mark.parametrize("name", THEMES)
def test_hues_stay_apart_for_every_eye(name, eye):
    def seen(colour: Colour) -> np.ndarray:
        patch = Image.fromarray((np.array([[colour]]) * 255).round().astype(np.uint8))
        return np.asarray(stress.as_seen(patch, eye))[0, 0].astype(float)

    theme = THEMES[name]
    for one, other in ((theme.positive, theme.negative), (theme.real, theme.synthetic), (theme.real, theme.negative)):
        assert np.linalg.norm(seen(one) - seen(other)) > 60


def test_each_sign_has_its_hue():
    assert LIGHT.activation(2.0, 2.0) == pytest.approx(LIGHT.positive)
    assert LIGHT.activation(-3.0, 2.0) == pytest.approx(LIGHT.negative)


def test_a_nan_or_an_empty_scale_has_no_colour():
    assert LIGHT.activation(math.nan, 1.0) == LIGHT.paper
    assert LIGHT.activation(1.0, 0.0) == LIGHT.paper


# Summary and statistics pages


def test_the_summary_is_sorted_by_density_and_paged():
    features = {at: make.stats(at, density=at / 100, example_count=1) for at in range(1, 15)}
    features[99] = make.dead_stats(99)
    first, second = (summary_page(features, page, HEADER) for page in (1, 2))
    assert [name for name in dict.fromkeys(item.panel for item in first.lettering) if name.startswith("feature")] == [
        f"feature {at}" for at in range(14, 2, -1)
    ]
    assert "never fired in" in words(second, "feature 99")
    assert "15 features, most frequent first; 1 feature never fired" in words(first, "title")


def test_a_summary_row_holds_the_features_own_words():
    said = words(summary_page({7: make.stats()}, 1, HEADER), "feature 7")
    for part in ("7", "0.312 %", "10.0", "vessel", "yard", "→"):
        assert part in said


def test_sparkline_heights_are_log_counts_over_the_common_range():
    features = {1: make.stats(1, scale=1.0), 2: make.stats(2, scale=100.0)}
    page = summary_page(features, 1, HEADER)
    for feature, stats in features.items():
        axes = page.plots[f"feature {feature}"]
        (patch,) = axes.patches
        assert list(patch.get_data().values) == pytest.approx([math.log10(1 + many) for many in stats.histogram.counts])
    assert page.plots["feature 1"].get_xlim() == page.plots["feature 2"].get_xlim()


@pytest.mark.parametrize(("many", "is_few"), [(1, True), (19, True), (20, False)])
def test_a_histogram_of_few_firings_says_so_and_counts_on_an_even_scale(many, is_few):
    values = [1.0 + 0.2 * at for at in range(many)]
    fired = make.stats(7, histogram=make.histogram(values), active_count=many, max_activation=values[-1])
    said = digits.shortened(many, "firing")
    page = feature_page(fired)
    for panel in ("activation histogram", "positions"):
        assert (f"only {said}" in words(page, panel)) == is_few
    assert (page.plots["activation histogram"].get_yscale() == "linear") == is_few
    assert ("tokens per bin, log scale" in words(page, "activation histogram")) != is_few
    assert (said in words(summary_page({7: fired}, 1, HEADER), "feature 7")) == is_few
    one, _, synthetic = compared()
    page = feature_comparison_page(one, fired, synthetic, HEADER)
    assert (f"only {said}" in words(page, "activation histogram")) == is_few
    assert (page.plots["activation histogram"].get_yscale() == "linear") == is_few
    assert_legible(page)


def test_the_statistics_page_states_and_draws_the_dictionary():
    dictionary = make.dictionary()
    page = statistics_page(dictionary, {7: make.stats()}, HEADER)
    said = words(page)
    for part in ("4,096", "203", "(4.96 %)", "12", "(0.293 %)", "82.1 %", "31.8"):
        assert part in said
    assert bars(page, "How often features fire") == list(dictionary.density.counts)
    assert bars(page, "Encoder and decoder") == list(dictionary.encoder_decoder_cosine.counts)
    assert bars(page, "Active features by position") == pytest.approx(dictionary.l0_by_position)


def test_a_dictionary_without_dead_or_dense_features_says_so():
    page = statistics_page(make.dictionary(dead_count=0, dense_count=0), {}, HEADER)
    assert "4,096 features: all of them fired, none on more than a tenth of the tokens" in words(page, "title")


def test_the_features_asked_for_are_ticks_below_the_bars():
    def ticks(features: dict[int, FeatureStats]) -> int:
        page = statistics_page(make.dictionary(), features, HEADER)
        (rectangles,) = page.findobj(mpl.collections.PolyCollection)
        return sum(math.isclose(np.ptp(path.vertices[:, 0]), 0.6) for path in rectangles.get_paths())

    asked = {at: make.stats(at, decoder_norm=1.0, encoder_norm=0.8, encoder_decoder_cosine=0.6) for at in range(3)}
    assert ticks({}) == 0
    assert ticks(asked) == 15


def test_a_dictionary_that_never_fired_says_so():
    nothing = Histogram(edges=(), counts=())
    dictionary = make.dictionary(density=nothing, max_activation=nothing, l0_by_position=(0.0,) * 16)
    page = statistics_page(dictionary, {}, HEADER)
    assert "Nothing to show: no feature was active." in words(page, "Active features by position")
    assert "activations" not in words(summary_page({3: make.dead_stats(3)}, 1, HEADER), "summary head")


@pytest.mark.parametrize("width", [0.0, 1e-12])
def test_a_distribution_of_equal_values_is_drawn(width):
    equal = Histogram(edges=(1.0, 1.0 + width), counts=(4096,))
    page = statistics_page(make.dictionary(decoder_norm=equal, density=equal), {7: make.stats()}, HEADER)
    assert bars(page, "Decoder norms") == [4096]
    assert_legible(page)


def test_an_empty_distribution_says_so():
    nothing = Histogram(edges=(), counts=())
    page = statistics_page(make.dictionary(encoder_decoder_cosine=nothing), {}, HEADER)
    assert "Nothing" in words(page, "Encoder and decoder")
    assert "Encoder and decoder" not in page.plots


def test_bin_position_is_geometric_in_geometric_bins_and_even_in_even_ones():
    assert bin_position((1.0, 2.0, 4.0, 8.0), 2 * math.sqrt(2)) == pytest.approx(1.5)
    assert bin_position((0.0, 1.0, 2.0), 1.5) == pytest.approx(1.5)
    assert bin_position((-4.0, -2.0, -1.0, 1.0, 2.0, 4.0), -2 * math.sqrt(2)) == pytest.approx(0.5)


# Pages on a search

SEARCHED = stress.hostile_searches()


def lines_of(page: Page, panel: str) -> list[tuple[list[float], list[float]]]:
    """Return the points of every line of a chart, in the units of its axes."""
    return [tuple([*map(float, line.get_data()[at])] for at in (0, 1)) for line in page.plots[panel].get_lines()]


def hanging_bars(page: Page, colour: Colour) -> list[Box]:
    """Return the bars below tokens, those of a row in reading order."""
    (rectangles,) = (item for item in page.artists if isinstance(item, mpl.collections.PolyCollection))
    corners = [
        path.vertices for path, face in zip(rectangles.get_paths(), rectangles.get_facecolor(), strict=True)
        if np.allclose(face[:3], colour)
    ]  # fmt: skip
    return [Box(x, y, right - x, bottom - y) for (x, y), (right, bottom) in
            ((points.min(axis=0), points.max(axis=0)) for points in corners)]  # fmt: skip


def reached(points: list[tuple[float, float]], level: float) -> float:
    """Return the last value at or before a level, 0 if there is none: what steps show, read naively."""
    return [0.0, *(value for at, value in points if at <= level)][-1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("usual", "reaches 10.0 on where in built of was of old the where town of was … , found after 69.4 k of 100 k "
                  "token-evaluations; vessel alone gives 8.73 ; pushes towards yard , board , ment"),
        ("one-token", "reaches 10.0 on ship , found after 1,204 of"),
        ("no-single-token", "; no token alone fires it; pushes towards"),
        ("single-token-is-best", "; ↵ alone gives 10.0"),
        ("below-zero", "reaches −7.00 on the in"),
        ("unfired", "nothing fired it in 100 k token-evaluations, at best −0.310 before the activation rule; would"),
        ("unfired-without-examples", "nothing fired it in 100 k token-evaluations; would push"),
        ("nothing-recorded", "of 0 token-evaluations;"),
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
    frontier = [(item.synthesis.cross_entropy, item.max_activation) for item in stats.search.frontier]
    assert set(alone[1]) == {stats.search.single_token[1]}
    assert [*zip(*steps, strict=True)][:-1] == frontier == [*zip(*corners, strict=True)]
    assert steps[0][-1] > frontier[-1][0]
    assert steps[1][-1] == frontier[-1][1]
    assert [*zip(*dots, strict=True)] == [
        (item.synthesis.cross_entropy, item.max_activation) for item in stats.examples
    ]
    assert digits.number(stats.search.single_token[1]) in words(feature_page(stats), "fluency")


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


# The overview and the page of a search


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
        [(item.synthesis.cross_entropy, item.max_activation / stats.max_activation) for item in stats.search.frontier]
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


@st.composite
def searched_stats(draw: st.DrawFn) -> FeatureStats:
    stats = draw(hostile_stats())
    value = st.one_of(VALUE, st.sampled_from([0.0, 1e-300, 1e30]))
    spent = st.integers(0, 10**13)

    def searched(example: ActivationExample) -> ActivationExample:
        origin = make.synthesis(
            len(example.tokens), pre_activation=draw(value), cross_entropy=draw(st.none() | st.floats(0, 40)),
            attribution=tuple(draw(VALUE) for _ in example.tokens), is_text=draw(st.booleans()),
            is_sink=draw(st.booleans()), provenance=draw(st.text(max_size=30)), token_evaluations=draw(spent),
        )  # fmt: skip
        return replace(example, synthesis=origin)

    examples = tuple(map(searched, stats.examples))
    course = draw(st.lists(st.tuples(spent, st.floats(0, 1e6, width=32)), max_size=5))
    search = make.search(
        token_evaluations=draw(spent), single_token=(draw(TOKEN), draw(value)),
        convergence=tuple(zip(sorted(at for at, _ in course), sorted(value for _, value in course), strict=True)),
        frontier=draw(st.sampled_from([(), examples[:1], examples])),
        relaxation=draw(st.none() | st.builds(Relaxation, relaxed=value, discrete=value)),
    )  # fmt: skip
    return replace(stats, examples=examples, search=search)


@settings(max_examples=40, deadline=None)
@given(searched_stats())
def test_any_search_is_legible(stats):
    for page in (feature_page(stats), summary_page({7: stats}), search_page({7: stats, 8: make.synthetic_stats(8)})):
        assert_legible(page)


def test_no_ink_of_a_search_reaches_the_edge(tmp_path):
    for name in ("odd-tokens", "scripts", "doubtful", "frontier-of-thirty"):
        assert_margin_is_paper(write_page(feature_page(SEARCHED[name], HEADER), tmp_path / f"{name}.png"))
    assert_margin_is_paper(write_page(PAGES["search-hostile"](), tmp_path / "search.png"))


def test_every_page_of_a_search_is_written(tmp_path):
    features = [make.synthetic_stats(at, example_count=1) for at in range(2)] + [make.unfired_stats(2)]
    result = make.result(features, provenance=make.provenance(corpus=""), fit=None, dictionary=None)
    calls = []
    paths = visualize_features(
        result, tmp_path, "synthetic", drawing=Drawing(dpi=60), progress=lambda *at: calls.append(at)
    )
    assert [path.name for path in paths] == [
        *(f"feature_{at}_synthetic.png" for at in range(3)), "summary_1_synthetic.png", "statistics_synthetic.png",
    ]  # fmt: skip
    assert calls[-1] == (5, 5)
    again = visualize_features(result.by_feature(), tmp_path, "synthetic", drawing=Drawing(dpi=60))
    assert [path.name for path in again] == [path.name for path in paths]


# Files


def test_every_page_is_written_under_its_name(tmp_path):
    features = [make.stats(at, example_count=1, example_bands=()) for at in range(13)]
    calls = []
    paths = visualize_features(
        make.result(features), tmp_path / "new" / "folder", progress=lambda *at: calls.append(at)
    )
    assert [path.name for path in paths] == [
        *(f"feature_{at}_real.png" for at in range(13)),
        "summary_1_real.png", "summary_2_real.png", "statistics_real.png",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(path.name for path in paths)
    assert calls == [(at, 16) for at in range(1, 17)]
    assert Image.open(paths[0]).size[0] == 1200


def test_a_bare_mapping_has_no_statistics_page(tmp_path):
    paths = visualize_features({3: make.dead_stats(3)}, str(tmp_path), "synthetic", drawing=Drawing(dpi=60))
    assert [path.name for path in paths] == ["feature_3_synthetic.png", "summary_1_synthetic.png"]
    assert Image.open(paths[0]).size[0] == 480


def test_the_same_records_give_the_same_bytes(tmp_path):
    first, second = (write_page(feature_page(HOSTILE["scripts"], HEADER), tmp_path / f"{at}.png") for at in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "page.png"
    path.write_bytes(b"old")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError) as error:
        write_page(feature_page(make.dead_stats()), path)
    assert str(error.value).startswith(f"{path} cannot be written: No space left on device.")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError) as error:
        visualize_features({3: make.dead_stats(3)}, tmp_path / "file" / "folder")
    assert str(error.value).startswith(f"Output folder {tmp_path / 'file' / 'folder'} cannot be written to: Not a dir")


def test_the_path_of_a_page_may_be_text(tmp_path):
    path = write_page(feature_page(make.dead_stats()), str(tmp_path / "new" / "page.png"))
    assert path == tmp_path / "new" / "page.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_drawing_changes_no_global_setting(tmp_path):
    before = dict(mpl.rcParams)
    write_page(feature_page(make.stats(example_count=1)), tmp_path / "page.png")
    assert dict(mpl.rcParams) == before


def test_settings_of_the_reader_do_not_move_anything(tmp_path):
    usual = write_page(feature_page(make.stats(example_count=1)), tmp_path / "usual.png").read_bytes()
    with mpl.rc_context({"figure.autolayout": True, "axes.grid": True, "axes.facecolor": "red", "font.size": 30}):
        own = write_page(feature_page(make.stats(example_count=1)), tmp_path / "own.png").read_bytes()
    assert own == usual


def test_the_module_brings_neither_pyplot_nor_torch():
    code = (
        "import sys, sae_analysis.visualizer; print({'matplotlib.pyplot', 'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_twelve_rows_a_summary_page():
    assert ROWS_PER_SUMMARY == 12
    assert all(a != b for a, b in combinations([LIGHT.real, LIGHT.synthetic, LIGHT.positive, LIGHT.negative], 2))


def test_pages_are_the_same_from_several_processes(tmp_path):
    features = [make.stats(at, example_count=1, example_bands=()) for at in range(12)]
    one, two = (
        visualize_features(make.result(features), tmp_path / str(many), drawing=Drawing(dpi=40, processes=many))
        for many in (1, 2)
    )
    assert [path.name for path in one] == [path.name for path in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def test_outlines_are_written_beside_png_and_are_the_same_every_time(tmp_path):
    drawing = Drawing(dpi=40, formats=("png", "svg", "pdf"))
    first, second = (
        visualize_features({3: make.stats(3, example_count=1)}, tmp_path / name, drawing=drawing) for name in "ab"
    )
    assert [path.name for path in first] == [
        f"{name}_real.{ending}" for name in ("feature_3", "summary_1") for ending in ("png", "svg", "pdf")
    ]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
    assert first[1].read_text().lstrip().startswith("<?xml")
    assert "<text" not in first[1].read_text(), "letters are outlines: no font is needed to see them"
    assert first[2].read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", THEMES)
def test_a_theme_is_the_same_drawing_in_other_colours(name):
    usual = feature_page(HOSTILE["scripts"], HEADER)
    page = feature_page(HOSTILE["scripts"], HEADER, theme=THEMES[name])
    assert page.lettering == usual.lettering
    assert page.get_facecolor()[:3] == pytest.approx(THEMES[name].paper)


# Real beside synthetic


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


def compared(**change):
    real, synthetic = make.comparison_pair(**change)
    return compare_features(real, synthetic), real, synthetic


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


def test_every_page_of_a_comparison_is_written(tmp_path):
    real, synthetic = make.results_of([make.comparison_pair() for _ in range(2)])
    calls = []
    paths = visualize_comparison(
        compare(real, synthetic).features,
        real,
        synthetic,
        tmp_path,
        drawing=Drawing(dpi=40),
        progress=lambda *at: calls.append(at),
    )
    assert [path.name for path in paths] == [
        "real_vs_synthetic_comparison.png", "feature_0_comparison.png", "feature_1_comparison.png",
    ]  # fmt: skip
    assert calls == [(1, 3), (2, 3), (3, 3)]


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="…"), max_size=60), st.floats(5, 200))
@tried_with("a table of stories.jsonl:204", 60.0)
@tried_with("جدول من القصص القصيرة جدا", 60.0)  # joined letters are narrower than each alone
def test_what_is_shortened_fits_and_keeps_both_ends(text, width):
    short = sheet_module.shorten(text, width, 8.0)
    if short == text:
        return
    assert sheet_module.width_of(short, 8.0) <= width or short == "…"
    before, _, after = short.partition("…")
    assert text.startswith(before)
    assert text.endswith(after)
    assert 0 <= len(before) - len(after) <= 1
    longer = f"{text[: len(after) + 1]}…{text[len(text) - len(before) :] if before else ''}"
    assert len(longer) > len(text) or sheet_module.width_of(longer, 8.0) > width, "one character more would not fit"
