"""Numbers, letters and tokens on a page: how they are written, joined and cut, and shown where they have no ink."""

import doctest
import math
import re
from itertools import pairwise

import pytest
import record_factory as make
from hypothesis import example as tried_with
from hypothesis import given, settings
from hypothesis import strategies as st
from page_reader import EVERY_GLYPH_IS_THERE, words

from sae_analysis import wording
from sae_analysis.visualizer import digits, feature_page, fonts, plots
from sae_analysis.visualizer import sheet as sheet_module
from sae_analysis.visualizer import tokens as tokens_module
from sae_analysis.visualizer.examples import MOST_LINES
from sae_analysis.visualizer.tokens import Kind, pieces_of, set_label, set_lines, set_round

pytestmark = EVERY_GLYPH_IS_THERE

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


@pytest.mark.parametrize(("token", "seen"), [("\xa0", "⍽"), ("\u200a", "⟨U+200A⟩"), ("\u3000", "⟨U+3000⟩"), (" ", "·")])
def test_in_lists_unusual_spaces_are_told_apart(token, seen):
    assert "".join(placed.piece.text for placed in set_label(token, 100, 10).placed) == seen
    assert "".join(piece.text for piece in pieces_of(["a", token, "b"])) == f"a{'·' if token == ' ' else '⍽'}b"


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
