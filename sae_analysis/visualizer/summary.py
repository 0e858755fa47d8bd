"""The overview: one row a feature, on scales common to all of its pages."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from matplotlib.axes import Axes

from sae_analysis.records import FeatureSearch, FeatureStats, Histogram
from sae_analysis.visualizer import examples, searches
from sae_analysis.visualizer.columns import Column, title_of
from sae_analysis.visualizer.digits import count, number, share, shortened
from sae_analysis.visualizer.sheet import Box, Page, Sheet
from sae_analysis.visualizer.theme import BODY, LIGHT, MARGIN, SMALL, Colour, Theme, mix
from sae_analysis.visualizer.tokens import set_label, set_round
from sae_analysis.visualizer.wording import Header, few_firings

ROWS_PER_SUMMARY = 12

_ROW = 45.0
_SPARK_FROM = 46.0
_NUMBER_GAP, _NUMBER_NAME = 14.0, 40.0
_EXACT_BELOW = 1_000_000
_ARROW = 20.0
_NOTE = 9.0
"""Height of the words above a spark."""


Limits = tuple[float, float]
"""Ends of the axis that all sparklines share, as powers of ten."""

_LEAST_RANGE = 0.1
"""Powers of ten that a common axis spans at least."""

_COLOURED = "strongest example, coloured up to the feature's own largest activation"

_NOT_SEARCHED = "not searched"
"""A row's part of what the subtitle says of its feature."""

Pair = tuple[str, str]
"""What stands on the two lines of a row or of the head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """What the head says, and with it where the columns are."""

    spark: Pair
    spark_width: float
    numbers: tuple[Pair, ...]
    number_width: float
    words: Pair
    words_from: float
    arrow_at: float
    """Where the tokens it pushes towards begin, as a share of the room for words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What a feature's row shows."""

    spark: Callable[[Axes], None] | None
    numbers: tuple[Pair, ...]
    missing: str
    """What is said where there is no example."""
    tokens: tuple[str, ...]
    marks: tuple[str, ...] = ()
    note: str = ""
    """What stands above the spark."""


def summary_order(features: Mapping[int, FeatureStats]) -> list[FeatureStats]:
    """Return the most frequent features first, of those searched for the strongest; equals by index."""

    def rank(stats: FeatureStats) -> tuple[float, int]:
        return -abs(stats.largest_activation) if stats.search else -stats.density, stats.feature_idx

    return sorted(features.values(), key=rank)


def summary_page(
    features: Mapping[int, FeatureStats],
    page: int = 1,
    header: Header | None = None,
    analysis_type: str = "real",
    *,
    theme: Theme = LIGHT,
    dpi: int = 150,
) -> Page:
    """Return page ``page`` (from 1) of the overview, one row a feature, on scales common to all pages."""
    ordered = summary_order(features)
    pages = max(1, math.ceil(len(ordered) / ROWS_PER_SUMMARY))
    shown = ordered[(page - 1) * ROWS_PER_SUMMARY : page * ROWS_PER_SUMMARY]
    sheet = Sheet(theme)
    title = f"Summary, page {page} of {pages}" if pages > 1 else "Summary"
    header = header or Header()
    column = title_of(sheet, title, [_answer(ordered)], header)
    found = [(stats, stats.search) for stats in ordered if stats.search]
    limits = _effort_range([search for _, search in found]) if found else _common_range(ordered)
    head = _head_of_searches(limits, without_bos=header.without_bos) if found else _head_on_text(limits)
    _set_head(column, head)
    for index, stats in enumerate(shown):
        row = (
            _row_of_search(stats, stats.search, limits, theme)
            if stats.search
            else _row_on_text(stats, limits, theme.analysis(analysis_type), theme.negative)
        )
        _set_row(column, stats, index, head, row)
    return sheet.finish(column.y + MARGIN / 2, dpi)


def _answer(ordered: Sequence[FeatureStats]) -> str:
    searched = any(stats.search for stats in ordered)
    dead = sum(stats.is_dead for stats in ordered)
    said = shortened(len(ordered), "feature")
    if len(ordered) > 1:
        said += ", strongest first" if searched else ", most frequent first"
    if dead:
        said += f"; nothing fired {count(dead)} of them" if searched else f"; {shortened(dead, 'feature')} never fired"
    return said + searches.not_searched(stats.search for stats in ordered if stats.search)


def _common_range(features: Sequence[FeatureStats]) -> Limits | None:
    """Return the least and largest magnitude at which any feature fired, as powers of ten; None if none did."""
    bins = [
        sorted((abs(low), abs(high)))
        for stats in features
        for (low, high), many in zip(pairwise(stats.histogram.edges), stats.histogram.counts, strict=True)
        if many
    ]
    if not bins:
        return None
    low = math.log10(min(low or high / 2 for low, high in bins))
    high = math.log10(max(high for _, high in bins))
    return low, max(high, low + _LEAST_RANGE)


def _effort_range(found: Sequence[FeatureSearch]) -> Limits | None:
    """Return the least and most token-evaluations of any search, as powers of ten; None if none found anything."""
    points = [point for search in found for point in searches.convergence(search)]
    if not points:
        return None
    low = math.log10(min(spent for spent, _ in points))
    high = math.log10(max([*(search.token_evaluations for search in found), *(spent for spent, _ in points)]))
    return low, max(high, low + _LEAST_RANGE)


def _head_on_text(limits: Limits | None) -> _Head:
    spark = (
        ("activations, both scales log,", " to ".join(number(10.0**limit) for limit in limits)) if limits else ("", "")
    )
    return _Head(
        spark=spark,
        spark_width=74.0,
        numbers=(("fires on", "largest"),),
        number_width=62.0,
        words=(_COLOURED, "tokens it fires on most  →  tokens it pushes towards"),
        words_from=190.0,
        arrow_at=0.5,
    )


def _head_of_searches(limits: Limits | None, *, without_bos: bool) -> _Head:
    single = "the one token that fires it most" + (", behind a common one" if without_bos else "")
    spark = ("", "")
    if limits:
        low, high = (_whole(round(10.0**limit)) for limit in limits)
        spark = ("best so far; line: one token", f"{low}–{high} evaluations, log")
    return _Head(
        spark=spark,
        spark_width=56.0,
        numbers=(("strongest", "one token"), ("nats/token", "gain")),
        number_width=44.0,
        words=(_COLOURED, f"{single}  →  tokens it pushes towards"),
        words_from=206.0,
        arrow_at=0.36,
    )


def _whole(value: int) -> str:
    """Return a count whose unit cannot be taken for that of another one before it."""
    return f"{value:,}" if value < _EXACT_BELOW else count(value)


def _row_on_text(stats: FeatureStats, limits: Limits | None, colour: Colour, negative: Colour) -> _Row:
    fired = "dead" if stats.is_dead else number(stats.largest_activation)
    return _Row(
        spark=partial(_draw_counts, histogram=stats.histogram, limits=limits, colour=colour, negative=negative)
        if limits and stats.histogram.total
        else None,
        note=few_firings(stats),
        numbers=((share(stats.density), fired),),
        missing=f"never fired in {shortened(stats.token_count, 'token')}" if stats.is_dead else "no example was kept",
        tokens=tuple(item.token for item in stats.top_tokens),
    )


def _row_of_search(stats: FeatureStats, search: FeatureSearch, limits: Limits | None, theme: Theme) -> _Row:
    best = stats.examples[0] if stats.examples else None
    fluent = best.synthesis.cross_entropy if best and best.synthesis else None
    token, alone = search.single_token
    spent = shortened(search.token_evaluations, "token-evaluation")
    times = stats.gain
    return _Row(
        spark=partial(_draw_convergence, search=search, limits=limits, theme=theme)
        if limits and search.convergence
        else None,
        numbers=(
            (number(stats.largest_activation), number(alone)),
            (number(fluent), f"× {number(times)}" if times else ""),
        ),
        note="" if search.is_searched else _NOT_SEARCHED,
        missing=f"nothing fired it in {spent}" if stats.is_dead else "no example was kept",
        tokens=(token,) if alone else (),
        marks=tuple(searches.marks(best)) if best else (),
    )


def _set_head(column: Column, head: _Head) -> None:
    sheet, grey = column.sheet, column.sheet.theme.quiet
    box = column.take(24)
    room = head.words_from - _NUMBER_GAP - head.number_width * (len(head.numbers) - 1) - _NUMBER_NAME
    with sheet.panel("summary head"):
        for line, baseline in enumerate((box.y + 8, box.y + 17)):
            sheet.text(box.x, baseline, head.spark[line], colour=grey, width=room)
            for right, pair in _number_columns(box, head, head.numbers):
                sheet.text(right, baseline, pair[line], colour=grey, align="right")
            sheet.text(box.x + head.words_from, baseline, head.words[line], colour=grey)


def _number_columns(box: Box, head: _Head, pairs: tuple[Pair, ...]) -> list[tuple[float, Pair]]:
    """Return the right edge of each column of numbers with what stands in it."""
    last = box.x + head.words_from - _NUMBER_GAP
    return [(last - head.number_width * (len(pairs) - 1 - at), pair) for at, pair in enumerate(pairs)]


def _set_row(column: Column, stats: FeatureStats, index: int, head: _Head, row: _Row) -> None:
    sheet, box = column.sheet, column.take(_ROW)
    with sheet.panel(f"feature {stats.feature_idx}"):
        sheet.rectangle(Box(box.x, box.y, box.width, 0.5), sheet.theme.faint)
        sheet.text(box.x, box.y + 13, str(stats.feature_idx), size=BODY, bold=True, width=_SPARK_FROM)
        above = _NOTE if row.note else 0.0
        sheet.text(box.x + _SPARK_FROM, box.y + 1 + above, row.note, colour=sheet.theme.quiet, width=head.spark_width)
        if row.spark is not None:
            place = Box(box.x + _SPARK_FROM, box.y + 4 + above, head.spark_width, box.height - 9 - above)
            sheet.plot(place, row.spark)
        for right, (upper, lower) in _number_columns(box, head, row.numbers):
            sheet.text(right, box.y + 15, upper, align="right", width=head.number_width - 2)
            sheet.text(right, box.y + 34, lower, align="right", width=head.number_width - 2)
        left = box.x + head.words_from
        place = Box(left, box.y, box.right - left, box.height)
        _set_example(sheet, stats, index, row.missing, place)
        _set_tokens(sheet, stats, row, place, place.x + (place.width - _ARROW) * head.arrow_at)


def _set_example(sheet: Sheet, stats: FeatureStats, index: int, missing: str, place: Box) -> None:
    if stats.examples:
        example, scale = stats.examples[0], examples.activation_scale(stats)
        for line in set_round(examples.pieces_shown(example), example.peak_position, place.width, BODY, 1):
            box = Box(place.x, place.y + 4, place.width, 0)
            examples.token_line(sheet, line, example, scale, box, row=index)
    else:
        sheet.text(place.x, place.y + 15, missing, colour=sheet.theme.quiet)


def _set_tokens(sheet: Sheet, stats: FeatureStats, row: _Row, place: Box, arrow: float) -> None:
    baseline, left = place.y + 34, place.x
    for mark in row.marks:
        left += sheet.text(left, baseline, mark, bold=True) + 8
    _token_list(sheet, row.tokens, left, baseline, arrow - left)
    if stats.top_boosted_tokens:
        sheet.text(arrow + 4, baseline, "→", colour=sheet.theme.quiet)
    pushed = [token for token, _ in stats.top_boosted_tokens]
    _token_list(sheet, pushed, arrow + _ARROW, baseline, place.right - arrow - _ARROW)


def _token_list(sheet: Sheet, tokens: Sequence[str], x: float, baseline: float, width: float) -> None:
    """Set as many tokens as fit side by side on quiet grounds."""
    left = x
    ground = mix(sheet.theme.paper, sheet.theme.faint, 0.6)
    for token in tokens:
        line = set_label(token, width, SMALL)
        if left + line.width > x + width:
            return
        sheet.rectangle(Box(left - 1.5, baseline - 8, line.width + 3, 10.5), ground)
        sheet.line(left, baseline, line, size=SMALL)
        left += line.width + 8


def _draw_counts(
    axes: Axes,
    histogram: Histogram,
    limits: Limits,
    colour: Colour,
    negative: Colour,
) -> None:
    """Draw counts over the magnitude of the activation, negative activations downwards, both logarithmic."""
    below = sum(edge < 0 for edge in histogram.edges[:-1])
    for sign, hue, part in ((-1, negative, slice(0, below)), (1, colour, slice(below, None))):
        counts = histogram.counts[part]
        if any(counts):
            edges = [abs(edge) for edge in histogram.edges[part.start : part.start + len(counts) + 1]]
            places = [math.log10(edge or min(filter(None, edges)) / 2) for edge in edges]
            order = slice(None, None, sign)
            heights = [sign * math.log10(1 + many) for many in counts[order]]
            axes.stairs(heights, places[order], fill=True, color=hue, linewidth=0)
    tall = math.log10(1 + max(histogram.counts)) * 1.05
    below = any(edge < 0 and many for edge, many in zip(histogram.edges, histogram.counts, strict=False))
    axes.set_xlim(*limits)
    axes.set_ylim(-tall if below else 0, tall)
    axes.axhline(0, color=negative if below else colour, linewidth=0.5)


def _draw_convergence(axes: Axes, search: FeatureSearch, limits: Limits, theme: Theme) -> None:
    """Draw the strongest so far as a share of the last, over token-evaluations; the best single token as a line."""
    steps = searches.convergence(search)
    final = steps[-1][1]
    ends = [*(math.log10(spent) for spent, _ in steps), limits[1]]
    heights = [value / final if final else 0.0 for _, value in steps]
    axes.stairs(heights, ends, fill=True, color=theme.synthetic, linewidth=0)
    if final:
        axes.axhline(search.single_token[1] / final, color=theme.paper, linewidth=0.8)
    axes.set_xlim(*limits)
    axes.set_ylim(0, 1.05)
    axes.axhline(0, color=theme.synthetic, linewidth=0.5)
