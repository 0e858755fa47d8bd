"""The panels of a feature page. Each is set at the foot of its column, which grows by it."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate

from sae_analysis.records import FeatureStats, TokenActivity, TokenValues
from sae_analysis.visualizer import plots, wording
from sae_analysis.visualizer.columns import PANEL_GAP, ROW, TINT, Column
from sae_analysis.visualizer.digits import UNKNOWN, count, number, share, signed, signed_tick
from sae_analysis.visualizer.plots import Look
from sae_analysis.visualizer.sheet import Box, width_of
from sae_analysis.visualizer.theme import BODY, SMALL, Colour, mix
from sae_analysis.visualizer.tokens import set_label

_TABLE_ROWS = 10
_NEAREST = 6
_HALF_COLUMN_GAP = 10.0
_HISTOGRAM_HEIGHT = 78.0
_LOW_HISTOGRAM_HEIGHT = 58.0
_MEDIAN, _HIGH = 0.5, 0.9

Fact = tuple[str, str, str]
"""Name of a number, the number, and a note below it."""


def facts_on_text(stats: FeatureStats) -> list[Fact]:
    """Return what the tokens of a corpus say about the feature."""
    quantiles = dict(stats.quantiles)
    high_at = min((at for at in quantiles if at >= _HIGH), default=_HIGH)
    high, low = number(stats.max_activation), number(stats.min_activation)
    largest = ("largest activation", high, f"lowest {low}" if stats.min_activation < 0 else "on any token")
    if abs(stats.min_activation) > abs(stats.max_activation):
        largest = ("lowest activation", low, f"largest {high}")
    return [
        ("fires on", share(stats.density), f"{share(stats.sparsity)} sparse"),
        largest,
        ("mean active", number(stats.mean_activation), f"± {number(stats.std_activation)}"),
        ("median active", number(quantiles.get(_MEDIAN)), f"{high_at * 100:g} % ≤ {number(quantiles.get(high_at))}"),
    ]


def facts_of_weights(stats: FeatureStats) -> list[Fact]:
    """Return what the SAE's weights alone say about the feature."""
    return [
        ("decoder norm", number(stats.decoder_norm), f"encoder {number(stats.encoder_norm)}"),
        ("enc–dec cosine", number(stats.encoder_decoder_cosine), ""),
        ("logit skew", number(stats.logit_skew), f"kurtosis {number(stats.logit_kurtosis)}"),
    ]


def fact_strip(column: Column, facts: Sequence[Fact], parts: Sequence[float] = ()) -> None:
    """Set numbers side by side, each below its name.

    ``parts`` are the shares of the column's width that they take, of one in all; equal ones if not given.
    """
    sheet, quiet = column.sheet, column.sheet.theme.quiet
    shares = parts or [1 / len(facts)] * len(facts)
    box = column.take(38)
    for (name, value, note), part, before in zip(facts, shares, accumulate(shares, initial=0.0), strict=False):
        left, room = box.x + before * column.width, part * column.width - 5
        sheet.text(left, box.y + 9, name, colour=quiet, width=room)
        size = BODY if width_of(value, BODY) <= room else SMALL
        sheet.text(left, box.y + 22, value, size=size, bold=True, width=room)
        sheet.text(left, box.y + 33, "" if UNKNOWN in note else note, colour=quiet, width=room)


def statistics_strip(column: Column, stats: FeatureStats, facts: Sequence[Fact]) -> None:
    """Set the feature's numbers side by side, and the features whose decoder direction is nearest."""
    with column.sheet.panel("statistics"):
        fact_strip(column, facts)
        if stats.nearest_features:
            near = [f"{feature} ({number(cosine)})" for feature, cosine in stats.nearest_features[:_NEAREST]]
            column.caption(f"nearest decoder directions (cosine): {', '.join(near)}")


def activation_histogram(column: Column, stats: FeatureStats, colour: Colour) -> None:
    """Set how strongly the feature fires when it does."""
    with column.sheet.panel("activation histogram"):
        if stats.histogram.total:
            column.heading("How strongly it fires", wording.firing_caption(stats))
            is_log = not wording.few_firings(stats)
            look = Look(colour=colour, negative=column.sheet.theme.negative, log_counts=is_log)
            plots.draw_histogram(column.sheet, column.take(_HISTOGRAM_HEIGHT), stats.histogram, look)
        else:
            column.heading("How strongly it fires", "It never fired: nothing was counted.")
    column.y += PANEL_GAP


def firing_tokens(column: Column, stats: FeatureStats, colour: Colour) -> None:
    """Set the tokens the feature fires on most, with their share of its firings as a bar."""
    if not stats.top_tokens:
        return
    with column.sheet.panel("firing tokens"):
        of = "firings within the examples" if stats.search else "firings"
        column.heading("Tokens it fires on most", f"share of its {of}, mean activation; · is a space")
        rows = stats.top_tokens[:_TABLE_ROWS]
        most = max(item.share for item in rows) or 1.0
        for item in rows:
            _token_row(column, item, most, mix(column.sheet.theme.paper, colour, TINT))
    column.y += PANEL_GAP


def _token_row(column: Column, item: TokenActivity, most: float, tint: Colour) -> None:
    sheet, place, numbers = column.sheet, column.take(ROW), 46.0
    label = place.width - 2 * numbers
    sheet.rectangle(Box(place.x, place.y + 1, label * item.share / most, place.height - 2), tint)
    sheet.line(place.x + 2, place.y + 9.5, set_label(item.token, label - 4, BODY), size=BODY)
    sheet.text(place.right - numbers - 4, place.y + 9.5, share(item.share), align="right", width=numbers)
    sheet.text(place.right, place.y + 9.5, number(item.mean_activation), align="right", width=numbers)


def logit_effects(column: Column, stats: FeatureStats, colour: Colour) -> None:
    """Set which tokens the decoder direction makes likelier and less likely, with the distribution of all effects."""
    sheet, total = column.sheet, stats.logit_histogram.total
    with sheet.panel("logit effects"):
        if stats.top_boosted_tokens or stats.top_suppressed_tokens:
            of_all = f"; below, all {count(total)} tokens, log scale" if total else ""
            column.heading("What it pushes", f"change of a token's logit per unit of activation{of_all}")
            half = (column.width - _HALF_COLUMN_GAP) / 2
            towards = Column(sheet, column.x, column.y, half)
            away = Column(sheet, column.right - half, column.y, half)
            effect_rows(towards, "towards", stats.top_boosted_tokens, mix(sheet.theme.paper, colour, TINT))
            effect_rows(away, "away from", stats.top_suppressed_tokens, sheet.theme.faint)
            column.y = max(towards.y, away.y) + 6
            if total:
                look = Look(colour=colour, negative=colour, x_label=signed_tick)
                plots.draw_histogram(sheet, column.take(_LOW_HISTOGRAM_HEIGHT), stats.logit_histogram, look)
        else:
            column.heading("What it pushes", "The hook has no linear path to the logits.")
    column.y += PANEL_GAP


def effect_rows(column: Column, title: str, effects: TokenValues, tint: Colour) -> None:
    """Set tokens with what becomes of their logits, a bar as long as its part of the largest behind each."""
    rows = effects[:_TABLE_ROWS]
    column.caption(title if rows else f"{title} none")
    strongest = max((abs(effect) for _, effect in rows), default=0.0) or 1.0
    numbers = max((width_of(signed(effect), SMALL) for _, effect in rows), default=0.0)
    for token, effect in rows:
        label = partial(set_label, token, size=BODY)
        column.row(label, signed(effect), abs(effect) / strongest, tint, numbers)


def firing_positions(column: Column, stats: FeatureStats, colour: Colour) -> None:
    """Set where in the context the feature fires."""
    histogram, tokens = stats.position_histogram, stats.position_token_counts
    if not histogram.total:
        return
    with column.sheet.panel("positions"):
        of = "share of the tokens at each place of the window" if tokens else "firings at each place of the window"
        few = wording.few_firings(stats)
        only = f"; only {few}" if few else ""
        column.heading("Where in the context", f"{of} on which it fires; place in tokens{only}")
        rates: list[float] = list(histogram.counts)
        if tokens:
            rates = [many / of_all if of_all else 0.0 for many, of_all in zip(histogram.counts, tokens, strict=True)]
        look = Look(colour=colour, negative=colour, x_label=plots.whole, y_label=share if tokens else plots.whole)
        plots.draw_rates(column.sheet, column.take(_LOW_HISTOGRAM_HEIGHT), histogram.edges, rates, look)
    column.y += PANEL_GAP
