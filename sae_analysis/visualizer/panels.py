"""The panels of a feature page. Each is set at the foot of its column, which grows by it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from sae_analysis.records import ActivationExample, FeatureStats, TokenActivity, TokenValues
from sae_analysis.visualizer import plots, wording
from sae_analysis.visualizer.digits import UNKNOWN, count, number, share, signed, signed_tick
from sae_analysis.visualizer.plots import Look
from sae_analysis.visualizer.sheet import ASCENT, Box, Sheet, width_of
from sae_analysis.visualizer.theme import BODY, BODY_LEADING, SMALL, SMALL_LEADING, Colour, mix
from sae_analysis.visualizer.tokens import Line, Piece, pieces_of, plain, quoted, set_label, set_lines, set_round

MOST_LINES = 3
"""Lines of text an example may take, one fewer over the whole width; what is further from its peak is cut."""

_VALUE_WIDTH, _WIDE_VALUE_WIDTH = 58.0, 100.0
_EXAMPLE_GAP = 6.0
_PANEL_GAP = 15.0
_ROW = 13.0
_TABLE_ROWS = 10
_NEAREST = 6
_HALF_COLUMN_GAP = 10.0
_HISTOGRAM_HEIGHT = 78.0
_LOW_HISTOGRAM_HEIGHT = 58.0
_KEY_WIDTH = 52.0
_KEY_STEPS = 24
_TINT = 0.22
_GROUND = 0.6
_MEDIAN, _HIGH = 0.5, 0.9

_CELL_GAP = 0.6
"""Paper left between the grounds of two tokens."""


@dataclass(slots=True)
class Column:
    """A column being filled from the top: what is set next begins at ``y``."""

    sheet: Sheet
    x: float
    y: float
    width: float
    free_from: float = math.inf
    """Where the column beside it ends."""
    free_width: float = 0.0
    """Width from there on."""
    is_wide: bool = False

    def widen(self) -> None:
        """Take the width of the page once the column beside this one has ended."""
        if not self.is_wide and self.y >= self.free_from:
            self.width, self.is_wide = self.free_width, True

    @property
    def right(self) -> float:
        """Right edge."""
        return self.x + self.width

    def take(self, height: float) -> Box:
        """Return the next ``height`` points and go on below them."""
        box = Box(self.x, self.y, self.width, height)
        self.y += height
        return box

    def paragraph(self, pieces: Sequence[Piece], *, size: float, colour: Colour) -> None:
        """Set a sentence, the tokens quoted in it on a faint ground."""
        theme = self.sheet.theme
        leading = BODY_LEADING if size == BODY else SMALL_LEADING
        for line in set_lines(pieces, self.width, size):
            box = self.take(leading)
            for owners, group in groupby(line.placed, key=lambda place: place.piece.owners):
                if owners:
                    places = list(group)
                    end = places[-1].x + places[-1].width
                    ground = Box(box.x + places[0].x - 1.5, box.y + 1, end - places[0].x + 3, leading - 2)
                    self.sheet.rectangle(ground, mix(theme.paper, theme.faint, _GROUND))
            self.sheet.line(box.x, box.y + leading * 0.73, line, size=size, colour=colour)

    def caption(self, text: str) -> None:
        """Say what is shown, small and grey."""
        self.paragraph(plain(text), size=SMALL, colour=self.sheet.theme.quiet)

    def heading(self, title: str, says: str = "") -> None:
        """Set a panel's title and caption."""
        box = self.take(BODY_LEADING - 1)
        self.sheet.text(box.x, box.y + ASCENT * BODY, title, size=BODY, bold=True, width=self.width)
        if says:
            self.caption(says)
        self.y += 3


def sentence(parts: Sequence[wording.Part]) -> list[Piece]:
    """Return the pieces of a sentence of words and quoted tokens."""
    pieces: list[Piece] = []
    for index, (text, is_token) in enumerate(parts):
        pieces += quoted(text, index) if is_token else plain(text)
    return pieces


def activation_scale(stats: FeatureStats) -> float:
    """Return the activation at which the colour of a page is full: the largest magnitude there is on it."""
    bands = [example for band in stats.example_bands for example in band.examples]
    seen = [abs(value) for example in (*stats.examples, *bands) for value in example.activations]
    return max([abs(stats.max_activation), abs(stats.min_activation), *seen])


def statistics_strip(column: Column, stats: FeatureStats) -> None:
    """Set the feature's numbers side by side, and the features whose decoder direction is nearest."""
    quantiles = dict(stats.quantiles)
    high_at = min((at for at in quantiles if at >= _HIGH), default=_HIGH)
    high, low = number(stats.max_activation), number(stats.min_activation)
    largest = ("largest activation", high, f"lowest {low}" if stats.min_activation < 0 else "on any token")
    if abs(stats.min_activation) > abs(stats.max_activation):
        largest = ("lowest activation", low, f"largest {high}")
    facts = [
        ("fires on", share(stats.density), f"{share(stats.sparsity)} sparse"),
        largest,
        ("mean active", number(stats.mean_activation), f"± {number(stats.std_activation)}"),
        ("median active", number(quantiles.get(_MEDIAN)), f"{high_at * 100:g} % ≤ {number(quantiles.get(high_at))}"),
        ("decoder norm", number(stats.decoder_norm), f"encoder {number(stats.encoder_norm)}"),
        ("enc–dec cosine", number(stats.encoder_decoder_cosine), ""),
        ("logit skew", number(stats.logit_skew), f"kurtosis {number(stats.logit_kurtosis)}"),
    ]
    sheet, quiet = column.sheet, column.sheet.theme.quiet
    step = column.width / len(facts)
    with sheet.panel("statistics"):
        box = column.take(38)
        for index, (name, value, note) in enumerate(facts):
            left, room = box.x + index * step, step - 5
            sheet.text(left, box.y + 9, name, colour=quiet, width=room)
            size = BODY if width_of(value, BODY) <= room else SMALL
            sheet.text(left, box.y + 22, value, size=size, bold=True, width=room)
            sheet.text(left, box.y + 33, "" if UNKNOWN in note else note, colour=quiet, width=room)
        if stats.nearest_features:
            near = [f"{feature} ({number(cosine)})" for feature, cosine in stats.nearest_features[:_NEAREST]]
            column.caption(f"nearest decoder directions (cosine): {', '.join(near)}")


def top_examples(column: Column, stats: FeatureStats, scale: float) -> None:
    """Set the strongest examples, or why there are none."""
    with column.sheet.panel("examples"):
        if stats.examples:
            _colour_key(column, scale, both_signs=stats.min_activation < 0)
            column.heading("Strongest examples", "one a window; peak bold and underlined, its activation at the right")
            _examples(column, stats.examples, scale)
        else:
            never = f"It never fired in {count(stats.token_count)} tokens: there is no example to show."
            column.heading("Strongest examples", never if stats.is_dead else "No example was kept.")
    column.y += _PANEL_GAP


def _colour_key(column: Column, scale: float, *, both_signs: bool) -> None:
    """Set the scale of the activation colour at the right of the line that comes next."""
    sheet, theme = column.sheet, column.sheet.theme
    low, high = (-scale if both_signs else 0.0), scale
    baseline = column.y + 9
    x = column.right - width_of(number(high), SMALL)
    sheet.text(x, baseline, number(high), colour=theme.quiet)
    x -= _KEY_WIDTH + 4
    step = _KEY_WIDTH / _KEY_STEPS
    for index in range(_KEY_STEPS):
        value = low + (high - low) * (index + 0.5) / _KEY_STEPS
        sheet.rectangle(Box(x + step * index, column.y + 3, step, 7), theme.activation(value, scale))
    if both_signs:
        _line_under(sheet, Box(x, column.y + 3, _KEY_WIDTH / 2, 7))
    sheet.text(x - 4, baseline, f"activation  {number(low)}", colour=theme.quiet, align="right")


def _examples(column: Column, items: Sequence[ActivationExample], scale: float, first_row: int = 0) -> None:
    """Set examples one below the other: text with coloured tokens, value at the right, source below it."""
    for row, example in enumerate(items, first_row):
        column.widen()
        _example(column, example, scale, row)
        column.y += _EXAMPLE_GAP


def _example(column: Column, example: ActivationExample, scale: float, row: int) -> None:
    sheet, peak, right, top = column.sheet, example.peak_position, column.right, column.y
    notes, lines = (_WIDE_VALUE_WIDTH, MOST_LINES - 1) if column.is_wide else (_VALUE_WIDTH, MOST_LINES)
    for line in set_round(pieces_of(example.tokens), peak, column.width - notes, BODY, lines):
        token_line(sheet, line, example, scale, column.take(BODY_LEADING), row=row)
    sheet.text(right, top + 11, number(example.activations[peak]), size=BODY, bold=True, align="right")
    place = f"token {example.source_position + peak:,}" if example.source else ""
    baseline = top + BODY_LEADING + 6
    for note in filter(None, (" ".join(example.source.split()), place)):
        sheet.text(right, baseline, note, colour=sheet.theme.quiet, align="right", width=notes - 8)
        baseline += SMALL_LEADING - 1
    column.y = max(column.y, baseline - 6)


def token_line(sheet: Sheet, line: Line, example: ActivationExample, scale: float, place: Box, *, row: int) -> None:
    """Set one line of tokens on the colour of their activation; tokens that share a character share its width."""
    after = [*(placed.piece.owners for placed in line.placed[1:]), ()]
    for placed, following in zip(line.placed, after, strict=True):
        owners = placed.piece.owners
        for index, owner in enumerate(owners):
            strip = placed.width / len(owners)
            gap = _CELL_GAP if index == len(owners) - 1 and owners != following else 0.0
            box = Box(place.x + placed.x + index * strip, place.y + 1, max(strip - gap, 0), BODY_LEADING - 2)
            value = example.activations[owner]
            sheet.cell(row, owner, value, sheet.theme.activation(value, scale), box)
            if value < 0:
                _line_under(sheet, box)
    sheet.line(place.x, place.y + 11.3, line, size=BODY, bold_token=example.peak_position)


def _line_under(sheet: Sheet, box: Box) -> None:
    """Mark a ground as below zero, for readers who see the two hues as one grey."""
    shade = mix(sheet.theme.negative, sheet.theme.ink, 0.35)
    sheet.rectangle(Box(box.x, box.bottom - 0.8, box.width, 0.8), shade)


def banded_examples(column: Column, stats: FeatureStats, scale: float) -> None:
    """Set examples over the range of the activation: what looks clean at its top is often not below it."""
    if not any(band.examples for band in stats.example_bands):
        return
    with column.sheet.panel("bands"):
        said = "drawn at random from the tokens it fired on; the drawn token bold and underlined"
        column.heading("Examples over its range", said)
        row = len(stats.examples)
        for index, band in enumerate(stats.example_bands):
            if band.examples:
                bands = len(stats.example_bands)
                column.caption(wording.band_name(index, bands, band.lower_quantile, band.upper_quantile))
                column.y += 2
                _examples(column, band.examples, scale, first_row=row)
                column.y += 3
            row += len(band.examples)
    column.y += _PANEL_GAP


def activation_histogram(column: Column, stats: FeatureStats, colour: Colour) -> None:
    """Set how strongly the feature fires when it does."""
    with column.sheet.panel("activation histogram"):
        if stats.histogram.total:
            column.heading("How strongly it fires", wording.firing_caption(stats))
            look = Look(colour=colour, negative=column.sheet.theme.negative)
            plots.draw_histogram(column.sheet, column.take(_HISTOGRAM_HEIGHT), stats.histogram, look)
        else:
            column.heading("How strongly it fires", "It never fired: nothing was counted.")
    column.y += _PANEL_GAP


def firing_tokens(column: Column, stats: FeatureStats, colour: Colour) -> None:
    """Set the tokens the feature fires on most, with their share of its firings as a bar."""
    if not stats.top_tokens:
        return
    with column.sheet.panel("firing tokens"):
        column.heading("Tokens it fires on most", "share of its firings, mean activation; · is a space")
        rows = stats.top_tokens[:_TABLE_ROWS]
        most = max(item.share for item in rows) or 1.0
        for item in rows:
            _token_row(column, item, most, mix(column.sheet.theme.paper, colour, _TINT))
    column.y += _PANEL_GAP


def _token_row(column: Column, item: TokenActivity, most: float, tint: Colour) -> None:
    sheet, place, numbers = column.sheet, column.take(_ROW), 46.0
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
            _effect_rows(towards, "towards", stats.top_boosted_tokens, mix(sheet.theme.paper, colour, _TINT))
            _effect_rows(away, "away from", stats.top_suppressed_tokens, sheet.theme.faint)
            column.y = max(towards.y, away.y) + 6
            if total:
                look = Look(colour=colour, negative=colour, x_label=signed_tick)
                plots.draw_histogram(sheet, column.take(_LOW_HISTOGRAM_HEIGHT), stats.logit_histogram, look)
        else:
            column.heading("What it pushes", "The hook has no linear path to the logits.")
    column.y += _PANEL_GAP


def _effect_rows(column: Column, title: str, effects: TokenValues, tint: Colour) -> None:
    column.caption(title)
    sheet, rows = column.sheet, effects[:_TABLE_ROWS]
    strongest = max((abs(effect) for _, effect in rows), default=0.0) or 1.0
    for token, effect in rows:
        place, value = column.take(_ROW), signed(effect)
        label = place.width - width_of(value, SMALL) - 4
        sheet.rectangle(Box(place.x, place.y + 1, label * abs(effect) / strongest, _ROW - 2), tint)
        sheet.line(place.x + 2, place.y + 9.5, set_label(token, label - 4, BODY), size=BODY)
        sheet.text(place.right, place.y + 9.5, value, align="right")


def firing_positions(column: Column, stats: FeatureStats, colour: Colour) -> None:
    """Set where in the context the feature fires."""
    histogram, tokens = stats.position_histogram, stats.position_token_counts
    if not histogram.total:
        return
    with column.sheet.panel("positions"):
        of = "share of the tokens at each place of the window" if tokens else "firings at each place of the window"
        column.heading("Where in the context", f"{of} on which it fires; place in tokens")
        rates: list[float] = list(histogram.counts)
        if tokens:
            rates = [many / of_all if of_all else 0.0 for many, of_all in zip(histogram.counts, tokens, strict=True)]
        look = Look(colour=colour, negative=colour, x_label=_whole, y_label=share if tokens else _whole)
        plots.draw_rates(column.sheet, column.take(_LOW_HISTOGRAM_HEIGHT), histogram.edges, rates, look)
    column.y += _PANEL_GAP


def _whole(value: float) -> str:
    return count(round(value))
