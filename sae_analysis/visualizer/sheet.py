"""One page being laid out: text, rectangles and plots at places measured in points from the top left corner.

The height is known only when everything is set, so the sheet notes what goes where and makes the figure at the end.
The figure keeps what was set (``lettering``, ``cells``) for whoever wants to read the page back.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

from sae_analysis.visualizer.encoding import as_png
from sae_analysis.visualizer.fonts import Shaped, shape
from sae_analysis.visualizer.theme import PAGE_WIDTH, SMALL, Colour, Theme
from sae_analysis.visualizer.tokens import MARK_SIZE, Kind, Line

ASCENT, DESCENT = 0.95, 0.28
"""Room above and below the baseline, as a share of the size of type."""

_BOLD_STROKE = 0.042
"""Outline added to bold text, in ems: one way of being bold for every script, at the same advance."""

_VERTICES_IN_A_PATH = 4000


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of the page, in points from the top left corner."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Right edge, in points."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """Lower edge, in points."""
        return self.y + self.height


@dataclass(frozen=True, slots=True)
class Lettering:
    """A piece of text as set: what, where, in which panel."""

    text: str
    box: Box
    panel: str
    bold: bool


@dataclass(frozen=True, slots=True)
class Cell:
    """The background of one token, whose activation is ``value``, or of its part of a character it shares."""

    panel: str
    row: int
    token: int
    value: float
    colour: Colour
    box: Box


class Page(Figure):
    """A finished page. ``plots`` are its axes by panel; boxes of ``lettering`` and ``cells`` are in points."""

    lettering: tuple[Lettering, ...] = ()
    cells: tuple[Cell, ...] = ()
    plots: dict[str, Axes]

    def _repr_png_(self) -> bytes:
        """Return the page as a notebook shows it."""
        return as_png(self)


@dataclass(frozen=True, slots=True)
class _Glyphs:
    x: float
    baseline: float
    size: float
    shaped: Shaped
    colour: Colour
    bold: bool


class Sheet:
    """Collects what goes on a page and makes the figure."""

    def __init__(self, theme: Theme) -> None:
        """Begin an empty page."""
        self.theme = theme
        self._panel = ""
        self._glyphs: list[_Glyphs] = []
        self._rectangles: list[tuple[Box, Colour]] = []
        self._plots: list[tuple[str, Box, Callable[[Axes], None]]] = []
        self._lettering: list[Lettering] = []
        self._cells: list[Cell] = []

    @contextmanager
    def panel(self, name: str) -> Iterator[None]:
        """Say to which panel belongs what is set inside."""
        outer, self._panel = self._panel, name
        yield
        self._panel = outer

    def text(
        self,
        x: float,
        baseline: float,
        text: str,
        *,
        size: float = SMALL,
        colour: Colour | None = None,
        bold: bool = False,
        align: Literal["left", "centre", "right"] = "left",
        width: float | None = None,
    ) -> float:
        """Set one line, shortened in the middle if wider than a given ``width``; return its advance. All in points."""
        shown = text if width is None else shorten(text, width, size)
        shaped = shape(shown)
        advance = shaped.advance * size
        left = x - advance * {"left": 0.0, "centre": 0.5, "right": 1.0}[align]
        self._set(left, baseline, size, shaped, colour or self.theme.ink, bold=bold)
        return advance

    def _set(self, x: float, baseline: float, size: float, shaped: Shaped, colour: Colour, *, bold: bool) -> None:
        if not shaped.text:
            return
        self._glyphs.append(_Glyphs(x, baseline, size, shaped, colour, bold))
        box = Box(x, baseline - ASCENT * size, shaped.advance * size, (ASCENT + DESCENT) * size)
        self._lettering.append(Lettering(shaped.text, box, self._panel, bold))

    def line(
        self,
        x: float,
        baseline: float,
        line: Line,
        *,
        size: float,
        colour: Colour | None = None,
        bold_token: int | None = None,
    ) -> None:
        """Set a line of tokens at so many points; the pieces of ``bold_token`` bold and underlined, signs quiet."""
        for place in line.placed:
            piece, left = place.piece, x + place.x
            bold = bold_token is not None and bold_token in piece.owners
            if piece.kind is not Kind.GAP:
                mark = piece.kind is Kind.MARK
                ink = self.theme.quiet if mark and not bold else colour or self.theme.ink
                self._set(left, baseline, size * (MARK_SIZE if mark else 1), shape(piece.text), ink, bold=bold)
            if bold and place.width > 0 and (piece.kind is not Kind.GAP):
                self.rectangle(Box(left, baseline + 0.17 * size, place.width, 1.0), self.theme.ink)

    def rectangle(self, box: Box, colour: Colour) -> None:
        """Fill a rectangle behind the text."""
        self._rectangles.append((box, colour))

    def cell(self, row: int, token: int, value: float, colour: Colour, box: Box) -> None:
        """Fill the background of one token of the panel's example ``row``; ``value`` is its activation."""
        self._cells.append(Cell(self._panel, row, token, value, colour, box))
        if colour != self.theme.paper:
            self.rectangle(box, colour)

    def plot(self, box: Box, draw: Callable[[Axes], None]) -> None:
        """Reserve a place for axes, which ``draw`` fills when the figure is made; ticks are the panel's business."""
        self._plots.append((self._panel, box, draw))

    def finish(self, height: float, dpi: int) -> Page:
        """Make the figure, ``height`` points high."""
        figure = Page(figsize=(PAGE_WIDTH / 72, height / 72), dpi=dpi, facecolor=self.theme.paper)
        figure.set_layout_engine("none")  # whatever the reader's settings ask for, the layout is done
        figure.plots = {}
        for name, box, draw in self._plots:
            place = (box.x / PAGE_WIDTH, 1 - box.bottom / height, box.width / PAGE_WIDTH, box.height / height)
            axes = figure.add_axes(place, facecolor="none")
            bare(axes)
            draw(axes)
            figure.plots[name] = axes
        to_figure = Affine2D(np.array([[1, 0, 0], [0, -1, height], [0, 0, 1.0]])).scale(1 / 72)
        transform = to_figure + figure.dpi_scale_trans
        for artist in (*self._rectangle_artists(), *self._glyph_artists()):
            artist.set_transform(transform)
            figure.add_artist(artist)
        figure.lettering, figure.cells = tuple(self._lettering), tuple(self._cells)
        return figure

    def _rectangle_artists(self) -> Iterator[PolyCollection]:
        if self._rectangles:
            corners = [
                ((box.x, box.y), (box.right, box.y), (box.right, box.bottom), (box.x, box.bottom))
                for box, _ in self._rectangles
            ]
            colours = [colour for _, colour in self._rectangles]
            yield PolyCollection(corners, facecolors=colours, edgecolors="none", antialiaseds=False, zorder=-1)

    def _glyph_artists(self) -> Iterator[PathCollection]:
        """Yield one collection for each colour and weight, its glyphs gathered into a few large paths."""
        styles: dict[tuple[Colour, float], list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
        for glyph in self._glyphs:
            for outline in glyph.shaped.outlines:
                placed = outline.vertices * (glyph.size, -glyph.size) + (glyph.x, glyph.baseline)
                stroke = (outline.stroke + (_BOLD_STROKE if glyph.bold else 0.0)) * glyph.size
                styles[glyph.colour, round(stroke, 3)].append((placed, outline.codes))
        for (colour, stroke), outlines in styles.items():
            edge = colour if stroke else "none"
            yield PathCollection(
                list(_large_paths(outlines)), facecolors=[colour], edgecolors=edge, linewidths=[stroke], zorder=3
            )


def _large_paths(outlines: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[Path]:
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    size = 0
    for outline in outlines:
        waiting.append(outline)
        size += len(outline[1])
        if size > _VERTICES_IN_A_PATH:
            yield _joined(waiting)
            waiting, size = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(outlines: list[tuple[np.ndarray, np.ndarray]]) -> Path:
    vertices, codes = zip(*outlines, strict=True)
    return Path(np.concatenate(vertices), np.concatenate(codes))


def bare(axes: Axes) -> None:
    """Take away frame, ticks and tick labels."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    axes.xaxis.set_ticks([])
    axes.yaxis.set_ticks([])


def width_of(text: str, size: float) -> float:
    """Return the advance of a line of text, in points as its ``size``."""
    return shape(text).advance * size


def shorten(text: str, width: float, size: float) -> str:
    """Return the text, its middle replaced by an ellipsis where it is wider than ``width`` points."""
    if width_of(text, size) <= width:
        return text
    # Single characters are shaped once and say about how many fit; shaping every length tried took a quarter of a page.
    room = width - width_of("…", size)
    kept = sum(1 for reach in accumulate(width_of(char, size) for char in _inwards(text)) if reach <= room)

    def fits(kept: int) -> bool:
        return width_of(_without_middle(text, kept), size) <= width

    while kept and not fits(kept):  # side by side, characters are wider or narrower than alone
        kept -= 1
    while kept + 1 < len(text) and fits(kept + 1):
        kept += 1
    return _without_middle(text, kept)


def _inwards(text: str) -> Iterator[str]:
    """Yield the characters in the order in which ``_without_middle`` keeps them: first, last, second, and so on."""
    for step in range(len(text)):
        yield text[step // 2] if step % 2 == 0 else text[-1 - step // 2]


def _without_middle(text: str, kept: int) -> str:
    tail = kept // 2
    return f"{text[: kept - tail]}…{text[len(text) - tail :]}"
