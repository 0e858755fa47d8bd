"""Whole pages: records in, a figure out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from matplotlib.axes import Axes

from sae_analysis.records import DictionaryStats, FeatureStats, Fit, Histogram
from sae_analysis.visualizer import panels, plots, wording
from sae_analysis.visualizer.digits import NO_BREAK, count, counted, number, share, tick
from sae_analysis.visualizer.panels import Column, sentence
from sae_analysis.visualizer.plots import Look
from sae_analysis.visualizer.sheet import Box, Page, Sheet, shorten, width_of
from sae_analysis.visualizer.theme import (
    ASIDE_WIDTH,
    BODY,
    GUTTER,
    LIGHT,
    MARGIN,
    PAGE_WIDTH,
    SMALL,
    Colour,
    Theme,
    mix,
)
from sae_analysis.visualizer.tokens import pieces_of, set_label, set_round
from sae_analysis.visualizer.wording import Header

ROWS_PER_SUMMARY = 12

_FEW_EXAMPLES = 5
"""Up to so many, examples are shorter than the panels beside them."""

_INNER = PAGE_WIDTH - 2 * MARGIN
_SUMMARY_ROW = 45.0
_SPARK_FROM, _SPARK_WIDTH = 46.0, 74.0
_WORDS_FROM = MARGIN + 190.0
_PLOT_HEIGHT = 96.0
_BETWEEN = "   "

Limits = tuple[float, float]
"""Ends of the axis that all sparklines share, as powers of ten."""

_LEAST_RANGE = 0.1
"""Powers of ten that a common axis spans at least."""


def feature_page(
    stats: FeatureStats,
    header: Header | None = None,
    analysis_type: str = "real",
    *,
    theme: Theme = LIGHT,
    dpi: int = 150,
) -> Page:
    """Return the page of one feature; its height grows with its examples."""
    sheet = Sheet(theme)
    colour = theme.analysis(analysis_type)
    scale = panels.activation_scale(stats)
    page = _title(sheet, f"Feature {stats.feature_idx}", wording.answer(stats), header or Header())
    panels.statistics_strip(page, stats)
    page.y += 16
    main = Column(sheet, MARGIN, page.y, _INNER - ASIDE_WIDTH - GUTTER)
    aside = Column(sheet, main.right + GUTTER, page.y, ASIDE_WIDTH)
    shown = len(stats.examples) + sum(len(band.examples) for band in stats.example_bands)
    panels.activation_histogram(aside, stats, colour)
    rest = (panels.firing_tokens, panels.logit_effects, panels.firing_positions)
    if shown > _FEW_EXAMPLES:  # the examples go on below the narrow column over the whole width
        for panel in rest:
            panel(aside, stats, colour)
        main.free_from, main.free_width = aside.y, _INNER
    panels.top_examples(main, stats, scale)
    panels.banded_examples(main, stats, scale)
    if shown <= _FEW_EXAMPLES:  # the panels share the room below the examples
        for panel in rest:
            panel(min(main, aside, key=lambda column: column.y), stats, colour)
    return sheet.finish(max(main.y, aside.y) + MARGIN / 2, dpi)


def _title(sheet: Sheet, title: str, subtitle: Sequence[wording.Part], header: Header) -> Column:
    """Set title, answer and origin; return the page's column below them."""
    column = Column(sheet, MARGIN, MARGIN, _INNER)
    with sheet.panel("title"):
        sheet.text(MARGIN, column.y + BODY, title, size=BODY, bold=True, width=_INNER)
        column.y += 14
        column.paragraph(sentence(subtitle), size=BODY, colour=sheet.theme.ink)
        column.y += 4
        named = [f"{name} {shorten(value, _INNER - 40, SMALL)}" for name, value in header.parts()]
        for line in (*_packed(named), header.fit_in_words()):
            column.caption(line)
    sheet.rectangle(Box(MARGIN, column.y + 6, _INNER, 0.5), sheet.theme.faint)
    column.y += 12
    return column


def _packed(parts: Sequence[str]) -> list[str]:
    """Return the parts on as few lines as hold them whole."""
    lines: list[str] = []
    for part in parts:
        longer = f"{lines[-1]}{_BETWEEN}{part}" if lines else part
        if lines and width_of(longer, SMALL) <= _INNER:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


def summary_order(features: Mapping[int, FeatureStats]) -> list[FeatureStats]:
    """Return features from the one that fires most often to the dead, equals by index."""
    return sorted(features.values(), key=lambda stats: (-stats.density, stats.feature_idx))


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
    rows = ordered[(page - 1) * ROWS_PER_SUMMARY : page * ROWS_PER_SUMMARY]
    sheet = Sheet(theme)
    dead = sum(stats.is_dead for stats in ordered)
    said = counted(len(ordered), "feature") + (", most frequent first" if len(ordered) > 1 else "")
    said += f"; {counted(dead, 'feature')} never fired" if dead else ""
    title = f"Summary, page {page} of {pages}" if pages > 1 else "Summary"
    column = _title(sheet, title, [(said, False)], header or Header())
    limits = _common_range(ordered)
    _summary_head(column, limits)
    for index, stats in enumerate(rows):
        _summary_row(column, stats, index, limits, theme.analysis(analysis_type))
    return sheet.finish(column.y + MARGIN / 2, dpi)


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


def _summary_head(column: Column, limits: Limits | None) -> None:
    sheet, grey = column.sheet, column.sheet.theme.quiet
    box = column.take(24)
    upper, lower = box.y + 8, box.y + 17
    with sheet.panel("summary head"):
        if limits is not None:
            low, high = (number(10.0**limit) for limit in limits)
            sheet.text(MARGIN, upper, "activations, both scales log,", colour=grey)
            sheet.text(MARGIN, lower, f"{low} to {high}", colour=grey, width=_SPARK_FROM + _SPARK_WIDTH)
        sheet.text(_WORDS_FROM - 14, upper, "fires on", colour=grey, align="right")
        sheet.text(_WORDS_FROM - 14, lower, "largest", colour=grey, align="right")
        coloured = "strongest example, coloured up to the feature's own largest activation"
        sheet.text(_WORDS_FROM, upper, coloured, colour=grey)
        sheet.text(_WORDS_FROM, lower, "tokens it fires on most  →  tokens it pushes towards", colour=grey)


def _summary_row(column: Column, stats: FeatureStats, index: int, limits: Limits | None, colour: Colour) -> None:
    sheet, box = column.sheet, column.take(_SUMMARY_ROW)
    with sheet.panel(f"feature {stats.feature_idx}"):
        sheet.rectangle(Box(box.x, box.y, box.width, 0.5), sheet.theme.faint)
        sheet.text(box.x, box.y + 13, str(stats.feature_idx), size=BODY, bold=True, width=_SPARK_FROM)
        if limits is not None and stats.histogram.total:
            spark = Box(box.x + _SPARK_FROM, box.y + 4, _SPARK_WIDTH, box.height - 9)
            sheet.plot(spark, lambda axes: _sparkline(axes, stats.histogram, limits, colour, sheet.theme.negative))
        top = max(stats.max_activation, stats.min_activation, key=abs)
        sheet.text(_WORDS_FROM - 14, box.y + 15, share(stats.density), align="right")
        sheet.text(_WORDS_FROM - 14, box.y + 34, "dead" if stats.is_dead else number(top), align="right")
        _summary_words(sheet, stats, index, Box(_WORDS_FROM, box.y, box.right - _WORDS_FROM, box.height))


def _summary_words(sheet: Sheet, stats: FeatureStats, index: int, place: Box) -> None:
    if stats.examples:
        example, scale = stats.examples[0], panels.activation_scale(stats)
        for line in set_round(pieces_of(example.tokens), example.peak_position, place.width, BODY, 1):
            box = Box(place.x, place.y + 4, place.width, 0)
            panels.token_line(sheet, line, example, scale, box, row=index)
    else:
        said = f"never fired in {counted(stats.token_count, 'token')}" if stats.is_dead else "no example was kept"
        sheet.text(place.x, place.y + 15, said, colour=sheet.theme.quiet)
    half, baseline = (place.width - 20) / 2, place.y + 34
    _token_list(sheet, [item.token for item in stats.top_tokens], place.x, baseline, half)
    if stats.top_boosted_tokens:
        sheet.text(place.x + half + 4, baseline, "→", colour=sheet.theme.quiet)
    _token_list(sheet, [token for token, _ in stats.top_boosted_tokens], place.x + half + 20, baseline, half)


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


def _sparkline(
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


def statistics_page(
    dictionary: DictionaryStats,
    features: Mapping[int, FeatureStats],
    header: Header | None = None,
    analysis_type: str = "real",
    *,
    theme: Theme = LIGHT,
    dpi: int = 150,
) -> Page:
    """Return the page on the whole dictionary, the features that were asked for marked on every axis."""
    sheet = Sheet(theme)
    header = header or Header()
    said = [(_dictionary_in_words(dictionary, header.fit), False)]
    page = _title(sheet, "The dictionary", said, header)
    marked = f"; ticks below: the {counted(len(features), 'feature')} asked for" if features else ""
    page.caption(f"features per bin, log scale{marked}")
    page.y += 6
    width, colour = (_INNER - GUTTER) / 2, theme.analysis(analysis_type)
    columns = [Column(sheet, MARGIN, page.y, width), Column(sheet, MARGIN + width + GUTTER, page.y, width)]
    for index, (title, says, histogram, look) in enumerate(_distributions(dictionary, features, colour)):
        _distribution(columns[index % 2], title, says, histogram, look)
    _active_by_position(columns[1], dictionary, colour)
    return sheet.finish(max(column.y for column in columns), dpi)


def _dictionary_in_words(dictionary: DictionaryStats, fit: Fit | None) -> str:
    size = dictionary.d_sae
    dead = f"{_part(dictionary.dead_count, size)} never fired" if dictionary.dead_count else "all of them fired"
    dense = _part(dictionary.dense_count, size) if dictionary.dense_count else "none"
    said = f"{counted(size, 'feature')}: {dead}, {dense} on more than a tenth of the tokens"
    if fit is None:
        return said
    return (
        f"{said}; {number(fit.l0)} active per token explain {share(fit.explained_variance)} of the variance "
        f"(cosine {number(fit.cosine)})"
    )


def _part(many: int, of_all: int) -> str:
    return f"{count(many)} ({share(many / of_all)})"


def _distributions(
    dictionary: DictionaryStats, features: Mapping[int, FeatureStats], colour: Colour
) -> list[tuple[str, str, Histogram, Look]]:
    """Return title, caption, counts and look of each distribution over the dictionary."""
    asked = tuple(features.values())
    fired = [stats for stats in asked if not stats.is_dead]
    peaks = [max(abs(stats.max_activation), abs(stats.min_activation)) for stats in fired]
    cosines = [stats.encoder_decoder_cosine for stats in asked]

    def look(values: Sequence[float]) -> Look:
        return Look(colour=colour, negative=colour, rug=tuple(values))

    density = replace(look([math.log10(stats.density) for stats in fired]), exponents=True, x_label=_percent)
    peak = replace(look([math.log10(peak) for peak in peaks if peak > 0]), exponents=True)
    decoder, encoder = look([stats.decoder_norm for stats in asked]), look([stats.encoder_norm for stats in asked])
    cosine = look([value for value in cosines if value is not None])
    return [
        ("How often features fire", "share of tokens, of the features that fired", dictionary.density, density),
        ("How strongly", "largest magnitude a feature reached, of those that fired", dictionary.max_activation, peak),
        ("Decoder norms", "length of each decoder direction", dictionary.decoder_norm, decoder),
        ("Encoder norms", "length of each encoder direction", dictionary.encoder_norm, encoder),
        (
            "Encoder and decoder",
            "cosine between a feature's two directions",
            dictionary.encoder_decoder_cosine,
            cosine,
        ),
    ]


def _percent(value: float) -> str:
    return f"{tick(100 * value)}{NO_BREAK}%"


def _distribution(column: Column, title: str, says: str, histogram: Histogram, look: Look) -> None:
    with column.sheet.panel(title):
        column.heading(title, says)
        box = column.take(_PLOT_HEIGHT)
        if histogram.total:
            plots.draw_histogram(column.sheet, box, histogram, look)
        else:
            Column(column.sheet, box.x, box.y, box.width).caption("Nothing to show: no feature has a value.")
    column.y += 18


def _active_by_position(column: Column, dictionary: DictionaryStats, colour: Colour) -> None:
    with column.sheet.panel("Active features by position"):
        says = "mean number active per token; place in the window, in tokens"
        column.heading("Active features by position", says)
        if any(dictionary.l0_by_position):
            look = Look(colour=colour, negative=colour, y_label=number)
            box = column.take(_PLOT_HEIGHT)
            plots.draw_rates(column.sheet, box, dictionary.position_edges, dictionary.l0_by_position, look)
        else:
            column.caption("Nothing to show: no feature was active.")
    column.y += 18
