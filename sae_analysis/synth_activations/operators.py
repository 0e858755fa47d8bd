"""How new sequences are made of old ones: each operator leaves the tokens before one place as they are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Ids = np.ndarray
"""Integer tokens; sequences lie in the last dimension."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parents:
    """One parent a row, and what its children may be made of."""

    place: np.ndarray
    """The first token that may change ``[rows]``."""

    last: np.ndarray
    """Where each parent fires, at or behind ``place``; what comes after does not matter ``[rows]``."""

    mates: Ids
    """Sequences to cross with ``[rows, mates, seq]``."""

    promising: Ids
    """Tokens to try at each place, the most promising first ``[rows, seq, candidates]``."""

    others: Ids
    """Tokens to try at each place without regard to what they promise ``[rows, seq, tokens]``."""


Operator = Callable[[Ids, Parents, np.random.Generator], None]
"""Changes children ``[rows, children, seq]``, which begin as copies of their parent, in place."""


def _grid(children: Ids) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(children.shape[0])[:, None], np.arange(children.shape[1])[None]


def _later(children: Ids, parents: Parents, rng: np.random.Generator) -> np.ndarray:
    """Return a place for each child from its row's to where the parent fires."""
    span = (parents.last - parents.place)[:, None] + 1
    return parents.place[:, None] + (rng.random(children.shape[:2]) * span).astype(np.int64)


def _drawn(tokens: Ids, where: np.ndarray, rng: np.random.Generator) -> Ids:
    """Return one of the tokens ``[rows, seq, tokens]`` for each child's place ``[rows, children]``."""
    return tokens[np.arange(len(where))[:, None], where, rng.integers(tokens.shape[2], size=where.shape)]


def _swap_promising(children: Ids, parents: Parents, rng: np.random.Generator) -> None:
    rows, columns = _grid(children)
    where = np.broadcast_to(parents.place[:, None], children.shape[:2])
    children[rows, columns, where] = _drawn(parents.promising, where, rng)


def _swap_two_promising(children: Ids, parents: Parents, rng: np.random.Generator) -> None:
    rows, columns = _grid(children)
    where = _later(children, parents, rng)
    children[rows, columns, where] = _drawn(parents.promising, where, rng)
    _swap_promising(children, parents, rng)


def _swap_any(children: Ids, parents: Parents, rng: np.random.Generator) -> None:
    rows, columns = _grid(children)
    where = np.broadcast_to(parents.place[:, None], children.shape[:2])
    children[rows, columns, where] = _drawn(parents.others, where, rng)


def _cross(children: Ids, parents: Parents, rng: np.random.Generator) -> None:
    """Take a mate's end; where nothing would be left of the parent, the mate's beginning instead."""
    rows, _ = _grid(children)
    others = parents.mates[rows, rng.integers(parents.mates.shape[1], size=children.shape[:2])]
    length = children.shape[2]
    place = parents.place[:, None, None]
    cut = np.where(place > 0, place, rng.integers(1, max(length, 2), size=(*children.shape[:2], 1)))
    is_end = np.arange(length) >= cut
    children[...] = np.where(is_end == (place > 0), others, children)


def _shift(children: Ids, parents: Parents, rng: np.random.Generator) -> None:
    """Delete a token and insert one elsewhere; one of the two happens at the place, the other behind it."""
    length = children.shape[2]
    here = np.broadcast_to(parents.place[:, None], children.shape[:2])
    there = here + (rng.random(children.shape[:2]) * (length - here)).astype(np.int64)
    deletes_here = rng.random(children.shape[:2]) < 0.5
    deleted = np.where(deletes_here, here, there)[..., None]
    inserted = np.where(deletes_here, there, here)[..., None]
    at = np.arange(length)
    source = np.where((at >= deleted) & (at < inserted), at + 1, at)
    source = np.where((at <= deleted) & (at > inserted), at - 1, source)
    children[...] = np.take_along_axis(children, source, axis=2)
    np.put_along_axis(children, inserted, _drawn(parents.others, inserted[..., 0], rng)[..., None], axis=2)


OPERATORS: Mapping[str, Operator] = {
    "swap promising": _swap_promising,
    "swap two promising": _swap_two_promising,
    "swap any": _swap_any,
    "cross": _cross,
    "shift": _shift,
}
