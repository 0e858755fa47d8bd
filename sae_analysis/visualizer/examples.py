"""Examples: windows as lines of tokens on the colour of their activation, with what is known of each beside them."""

import math
from collections.abc import Iterator, Sequence

from sae_analysis.records import ActivationExample, FeatureSearch, FeatureStats, Synthesis
from sae_analysis.visualizer import searches, wording
from sae_analysis.visualizer.columns import PANEL_GAP, Column
from sae_analysis.visualizer.digits import number, shortened
from sae_analysis.visualizer.sheet import Box, Sheet, width_of
from sae_analysis.visualizer.theme import BODY, BODY_LEADING, SMALL, SMALL_LEADING, mix
from sae_analysis.visualizer.tokens import ELLIPSIS, Line, Piece, pieces_of, set_round

MOST_LINES = 3
"""Lines of text an example may take, one fewer over the whole width; what is further from its peak is cut."""

MOST_ON_THE_FRONTIER = 8
"""Examples along the frontier of fluency; of more, as many are shown at even steps."""

_VALUE_WIDTH, _WIDE_VALUE_WIDTH = 58.0, 100.0
_EXAMPLE_GAP = 6.0
_KEY_WIDTH = 52.0
_KEY_STEPS = 24

_CELL_GAP = 0.6
"""Paper left between the grounds of two tokens."""

_DEEPEST = 5.0
"""Height of the bar below a token without which the feature is silent."""


def activation_scale(stats: FeatureStats) -> float:
    """Return the activation at which the colour of a page is full: the largest magnitude there is on it."""
    bands = [example for band in stats.example_bands for example in band.examples]
    shown = (*stats.examples, *bands, *frontier_shown(stats), *_shortest(stats))
    seen = [abs(value) for example in shown for value in example.activations]
    return max([abs(stats.largest_activation), *seen])


def shown_count(stats: FeatureStats) -> int:
    """Return how many examples a page shows."""
    bands = sum(len(band.examples) for band in stats.example_bands)
    return len(stats.examples) + bands + len(frontier_shown(stats)) + len(_shortest(stats))


def top_examples(column: Column, stats: FeatureStats, scale: float) -> None:
    """Set the strongest examples, or why there are none; ``scale`` is the activation of full colour."""
    with column.sheet.panel("examples"):
        if stats.examples:
            if scale > 0:
                _colour_key(column, scale, both_signs=stats.min_activation < 0)
            closest = stats.search is not None and stats.is_dead
            column.heading("Closest examples" if closest else "Strongest examples", _legend(stats))
            example_list(column, stats.examples, scale)
        else:
            never = f"It never fired in {shortened(stats.token_count, 'token')}: there is no example to show."
            if stats.search:
                never = "Nothing that was tried fired it: there is no example to show."
            column.heading("Strongest examples", never if stats.is_dead else "No example was kept.")
    column.y += PANEL_GAP


def _legend(stats: FeatureStats) -> str:
    """Return how to read the strongest examples."""
    if stats.search is None:
        return "one a window; peak bold and underlined, its activation at the right"
    said = "peak bold and underlined, its activation at the right; the bar below a token is the share of it that is "
    said += "lost when that token alone is deleted, down to all of it"
    if stats.is_dead:
        said = "none of them fires it: how close one comes is its pre-activation, at the token in bold"
    shown = (*stats.examples, *frontier_shown(stats), *_shortest(stats))
    lost = [value for example in shown if example.synthesis for value in example.synthesis.attribution]
    if not stats.is_dead and any(value < 0 for value in lost):
        said += " (pale: gained)"
    said += "; start: what the search began with"
    said += _when(stats, stats.search)
    return said + meanings_of_marks(shown)


def _when(stats: FeatureStats, search: FeatureSearch) -> str:
    """Return why the strongest example does not say of itself what title and curve say of it."""
    beside, before = searches.made_beside(stats, search), searches.known_before(stats, search)
    return (f"; the first is {beside}" if beside else "") + (
        f"; one as strong as the first was known after {before}" if before else ""
    )


_MEANINGS = {
    searches.SINK: "the peak is an attention sink, which says little",
    searches.NOT_TEXT: "read again, its text is other tokens",
}


def meanings_of_marks(shown: Sequence[ActivationExample]) -> str:
    """Return what a caption adds about the marks that some examples have."""
    met = {mark for example in shown for mark in searches.marks(example)}
    return "".join(f"; {mark}: {meaning}" for mark, meaning in _MEANINGS.items() if mark in met)


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
        # Each lies under the next: side by side, outlines leave a seam of paper between two.
        under_next = Box(x + step * index, column.y + 3, min(2 * step, _KEY_WIDTH - step * index), 7)
        sheet.rectangle(under_next, theme.activation(value, scale))
    if both_signs:
        _line_under(sheet, Box(x, column.y + 3, _KEY_WIDTH / 2, 7))
    sheet.text(x - 4, baseline, f"activation  {number(low)}", colour=theme.quiet, align="right")


def example_list(column: Column, items: Sequence[ActivationExample], scale: float, first_row: int = 0) -> None:
    """Set examples one below the other: text with coloured tokens, value at the right, below it or the text the source.

    ``scale`` is the activation of full colour.
    """
    for row, example in enumerate(items, first_row):
        column.widen()
        _example(column, example, scale, row)
        column.y += _EXAMPLE_GAP


def pieces_shown(example: ActivationExample) -> list[Piece]:
    """Return the pieces of an example, behind an ellipsis where its window does not begin with its document."""
    return [*([ELLIPSIS] if example.source_position else []), *pieces_of(example.tokens)]


def _example(column: Column, example: ActivationExample, scale: float, row: int) -> None:
    sheet, peak, right, top = column.sheet, example.peak_position, column.right, column.y
    notes, lines = (_WIDE_VALUE_WIDTH, MOST_LINES - 1) if column.is_wide else (_VALUE_WIDTH, MOST_LINES)
    for line in set_round(pieces_shown(example), peak, column.width - notes, BODY, lines):
        place = column.take(BODY_LEADING)
        token_line(sheet, line, example, scale, place, row=row)
        if example.synthesis:
            _losses(column, line, example, place)
    if example.synthesis:
        beside = Column(sheet, column.x, column.y, column.width - (notes if searches.marks(example) else 0))
        beside.facts(_facts(example.synthesis))
        column.y = beside.y
    sheet.text(right, top + 11, number(example.activations[peak]), size=BODY, bold=True, align="right")
    baseline = top + BODY_LEADING + 6
    for note, is_mark in _notes(example):
        ink = sheet.theme.ink if is_mark else sheet.theme.quiet
        # However much room there is, a document has one name on the page.
        sheet.text(right, baseline, note, colour=ink, bold=is_mark, align="right", width=_VALUE_WIDTH - 8)
        baseline += SMALL_LEADING - 1
    column.y = max(column.y, baseline - 6)


def _notes(example: ActivationExample) -> Iterator[tuple[str, bool]]:
    """Yield what stands below an example's value, and whether it is a mark: where it was read, or what it is not."""
    if example.synthesis:
        yield from ((mark, True) for mark in searches.marks(example))
    elif example.source:
        yield " ".join(example.source.split()), False
        yield f"token {example.source_position + example.peak_position:,}", False


def _facts(origin: Synthesis) -> list[str]:
    fluent = [] if origin.cross_entropy is None else [f"{number(origin.cross_entropy)} nats per token"]
    found = [f"found after {shortened(origin.token_evaluations, 'evaluation')}"] if origin.token_evaluations else []
    return [f"pre-activation {number(origin.pre_activation)}", *fluent, *found, searches.start(origin)]


def _losses(column: Column, line: Line, example: ActivationExample, place: Box) -> None:
    """Hang below each token a bar as deep as the share of the peak that is lost without it."""
    origin, theme = example.synthesis, column.sheet.theme
    if origin is None or not origin.attribution or example.max_activation == 0:
        return
    for owner, box in _strips(line, place):
        lost = origin.attribution[owner] / abs(example.max_activation)
        if lost:
            bar = Box(box.x, box.bottom + 0.5, box.width, _DEEPEST * min(1.0, abs(lost)))
            column.sheet.rectangle(bar, theme.synthetic if lost > 0 else theme.negative)
    column.y += _DEEPEST + 1


def token_line(sheet: Sheet, line: Line, example: ActivationExample, scale: float, place: Box, *, row: int) -> None:
    """Set one line of tokens on the colour of their activation; tokens that share a character share its width."""
    for owner, box in _strips(line, place):
        value = example.activations[owner]
        sheet.cell(row, owner, value, sheet.theme.activation(value, scale), box)
        if value < 0:
            _line_under(sheet, box)
    sheet.line(place.x, place.y + 11.3, line, size=BODY, bold_token=example.peak_position)


def _strips(line: Line, place: Box) -> Iterator[tuple[int, Box]]:
    """Yield the tokens of a line with the ground of each."""
    after = [*(placed.piece.owners for placed in line.placed[1:]), ()]
    for placed, following in zip(line.placed, after, strict=True):
        owners = placed.piece.owners
        for index, owner in enumerate(owners):
            strip = placed.width / len(owners)
            gap = _CELL_GAP if index == len(owners) - 1 and owners != following else 0.0
            left = place.x + placed.x + index * strip
            yield owner, Box(left, place.y + 1, max(strip - gap, 0), BODY_LEADING - 2)


def _line_under(sheet: Sheet, box: Box) -> None:
    """Mark a ground as below zero, for readers who see the two hues as one grey."""
    shade = mix(sheet.theme.negative, sheet.theme.ink, 0.35)
    sheet.rectangle(Box(box.x, box.bottom - 0.8, box.width, 0.8), shade)


def banded_examples(column: Column, stats: FeatureStats, scale: float) -> None:
    """Set examples over the range of the activation: what looks clean at its top is often not below it.

    ``scale`` is the activation of full colour.
    """
    if not any(band.examples for band in stats.example_bands):
        return
    with column.sheet.panel("bands"):
        said = "drawn at random from the tokens it fired on; the drawn token bold and underlined"
        column.heading("Examples over its range", said)
        row = len(stats.examples)
        for band in stats.example_bands:
            if band.examples:
                column.caption(wording.band_name(band.lower_quantile, band.upper_quantile))
                column.y += 2
                example_list(column, band.examples, scale, first_row=row)
                column.y += 3
            row += len(band.examples)
    column.y += PANEL_GAP


def frontier_shown(stats: FeatureStats) -> tuple[ActivationExample, ...]:
    """Return the examples along the frontier of fluency that are not among the strongest, most fluent first."""
    others = _fluent_others(stats)
    step = max(1, math.ceil(len(others) / MOST_ON_THE_FRONTIER))
    return tuple(others[::step])


def _fluent_others(stats: FeatureStats) -> list[ActivationExample]:
    known = {example.token_ids for example in stats.examples}
    return [item for item in (stats.search.frontier if stats.search else ()) if item.token_ids not in known]


def frontier_examples(column: Column, stats: FeatureStats, scale: float) -> None:
    """Set the strongest examples at lower levels of cross-entropy: what fires it that reads more like text.

    ``scale`` is the activation of full colour.
    """
    shown = frontier_shown(stats)
    if not shown:
        return
    with column.sheet.panel("frontier examples"):
        said = "the strongest found within a cross-entropy, most fluent first; those above are left out"
        others = len(_fluent_others(stats))
        said += f"; {len(shown)} of {others}" if others > len(shown) else ""
        column.heading("Strongest at each level of fluency", said)
        example_list(column, shown, scale, first_row=len(stats.examples))
    column.y += PANEL_GAP


def _shortest(stats: FeatureStats) -> tuple[ActivationExample, ...]:
    return (stats.search.shortest,) if stats.search and stats.search.shortest else ()


def shortest_example(column: Column, stats: FeatureStats, scale: float) -> None:
    """Set what is left of the strongest example without the tokens that it can do without.

    ``scale`` is the activation of full colour.
    """
    shown = _shortest(stats)
    if not shown:
        return
    with column.sheet.panel("shortest example"):
        said = "the strongest example without tokens that can go while 95 % of its activation is left"
        column.heading("Shortest that is enough", said)
        example_list(column, shown, scale, first_row=len(stats.examples) + len(frontier_shown(stats)))
    column.y += PANEL_GAP
