"""What a feature does beside what it could do: the page of one feature, and the overview of all."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes

from sae_analysis.records import Comparison, FeatureStats, Likeness, TokenSpan
from sae_analysis.visualizer import examples, plots, searches
from sae_analysis.visualizer.columns import INNER_WIDTH, PANEL_GAP, TINT, Column, title_of
from sae_analysis.visualizer.curves import Axis, draw_chart, draw_dots, draw_steps
from sae_analysis.visualizer.digits import UNKNOWN, count, number, share, shortened
from sae_analysis.visualizer.panels import Fact, effect_rows, fact_strip
from sae_analysis.visualizer.plots import Look
from sae_analysis.visualizer.sheet import Box, Page, Sheet
from sae_analysis.visualizer.synthetic_panels import words
from sae_analysis.visualizer.theme import GUTTER, LIGHT, MARGIN, Colour, Theme, mix
from sae_analysis.visualizer.wording import Header, Part, few_firings

_SHOWN, _CUT = 4, 2
"""Examples of each kind on a feature's page, and of real text cut to the length of the search."""

_FACT_PARTS = (0.135, 0.165, 0.145, 0.15, 0.135, 0.135, 0.135)
"""Of the width, what each number under the title takes: the longest name has more, that none touches the next."""

_EFFECTS = 6
_HALF_COLUMN_GAP = 10.0
_CHART = 118.0
_HISTOGRAM = 96.0
_STEP, _DOT, _CLOUD = 1.6, 3.0, 4.6

_ROWS = 60
"""Features that the overview lists: the least realised."""

_ROW = 14.0
_BAR_FROM, _BAR_WIDTH = 30.0, 84.0
_BAR_END = 1.25
"""Realised fraction at which a bar is cut."""

_CHART_END = 1.5
"""Realised fraction at which the chart of all features ends."""

_LEAST_PART = 1e-3
"""Fraction below which its size says nothing more."""


# --- one feature ---------------------------------------------------------------------------------------------------


def feature_comparison_page(
    comparison: Comparison,
    real: FeatureStats,
    synthetic: FeatureStats,
    header: Header | None = None,
    *,
    theme: Theme = LIGHT,
    dpi: int = 150,
) -> Page:
    """Return the page of one feature: both behaviours side by side on one scale of colours."""
    sheet = Sheet(theme)
    page = title_of(
        sheet, f"Feature {comparison.feature_idx}: real beside synthetic", _answer(comparison), header or Header()
    )
    fact_strip(page, _facts(comparison), _FACT_PARTS)
    page.y += 12
    width = (INNER_WIDTH - GUTTER) / 2
    left = Column(sheet, MARGIN, page.y, width)
    right = Column(sheet, MARGIN + width + GUTTER, page.y, width)
    scale = max(examples.activation_scale(real), examples.activation_scale(synthetic))
    _examples(left, "On real text", real, scale, first_row=0)
    _examples(right, "Found by the search", synthetic, scale, first_row=_SHOWN)
    left.y = right.y = max(left.y, right.y) + PANEL_GAP
    _excerpts(left, synthetic, scale)
    _histogram(left, comparison, real)
    _fluency(right, synthetic)
    _likeness(right, comparison.likeness)
    left.y = right.y = max(left.y, right.y)
    _effects(left, "What it changes of the prediction, on real text", real, theme.real)
    _effects(right, "What it changes there on the search's", synthetic, theme.synthetic)
    return sheet.finish(max(left.y, right.y) + MARGIN / 2, dpi)


def _answer(comparison: Comparison) -> list[Part]:
    said = [comparison.verdict_in_words]
    if comparison.realised is not None:
        said.append(f"text reaches {_part(comparison.realised)} of what the search found")
    if comparison.other_seeds:
        least, most = number(min(comparison.other_seeds)), number(max(comparison.other_seeds))
        said.append(f"other seeds found {least if least == most else f'{least} to {most}'}")
    # How far text goes is said already, and decides on superstimuli; behind what decides stands what is in doubt.
    first = 1 if comparison.verdict == "superstimulus" else 0
    last = 2 if comparison.is_settled is False else first + 1
    return ["; ".join([*said, *comparison.reasons[first:last]])]


def _facts(comparison: Comparison) -> list[Fact]:
    low, high = comparison.realised_low, comparison.realised_high
    until, behind, unsaid = comparison.tokens_until, comparison.behind_text, _unsaid(comparison, "")
    return [
        ("real maximum", number(comparison.real_max), _if(comparison.excerpt_max, "cut short {}")),
        ("synthetic maximum", number(comparison.synthetic_max), _if(comparison.fluent_max, "fluent {}")),
        ("realised", _part(comparison.realised), _between(low, high, " to ") or unsaid),
        ("tokens to meet it", _tokens(until.median) if until else UNKNOWN, _span(until, " to ") if until else unsaid),
        ("as fluent as text", number(comparison.as_fluent_max), ""),
        ("one token alone", number(comparison.single_token_max), _if(comparison.ceiling, "ceiling {}")),
        ("behind other text", _part(behind), "" if behind is None else "is left (median)"),
    ]


def _part(value: float | None) -> str:
    return "<0.1 %" if value is not None and 0 < value < _LEAST_PART else share(value)


def _between(low: float | None, high: float | None, joint: str) -> str:
    if low is None or high is None:
        return ""
    return joint.join(dict.fromkeys((_part(low), _part(high))))


def _if(value: float | None, said: str) -> str:
    return "" if value is None else said.format(number(value))


def _tokens(value: float | None) -> str:
    return "never" if value is None else count(round(value))


def _span(until: TokenSpan, joint: str) -> str:
    """Return the ends of the interval, each once; nothing where they are what the median is."""
    ends = [*dict.fromkeys((_tokens(until.low), _tokens(until.high)))]
    return "" if ends == [_tokens(until.median)] else joint.join(ends)


def _median_and_span(until: TokenSpan) -> str:
    span = _span(until, "–")
    return f"{_tokens(until.median)} ({span})" if span else _tokens(until.median)


def _unsaid(comparison: Comparison, otherwise: str) -> str:
    """Return why nothing is said of longer texts: too few firings, unless the search fired nothing to hold them to."""
    return otherwise if comparison.realised is None else "too few firings"


def _examples(column: Column, title: str, stats: FeatureStats, scale: float, *, first_row: int) -> None:
    shown = stats.examples[:_SHOWN]
    with column.sheet.panel(title):
        missing = "Nothing fired it: there is no example to show."
        of_all = f"the strongest {len(shown)} of {shortened(len(stats.examples), 'example')}; one scale on this page"
        column.heading(title, of_all if shown else missing)
        examples.example_list(column, shown, scale, first_row=first_row)


def _excerpts(column: Column, synthetic: FeatureStats, scale: float) -> None:
    """Set real text as the search met it: what is left of it without what was in front."""
    shown = synthetic.search.excerpts[:_CUT] if synthetic.search else ()
    if not shown:
        return
    with column.sheet.panel("real text cut short"):
        said = "without what was in front; bars below: lost without that token"
        column.heading("Real text cut to the search's length", said + examples.meanings_of_marks(shown))
        examples.example_list(column, shown, scale, first_row=2 * _SHOWN)
    column.y += PANEL_GAP


def _histogram(column: Column, comparison: Comparison, real: FeatureStats) -> None:
    theme = column.sheet.theme
    with column.sheet.panel("activation histogram"):
        if not real.histogram.total:
            column.heading("How strongly it fires", "It never fired on the text: nothing was counted.")
        else:
            marks = [(comparison.real_max, theme.real, "R"), (comparison.synthetic_max, theme.synthetic, "S")]
            few = few_firings(real)
            scales = f"activation on a log scale; only {few}" if few else "both log scale"
            said = f"tokens of real text per bin, {scales}; lines: R real maximum, S synthetic maximum"
            if comparison.fluent_max:
                marks.append((comparison.fluent_max, theme.ink, "F"))
                said += ", F fluent (at most 6 nats per token)"
            column.heading("How strongly it fires", said)
            one_sign = real.min_activation >= 0
            shown = tuple(mark for mark in marks if mark[0] > 0 and one_sign)
            look = Look(colour=theme.real, negative=theme.negative, log_counts=not few, marks=shown)
            plots.draw_histogram(column.sheet, column.take(_HISTOGRAM), real.histogram, look)
    column.y += PANEL_GAP


def _fluency(column: Column, synthetic: FeatureStats) -> None:
    theme = column.sheet.theme
    steps = [] if synthetic.is_dead else searches.frontier(synthetic)
    excerpts = synthetic.search.excerpts if synthetic.search else ()
    cloud = [*searches.fluency(excerpts)]
    not_text = searches.fluency(tuple(one for one in excerpts if one.synthesis and not one.synthesis.is_text))
    with column.sheet.panel("fluency"):
        if not steps:
            column.heading("Fluency", "Nothing to show: the search has no frontier of fluency.")
        else:
            said = "steps and dots: the strongest found within a cross-entropy"
            said += "; circles: real text cut to the same length" if cloud else ""
            if any(value > max((y for x, y in steps if x <= surprise), default=0.0) for surprise, value in not_text):
                said += "; above the steps: not text"
            column.heading("Fluency", said)
            across = Axis.over("cross-entropy, nats per token", [x for x, _ in (*steps, *cloud)])
            up = Axis.of_activations([y for _, y in (*steps, *cloud)])

            def draw(axes: Axes) -> None:
                draw_steps(axes, steps, across.high, theme.synthetic, _STEP)
                draw_dots(axes, steps, theme.synthetic, theme.synthetic, _DOT)
                draw_dots(axes, cloud, theme.paper, theme.real, _CLOUD)

            draw_chart(column.sheet, column.take(_CHART), across, up, draw)
    column.y += PANEL_GAP


def _likeness(column: Column, likeness: Likeness) -> None:
    """Set how alike both firings are, beside how alike real ones are to each other."""
    rows = [
        ("residual vectors, cosine", likeness.residual, likeness.residual_among_real),
        ("features active beside it, Jaccard", likeness.coactive, likeness.coactive_among_real),
        ("tokens it raises, in common", likeness.raised, likeness.raised_among_real),
        ("peaks on a token of its own", likeness.same_token, None),
    ]
    known = [row for row in rows if row[1] is not None]
    with column.sheet.panel("likeness"):
        column.heading("How alike the two are", "mean over pairs; in brackets the same among real examples")
        for name, value, among in known:
            assert value is not None, "filtered above"
            said = number(value) + ("" if among is None else f" ({number(among)})")
            column.row(partial(words, name), said, min(1.0, value), column.sheet.theme.faint, 62.0)
        if likeness.length_real and likeness.length_synthetic is not None:
            said = f"{number(likeness.length_synthetic)} ({number(likeness.length_real)})"
            column.row(partial(words, "residual vectors, length"), said, 0.0, column.sheet.theme.faint, 62.0)
        if not known:
            column.caption("Nothing to show: there is nothing to compare.")
    column.y += PANEL_GAP


def _effects(column: Column, title: str, stats: FeatureStats, colour: Colour) -> None:
    """Set what the next-token prediction at the strongest example's peak owes to the feature."""
    firing = next((example.firing for example in stats.examples if example.firing), None)
    with column.sheet.panel(title):
        if firing is None:
            column.heading(title, "Nothing to show: it was not looked at.")
        else:
            ablation, half = firing.ablation, (column.width - _HALF_COLUMN_GAP) / 2
            said = "logits at the strongest peak with the feature, less those without it; "
            column.heading(title, f"{said}divergence there {number(ablation.divergence)} nats")
            raised = Column(column.sheet, column.x, column.y, half)
            lowered = Column(column.sheet, column.right - half, column.y, half)
            effect_rows(raised, "raises", ablation.raised[:_EFFECTS], mix(column.sheet.theme.paper, colour, TINT))
            effect_rows(lowered, "lowers", ablation.lowered[:_EFFECTS], column.sheet.theme.faint)
            column.y = max(raised.y, lowered.y)
    column.y += PANEL_GAP


# --- all features --------------------------------------------------------------------------------------------------


def comparison_page(
    features: Sequence[Comparison],
    token_count: int,
    header: Header | None = None,
    *,
    theme: Theme = LIGHT,
    dpi: int = 150,
) -> Page:
    """Return the overview: every feature's real maximum against its synthetic one, the least realised first."""
    sheet = Sheet(theme)
    page = title_of(sheet, "Real beside synthetic", [_overview(features, token_count)], header or Header())
    found = [(one, one.realised) for one in features if one.realised is not None]
    if found:
        _all_realised(page, found)
    shown = features[:_ROWS]
    with sheet.panel("features"):
        said = (
            "bar: real maximum, thick mark: fluent sequences (at most 6 nats per token), thin one: synthetic maximum; "
        )
        said += "line: where the maximum of another text as long would be, nine times out of ten"
        if _beyond(shown, _BAR_END):
            said += f", cut at {100 * _BAR_END:.0f} %"
        if any(one.is_settled is False for one in shown):
            said += "; unsettled: another text as long, or a longer search, may give another verdict"
        if any(one.realised is None for one in shown):
            said += f"; {UNKNOWN}: nothing fired it in the search"
        if len(features) > len(shown):
            said += f"; the {len(shown)} least realised of {count(len(features))}"
        page.heading("Feature by feature", said)
        _row_head(page)
        for one in shown:
            _set_row(page, one)
    return sheet.finish(page.y + MARGIN / 2, dpi)


def _overview(features: Sequence[Comparison], token_count: int) -> str:
    verdicts = Counter(one.verdict for one in features)
    unsettled = Counter(one.verdict for one in features if one.is_settled is False)
    said = f"{shortened(len(features), 'feature')} on {shortened(token_count, 'token')}: "
    return said + ", ".join(
        f"{count(many)} {verdict}" + (f" ({count(unsettled[verdict])} unsettled)" if unsettled[verdict] else "")
        for verdict, many in verdicts.most_common()
    )


def _beyond(features: Iterable[Comparison], end: float) -> bool:
    """Return whether a chart of realised fractions that ends there cuts a value or its interval."""
    return any((value or 0.0) > end for one in features for value in (one.realised, one.realised_high))


def _all_realised(page: Column, found: Sequence[tuple[Comparison, float]]) -> None:
    theme = page.sheet.theme
    with page.sheet.panel("realised"):
        said = "real maximum / synthetic maximum, least first; line: nine tenths of other texts"
        if _beyond((one for one, _ in found), _CHART_END):
            said += f"; what goes beyond {100 * _CHART_END:.0f} % is cut there"
        page.heading("Realised fraction", said)
        points = [(float(rank), min(value, _CHART_END)) for rank, (_, value) in enumerate(found, 1)]
        spans = [
            (rank, min(one.realised_low, _CHART_END), min(one.realised_high, _CHART_END))
            for rank, (one, _) in enumerate(found, 1)
            if one.realised_low is not None and one.realised_high is not None
        ]
        highest = max([1.0, *(value for _, value in points), *(high for _, _, high in spans)])
        across = Axis(name="rank of the feature, 1 the least realised", low=0.5, high=len(found) + 0.5, is_count=True)
        up = Axis(
            name="% of the synthetic maximum", low=0.0, high=1.05 * highest, label=lambda value: f"{100 * value:.0f}"
        )

        def draw(axes: Axes) -> None:
            axes.axhline(1.0, color=theme.ink, linewidth=0.9, dashes=(4, 2.5))
            for rank, low, high in spans:
                axes.plot([rank, rank], [low, high], color=mix(theme.paper, theme.real, 0.5), linewidth=1.0)
            draw_dots(axes, points, theme.real, theme.real, 2.6)

        draw_chart(page.sheet, page.take(_CHART), across, up, draw)
    page.y += PANEL_GAP


_COLUMNS: Mapping[str, float] = {
    "real": 154.0,
    "synthetic": 198.0,
    "realised": 238.0,
    "other text": 302.0,
    "tokens to meet it": 402.0,
}
"""Right edges of the numbers of a row."""

_VERDICT_FROM = 412.0


def _row_head(page: Column) -> None:
    box, grey = page.take(12), page.sheet.theme.quiet
    page.sheet.text(box.x, box.y + 8, "feature", colour=grey)
    for name, right in _COLUMNS.items():
        page.sheet.text(box.x + right, box.y + 8, name, colour=grey, align="right")
    page.sheet.text(box.x + _VERDICT_FROM, box.y + 8, "verdict", colour=grey)


def _set_row(page: Column, one: Comparison) -> None:
    sheet, theme, box = page.sheet, page.sheet.theme, page.take(_ROW)
    sheet.rectangle(Box(box.x, box.y, box.width, 0.5), theme.faint)
    baseline = box.y + 10
    sheet.text(box.x, baseline, str(one.feature_idx), bold=True, width=_BAR_FROM)

    def at(part: float) -> float:
        return box.x + _BAR_FROM + _BAR_WIDTH * min(part, _BAR_END) / _BAR_END

    if one.realised is not None:
        sheet.rectangle(Box(at(0), box.y + 3, at(one.realised) - at(0), _ROW - 6), mix(theme.paper, theme.real, 0.55))
        if one.realised_low is not None and one.realised_high is not None:
            low, high = at(one.realised_low), at(one.realised_high)
            sheet.rectangle(Box(low, box.y + _ROW / 2 - 0.4, high - low, 0.8), theme.ink)
        sheet.rectangle(Box(at(1.0) - 0.3, box.y + 1, 0.6, _ROW - 1), theme.ink)
        if one.fluent_max:
            fluent = at(one.fluent_max / one.synthetic_max)
            sheet.rectangle(Box(fluent - 1.2, box.y + 2, 2.4, _ROW - 4), theme.synthetic)
    until = one.tokens_until
    values = (
        number(one.real_max),
        number(one.synthetic_max),
        _part(one.realised),
        _between(one.realised_low, one.realised_high, "–") or _unsaid(one, UNKNOWN),
        _median_and_span(until) if until else _unsaid(one, UNKNOWN),
    )
    lefts = (_BAR_FROM + _BAR_WIDTH, *_COLUMNS.values())
    for left, right, value in zip(lefts, _COLUMNS.values(), values, strict=False):
        sheet.text(box.x + right, baseline, value, align="right", width=right - left - 3)
    sheet.text(box.x + _VERDICT_FROM, baseline, one.verdict_in_words, width=box.width - _VERDICT_FROM)
