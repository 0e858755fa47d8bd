"""The page on a whole search: what all features together say of its fluency, its course and where its finds began."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median

import numpy as np
from matplotlib.axes import Axes

from sae_analysis.records import FeatureSearch, FeatureStats
from sae_analysis.visualizer import searches
from sae_analysis.visualizer.columns import INNER_WIDTH, TINT, Column, title_of
from sae_analysis.visualizer.curves import Axis, draw_chart, draw_dashes, draw_dots, draw_steps, held_at
from sae_analysis.visualizer.digits import count, number, share, shortened, tick
from sae_analysis.visualizer.searches import Points
from sae_analysis.visualizer.sheet import Page, Sheet, width_of
from sae_analysis.visualizer.synthetic_panels import words
from sae_analysis.visualizer.theme import GUTTER, LIGHT, MARGIN, SMALL, Colour, Theme, mix
from sae_analysis.visualizer.wording import Header, Part

_CHART_HEIGHT = 142.0
_PANEL_GAP = 18.0
_MOST_PROVENANCES = 10
_THIN, _THICK = 0.5, 1.8
_PALE, _BAND = 0.35, 0.2
_QUARTILES = (0.25, 0.5, 0.75)

Searched = Sequence[tuple[FeatureStats, FeatureSearch]]


def search_page(
    features: Mapping[int, FeatureStats],
    header: Header | None = None,
    *,
    theme: Theme = LIGHT,
    dpi: int = 150,
) -> Page:
    """Return the page on the search for all features that were searched for."""
    found = [(stats, stats.search) for stats in features.values() if stats.search]
    fired = [(stats, search) for stats, search in found if stats.largest_activation]
    sheet, colour = Sheet(theme), theme.synthetic
    page = title_of(sheet, "The search", _answer(found, fired), header or Header())
    if not fired:
        page.caption("Nothing to show: nothing fired any of the features.")
        return sheet.finish(page.y + MARGIN / 2, dpi)
    width = (INNER_WIDTH - GUTTER) / 2
    columns = [Column(sheet, MARGIN, page.y + 2, width), Column(sheet, MARGIN + width + GUTTER, page.y + 2, width)]
    for panel in (_fluency, _convergence, _provenances, _gains, _relaxations):
        column = min(columns, key=lambda column: column.y)
        panel(column, fired, colour)
        column.y += _PANEL_GAP
    return sheet.finish(max(column.y for column in columns), dpi)


def _answer(found: Searched, fired: Searched) -> list[Part]:
    gains = [times for stats, _ in fired if (times := stats.gain) is not None]
    best = [stats.examples[0] for stats, _ in fired if stats.examples]
    fluent = [value for value, _ in searches.fluency(tuple(best))]
    spent = sum(search.token_evaluations for _, search in found)
    said = f"{count(len(fired))} of {shortened(len(found), 'feature')} made to fire"
    unaided = len(fired) - len(gains)
    said += f", {count(unaided)} of them by no token alone," if unaided else ""
    said += f" in {shortened(spent, 'token-evaluation')}"
    said += searches.not_searched(search for _, search in found)
    if gains:
        said += f"; the strongest examples reach {number(median(gains))} × the best single token"
        said += f" at {number(median(fluent))} nats per token (medians)" if fluent else " (median)"
    marked = Counter(mark for example in best for mark in searches.marks(example))
    said += f"; {count(marked[searches.SINK])} on attention sinks" if marked[searches.SINK] else ""
    said += f"; {count(marked[searches.NOT_TEXT])} not text" if marked[searches.NOT_TEXT] else ""
    return [said]


def _shares(points: Points, of: float) -> Points:
    return [(x, value / of) for x, value in points]


def _percent(value: float) -> str:
    return tick(100 * value)


def _share_axis(of: str) -> Axis:
    return Axis(name=f"% of {of}", low=0.0, high=1.06, label=_percent)


def _fluency(column: Column, fired: Searched, colour: Colour) -> None:
    """Set how much of its strongest activation a feature keeps at each level of fluency."""
    curves = [_shares(searches.frontier(stats), stats.largest_activation) for stats, _ in fired]
    curves = [curve for curve in curves if curve]
    with column.sheet.panel("Fluency"):
        if not curves:
            column.heading("Fluency", "Nothing to show: no search has a frontier of fluency.")
            return
        said = "the strongest found within a cross-entropy; 0 if there is none; "
        said += f"median and quartiles of {shortened(len(curves), 'feature')}"
        column.heading("Fluency", said)
        across = Axis.over("cross-entropy, nats per token", [x for curve in curves for x, _ in curve])
        levels = sorted({across.low, *(x for curve in curves for x, _ in curve), across.high})
        low, middle, high = np.quantile([held_at(curve, levels) for curve in curves], _QUARTILES, axis=0)

        def draw(axes: Axes) -> None:
            band = mix(column.sheet.theme.paper, colour, _BAND)
            axes.fill_between(levels, low, high, step="post", color=band, linewidth=0)
            draw_steps(axes, [*zip(levels, middle, strict=True)], across.high, colour, _THICK)

        draw_chart(column.sheet, column.take(_CHART_HEIGHT), across, _share_axis("the feature's strongest"), draw)


def _convergence(column: Column, fired: Searched, colour: Colour) -> None:
    """Set how soon the searches came how far."""
    runs = [(searches.convergence(search), search.token_evaluations) for _, search in fired]
    curves = [
        (_shares(points, points[-1][1]), max(end, points[-1][0])) for points, end in runs if points and points[-1][1]
    ]
    with column.sheet.panel("How the searches went"):
        if not curves:
            column.heading("How the searches went", "Nothing to show: nothing that was tried was an improvement.")
            return
        said = f"the strongest so far; {shortened(len(curves), 'feature')}, each a thin line; their median thick"
        column.heading("How the searches went", said)
        starts, ends = [points[0][0] for points, _ in curves], [end for _, end in curves]
        across = Axis.of_effort("token-evaluations per feature", min(starts), max(ends))
        levels = sorted({x for points, _ in curves for x, _ in points})
        shares = np.median([held_at(points, levels) for points, _ in curves], axis=0)
        middle = [(level, value) for level, value in zip(levels, shares, strict=True) if value]

        def draw(axes: Axes) -> None:
            pale = mix(column.sheet.theme.paper, colour, _PALE)
            for points, end in curves:
                draw_steps(axes, points, end, pale, _THIN)
            draw_steps(axes, middle, max(ends), colour, _THICK)

        draw_chart(column.sheet, column.take(_CHART_HEIGHT), across, _share_axis("the strongest in the end"), draw)


def _gains(column: Column, fired: Searched, colour: Colour) -> None:
    """Set by how much the search beats the best single token, feature by feature."""
    gains = sorted(times for stats, _ in fired if (times := stats.gain) is not None)
    with column.sheet.panel("Gain over one token"):
        if not gains:
            column.heading("Gain over one token", "Nothing to show: no token alone fires any of the features.")
            return
        left_out = len(fired) - len(gains)
        said = f"strongest activation / that of the best single token; median {number(median(gains))}; dashes: no gain"
        said += f"; without {shortened(left_out, 'feature')} that no token alone fires" if left_out else ""
        column.heading("Gain over one token", said)
        points = [(float(rank), times) for rank, times in enumerate(gains, 1)]
        across = Axis(name="rank of the feature, 1 the least gain", low=0.5, high=len(gains) + 0.5, is_count=True)
        up = Axis.of_ratios("gain, log scale", [*gains, 1.0])

        def draw(axes: Axes) -> None:
            draw_dashes(axes, 1.0, column.sheet.theme.ink)
            draw_dots(axes, points, colour, colour, 2.6)

        draw_chart(column.sheet, column.take(_CHART_HEIGHT), across, up, draw)


def _provenances(column: Column, fired: Searched, colour: Colour) -> None:
    """Set what the populations that the strongest examples came from began with."""
    best = [stats.examples[0] for stats, _ in fired if stats.examples]
    origins = Counter(searches.provenance(example.synthesis) for example in best if example.synthesis)
    with column.sheet.panel("Where the strongest began"):
        if not origins:
            column.heading("Where the strongest began", "Nothing to show: nothing fired.")
            return
        total, most = origins.total(), max(origins.values())
        column.heading(
            "Where the strongest began", f"provenance of the strongest example of {shortened(total, 'feature')}"
        )
        tint = mix(column.sheet.theme.paper, colour, TINT)
        counts = dict(origins.most_common(_MOST_PROVENANCES))
        values = {name: f"{count(many)} ({share(many / total)})" for name, many in counts.items()}
        numbers = max(width_of(value, SMALL) for value in values.values())
        for name, many in counts.items():
            column.row(partial(words, name), values[name], many / most, tint, numbers)
        if len(origins) > len(counts):
            column.caption(f"and {shortened(len(origins) - len(counts), 'provenance')} more")


def _relaxations(column: Column, fired: Searched, colour: Colour) -> None:
    """Set what mixtures of embeddings reached against what their likeliest tokens did."""
    stages = [(stats.largest_activation, search.relaxation) for stats, search in fired if search.relaxation]
    points = [(stage.relaxed / of, stage.discrete / of) for of, stage in stages]
    if not points:
        return
    with column.sheet.panel("What relaxing promised"):
        said = "mixtures of embeddings against their likeliest tokens; below the dashes: what becoming text costs"
        column.heading("What relaxing promised", f"{said}; {shortened(len(points), 'feature')}")
        ends = [0.0, *(value for point in points for value in point)]
        across = Axis.over("relaxed, % of the feature's strongest", ends, label=_percent)
        up = Axis.over("discrete, % of the feature's strongest", ends, label=_percent)

        def draw(axes: Axes) -> None:
            axes.axline((0, 0), slope=1, color=column.sheet.theme.ink, linewidth=0.9, dashes=(4, 2.5))
            draw_dots(axes, points, colour, colour, 2.6)

        draw_chart(column.sheet, column.take(_CHART_HEIGHT), across, up, draw)
