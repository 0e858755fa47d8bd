"""What every page has in common: its colours, its two sizes of type, its measures in points."""

from collections.abc import Mapping
from dataclasses import dataclass

Colour = tuple[float, float, float]
"""Red, green and blue, each in [0, 1]."""

PAGE_WIDTH = 576.0
MARGIN = 26.0
GUTTER = 20.0
ASIDE_WIDTH = 172.0

BODY = 10.0
SMALL = 7.5
BODY_LEADING = 15.5
SMALL_LEADING = 10.5


def hex_colour(code: str) -> Colour:
    """Return ``#RRGGBB`` as a colour."""
    return (int(code[1:3], 16) / 255, int(code[3:5], 16) / 255, int(code[5:7], 16) / 255)


def mix(start: Colour, end: Colour, share: float) -> Colour:
    """Return the colour at ``share`` of the way, straight in sRGB, so that every channel is monotone."""
    red, green, blue = (a + (b - a) * share for a, b in zip(start, end, strict=True))
    return (red, green, blue)


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """One palette. Another theme is the same drawing with other values here.

    Hues must stay apart under protanopia, deuteranopia and tritanopia, and text must keep a contrast of at least 4.5
    to 1 on the deepest activation colours; tests hold every theme to both.
    """

    paper: Colour
    ink: Colour
    quiet: Colour
    faint: Colour
    positive: Colour
    negative: Colour
    real: Colour
    synthetic: Colour

    def activation(self, value: float, scale: float) -> Colour:
        """Return the colour behind a token by its activation: paper at zero, its sign's full hue from ``scale`` on."""
        if not scale > 0 or value == 0 or value != value:  # noqa: PLR0124 - only NaN differs from itself
            return self.paper
        end = self.positive if value > 0 else self.negative
        return mix(self.paper, end, min(1.0, abs(value) / scale))

    def analysis(self, analysis_type: str) -> Colour:
        """Return the fixed hue of real or synthetic results."""
        return self.synthetic if analysis_type == "synthetic" else self.real


LIGHT = Theme(
    paper=hex_colour("#FFFFFF"),
    ink=hex_colour("#1B1D22"),
    quiet=hex_colour("#696E78"),
    faint=hex_colour("#D9DCE2"),
    positive=hex_colour("#E8820C"),
    negative=hex_colour("#8D86E8"),
    real=hex_colour("#1B7A9E"),
    synthetic=hex_colour("#7A1F4B"),
)

DARK = Theme(
    paper=hex_colour("#15171C"),
    ink=hex_colour("#E8EAEE"),
    quiet=hex_colour("#9AA0AB"),
    faint=hex_colour("#3A3E47"),
    positive=hex_colour("#9E5400"),
    negative=hex_colour("#4A40B8"),
    real=hex_colour("#63C7F0"),
    synthetic=hex_colour("#C24A86"),
)
"""For slides: more activation is lighter."""

PRINT = Theme(
    paper=hex_colour("#FFFFFF"),
    ink=hex_colour("#000000"),
    quiet=hex_colour("#595959"),
    faint=hex_colour("#D6D6D6"),
    positive=hex_colour("#8F8F8F"),
    negative=hex_colour("#C4C4C4"),
    real=hex_colour("#6A6A6A"),
    synthetic=hex_colour("#1A1A1A"),
)
"""For paper without colour: greys alone."""

THEMES: Mapping[str, Theme] = {"light": LIGHT, "dark": DARK, "print": PRINT}
