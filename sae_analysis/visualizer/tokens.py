"""Runs of tokens as lines of text: what is seen of each token, where lines break, which way they run.

Tokens are set one after another with their own spacing. A piece is the least that is set as one: part of one token, or
one character that several tokens share (bytes of a character, a letter and its accent), which then has a cell for each.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from itertools import groupby

from sae_analysis.visualizer import fonts

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_LONGEST_PIECE = 16
"""Characters; a token of eighty is set as several pieces so that it can go on in the next line."""

_LONGEST_WORD = 24
"""Characters; what is longer, an address or a sentence of Thai, may go on in the next line anywhere."""

_STANDS_ALONE = re.compile(
    "[\\t\\n\\r -~\\xa0-\\xac\\xae-\\u02ff\\u0370-\\u0482\\u048a-\\u058f\\u2010-\\u2027\\u2030-\\u205e\\u3000-\\u3029"
    "\\u3030-\\u3096\\u309b-\\u30ff\\u4e00-\\u9fff\\uac00-\\ud7a3\\uff01-\\uff60]+"
)
"""Tokens in scripts that run left to right and whose characters do not change with their neighbours."""

_SPACES_SHOWN = 3
"""Spaces of one token drawn one by one; a longer run is drawn as one sign with their number."""

_NEVER_FIRST = frozenset("、。，．：；！？）」』】〕〉》…ー々ぁぃぅぇぉっゃゅょァィゥェォッャュョ")
_MIRRORED = str.maketrans("()[]{}<>«»‹›", ")(][}{><»«›‹")
_JOINER = "\N{ZERO WIDTH JOINER}"
_ARABIC_ENDS = frozenset("ءآأؤإاٱٲٳٵٶٷةدذرزژڈډڊڋڌڍڎڏڐڑڒړڔڕږڗژڙوۀۃۄۅۆۇۈۉۊۋۍۏےۓەۮۯ")
"""Arabic letters that do not join the one after them."""

MARK_SIZE = 0.8
"""Size of the signs for what has no ink of its own, as a share of the text beside them."""


class Kind(Enum):
    """What a piece shows."""

    TEXT = "text"
    GAP = "gap"
    """An ordinary space between words; none at the start of a line."""
    MARK = "mark"
    """A sign for what has no ink of its own: tab, newline, lone space, control character, byte, ellipsis."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text set as one."""

    text: str
    owners: tuple[int, ...]
    """Indices of the tokens it belongs to, in order; empty for the ellipsis."""
    kind: Kind = Kind.TEXT
    direction: str = "L"
    """``L`` left to right, ``R`` right to left, ``E`` digits, ``N`` whatever is around."""
    breaks: bool = False
    """Whether a line may end before it."""

    def width(self, size: float) -> float:
        """Return the advance in the unit of ``size``."""
        return fonts.shape(self.text).advance * size * (MARK_SIZE if self.kind is Kind.MARK else 1.0)


@dataclass(frozen=True, slots=True)
class Placed:
    """A piece on its line: where it begins and how wide it is, in the unit of the type's size (points)."""

    piece: Piece
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Line:
    """One line, its pieces in the order they are seen; its width is in the unit of the type's size (points)."""

    placed: tuple[Placed, ...]
    width: float


@dataclass(frozen=True, slots=True)
class _Character:
    text: str
    owners: tuple[int, ...]
    kind: Kind = Kind.TEXT


ELLIPSIS = Piece("…", (), Kind.MARK, "N", breaks=True)


def pieces_of(tokens: Sequence[str], *, spaces_shown: bool = False) -> list[Piece]:
    """Return the pieces of a run of tokens in reading order.

    ``spaces_shown`` marks every space: in a list of tokens *ship* and *·ship* differ.
    """
    if all(_STANDS_ALONE.fullmatch(token) and "<0x" not in token for token in tokens):
        pieces = [
            Piece(piece.text, (index,), piece.kind, piece.direction)
            for index, token in enumerate(tokens)
            for piece in _pieces_of_one(token, spaces_shown=spaces_shown)
        ]
        return _with_breaks(pieces)
    return _with_joins(_with_breaks(_pieces_together(tokens, spaces_shown=spaces_shown)))


@lru_cache(maxsize=32768)
def _pieces_of_one(token: str, *, spaces_shown: bool) -> tuple[Piece, ...]:
    return tuple(_pieces_together([token], spaces_shown=spaces_shown))


def _pieces_together(tokens: Sequence[str], *, spaces_shown: bool) -> list[Piece]:
    clusters = _clusters(tokens)
    return list(_merged([seen for one in clusters for seen in _seen(one, tokens, spaces_shown=spaces_shown)]))


def _characters(tokens: Sequence[str]) -> Iterator[_Character]:
    """Yield characters with their tokens; bytes are joined into characters where they form them."""
    waiting: list[tuple[int, int]] = []
    for index, token in enumerate(tokens):
        if not token:
            yield from _decoded(waiting)
            waiting = []
            yield _Character("⟨⟩", (index,), Kind.MARK)
        for number, part in enumerate(_BYTE.split(token)):
            if number % 2:
                waiting.append((int(part, 16), index))
            elif part:
                yield from _decoded(waiting)
                waiting = []
                yield from (_Character(char, (index,)) for char in part)
    yield from _decoded(waiting)


def _decoded(run: Sequence[tuple[int, int]]) -> Iterator[_Character]:
    start = 0
    while start < len(run):
        lead = run[start][0]
        length = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        taken = run[start : start + length]
        try:
            text = bytes(byte for byte, _ in taken).decode()
        except UnicodeDecodeError:
            yield _Character(f"{lead:02X}\N{THIN SPACE}", (run[start][1],), Kind.MARK)
            start += 1
        else:
            yield _Character(text, tuple(dict.fromkeys(owner for _, owner in taken)))
            start += length


def _clusters(tokens: Sequence[str]) -> Iterator[_Character]:
    """Yield graphemes over the whole run, whichever tokens they come from."""
    for is_text, group in groupby(_characters(tokens), key=lambda char: char.kind is Kind.TEXT):
        characters = list(group)
        if not is_text:
            yield from characters
            continue
        start = 0
        for grapheme in fonts.graphemes("".join(char.text for char in characters)):
            members = characters[start : start + len(grapheme)]
            start += len(grapheme)
            yield _Character(grapheme, tuple(dict.fromkeys(owner for char in members for owner in char.owners)))


def _seen(cluster: _Character, tokens: Sequence[str], *, spaces_shown: bool) -> Iterator[_Character]:
    """Yield the cluster as it is seen: text, an ordinary gap, or the sign for what has no ink."""
    if cluster.kind is Kind.MARK:
        yield cluster
    elif cluster.text == " ":
        lone = spaces_shown or not tokens[cluster.owners[0]].strip()
        yield replace(cluster, text="·", kind=Kind.MARK) if lone else replace(cluster, kind=Kind.GAP)
    elif sign := _sign(cluster.text, spaces_shown=spaces_shown):
        yield replace(cluster, text=sign, kind=Kind.MARK)
        if cluster.text[1:]:
            yield from _seen(replace(cluster, text=cluster.text[1:]), tokens, spaces_shown=spaces_shown)
    elif fonts.has_glyph(cluster.text):
        bare = unicodedata.category(cluster.text[0])[0] == "M"
        yield replace(cluster, text=f"\N{DOTTED CIRCLE}{cluster.text}") if bare else cluster
    else:
        for char in cluster.text:
            known = fonts.has_glyph(char) and not _sign(char)
            yield (
                cluster
                if char == cluster.text and known
                else _Character(
                    char if known else fonts.code_point(char), cluster.owners, Kind.TEXT if known else Kind.MARK
                )
            )


def _sign(text: str, *, spaces_shown: bool = False) -> str:
    """Return the sign for a character without ink, empty for one that has some.

    ``spaces_shown`` tells unusual spaces from the no-break space: in a list they are different tokens.
    """
    char = text[0]
    known = {"\n": "↵", "\t": "⇥", "\r": "\\r"}.get(char)  # no font has a picture of the carriage return
    category = unicodedata.category(char)
    if category == "Cc":
        return known or fonts.code_point(char)
    if category == "Zs":
        is_told_apart = spaces_shown and char not in " \N{NO-BREAK SPACE}"
        return fonts.code_point(char) if is_told_apart else "" if char == " " else "⍽"
    hidden = category in {"Cf", "Cs", "Zl", "Zp"} or (fonts.is_ignorable(char) and len(text) == 1)
    return fonts.code_point(char) if hidden else ""


def _direction(text: str) -> str:
    kind = unicodedata.bidirectional(text[0])
    return "R" if kind in {"R", "AL"} else "E" if kind in {"EN", "AN"} else "L" if kind == "L" else "N"


def _is_wide(text: str) -> bool:
    return unicodedata.east_asian_width(text[0]) in "WF"


def _merged(clusters: Sequence[_Character]) -> Iterator[Piece]:
    """Join neighbours of one token, kind and direction into pieces."""
    mixed = any(_direction(cluster.text) == "R" for cluster in clusters if cluster.kind is Kind.TEXT)

    def sort(cluster: _Character) -> tuple[object, ...]:
        alone = cluster.kind is Kind.MARK and cluster.text != "·"
        joins = not alone and len(cluster.owners) == 1 and not (cluster.kind is Kind.TEXT and _is_wide(cluster.text))
        way = "N" if cluster.kind is not Kind.TEXT else _direction(cluster.text) if mixed else "L"
        return cluster.kind, way, cluster.owners, cluster.text if cluster.kind is Kind.MARK else "", joins

    for (kind, way, owners, _, joins), group in groupby(clusters, key=sort):
        texts = [cluster.text for cluster in group]
        if kind is Kind.MARK and joins and len(texts) > _SPACES_SHOWN:
            texts = [f"␣×{len(texts)}"]
        step = _LONGEST_PIECE if joins else 1
        for start in range(0, len(texts), step):
            yield Piece("".join(texts[start : start + step]), owners, kind, way)  # pyright: ignore[reportArgumentType]


def _with_breaks(pieces: Sequence[Piece]) -> list[Piece]:
    """Mark where a line may end: at spaces, after signs, around wide characters."""
    marked: list[Piece] = []
    for piece in pieces:
        before = marked[-1] if marked else None
        free = before is None or before.kind is Kind.MARK or _is_wide(before.text) or _is_wide(piece.text)
        ends = piece.kind is Kind.MARK and (before is None or before.kind is not Kind.GAP)
        may = piece.kind is Kind.GAP or ends or (free and piece.text[0] not in _NEVER_FIRST)
        if may and not (before is not None and before.kind is Kind.GAP):
            piece = replace(piece, breaks=True)  # noqa: PLW2901 - the piece with what was found out
        marked.append(piece)
    return marked


def _with_joins(pieces: Sequence[Piece]) -> list[Piece]:
    """Give Arabic letters the form they have beside their neighbours where a token ends inside a word."""
    joined = list(pieces)
    for index in range(len(pieces) - 1):
        left, right = pieces[index], pieces[index + 1]
        if all(piece.kind is Kind.TEXT and _is_arabic(piece.text) for piece in (left, right)):
            last = next((char for char in reversed(left.text) if not unicodedata.combining(char)), "")
            joined[index] = replace(joined[index], text=joined[index].text + _JOINER)
            if last not in _ARABIC_ENDS:
                joined[index + 1] = replace(joined[index + 1], text=_JOINER + joined[index + 1].text)
    return joined


def _is_arabic(text: str) -> bool:
    return unicodedata.bidirectional(text[0]) == "AL"


def set_lines(pieces: Sequence[Piece], width: float, size: float) -> list[Line]:
    """Return the pieces wrapped at ``width``, in points as their ``size``, each line in the order it is seen."""
    rightwards = _reads_leftwards(pieces)
    rows: list[list[Piece]] = [[]]
    filled = 0.0
    for word in _words(pieces):
        wide = sum(piece.width(size) for piece in word)
        if rows[-1] and filled + wide > width:
            rows.append([])
            filled = 0.0
        if not rows[-1] and word[0].kind is Kind.GAP:
            word, wide = word[1:], wide - word[0].width(size)  # noqa: PLW2901 - a line does not begin with a space
        rows[-1].extend(word)
        filled += wide
    return [_line(row, width, size, leftwards=rightwards) for row in rows if row]


def set_round(pieces: Sequence[Piece], keep: int, width: float, size: float, most_lines: int) -> list[Line]:
    """Return at most ``most_lines`` lines that hold the first piece of token ``keep``.

    What does not fit is cut at both ends, two thirds of the room going to what comes before: that is what a causal
    model has seen. An ellipsis stands for each end that was cut. ``width`` and ``size`` are in points.
    """
    words = _words(pieces)
    centre = next((at for at, word in enumerate(words) if any(keep in piece.owners for piece in word)), 0)
    first, last = _window([*map(_measure(size), words)], centre, most_lines * width)
    while True:
        kept = [piece for word in words[first : last + 1] for piece in word]
        kept = [*([ELLIPSIS] if first > 0 else []), *kept, *([ELLIPSIS] if last < len(words) - 1 else [])]
        lines = set_lines(kept, width, size)
        if len(lines) <= most_lines or first == last:
            return lines[:most_lines]
        if last - centre >= centre - first or first == centre:
            last -= 1
        else:
            first += 1


def _measure(size: float) -> Callable[[Sequence[Piece]], Callable[[], float]]:
    """Return what turns a word into its width on demand: shaping is dear, and most of a long window is cut."""
    return lambda word: lambda: sum(piece.width(size) for piece in word)


def _window(widths: Sequence[Callable[[], float]], centre: int, room: float) -> tuple[int, int]:
    """Return the first and last word that fit into ``room`` around the centre."""
    first = last = centre
    before, after = 0.0, 0.0
    room -= widths[centre]()
    while True:
        left = widths[first - 1]() if first > 0 else math.inf
        right = widths[last + 1]() if last + 1 < len(widths) else math.inf
        if before + after + left <= room and (before <= 2 * after or right == math.inf):
            first, before = first - 1, before + left
        elif before + after + right <= room:
            last, after = last + 1, after + right
        else:
            return first, last


def set_label(token: str, width: float, size: float) -> Line:
    """Return a token on one line with every space shown, cut at its end where it is longer than ``width`` points."""
    pieces = pieces_of([token], spaces_shown=True)
    room = width - ELLIPSIS.width(size)
    kept: list[Piece] = []
    filled = 0.0
    total = sum(piece.width(size) for piece in pieces)
    for piece in pieces if total > width else ():
        text = piece.text
        while text and filled + replace(piece, text=text).width(size) > room:
            text = text[:-1]
        if text:
            kept.append(replace(piece, text=text))
            filled += kept[-1].width(size)
        if text != piece.text:
            break
    return _line([*kept, ELLIPSIS] if total > width else pieces, width, size, leftwards=False)


def _words(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Return what stays together on a line; words that are too long for that may break at any piece."""
    words: list[list[Piece]] = []
    for piece in pieces:
        if piece.breaks or not words:
            words.append([])
        words[-1].append(piece)
    split: list[list[Piece]] = []
    for word in words:
        long = sum(len(piece.text) for piece in word) > _LONGEST_WORD
        split.extend(_in_pieces(word) if long else [word])
    return split


def _in_pieces(word: Sequence[Piece]) -> list[list[Piece]]:
    """Return each piece as a word of its own, a space with what follows it."""
    start = 2 if word[0].kind is Kind.GAP else 1
    return [list(word[:start]), *([piece] for piece in word[start:])]


def _reads_leftwards(pieces: Iterable[Piece]) -> bool:
    letters = {"L": 0, "R": 0}
    for piece in pieces:
        if piece.direction in letters and piece.kind is Kind.TEXT:
            letters[piece.direction] += len(piece.text)
    return letters["R"] > letters["L"]


def _line(row: Sequence[Piece], width: float, size: float, *, leftwards: bool) -> Line:
    """Place a line's pieces; text that reads leftwards begins at the right edge."""
    ordered = _as_seen(row, leftwards=leftwards)
    widths = [piece.width(size) for piece in ordered]
    total = sum(widths)
    x = max(0.0, width - total) if leftwards else 0.0
    placed: list[Placed] = []
    for piece, advance in zip(ordered, widths, strict=True):
        placed.append(Placed(piece, x, advance))
        x += advance
    return Line(tuple(placed), total)


def _as_seen(row: Sequence[Piece], *, leftwards: bool) -> list[Piece]:
    """Return pieces in visual order.

    Source: Unicode Standard Annex 9, rules N1, N2, I1, I2 and L2, on pieces instead of characters and without
    explicit embeddings (those are shown as code points).
    """
    if not leftwards and all(piece.direction != "R" for piece in row):
        return list(row)
    levels = _levels([piece.direction for piece in row], base=int(leftwards))
    ordered = [
        replace(piece, text=piece.text.translate(_MIRRORED)) if level % 2 and piece.direction == "N" else piece
        for piece, level in zip(row, levels, strict=True)
    ]
    for level in range(max(levels), 0, -1):
        start = 0
        while start < len(levels):
            end = start
            while end < len(levels) and levels[end] >= level:
                end += 1
            ordered[start:end] = reversed(ordered[start:end])
            levels[start:end] = reversed(levels[start:end])
            start = end + 1
    return ordered


def _levels(directions: Sequence[str], *, base: int) -> list[int]:
    strong = "R" if base else "L"
    around = strong
    resolved: list[str] = []
    for way in directions:  # digits after right-to-left letters are numbers inside them, else part of the text
        around = way if way in "LR" else around
        resolved.append(("E" if around == "R" else "L") if way == "E" else way)
    for index, way in enumerate(resolved):
        if way == "N":
            before = next((other for other in reversed(resolved[:index]) if other != "N"), strong)
            after = next((other for other in resolved[index + 1 :] if other != "N"), strong)
            sides = {"R" if side == "E" else side for side in (before, after)}
            resolved[index] = sides.pop() if len(sides) == 1 else strong
    table = {"L": 2 * base, "R": 1, "E": 2}
    return [table[way] for way in resolved]


def plain(text: str) -> list[Piece]:
    """Return the pieces of a sentence of ours: words and gaps, nothing replaced by a sign."""
    return [
        Piece(part, (), Kind.GAP if part == " " else Kind.TEXT, breaks=part == " ")
        for part in re.split("( )", text)
        if part
    ]


def quoted(tokens: Sequence[str], owner: int, most: int = 18) -> list[Piece]:
    """Return tokens inside a sentence as one; a single one without its outer spaces, cut at ``most``."""
    if len(tokens) > 1:
        return [replace(piece, owners=(owner,)) for piece in pieces_of(tokens)]
    token = tokens[0]
    bare = token.strip(" ") or token
    whole = len(bare) <= most or bare.isspace() or _BYTE.match(bare)
    pieces = pieces_of([bare if whole else f"{bare[:most]}…"])
    return [replace(piece, owners=(owner,), breaks=False) for piece in pieces]
