"""What every page has in common: its colours, its two sizes of type, its measures in points."""

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
        """Return the colour behind a token: paper at zero, the hue of its sign in full at ``scale`` and beyond."""
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
