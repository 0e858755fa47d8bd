"""Documents: what text there is to read, format by format."""

import json
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from sae_analysis.errors import CorpusError

SUFFIXES = (".txt", ".jsonl", ".json", ".parquet")
"""File types that can be read."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_ROWS_AT_ONCE = 32
_BYTE_ORDER_MARK = "\ufeff"

TextUnit = Literal["file", "blank-line"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text and what to call it."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A corpus by name, whose documents can be read any number of times."""

    source: str | Path | Sequence[str | Path]
    """File, folder, several files, or the name of a data set (``name`` or ``name:config``)."""

    text_unit: TextUnit = "file"
    """Whether a ``.txt`` file is one document or one a paragraph."""

    text_field: str = "text"
    """Where JSON objects and parquet tables keep their text."""

    def __iter__(self) -> Iterator[Document]:
        """Read the documents, in order; see ``read_documents`` for errors."""
        return read_documents(self.source, text_unit=self.text_unit, text_field=self.text_field)

    @property
    def text_bytes(self) -> int | None:
        """About how much text there is, where that is known without reading it."""
        files = _files(self.source)
        if any(not file.is_file() or file.suffix == ".parquet" for file in files):
            return None
        return sum(file.stat().st_size for file in files)


def _files(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files that a corpus consists of; a name that is no folder stands for itself."""
    if not isinstance(source, (str, Path)):
        return [Path(file) for file in source]
    path = Path(source)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    return [path]


def read_documents(
    corpus: str | Path | Sequence[str | Path], *, text_unit: TextUnit = "file", text_field: str = "text"
) -> Iterator[Document]:
    """Yield the documents of a file, a folder, several files, or a data set by name (``name`` or ``name:config``).

    A ``.txt`` file is one document or, with ``text_unit="blank-line"``, one document a paragraph. JSON items are
    strings or objects with a ``text_field``; parquet files need a column of that name.

    Raises:
        CorpusError: nothing of that name, nothing readable in it, or a broken file, with the line where known.
    """
    if not isinstance(corpus, (str, Path)):
        for path in _files(corpus):
            yield from _read_file(path, path.name, text_unit, text_field)
        return
    path = Path(corpus)
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:  # in a folder that may not be looked into
        raise _unreadable(path, error) from None
    if is_folder:
        if not (files := _files(path)):
            raise CorpusError(f"Corpus folder {path} holds no {', '.join(SUFFIXES)} file: put text files into it.")
        for file in files:
            yield from _read_file(file, str(file.relative_to(path)), text_unit, text_field)
    elif is_there:
        yield from _read_file(path, path.name, text_unit, text_field)
    elif path.suffix in SUFFIXES or path.is_absolute() or str(corpus).startswith("."):
        raise CorpusError(f"Corpus {path} does not exist: give a {', '.join(SUFFIXES)} file, a folder or a data set.")
    else:
        yield from _read_data_set(str(corpus), text_field)


def _read_file(path: Path, name: str, text_unit: TextUnit, text_field: str) -> Iterator[Document]:
    readers = {
        ".txt": lambda: _read_text(path, name, text_unit),
        ".jsonl": lambda: _read_json_lines(path, name, text_field),
        ".json": lambda: _read_json_list(path, name, text_field),
        ".parquet": lambda: _read_parquet(path, name, text_field),
    }
    if path.suffix not in readers:
        raise CorpusError(f"Corpus {path} has the type {path.suffix or 'none'}: expected one of {', '.join(SUFFIXES)}.")
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may never end, and cannot be read twice
            raise CorpusError(f"Corpus {path} is no regular file: give a {', '.join(SUFFIXES)} file or a folder.")
        yield from readers[path.suffix]()
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"Corpus {path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}. "
            "Convert it, for instance with iconv."
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> CorpusError:
    return CorpusError(f"Corpus {path} cannot be read: {error.strerror or error}. Check the file.")


def _read_text(path: Path, name: str, text_unit: TextUnit) -> Iterator[Document]:
    if text_unit == "file":
        yield Document(name=name, text=_whole(path))
        return
    paragraph: list[str] = []
    number = 0
    with path.open("rb") as lines:
        for line in _decoded(lines):
            if line.strip():
                paragraph.append(line)
            elif paragraph:
                number += 1
                yield Document(name=f"{name}#{number}", text="".join(paragraph).rstrip("\r\n"))
                paragraph = []
    if paragraph:
        yield Document(name=f"{name}#{number + 1}", text="".join(paragraph).rstrip("\r\n"))


def _whole(path: Path) -> str:
    """Decode a file; a byte order mark is no text, but it counts in an error's offset."""
    return path.read_bytes().decode().removeprefix(_BYTE_ORDER_MARK)


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    """Decode line by line, so that an error knows its offset in the file."""
    offset = 0
    for line in lines:
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            error.object = b"\0" * offset + line
            error.start += offset
            raise
        yield text if offset else text.removeprefix(_BYTE_ORDER_MARK)
        offset += len(line)


def _read_json_lines(path: Path, name: str, text_field: str) -> Iterator[Document]:
    with path.open("rb") as lines:
        for number, line in enumerate(_decoded(lines), start=1):
            if line.strip():
                try:
                    item = json.loads(line)
                except (ValueError, RecursionError) as error:  # the latter for brackets without end
                    reason = getattr(error, "msg", str(error))
                    raise CorpusError(
                        f"Corpus {path} line {number} is not JSON: {reason}. Mend or remove the line."
                    ) from None
                yield Document(name=f"{name}#{number}", text=_text_of(item, text_field, f"{path} line {number}"))


def _read_json_list(path: Path, name: str, text_field: str) -> Iterator[Document]:
    text = _whole(path)
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(
            f"Corpus {path} is not JSON: {_first_line(error)}. A file of one object a line is .jsonl."
        ) from None
    if not isinstance(items, list):
        raise CorpusError(f"Corpus {path} holds a JSON {type(items).__name__}: expected a list of texts or objects.")
    for number, item in enumerate(items, start=1):
        yield Document(name=f"{name}#{number}", text=_text_of(item, text_field, f"{path} item {number}"))


def _text_of(item: Any, text_field: str, place: str) -> str:  # noqa: ANN401 - whatever JSON holds
    text = item.get(text_field) if isinstance(item, dict) else item
    if isinstance(text, str):
        if _SURROGATE.search(text):
            raise CorpusError(f"Corpus {place} holds half a surrogate pair, which is no text. Mend or remove it.")
        return text
    found = f"fields {', '.join(map(str, item)) or 'none'}" if isinstance(item, dict) else type(item).__name__
    raise CorpusError(f"Corpus {place} has no text in field '{text_field}': found {found}. Name it with text_field.")


def _read_parquet(path: Path, name: str, text_field: str) -> Iterator[Document]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise CorpusError(
            f"Corpus {path} needs pyarrow, which is not installed: pip install 'sae-analysis[parquet]'."
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            if text_field not in file.schema_arrow.names:
                raise CorpusError(
                    f"Corpus {path} has no column '{text_field}': found {', '.join(file.schema_arrow.names)}. "
                    "Name it with text_field."
                )
            number = 0
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=[text_field]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    yield Document(name=f"{name}#{number}", text=_text_of(text, text_field, f"{path} row {number}"))
    except ArrowException as error:
        raise CorpusError(f"Corpus {path} is not a readable parquet file: {error}. Write it anew.") from None


def _read_data_set(name: str, text_field: str) -> Iterator[Document]:
    try:
        import datasets
    except ImportError:
        raise CorpusError(
            f"Corpus '{name}' is no file or folder, and data sets need a library that is not installed: "
            "give a path, or pip install 'sae-analysis[datasets]'."
        ) from None
    path, _, config = name.partition(":")
    try:
        rows = iter(datasets.load_dataset(path, config or None, split="train", streaming=True))
        first = list(islice(rows, 1))
    except Exception as error:  # the library raises its own, requests', fsspec's and OS errors alike
        raise CorpusError(
            f"Corpus '{name}' is no file or folder here and could not be loaded as a data set: "
            f"{_first_line(error)}. Give a path, or check the name and the connection."
        ) from error
    for number, row in enumerate((*first, *rows), start=1):
        yield Document(name=f"{name}#{number}", text=_text_of(row, text_field, f"'{name}' row {number}"))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
