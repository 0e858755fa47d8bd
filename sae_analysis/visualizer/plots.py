"""Small plots from records: histograms on a page, their ticks and labels set like all other text."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from sae_analysis.records import Histogram
from sae_analysis.visualizer.digits import count, tick
from sae_analysis.visualizer.sheet import Box, Sheet, width_of
from sae_analysis.visualizer.theme import SMALL, Colour

_FEWEST_BINS = 12
"""A histogram of one or two bins is drawn among empty ones, so that it still looks like a histogram."""

_LOG_FLOOR = 0.7
"""Lower end of a logarithmic axis of counts: a bin of one is still a bar."""

_LABEL_GAP = 5.0
AXIS_LEFT, AXIS_BELOW = 24.0, 11.0
_CEILING = 1.2
_RUG = 5.0

_LONG_RANGE = 300.0
"""Ratio of the ends of a logarithmic axis from which its ticks are powers of ten alone."""

_FAR = 64.0
"""Ratio to the ends of a histogram beyond which a value is not marked on it."""

Label = Callable[[float], str]

Mark = tuple[float, Colour, str]
"""A value with the colour and the letter of its line."""


def whole(value: float) -> str:
    """Return a count, the unit being one, on an axis."""
    return count(round(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a histogram is drawn; colours of its bars, what its numbers are called."""

    colour: Colour
    negative: Colour
    log_counts: bool = True
    x_label: Label = tick
    y_label: Label = whole
    exponents: bool = False
    """Whether the edges are powers of ten: ticks then stand at round numbers, not at round exponents."""
    rug: tuple[float, ...] = ()
    """Values marked below the bars, in the unit of the edges: the features that were asked for."""
    marks: tuple[Mark, ...] = ()
    """Values marked by lines; the axis, which must grow geometrically and hold nothing below zero, goes on as far as
    they lie, unless that is too far."""


_LETTERS = SMALL + 3
"""Room above a histogram for the letters of its marks."""


def bin_position(edges: Sequence[float], value: float) -> float:
    """Return where a value lies in units of bins; inside a bin of one sign the way bins grow, geometrically."""
    index = min(max(bisect_right(edges, value) - 1, 0), len(edges) - 2)
    low, high = edges[index], edges[index + 1]
    if high <= low:  # at the end of the number format bins have no width
        return index
    if low * high > 0 and low * value > 0 and not _is_even(edges):
        return index + math.log(value / low) / math.log(high / low)
    return index + (value - low) / (high - low)


def _is_even(edges: Sequence[float]) -> bool:
    """Return whether all bins have one width, as far as rounding lets them."""
    widths = [high - low for low, high in pairwise(edges)]
    return max(widths) <= 1.01 * min(widths)


def _visible(histogram: Histogram) -> tuple[float, float]:
    """Return the first and last bin position worth showing: those that hold something, and not too few."""
    filled = [index for index, many in enumerate(histogram.counts) if many]
    first, last = filled[0], filled[-1] + 1
    spare = max(0.0, (_FEWEST_BINS - (last - first)) / 2)
    return first - spare, last + spare


def _as_far_as(histogram: Histogram, marks: Sequence[Mark]) -> tuple[Histogram, list[Mark]]:
    """Return a histogram whose bins go on until they hold all marks, and these; without those too far away."""
    if not marks:
        return histogram, []
    edges, counts = [*histogram.edges], [*histogram.counts]
    near = [mark for mark in marks if edges[0] / _FAR < mark[0] < edges[-1] * _FAR]
    while near and edges[-1] <= max(value for value, _, _ in near):
        edges.append(edges[-1] ** 2 / edges[-2])
        counts.append(0)
    while near and edges[0] > min(value for value, _, _ in near):
        edges.insert(0, edges[0] ** 2 / edges[1])
        counts.insert(0, 0)
    return Histogram(edges=tuple(edges), counts=tuple(counts)), near


def round_choices(low: float, high: float) -> Iterator[list[float]]:
    """Yield lists of multiples of 1, 2 or 5 times a power of ten between two numbers, from many to few."""
    for most in (5, 4, 3, 2, 1):
        rough = (high - low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        indices = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        yield [index * step for index in indices]


def decade_choices(low: float, high: float) -> Iterator[list[float]]:
    """Yield lists of powers of ten between two positive numbers, with 2 and 5 times them if they are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    powers = [10.0**exponent for exponent in exponents]
    factors = (1, 2, 5) if high <= _LONG_RANGE * low else (1,)
    inside = [factor * power for power in powers for factor in factors if low <= factor * power <= high]
    for step in range(1, len(inside) + 1):
        yield inside[::-step][::-1]
    if not inside:
        yield [high]


def _tick_choices(edges: Sequence[float], first: float, last: float, *, exponents: bool) -> Iterator[list[float]]:
    inside = [edge for index, edge in enumerate(edges) if first <= index <= last]
    if inside[0] == inside[-1]:
        yield [inside[0]]
    elif exponents:
        for choice in decade_choices(10 ** inside[0], 10 ** inside[-1]):
            yield [math.log10(value) for value in choice]
    elif _is_even(edges):
        yield from round_choices(inside[0], inside[-1])
    else:
        sizes = [abs(edge) for edge in inside if edge]
        for choice in decade_choices(min(sizes), max(sizes)):
            both = [*(-value for value in reversed(choice)), *choice]
            yield [value for value in both if inside[0] <= value <= inside[-1]]


def draw_histogram(sheet: Sheet, box: Box, histogram: Histogram, look: Look) -> None:
    """Draw counts over bins of equal width on the page, with ticks at round values of the edges."""
    histogram, marks = _as_far_as(histogram, look.marks)
    places = [bin_position(histogram.edges, value) for value, _, _ in marks]
    first, last = _visible(histogram)
    first, last = min([first, *places]), max([last, *(place + 1 for place in places)])
    tallest = max(histogram.counts)
    below = AXIS_BELOW + (_RUG if look.rug else 0.0)
    above = _LETTERS if marks else 0.0
    area = Box(box.x + AXIS_LEFT, box.y + above, box.width - AXIS_LEFT, box.height - below - above)
    floor, ceiling = (_LOG_FLOOR, max(10, tallest) ** 1.03) if look.log_counts else (0.0, tallest * _CEILING)

    def draw(axes: Axes) -> None:
        negative = sum(edge < 0 for edge in histogram.edges[:-1]) if look.negative != look.colour else 0
        for part, colour in ((slice(0, negative), look.negative), (slice(negative, None), look.colour)):
            counts = histogram.counts[part]
            start = part.start
            if counts:
                edges = range(start, start + len(counts) + 1)
                axes.stairs(counts, edges, fill=True, color=colour, baseline=floor, linewidth=0)
        frame(axes, (first, last), (floor, ceiling), log_y=look.log_counts)

    sheet.plot(area, draw)
    ticks = _count_ticks(tallest) if look.log_counts else [0.0, float(tallest)]
    for value in ticks:
        y = area.bottom - area.height * _fraction(value, floor, ceiling, log=look.log_counts)
        label_left(sheet, area, y, look.y_label(value), ruled=value > 0)
    scale = area.width / (last - first)

    def place(value: float) -> tuple[float, str]:
        label = look.x_label(10**value if look.exponents else value)
        return area.x + (bin_position(histogram.edges, value) - first) * scale, label

    choices = _tick_choices(histogram.edges, first, last, exponents=look.exponents)
    labels_below(sheet, area, ([place(value) for value in values] for values in choices), _RUG if look.rug else 0.0)
    lines = sorted((area.x + (at - first) * scale, mark) for at, mark in zip(places, marks, strict=True))
    letters = apart([x for x, _ in lines], SMALL)
    for (x, (_, colour, letter)), middle in zip(lines, letters, strict=True):
        line = Box(x - 0.5, area.y - 1.5, 1.0, area.height + 1.5)
        # A seam of paper parts the line from bars of its own colour.
        sheet.rectangle(Box(line.x - 0.6, line.y, line.width + 1.2, line.height), sheet.theme.paper)
        sheet.rectangle(line, colour)
        sheet.text(middle, area.y - 3.5, letter, colour=colour, bold=True, align="centre")
    for value in look.rug:
        x = area.x + (bin_position(histogram.edges, value) - first) * scale
        if area.x - 0.1 <= x <= area.right + 0.1:
            sheet.rectangle(Box(x - 0.3, area.bottom + 0.5, 0.6, _RUG - 0.5), sheet.theme.ink)


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Return ascending places moved so that no two are closer than a gap, and none further than it must be.

    Places and gap are in one unit: on pages, points.

    >>> apart([10.0, 12.0, 40.0], 8.0)
    [7.0, 15.0, 40.0]
    """
    pushed, pulled = list(places), list(places)
    for at in range(1, len(places)):
        pushed[at] = max(pushed[at], pushed[at - 1] + gap)
        pulled[-at - 1] = min(pulled[-at - 1], pulled[-at] - gap)
    return [(right + left) / 2 for right, left in zip(pushed, pulled, strict=True)]


def draw_rates(sheet: Sheet, box: Box, edges: Sequence[float], rates: Sequence[float], look: Look) -> None:
    """Draw rates by position: the share of each bin from zero, over bins of the width they have, in tokens."""
    area = Box(box.x + AXIS_LEFT, box.y, box.width - AXIS_LEFT, box.height - AXIS_BELOW)
    tallest = max(rates)
    ceiling = tallest * _CEILING if tallest > 0 else 1.0

    def draw(axes: Axes) -> None:
        axes.stairs(rates, edges, fill=True, color=look.colour, linewidth=0)
        frame(axes, (edges[0], edges[-1]), (0.0, ceiling))

    sheet.plot(area, draw)
    for value in sorted({0.0, tallest}):
        label_left(sheet, area, area.bottom - area.height * value / ceiling, look.y_label(value), ruled=value > 0)
    scale = area.width / (edges[-1] - edges[0])
    choices = round_choices(edges[0], edges[-1])
    places = ([(area.x + (value - edges[0]) * scale, look.x_label(value)) for value in values] for values in choices)
    labels_below(sheet, area, places)


def frame(
    axes: Axes, x: tuple[float, float], y: tuple[float, float], *, log_x: bool = False, log_y: bool = False
) -> None:
    """Fix the scales of bare axes and their limits, in the unit of each."""
    for is_log, axis, rescale in ((log_x, axes.xaxis, axes.set_xscale), (log_y, axes.yaxis, axes.set_yscale)):
        if is_log:
            rescale("log")
            axis.set_major_locator(NullLocator())
            axis.set_minor_locator(NullLocator())
    axes.set_xlim(*x)
    axes.set_ylim(*y)


def _fraction(value: float, low: float, high: float, *, log: bool) -> float:
    if log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _count_ticks(tallest: int) -> list[float]:
    """Return one, and powers of ten below the tallest bar, at most four in all."""
    top = max(1, math.floor(math.log10(max(10, tallest))))
    step = math.ceil(top / 3)
    return [10.0**exponent for exponent in range(0, top + 1, step)]


def label_left(sheet: Sheet, area: Box, y: float, label: str, *, ruled: bool) -> None:
    """Set a label left of the plot at ``y`` points, with a hairline across; too long a label stands on the line."""
    sheet.rectangle(Box(area.x, y - 0.25, area.width, 0.5), sheet.theme.faint if ruled else sheet.theme.quiet)
    if width_of(label, SMALL) <= AXIS_LEFT - 3:
        sheet.text(area.x - 3, y + 0.32 * SMALL, label, colour=sheet.theme.quiet, align="right")
    else:
        sheet.text(area.x + 1, y - 1.5, label, colour=sheet.theme.quiet)


def labels_below(sheet: Sheet, area: Box, choices: Iterable[Sequence[tuple[float, str]]], lowered: float = 0.0) -> None:
    """Set labels below the plot: the first choice whose labels fit side by side, moved in at the plot's ends.

    Places, and how far all are ``lowered``, are in points.
    """
    sheet.rectangle(Box(area.x, area.bottom - 0.25, area.width, 0.5), sheet.theme.quiet)
    for places in choices:
        spans = [_span(x, label, area) for x, label in places]
        if spans and all(left[1] + _LABEL_GAP <= right[0] for left, right in pairwise(spans)):
            for (x, label), (left, _) in zip(places, spans, strict=True):
                sheet.rectangle(Box(x - 0.25, area.bottom + lowered, 0.5, 2.0), sheet.theme.quiet)
                sheet.text(left, area.bottom + 2 + SMALL + lowered, label, colour=sheet.theme.quiet)
            return


def _span(x: float, label: str, area: Box) -> tuple[float, float]:
    width = width_of(label, SMALL)
    left = min(max(x - width / 2, area.x - AXIS_LEFT / 2), area.right - width)
    return left, left + width
