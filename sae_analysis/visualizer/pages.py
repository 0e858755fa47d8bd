"""Whole pages: records in, a figure out."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sae_analysis.records import DictionaryStats, FeatureStats, Fit, Histogram
from sae_analysis.visualizer import examples, panels, plots, searches, synthetic_panels, wording
from sae_analysis.visualizer.columns import INNER_WIDTH, Column, title_of
from sae_analysis.visualizer.digits import NO_BREAK, count, number, share, shortened, tick
from sae_analysis.visualizer.panels import Fact
from sae_analysis.visualizer.plots import Look
from sae_analysis.visualizer.sheet import Page, Sheet
from sae_analysis.visualizer.theme import ASIDE_WIDTH, GUTTER, LIGHT, MARGIN, Colour, Theme
from sae_analysis.visualizer.wording import Header, Part

_FEW_EXAMPLES, _FEW_SEQUENCES = 5, 18
"""Up to so many examples of text, or sequences of a search, are shorter than the panels beside them."""

_PLOT_HEIGHT = 96.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What a feature page says and shows, of text or of a search."""

    answer: list[Part]
    facts: list[Fact]
    panels: tuple[Callable[[Column], None], ...]
    """Beside the examples, or below them if those are few: all but the first."""


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
    header = header or Header()
    colour = theme.analysis("synthetic" if stats.search else analysis_type)
    content = _content(stats, colour, without_bos=header.without_bos)
    scale = examples.activation_scale(stats)
    page = title_of(sheet, f"Feature {stats.feature_idx}", content.answer, header)
    panels.statistics_strip(page, stats, [*content.facts, *panels.facts_of_weights(stats)])
    page.y += 16
    main = Column(sheet, MARGIN, page.y, INNER_WIDTH - ASIDE_WIDTH - GUTTER)
    aside = Column(sheet, main.right + GUTTER, page.y, ASIDE_WIDTH)
    first, *rest = content.panels
    first(aside)
    is_few = examples.shown_count(stats) <= (_FEW_SEQUENCES if stats.search else _FEW_EXAMPLES)
    if not is_few:  # the examples go on below the narrow column over the whole width
        for panel in rest:
            panel(aside)
        main.free_from, main.free_width = aside.y, INNER_WIDTH
    examples.top_examples(main, stats, scale)
    examples.banded_examples(main, stats, scale)
    examples.frontier_examples(main, stats, scale)
    examples.shortest_example(main, stats, scale)
    if is_few:  # the panels share the room below the examples
        for panel in rest:
            panel(min(main, aside, key=lambda column: column.y))
    return sheet.finish(max(main.y, aside.y) + MARGIN / 2, dpi)


def _content(stats: FeatureStats, colour: Colour, *, without_bos: bool) -> _Content:
    search = stats.search
    if search is None:
        return _Content(
            answer=wording.answer(stats),
            facts=panels.facts_on_text(stats),
            panels=(
                lambda column: panels.activation_histogram(column, stats, colour),
                lambda column: panels.firing_tokens(column, stats, colour),
                lambda column: panels.logit_effects(column, stats, colour),
                lambda column: panels.firing_positions(column, stats, colour),
            ),
        )
    on_search = (
        lambda column: synthetic_panels.fluency(column, stats, search, colour),
        lambda column: synthetic_panels.convergence(column, stats, search, colour),
        lambda column: synthetic_panels.relaxation(column, stats, search, colour),
        lambda column: panels.firing_tokens(column, stats, colour),
    )
    return _Content(
        answer=searches.answer(stats, search, without_bos=without_bos),
        facts=synthetic_panels.facts_of_search(stats, search),
        panels=(
            *(() if stats.is_dead else on_search),
            lambda column: panels.logit_effects(column, stats, colour),
        ),
    )


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
    said = [_dictionary_in_words(dictionary, header.fit)]
    page = title_of(sheet, "The dictionary", said, header)
    marked = f"; ticks below: the {shortened(len(features), 'feature')} asked for" if features else ""
    page.caption(f"features per bin, log scale{marked}")
    page.y += 6
    width, colour = (INNER_WIDTH - GUTTER) / 2, theme.analysis(analysis_type)
    columns = [Column(sheet, MARGIN, page.y, width), Column(sheet, MARGIN + width + GUTTER, page.y, width)]
    for index, (title, says, histogram, look) in enumerate(_distributions(dictionary, features, colour)):
        _distribution(columns[index % 2], title, says, histogram, look)
    _active_by_position(columns[1], dictionary, colour)
    return sheet.finish(max(column.y for column in columns), dpi)


def _dictionary_in_words(dictionary: DictionaryStats, fit: Fit | None) -> str:
    size = dictionary.d_sae
    tokens, first = "the tokens", ""
    if fit is not None and fit.measured_tokens < fit.token_count:  # else the header says how many there were
        tokens, first = "these", f" in the first {shortened(fit.measured_tokens, 'token')}"
    dead = f"{_part(dictionary.dead_count, size)} never fired" if dictionary.dead_count else "all of them fired"
    dense = _part(dictionary.dense_count, size) if dictionary.dense_count else "none"
    said = f"{shortened(size, 'feature')}: {dead}{first}, {dense} on more than a tenth of {tokens}"
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
    peaks = [abs(stats.largest_activation) for stats in fired]
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
