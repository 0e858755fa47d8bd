"""Values of annotated types out of JSON: records from objects, tuples from lists, nothing taken for what it is not."""

import dataclasses
import json
import sys
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, NoReturn, Self, Union, get_args, get_origin, get_type_hints

from sae_analysis.wording import shown

_Reader = Callable[[Any], Any]

_BEYOND = 1 << 53
"""Whole numbers that no count reaches, and whose sums and halves NumPy and Arrow do not hold."""

_LONGEST_NAME = 40
"""Characters of a key that the place of an error shows."""


class _ForeignError(ValueError):
    """A value that is not what its field holds. Its place is put together on the way out, so that none is kept."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message, self.place = message, ""

    def inside(self, part: str) -> Self:
        """Put a field's name or a number in a list in front of the place."""
        self.place = part + (f".{self.place}" if self.place and self.place[0] != "[" else self.place)
        return self

    def __str__(self) -> str:
        """Say where and what."""
        return f"{self.place or 'it'} {self.message}"


def parse(content: bytes) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """Parse JSON as it is defined, without Python's NaN and Infinity.

    Raises:
        ValueError: it is not JSON.
        RecursionError: brackets without end.
    """
    return json.loads(content, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def from_json(value: Any, kind: Any) -> Any:  # noqa: ANN401 - follows the annotations of the records
    """Build a value of an annotated type out of JSON: records from objects, tuples from lists.

    Nothing is taken for what it is not, since all that reads records relies on their types.

    Raises:
        ValueError: another type, a missing or unknown field, a number that is none, or what a record refuses.
    """
    return _reader(kind)(value)


@cache
def _reader(kind: Any) -> _Reader:  # noqa: ANN401
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _of_record(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        return _of_list(arguments[0]) if arguments[-1] is Ellipsis else _of_row(arguments)
    if origin in (Union, types.UnionType):
        return _of_either(arguments)
    return _of_mapping(arguments[1]) if origin is Mapping else _SINGLE[kind]


def _of_record(kind: Any) -> _Reader:  # noqa: ANN401
    readers = {name: _reader(hint) for name, hint in get_type_hints(kind).items()}
    fields = dataclasses.fields(kind)
    absent = (dataclasses.MISSING, dataclasses.MISSING)
    required = [field.name for field in fields if (field.default, field.default_factory) == absent]

    def read(value: Any) -> Any:  # noqa: ANN401
        if not isinstance(value, dict):
            raise _ForeignError(f"is {shown(value)}: expected an object")
        if missing := next((name for name in required if name not in value), None):
            raise _ForeignError("is missing").inside(missing)
        given = {}
        for name, item in value.items():
            if name not in readers:
                raise _ForeignError(f"has the unknown field {shown(name)}")
            try:
                given[name] = readers[name](item)
            except _ForeignError as error:
                raise error.inside(name) from None
        try:
            return kind(**given)
        except ValueError as error:
            raise _ForeignError(f"does not fit together: {error}") from None

    return read


def _of_list(inner: Any) -> _Reader:  # noqa: ANN401
    read_one = _reader(inner)

    def read(value: Any) -> Any:  # noqa: ANN401
        if not isinstance(value, list):
            raise _ForeignError(f"is {shown(value)}: expected a list")
        found = []
        try:
            for item in value:
                found.append(read_one(item))
        except _ForeignError as error:
            raise error.inside(f"[{len(found)}]") from None
        return tuple(found)

    return read


def _of_row(kinds: tuple[Any, ...]) -> _Reader:
    readers = [_reader(kind) for kind in kinds]

    def read(value: Any) -> Any:  # noqa: ANN401
        if not isinstance(value, list) or len(value) != len(readers):
            raise _ForeignError(f"is {shown(value)}: expected a list of {len(readers)}")
        return tuple([read_one(item) for read_one, item in zip(readers, value, strict=True)])

    return read


def _of_either(kinds: tuple[Any, ...]) -> _Reader:
    readers = [_reader(kind) for kind in kinds if kind is not types.NoneType]

    def read(value: Any) -> Any:  # noqa: ANN401
        if value is None:
            return None
        if len(readers) == 1:
            return readers[0](value)
        for read_one in readers:
            with suppress(_ForeignError):
                return read_one(value)
        raise _ForeignError(f"is {shown(value)}: expected a number, text, true or false")

    return read


def _of_mapping(inner: Any) -> _Reader:  # noqa: ANN401
    read_one = _reader(inner)

    def read(value: Any) -> Any:  # noqa: ANN401
        if not isinstance(value, dict):
            raise _ForeignError(f"is {shown(value)}: expected an object")
        found = {}
        for name, item in value.items():
            try:
                found[name] = read_one(item)
            except _ForeignError as error:
                raise error.inside(name[:_LONGEST_NAME]) from None
        return found

    return read


def _number(value: Any) -> float:  # noqa: ANN401
    if type(value) not in (float, int) or not abs(value) <= sys.float_info.max:
        raise _ForeignError(f"is {shown(value)}: expected a number")
    return value if abs(value) < _BEYOND else float(value)


def _of_type(words: str, is_right: Callable[[Any], bool]) -> _Reader:
    def read(value: Any) -> Any:  # noqa: ANN401
        if not is_right(value):
            raise _ForeignError(f"is {shown(value)}: expected {words}")
        return value

    return read


_SINGLE: Mapping[Any, _Reader] = {
    str: _of_type("text", lambda value: isinstance(value, str)),
    bool: _of_type("true or false", lambda value: isinstance(value, bool)),
    int: _of_type("a whole number", lambda value: type(value) is int and abs(value) < _BEYOND),
    float: _number,
}
