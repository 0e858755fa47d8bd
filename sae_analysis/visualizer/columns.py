"""What panels stand in: columns that are filled from the top, and the title that every page begins with."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from sae_analysis.visualizer.sheet import ASCENT, Box, Sheet, shorten, width_of
from sae_analysis.visualizer.theme import (
    BODY,
    BODY_LEADING,
    MARGIN,
    PAGE_WIDTH,
    SMALL,
    SMALL_LEADING,
    Colour,
    mix,
)
from sae_analysis.visualizer.tokens import Line, Piece, plain, quoted, set_lines
from sae_analysis.visualizer.wording import Header, Part

INNER_WIDTH = PAGE_WIDTH - 2 * MARGIN
PANEL_GAP = 15.0
_BETWEEN = "   "

ROW = 13.0
_GROUND = 0.6
TINT = 0.22
"""Share of its full hue that a bar behind text has."""


@dataclass(slots=True)
class Column:
    """A column being filled from the top, all in points: what is set next begins at ``y``."""

    sheet: Sheet
    x: float
    y: float
    width: float
    free_from: float = math.inf
    """Where the column beside it ends, in points from the top of the page."""
    free_width: float = 0.0
    """Width from there on, in points."""
    is_wide: bool = False

    def widen(self) -> None:
        """Take the width of the page once the column beside this one has ended."""
        if not self.is_wide and self.y >= self.free_from:
            self.width, self.is_wide = self.free_width, True

    @property
    def right(self) -> float:
        """Right edge, in points."""
        return self.x + self.width

    def take(self, height: float) -> Box:
        """Return the next ``height`` points and go on below them."""
        box = Box(self.x, self.y, self.width, height)
        self.y += height
        return box

    def paragraph(self, pieces: Sequence[Piece], *, size: float, colour: Colour) -> None:
        """Set a sentence at a size in points, the tokens quoted in it on a faint ground."""
        theme = self.sheet.theme
        leading = BODY_LEADING if size == BODY else SMALL_LEADING
        for line in set_lines(pieces, self.width, size):
            box = self.take(leading)
            for owners, group in groupby(line.placed, key=lambda place: place.piece.owners):
                if owners:
                    places = list(group)
                    end = places[-1].x + places[-1].width
                    ground = Box(box.x + places[0].x - 1.5, box.y + 1, end - places[0].x + 3, leading - 2)
                    self.sheet.rectangle(ground, mix(theme.paper, theme.faint, _GROUND))
            self.sheet.line(box.x, box.y + leading * 0.73, line, size=size, colour=colour)

    def caption(self, text: str) -> None:
        """Say what is shown, small and grey."""
        self.paragraph(plain(text), size=SMALL, colour=self.sheet.theme.quiet)

    def row(self, label: Callable[[float], Line], value: str, part: float, tint: Colour, numbers: float) -> None:
        """Set a row of a table: a label on a bar as long as its part of the longest, and its value at the right.

        ``part`` is a share of one; ``numbers`` are the points that the widest value takes.
        """
        place = self.take(ROW)
        room = place.width - numbers - 4
        self.sheet.rectangle(Box(place.x, place.y + 1, room * max(0.0, part), ROW - 2), tint)
        self.sheet.line(place.x + 2, place.y + 9.5, label(room - 4), size=BODY)
        self.sheet.text(place.right, place.y + 9.5, value, align="right")

    def facts(self, parts: Sequence[str]) -> None:
        """Set facts side by side, small and grey, on as few lines as hold each of them whole."""
        lines: list[str] = []
        for part in parts:
            longer = f"{lines[-1]}{_BETWEEN}{part}" if lines else part
            if lines and width_of(longer, SMALL) <= self.width:
                lines[-1] = longer
            else:
                lines.append(part)
        for line in lines:
            self.caption(line)

    def heading(self, title: str, says: str = "") -> None:
        """Set a panel's title and caption."""
        box = self.take(BODY_LEADING - 1)
        self.sheet.text(box.x, box.y + ASCENT * BODY, title, size=BODY, bold=True, width=self.width)
        if says:
            self.caption(says)
        self.y += 3


def sentence(parts: Sequence[Part]) -> list[Piece]:
    """Return the pieces of a sentence of words and quoted tokens."""
    pieces: list[Piece] = []
    for index, part in enumerate(parts):
        pieces += plain(part) if isinstance(part, str) else quoted(part.tokens, index)
    return pieces


def title_of(sheet: Sheet, title: str, subtitle: Sequence[Part], header: Header) -> Column:
    """Set title, answer and origin; return the page's column below them."""
    column = Column(sheet, MARGIN, MARGIN, INNER_WIDTH)
    with sheet.panel("title"):
        sheet.text(MARGIN, column.y + BODY, title, size=BODY, bold=True, width=INNER_WIDTH)
        column.y += 14
        column.paragraph(sentence(subtitle), size=BODY, colour=sheet.theme.ink)
        column.y += 4
        named = [f"{name} {shorten(value, INNER_WIDTH - 40, SMALL)}" for name, value in header.parts()]
        column.facts(named)
        column.caption(header.fit_in_words())
    sheet.rectangle(Box(MARGIN, column.y + 6, INNER_WIDTH, 0.5), sheet.theme.faint)
    column.y += 12
    return column
