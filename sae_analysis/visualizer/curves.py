"""Curves and points on two named axes, from records; ticks, labels and names are set like all other text."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from sae_analysis.visualizer.digits import count_tick, power_of_ten, tick
from sae_analysis.visualizer.plots import (
    AXIS_BELOW,
    AXIS_LEFT,
    Label,
    decade_choices,
    frame,
    label_left,
    labels_below,
    round_choices,
)
from sae_analysis.visualizer.searches import Points
from sae_analysis.visualizer.sheet import Box, Sheet
from sae_analysis.visualizer.theme import SMALL, Colour

_NAME = 10.0
"""Height of the name of an axis."""

_TICK_GAP = 12.0
"""Points between two labels of the upward axis."""

_ROOM = 0.05
"""Share of the range left free beyond the outermost values."""

_CLOSE = 0.93
"""Where a logarithmic axis of ratios begins, as a share of the least of them."""

_PLAIN_EXPONENTS = range(-2, 4)
"""Powers of ten of activations whose labels have room beside the axis."""

_LEAST_RATIO = 1.5
"""Ratio that the ends of a logarithmic axis have at least."""

_DECADE = 10.0
"""Ratio up to which the ticks of a logarithmic axis stand at even steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One of the two axes: its name with the unit, its ends in this unit, and how its numbers are written."""

    name: str
    low: float
    high: float
    is_log: bool = False
    is_count: bool = False
    label: Label = tick

    @classmethod
    def over(cls, name: str, values: Iterable[float], *, label: Label = tick) -> "Axis":
        """Return an even axis with room for all values, of any unit; one that ends at zero ends there."""
        known = [*values]
        low, high = min(known), max(known)
        spare = _ROOM * (high - low) or abs(high) / 2 or 1.0
        ends_at_zero = high == 0 and low < 0
        return cls(name=name, low=low and low - spare, high=0.0 if ends_at_zero else high + spare, label=label)

    @classmethod
    def of_activations(cls, values: Iterable[float]) -> "Axis":
        """Return the axis of activations with zero, in units of a power of ten where plain labels are too long."""
        axis = cls.over("activation", [0.0, *values])
        exponent = math.floor(math.log10(max(abs(axis.low), abs(axis.high))))
        if exponent in _PLAIN_EXPONENTS:
            return axis
        name = f"activation, in units of {power_of_ten(exponent)}"
        return replace(axis, name=name, label=lambda value: tick(value / 10.0**exponent))

    @classmethod
    def of_ratios(cls, name: str, values: Iterable[float]) -> "Axis":
        """Return a logarithmic axis with room for all ratios, which must be positive."""
        known = [*values]
        low, high = min(known), max(known)
        high = max(high, _LEAST_RATIO * low)
        return cls(name=name, low=low * _CLOSE, high=high / _CLOSE, is_log=True)

    @classmethod
    def of_effort(cls, name: str, first: float, last: float) -> "Axis":
        """Return the logarithmic axis of token-evaluations."""
        low = min(first, last / _LEAST_RATIO)
        return cls(name=f"{name}, log scale", low=low, high=last, is_log=True, is_count=True, label=count_tick)

    def fraction(self, value: float) -> float:
        """Return where a value of the axis's unit lies between the ends, in [0, 1]."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def choices(self) -> Iterator[list[float]]:
        """Yield lists of round numbers between the ends, in the unit of the axis, from many to few."""
        by_decades = self.is_log and self.high > _DECADE * self.low
        for ticks in (decade_choices if by_decades else round_choices)(self.low, self.high):
            yield [value for value in ticks if not self.is_count or math.isclose(value, round(value))]


def draw_chart(sheet: Sheet, box: Box, across: Axis, up: Axis, draw: Callable[[Axes], None]) -> None:
    """Set axes with their names, the upward one's above its upper end, and let ``draw`` fill them in their units."""
    above, below = _NAME + 4, _NAME + AXIS_BELOW + 1
    area = Box(box.x + AXIS_LEFT, box.y + above, box.width - AXIS_LEFT, box.height - above - below)

    def fill(axes: Axes) -> None:
        draw(axes)
        frame(axes, (across.low, across.high), (up.low, up.high), log_x=across.is_log, log_y=up.is_log)

    sheet.plot(area, fill)
    sheet.text(box.x, box.y + SMALL, up.name, colour=sheet.theme.quiet, width=box.width)
    for value in _apart(up, area.height):
        label_left(sheet, area, area.bottom - area.height * up.fraction(value), up.label(value), ruled=value != 0)
    scale = area.width
    places = ([(area.x + scale * across.fraction(at), across.label(at)) for at in ticks] for ticks in across.choices())
    labels_below(sheet, area, places)
    sheet.text(box.right, box.bottom - 1.5, across.name, colour=sheet.theme.quiet, align="right", width=box.width)


def _apart(axis: Axis, height: float) -> list[float]:
    """Return the most ticks whose labels do not touch."""
    for ticks in axis.choices():
        places = [height * axis.fraction(value) for value in ticks]
        if ticks and all(upper - lower >= _TICK_GAP for lower, upper in pairwise(places)):
            return ticks
    return []


def draw_steps(axes: Axes, points: Points, end: float, colour: Colour, width: float) -> None:
    """Draw values that each hold until the next one, the last until ``end``, in the units of the axes.

    ``width`` of the line is in points.
    """
    if points:
        xs, ys = zip(*points, strict=True)
        axes.step([*xs, end], [*ys, ys[-1]], where="post", color=colour, linewidth=width)


def draw_dashes(axes: Axes, value: float, colour: Colour) -> None:
    """Draw a level to compare with, in the unit of the upward axis."""
    axes.axhline(value, color=colour, linewidth=0.9, dashes=(4, 2.5))


def draw_dots(axes: Axes, points: Points, face: Colour, edge: Colour, size: float) -> None:
    """Draw points in the units of the axes, filled or hollow; their ``size`` is in typographic points."""
    xs, ys = zip(*points, strict=True) if points else ((), ())
    axes.plot(
        xs, ys, "o", markersize=size, markerfacecolor=face, markeredgecolor=edge, markeredgewidth=0.8, clip_on=False
    )


def held_at(points: Points, levels: Sequence[float]) -> np.ndarray:
    """Return the values of steps at some levels, ``[levels]``, each in the unit of its axis; 0 before the first."""
    xs = np.array([x for x, _ in points])
    values = np.array([0.0, *(value for _, value in points)])
    return values[np.searchsorted(xs, levels, side="right")]
