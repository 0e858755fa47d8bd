"""The panels of a feature page that only a search fills: fluency, convergence, what the relaxed stage promised."""

from functools import partial

from matplotlib.axes import Axes

from sae_analysis.records import FeatureSearch, FeatureStats
from sae_analysis.visualizer import searches
from sae_analysis.visualizer.columns import PANEL_GAP, TINT, Column
from sae_analysis.visualizer.curves import Axis, draw_chart, draw_dashes, draw_dots, draw_steps
from sae_analysis.visualizer.digits import UNKNOWN, count, number, share
from sae_analysis.visualizer.panels import Fact
from sae_analysis.visualizer.sheet import shorten, width_of
from sae_analysis.visualizer.theme import BODY, SMALL, Colour, mix
from sae_analysis.visualizer.tokens import Line, plain, set_lines

CHART_HEIGHT = 118.0
_STEP_WIDTH = 1.6
_DOT, _CORNER = 4.6, 3.0


def facts_of_search(stats: FeatureStats, search: FeatureSearch) -> list[Fact]:
    """Return what the search says about the feature."""
    origin = stats.examples[0].synthesis if stats.examples else None
    fluent = origin.cross_entropy if origin else None
    times, after = stats.gain, searches.best_after(stats, search)
    return [
        (
            "strongest found",
            number(stats.largest_activation),
            _if(origin and origin.pre_activation, "pre-act. {}"),
        ),
        ("one token alone", number(search.single_token[1]), _if(times, "gain × {}")),
        ("cross-entropy", number(fluent), "" if fluent is None else "nats per token"),
        (
            "token-evaluations",
            count(search.token_evaluations),
            "" if after is None else f"best after {count(after)}",
        ),
    ]


def _if(value: float | None, said: str) -> str:
    return UNKNOWN if value is None else said.format(number(value))


def fluency(column: Column, stats: FeatureStats, search: FeatureSearch, colour: Colour) -> None:
    """Set how strongly the feature can fire at each level of fluency."""
    steps, dots = searches.frontier(stats), [*searches.fluency(stats.examples)]
    with column.sheet.panel("fluency"):
        if not steps and not dots:
            column.heading("Fluency", "Nothing to show: no example has a cross-entropy.")
        else:
            said = "steps and dots: the strongest found within a cross-entropy; circles: the strongest examples"
            column.heading("Fluency", said + _dashes_in_words(search))
            across = Axis.over("cross-entropy, nats per token", [x for x, _ in (*steps, *dots)])
            up = Axis.of_activations([search.single_token[1], *(y for _, y in (*steps, *dots))])
            theme = column.sheet.theme

            def draw(axes: Axes) -> None:
                _draw_single_token(axes, search, theme.ink)
                draw_steps(axes, steps, across.high, colour, _STEP_WIDTH)
                draw_dots(axes, steps, colour, colour, _CORNER)
                draw_dots(axes, dots, theme.paper, theme.ink, _DOT)

            draw_chart(column.sheet, column.take(CHART_HEIGHT), across, up, draw)
    column.y += PANEL_GAP


def convergence(column: Column, stats: FeatureStats, search: FeatureSearch, colour: Colour) -> None:
    """Set how much of the search was needed."""
    steps = searches.convergence(search)
    with column.sheet.panel("convergence"):
        if not steps:
            column.heading("How the search went", "Nothing to show: nothing it tried was an improvement.")
        else:
            said = f"the strongest so far, in {count(search.token_evaluations)} token-evaluations"
            beside = searches.made_beside(stats, search)
            said += f"; at its end the strongest example: {beside}" if beside else ""
            column.heading("How the search went", said + _dashes_in_words(search))
            end = max(steps[-1][0], search.token_evaluations)
            across = Axis.of_effort("token-evaluations", steps[0][0], end)
            up = Axis.of_activations([search.single_token[1], *(value for _, value in steps)])

            def draw(axes: Axes) -> None:
                _draw_single_token(axes, search, column.sheet.theme.ink)
                draw_steps(axes, steps, end, colour, _STEP_WIDTH)

            draw_chart(column.sheet, column.take(CHART_HEIGHT), across, up, draw)
    column.y += PANEL_GAP


def _dashes_in_words(search: FeatureSearch) -> str:
    alone = search.single_token[1]
    return f"; dashes: one token alone, {number(alone)}" if alone else "; no token alone fires it"


def _draw_single_token(axes: Axes, search: FeatureSearch, colour: Colour) -> None:
    """Draw the level of the best single token, if one fires the feature at all."""
    if search.single_token[1]:
        draw_dashes(axes, search.single_token[1], colour)


def relaxation(column: Column, stats: FeatureStats, search: FeatureSearch, colour: Colour) -> None:
    """Set what mixtures of embeddings reached beside what tokens did."""
    if search.relaxation is None:
        return
    relaxed, discrete, theme = search.relaxation.relaxed, search.relaxation.discrete, column.sheet.theme
    tint = mix(theme.paper, colour, TINT)
    rows = (
        ("mixtures of embeddings", relaxed, theme.faint),
        ("their likeliest tokens", discrete, tint),
        ("the whole search", stats.largest_activation, tint),
    )
    with column.sheet.panel("relaxation"):
        kept = f"; tokens keep {share(discrete / relaxed)} of it" if relaxed > 0 and discrete >= 0 else ""
        lacks = "; below zero: what is lacking to fire" if min(relaxed, discrete) < 0 else ""
        column.heading("What relaxing promised", f"activation; mixtures are no text, and never a result{kept}{lacks}")
        most = max(abs(value) for _, value, _ in rows) or 1.0
        numbers = max(width_of(number(value), SMALL) for _, value, _ in rows)
        for name, value, shade in rows:
            column.row(partial(words, name), number(value), abs(value) / most, shade, numbers)
    column.y += PANEL_GAP


def words(text: str, width: float) -> Line:
    """Return words of ours as the label of a row at most ``width`` points long."""
    return set_lines(plain(shorten(text, width, BODY)), width, BODY)[0]
