"""Text as outlines: a font for every character, shaped by HarfBuzz, measured once.

Matplotlib 3.11 lays text out with libraqm, which joins Arabic, orders Devanagari and forms emoji sequences. Drawing the
outlines ourselves lets one page mix twenty fonts, gives every backend the same picture, and makes a page of tokens a
few large collections instead of thousands of text objects. Where no font holds a character its code point is shown.
"""

import os
import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.font_manager import FontPath, get_font
from matplotlib.ft2font import FT2Font, LoadFlags
from matplotlib.textpath import TextToPath

_EM = 100
"""Size at which outlines are taken; they are kept in units of the type size."""

_EMOJI_STYLE = "\N{VARIATION SELECTOR-16}"
_ZERO_WIDTH_JOINER = "\N{ZERO WIDTH JOINER}"
_SIMPLIFIED_CHINESE = 2
"""Face of the CJK collection; Japanese, Korean and Chinese characters are in every face, in one country's forms."""

_STROKES = {"NotoSansCJK": 0.05, "NotoSansHebrew": 0.012}
"""Outline added, in ems, to fonts whose only static instance is lighter than regular."""


@dataclass(frozen=True, slots=True)
class Outline:
    """Glyphs of one weight: a path in ems from the origin of the baseline."""

    vertices: np.ndarray
    codes: np.ndarray
    stroke: float


@dataclass(frozen=True, slots=True)
class Shaped:
    """A string ready to draw: its advance in ems and its outlines."""

    text: str
    advance: float
    outlines: tuple[Outline, ...]


def _package_fonts(package: str) -> list[Path]:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return []
    return sorted(Path(spec.origin).parent.glob("*.tt[fc]"))


@cache
def font_files() -> tuple[FontPath, ...]:
    """Return the fonts in the order they are tried: Noto Sans, other scripts, DejaVu Sans for its symbols, CJK."""
    noto = [path for path in _package_fonts("manimgx_fonts") if "Italic" not in path.name]
    noto.sort(key=lambda path: (not path.name.startswith("NotoSans["), "Symbols" in path.name, "Emoji" in path.name))
    cjk = _package_fonts("manimgx_fonts_cjk")
    dejavu = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    faces = [FontPath(str(path), 0) for path in noto]
    return (*faces, FontPath(str(dejavu), 0), *(FontPath(str(path), _SIMPLIFIED_CHINESE) for path in cjk))


@cache
def _open_fonts(process: int, thread: int) -> tuple[FT2Font, ...]:
    """Open the fonts; a font object must cross neither a fork nor a thread, hence the keys."""
    del process, thread
    with mpl.rc_context({"font.enable_last_resort": False}):
        return tuple(get_font(path) for path in font_files())


def _fonts() -> tuple[FT2Font, ...]:
    return _open_fonts(os.getpid(), threading.get_ident())


def _is_emoji_font(font: FT2Font) -> bool:
    return "Emoji" in font.postscript_name


@lru_cache(maxsize=65536)
def _font_for(cluster: str) -> int | None:
    """Return the index of the first font that holds every visible character of the cluster, None if there is none."""
    wanted = [ord(char) for char in cluster if not is_ignorable(char)]
    order = range(len(font_files()))
    fonts = _fonts()
    if _EMOJI_STYLE in cluster:
        order = sorted(order, key=lambda index: not _is_emoji_font(fonts[index]))
    return next((index for index in order if all(map(fonts[index].get_char_index, wanted))), None)


def is_ignorable(char: str) -> bool:
    """Return whether the character only shapes its neighbours: joiners and variation selectors."""
    return char == _ZERO_WIDTH_JOINER or "\ufe00" <= char <= "\ufe0f" or "\U000e0020" <= char <= "\U000e007f"


def code_point(char: str) -> str:
    """Return what is shown for a character that no font holds or that would not be seen."""
    return f"⟨U+{ord(char):04X}⟩"


def has_glyph(char: str) -> bool:
    """Return whether some font draws the character."""
    return _font_for(char) is not None


def _extends(before: str, char: str) -> bool:
    """Return whether ``char`` belongs to the grapheme that ends with ``before``."""
    if is_ignorable(char) or unicodedata.category(char) in {"Mn", "Mc", "Me"}:
        return True
    if "\U0001f3fb" <= char <= "\U0001f3ff" or "\u1160" <= char <= "\u11ff":  # skin tones; Hangul vowels and finals
        return True
    letter_or_symbol = unicodedata.category(char) in {"Lo", "So", "Sk"}
    if before == _ZERO_WIDTH_JOINER or (unicodedata.combining(before) == 9 and char != " "):
        return letter_or_symbol
    return False


def _is_flag(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def graphemes(text: str) -> Iterator[str]:
    """Yield what a reader takes for one character: base and marks, conjuncts, emoji sequences, flags."""
    current = ""
    for char in text:
        pair_of_flags = len(current) == 1 and _is_flag(current) and _is_flag(char)
        if current and not (pair_of_flags or _extends(current[-1], char)):
            yield current
            current = ""
        current += char
    if current:
        yield current


def _font_runs(text: str) -> Iterator[tuple[str, int]]:
    """Yield stretches of text with the font that draws them; what no font holds becomes its code point."""
    run, run_font = "", -1
    for part, found in _drawable(text):
        font = found
        if run and unicodedata.category(part[0])[0] in "ZP" and _holds(run_font, part):
            font = run_font  # a space or comma between two words of one script does not part them
        if run and font != run_font:
            yield run, run_font
            run = ""
        run, run_font = run + part, font
    if run:
        yield run, run_font


def _drawable(text: str) -> Iterator[tuple[str, int]]:
    """Yield graphemes with their fonts; one that no font holds character by character, those as code points."""
    for grapheme in graphemes(text):
        font = _font_for(grapheme)
        if font is not None:
            yield grapheme, font
            continue
        for char in grapheme if len(grapheme) > 1 else code_point(grapheme):
            if not is_ignorable(char):
                yield from [(char, found)] if (found := _font_for(char)) is not None else _drawable(code_point(char))


def _holds(font: int, text: str) -> bool:
    return all(map(_fonts()[font].get_char_index, map(ord, text)))


_OUTLINES = TextToPath()
_glyphs: dict[str, tuple[np.ndarray, np.ndarray]] = {}


def _shape_run(text: str, font: FT2Font) -> tuple[float, Outline | None]:
    font.clear()
    font.set_size(_EM, 72)
    placed, glyphs, _ = _OUTLINES.get_glyphs_with_font(font, text, glyph_map=_glyphs)  # pyright: ignore[reportArgumentType]
    font.set_text(text, flags=LoadFlags.NO_HINTING)
    advance = font.get_width_height()[0] / 64 / _EM
    vertices = [glyphs[name][0] + (x, y) for name, x, y, _ in placed if len(glyphs[name][1])]
    if not vertices:
        return advance, None
    codes = np.concatenate([glyphs[name][1] for name, *_ in placed if len(glyphs[name][1])])
    stroke = next((width for name, width in _STROKES.items() if font.postscript_name.startswith(name)), 0.0)
    return advance, Outline(np.concatenate(vertices) / _EM, codes, stroke)


@lru_cache(maxsize=4096)
def shape(text: str) -> Shaped:
    """Return the outlines of a string; never markup, never mathematics.

    Cached, for tokens repeat across pages; at some 10 kB each only so many that memory stays flat over many pages.
    """
    advance = 0.0
    outlines: list[Outline] = []
    fonts = _fonts()
    for run, index in _font_runs(text):
        width, outline = _shape_run(run, fonts[index])
        if outline is not None:
            moved = np.add(outline.vertices, (advance, 0.0))
            outlines.append(Outline(moved, outline.codes, outline.stroke))
        advance += width
    return Shaped(text, advance, tuple(outlines))
