"""Text in, context windows out: the one place that says which documents are read and which tokens count.

A corpus is a ``.txt``, ``.jsonl``, ``.json`` or ``.parquet`` file, a folder of these, or the name of a data set that
the ``datasets`` library can load. Documents are read in order and none is dropped; an empty one is counted.

How windows are made. Each document is cut into consecutive windows of ``seq_len`` tokens, of which the last may be
shorter. With ``pack``, documents are first joined with the model's EOS between them, so that only the very last window
is short; these separators are not counted. BOS, where the model wants one, is put in front of each window, exactly
once, takes up one of its ``seq_len`` places, and appears in no result. Short windows are padded at the end, where a
causal model cannot see it.
"""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from sae_analysis.accumulators import Windows
from sae_analysis.errors import CorpusError

logger = logging.getLogger(__name__)

SUFFIXES = (".txt", ".jsonl", ".json", ".parquet")
"""File types that can be read."""

PADDING = -1
"""Stands for what follows the end of a short window in ``Windows.token_ids``."""

MIN_TOKENS = 16
"""Fewest kept tokens that statistics are made from."""

_SURROGATE = re.compile("[\ud800-\udfff]")

_DOCUMENTS_AT_ONCE = 32
_BYTE_ORDER_MARK = "\ufeff"
_BATCHES_SORTED = 64
"""Windows of this many batches are sorted by length before they are batched, which saves padding."""

TextUnit = Literal["file", "blank-line"]


@runtime_checkable
class Tokenizer(Protocol):
    """What a corpus needs of a language model."""

    bos_token_id: int | None
    eos_token_id: int | None
    special_token_ids: frozenset[int]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, with no token added."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text and what to call it."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Windowing:
    """How documents become batches of windows."""

    seq_len: int = 128
    """Tokens in a window, BOS included."""

    batch_size: int = 16
    """Windows in a batch."""

    pack: bool = False
    """Whether windows run on from one document into the next."""

    max_tokens: int | None = None
    """Tokens (BOS and padding apart) to read at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """Windows ready for the model."""

    ids: Int64[Tensor, "batch seq"]
    """Token ids as the model sees them, with BOS and padding."""

    bos_columns: int
    """Columns of ``ids`` (0 or 1) in front of the windows proper."""

    windows: Windows
    """The same windows without BOS, with the tokens that count."""

    @property
    def token_count(self) -> int:
        """Tokens in the windows, BOS and padding apart."""
        return int((self.windows.token_ids != PADDING).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A corpus by name, whose documents can be read any number of times."""

    source: str | Path | Sequence[Path]
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


def _files(source: str | Path | Sequence[Path]) -> list[Path]:
    """Return the files that a corpus consists of; a name that is no folder stands for itself."""
    if not isinstance(source, (str, Path)):
        return list(source)
    path = Path(source)
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    return [path]


# --- reading -------------------------------------------------------------------------------------------------------


def read_documents(
    corpus: str | Path | Sequence[Path], *, text_unit: TextUnit = "file", text_field: str = "text"
) -> Iterator[Document]:
    """Yield the documents of a file, a folder, several files, or a data set by name (``name`` or ``name:config``).

    A ``.txt`` file is one document or, with ``text_unit="blank-line"``, one document a paragraph. JSON items are
    strings or objects with a ``text_field``; parquet files need a column of that name.

    Raises:
        CorpusError: nothing of that name, nothing readable in it, or a broken file, with the line where known.
    """
    if not isinstance(corpus, (str, Path)):
        for path in corpus:
            yield from _read_file(path, path.name, text_unit, text_field)
        return
    path = Path(corpus)
    if path.is_dir():
        if not (files := _files(path)):
            raise CorpusError(f"Corpus folder {path} holds no {', '.join(SUFFIXES)} file: put text files into it.")
        for file in files:
            yield from _read_file(file, str(file.relative_to(path)), text_unit, text_field)
    elif path.exists():
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
        yield from readers[path.suffix]()
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"Corpus {path} is not UTF-8: byte {error.object[error.start]:#04x} at offset {error.start}. "
            "Convert it, for instance with iconv."
        ) from None
    except OSError as error:
        raise CorpusError(f"Corpus {path} cannot be read: {error.strerror or error}. Check the file.") from None


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
    raise CorpusError(f"Corpus {place} has no text in field '{text_field}': found {found}. Name it with --text-field.")


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
                    "Name it with --text-field."
                )
            number = 0
            for batch in file.iter_batches(batch_size=_DOCUMENTS_AT_ONCE, columns=[text_field]):
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


# --- windows -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Window:
    """A window on its way into a batch."""

    sequence: int
    ids: list[int]
    document: str
    start: int


class TokenStream:
    """The batches of a corpus, to be iterated over once, and the count of what was read so far."""

    def __init__(
        self, documents: Iterable[Document], tokenizer: Tokenizer, windowing: Windowing, *, prepend_bos: bool
    ) -> None:
        """Prepare to read; nothing is read before the first batch is asked for.

        Raises:
            CorpusError: BOS or EOS is needed and the tokenizer has none, or the window has no place beside BOS.
        """
        if prepend_bos and tokenizer.bos_token_id is None:
            raise CorpusError("BOS is to stand in front of each window, but this tokenizer has none: use --bos never.")
        if windowing.pack and tokenizer.eos_token_id is None:
            raise CorpusError("Packing needs an EOS token between documents, and this tokenizer has none: drop --pack.")
        if windowing.seq_len - prepend_bos < 1:
            raise CorpusError(f"--seq-len {windowing.seq_len} leaves no token beside BOS: give at least 2.")
        self._documents, self._tokenizer, self._windowing = documents, tokenizer, windowing
        self._hash = hashlib.sha256()
        self._bytes_read = self._tokens_found = 0
        self._bos_columns = int(prepend_bos)
        self.window_length = windowing.seq_len - self._bos_columns
        """Most tokens of a window proper, BOS apart."""
        self.document_count = 0
        """Documents read so far."""
        self.window_count = 0
        """Windows cut so far."""
        self.truncated = False
        """True once ``max_tokens`` has ended the reading."""
        self.excluded: Counter[str] = Counter()
        """Positions run through the model and not counted, by reason."""

    @property
    def sha256(self) -> str:
        """Hash of the texts read so far, in order."""
        return self._hash.hexdigest()

    @property
    def expected_tokens(self) -> int | None:
        """About how many tokens there will have been in the end, or None where nothing says how much text there is."""
        size = getattr(self._documents, "text_bytes", None)
        limit = self._windowing.max_tokens
        if size is None or self._bytes_read == 0:
            return limit
        expected = round(max(size, self._bytes_read) * self._tokens_found / self._bytes_read)
        return expected if limit is None else min(expected, limit)

    def __iter__(self) -> Iterator[TokenBatch]:
        """Yield batches; within 64 batches the longest windows come first."""
        size = self._windowing.batch_size
        windows = self._pack() if self._windowing.pack else self._cut()
        limited = self._limit(windows)
        while chunk := list(islice(limited, size * _BATCHES_SORTED)):
            chunk.sort(key=lambda window: -len(window.ids))
            for begin in range(0, len(chunk), size):
                yield self._batch(chunk[begin : begin + size])

    def _tokens(self) -> Iterator[tuple[str, list[int]]]:
        documents = iter(self._documents)
        while group := list(islice(documents, _DOCUMENTS_AT_ONCE)):
            for document, ids in zip(group, self._tokenizer.tokenize([d.text for d in group]), strict=True):
                self.document_count += 1
                text = document.text.encode()
                self._hash.update(text + b"\0")
                self._bytes_read += len(text)
                self._tokens_found += len(ids)
                yield document.name, ids

    def _cut(self) -> Iterator[_Window]:
        for name, ids in self._tokens():
            for start in range(0, len(ids), self.window_length):
                yield _Window(0, ids[start : start + self.window_length], name, start)

    def _pack(self) -> Iterator[_Window]:
        separator = self._tokenizer.eos_token_id
        assert separator is not None, "checked in __init__"
        ids: list[int] = []
        origin = ("", 0)
        for name, document in self._tokens():
            taken = 0
            while taken < len(document):
                if not ids:
                    origin = (name, taken)
                part = document[taken : taken + self.window_length - len(ids)]
                ids, taken = ids + part, taken + len(part)
                if len(ids) == self.window_length:
                    yield _Window(0, ids, *origin)
                    ids = []
            if ids:
                ids = [*ids, separator]
                if len(ids) == self.window_length:
                    yield _Window(0, ids, *origin)
                    ids = []
        if ids:
            yield _Window(0, ids, *origin)

    def _limit(self, windows: Iterator[_Window]) -> Iterator[_Window]:
        left = self._windowing.max_tokens
        for window in windows:
            if left is not None:
                self.truncated = len(window.ids) > left
                if left == 0:
                    return
                window.ids = window.ids[:left]
                left -= len(window.ids)
            window.sequence = self.window_count
            self.window_count += 1
            yield window

    def _batch(self, windows: Sequence[_Window]) -> TokenBatch:
        width = max(len(window.ids) for window in windows)
        token_ids = np.full((len(windows), width), PADDING, np.int64)
        for row, window in enumerate(windows):
            token_ids[row, : len(window.ids)] = window.ids
        present = token_ids != PADDING
        special = present & np.isin(token_ids, list(self._tokenizer.special_token_ids))
        bos_columns = self._bos_columns
        self.excluded.update(
            {
                "BOS": bos_columns * len(windows),
                "special": int(special.sum()),
                "padding": int((~present).sum()),
            }
        )
        ids = torch.from_numpy(np.where(present, token_ids, 0))
        if bos_columns:
            bos = torch.full((len(windows), 1), self._tokenizer.bos_token_id or 0)
            ids = torch.cat((bos, ids), dim=1)
        return TokenBatch(
            ids=ids,
            bos_columns=bos_columns,
            windows=Windows(
                sequence=np.array([window.sequence for window in windows], np.int64),
                token_ids=token_ids,
                keep=present & ~special,
                document=tuple(window.document for window in windows),
                start=np.array([window.start for window in windows], np.int64),
            ),
        )


def norm_outliers(
    norms: Float[Tensor, "batch seq"], keep: Bool[Tensor, "batch seq"], multiple: float
) -> Bool[Tensor, "batch seq"]:
    """Mark kept tokens whose norm exceeds ``multiple`` times the median over the kept tokens of their window.

    Attention sinks are such tokens. The window is the reference so that the answer does not depend on the batch.
    """
    median = norms.masked_fill(~keep, float("nan")).nanmedian(dim=1, keepdim=True).values
    return keep & (norms > multiple * median)
