"""Context windows: documents cut, batched, and marked with which of their tokens count."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from sae_analysis.accumulators import MOST_WINDOWS, Windows
from sae_analysis.corpus.documents import Document
from sae_analysis.errors import CorpusError, check_range

PADDING = -1
"""Stands for what follows the end of a short window in ``Windows.token_ids``."""

_NUMBERS_PER_CHARACTER = 4
"""Numbers kept free for the windows of each character, and of each document: bytes may be tokens, and each a window."""

_CHARACTERS_PER_PLACE = 64
"""Characters of a chunk for each place in a batch: sixteen batches of English, few enough to be shared out evenly and
enough to sort by length, which saves padding."""

_DOCUMENTS_AT_ONCE = 32
"""Documents tokenised together."""


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
class Windowing:
    """How documents become batches of windows."""

    seq_len: int = 128
    """Tokens in a window, BOS included."""

    batch_size: int = 16
    """Windows in a batch; of shorter ones there are more, as many as have no more tokens."""

    pack: bool = False
    """Whether windows run on from one document into the next of a chunk; what is told of a window's place is then of
    the document that it begins in."""

    max_tokens: int | None = None
    """Tokens (BOS and padding apart) to read at most."""

    chunk_size: int | None = None
    """Characters of text, rounded up to whole documents, that make up a chunk; None is about sixteen batches."""

    def __post_init__(self) -> None:
        check_range(
            1,
            seq_len=self.seq_len,
            batch_size=self.batch_size,
            max_tokens=self.max_tokens,
            chunk_size=self.chunk_size,
        )

    @property
    def chunk_characters(self) -> int:
        """Characters of text after which a chunk ends with the document."""
        return self.chunk_size or _CHARACTERS_PER_PLACE * self.batch_size * self.seq_len


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

    @property
    def excluded(self) -> Counter[str]:
        """Positions run through the model and not counted, by reason."""
        rows, present = len(self.ids), self.token_count
        return Counter(
            {
                "BOS": rows * self.bos_columns,
                "special": present - int(self.windows.keep.sum()),
                "padding": self.windows.token_ids.size - present,
            }
        )


@dataclass(slots=True)
class _Window:
    """A window on its way into a batch."""

    ids: list[int]
    document: str
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Consecutive documents, which share their batches with no others: what can be read alone, anywhere, at any time.

    All that depends on what stands before it in the corpus is said here, so that a chunk comes out the same to the
    last bit whoever reads it.
    """

    number: int
    """Chunks before it."""

    place: int
    """Number of its first window; those of the windows of all chunks before it are lower."""

    documents: tuple[Document, ...]

    tokens_before: int
    """Tokens in the windows before it, as far as they were counted: see ``TokenStream.chunks``."""

    windows: list[_Window] | None = None
    """Its windows, where counting tokens has cut them already."""

    @property
    def sha256(self) -> bytes:
        """Hash of its place and of the names and texts of its documents: what has the same comes out the same."""
        content = hashlib.sha256(f"{self.number} {self.place}".encode())
        for document in self.documents:
            content.update(b"\0" + document.name.encode(errors="surrogateescape") + b"\0" + document.text.encode())
        return content.digest()


class TokenStream:
    """The batches of a corpus, to be iterated over once, whole or chunk by chunk, and what was read so far."""

    def __init__(
        self, documents: Iterable[Document], tokenizer: Tokenizer, windowing: Windowing, *, prepend_bos: bool
    ) -> None:
        """Prepare to read; nothing is read before the first batch is asked for.

        Raises:
            CorpusError: BOS or EOS is needed and the tokenizer has none, or the window has no place beside BOS.
        """
        if prepend_bos and tokenizer.bos_token_id is None:
            raise CorpusError("BOS is to stand in front of each window, but this tokenizer has none: use bos never.")
        if windowing.pack and tokenizer.eos_token_id is None:
            raise CorpusError("Packing needs an EOS token between documents, and this tokenizer has none: drop pack.")
        if windowing.seq_len - prepend_bos < 1:
            raise CorpusError(f"seq_len {windowing.seq_len} leaves no token beside BOS: give at least 2.")
        self._documents, self._tokenizer, self._windowing = documents, tokenizer, windowing
        self._hash = hashlib.sha256()
        self._characters_cut = self._tokens_cut = self._bytes_read = self._characters_read = 0
        self._bos_columns = int(prepend_bos)
        self.window_length = windowing.seq_len - self._bos_columns
        """Most tokens of a window proper, BOS apart."""
        self.truncated = False
        """True once ``max_tokens`` has ended the reading."""
        self.first: Chunk | None = None
        """The first chunk, once it was seen."""

    @property
    def sha256(self) -> str:
        """Hash of the texts read so far, in order."""
        return self._hash.hexdigest()

    @property
    def expected_tokens(self) -> int | None:
        """About how many tokens there are in all, or None where nothing says how much text there is."""
        size = getattr(self._documents, "text_bytes", None)
        limit = self._windowing.max_tokens
        if size is None or self._characters_cut == 0:
            return limit
        characters = max(size, self._bytes_read) * self._characters_read / self._bytes_read
        expected = round(characters * self._tokens_cut / self._characters_cut)
        return expected if limit is None else min(expected, limit)

    def __iter__(self) -> Iterator[TokenBatch]:
        """Yield the batches of all chunks."""
        for chunk in self.chunks():
            yield from self.batches(chunk)

    def chunks(self, count_until: int = 0) -> Iterator[Chunk]:
        """Yield the chunks of the corpus, in order; what is not read of them costs little.

        ``tokens_before`` is exact up to ``count_until`` (and ``max_tokens``), and at least that beyond: to know it, the
        text before has to be tokenised, whoever reads it.

        Raises:
            CorpusError: the text cannot be read, or is too long for windows to be numbered.
        """
        most = self._windowing.max_tokens
        place = tokens = 0
        for number, documents in enumerate(self._gather()):
            if most is not None and tokens >= most:
                self.truncated = any(self._cut(documents))
                if self.truncated:
                    return
            windows = None
            if tokens < max(count_until, most or 0):
                windows = list(self._cut(documents))
                if most is not None and sum(len(window.ids) for window in windows) > most - tokens:
                    self.truncated = True
                    windows = list(_first(windows, most - tokens))
                    documents = documents[: self._begun(documents, most - tokens)]  # noqa: PLW2901 - the rest is left
            characters = self._hashed(documents)
            chunk = Chunk(number=number, place=place, documents=tuple(documents), tokens_before=tokens, windows=windows)
            self.first = self.first or chunk
            yield chunk
            if self.truncated:
                return
            tokens += sum(len(window.ids) for window in windows or ())
            place += _NUMBERS_PER_CHARACTER * (characters + len(documents))
            if place >= MOST_WINDOWS:
                raise CorpusError(
                    f"The corpus has more than {MOST_WINDOWS // _NUMBERS_PER_CHARACTER:,} characters, more than can be "
                    "analysed at once: give a part of it."
                )

    def batches(self, chunk: Chunk) -> Iterator[TokenBatch]:
        """Yield the batches of a chunk, the longest windows first.

        Raises:
            CorpusError: there are more windows than numbers for them.
        """
        windows = list(self._cut(chunk.documents)) if chunk.windows is None else chunk.windows
        characters = sum(len(document.text) for document in chunk.documents)
        if len(windows) > _NUMBERS_PER_CHARACTER * (characters + len(chunk.documents)):
            raise CorpusError("The text has several windows a character: give a greater seq_len.")
        self._characters_cut += characters
        self._tokens_cut += sum(len(window.ids) for window in windows)
        numbered = sorted(enumerate(windows, start=chunk.place), key=lambda pair: -len(pair[1].ids))
        places, begin = self._windowing.batch_size * self._windowing.seq_len, 0
        while begin < len(numbered):
            rows = places // (self._bos_columns + len(numbered[begin][1].ids))
            while rows > len(numbered) - begin:  # products keep machine code for each number of rows: few are met so
                rows //= 2
            yield self._batch(numbered[begin : begin + rows])
            begin += rows

    def _gather(self) -> Iterator[list[Document]]:
        """Yield the documents of each chunk."""
        documents: list[Document] = []
        characters = 0
        for document in self._documents:
            documents.append(document)
            characters += len(document.text)
            if characters >= self._windowing.chunk_characters:
                yield documents
                documents, characters = [], 0
        if documents:
            yield documents

    def _begun(self, documents: Sequence[Document], tokens: int) -> int:
        """Return how many of the documents are begun with before that many tokens are read."""
        for number, (_, separator, ids) in enumerate(self._separated(documents)):
            tokens -= len(separator)
            if tokens <= 0:
                return number
            tokens -= len(ids)
        return len(documents)

    def _hashed(self, documents: Sequence[Document]) -> int:
        """Take the texts into account, and return their characters."""
        characters = 0
        for document in documents:
            text = document.text.encode()
            self._hash.update(text + b"\0")
            self._bytes_read += len(text)
            characters += len(document.text)
        self._characters_read += characters
        return characters

    def _tokens(self, documents: Sequence[Document]) -> Iterator[tuple[str, list[int]]]:
        for begin in range(0, len(documents), _DOCUMENTS_AT_ONCE):
            group = documents[begin : begin + _DOCUMENTS_AT_ONCE]
            tokenized = self._tokenizer.tokenize([document.text for document in group])
            yield from zip((document.name for document in group), tokenized, strict=True)

    def _separated(self, documents: Sequence[Document]) -> Iterator[tuple[str, list[int], list[int]]]:
        """Yield name, separator in front and tokens of each document; none is needed where a window begins with it."""
        eos, read = self._tokenizer.eos_token_id, 0
        for name, ids in self._tokens(documents):
            runs_on = self._windowing.pack and ids and read % self.window_length
            separator = [eos] if runs_on and eos is not None else []  # the latter is checked in __init__
            yield name, separator, ids
            read += len(separator) + len(ids)

    def _cut(self, documents: Sequence[Document]) -> Iterator[_Window]:
        if self._windowing.pack:
            yield from self._pack(documents)
            return
        for name, ids in self._tokens(documents):
            for start in range(0, len(ids), self.window_length):
                yield _Window(ids[start : start + self.window_length], name, start)

    def _pack(self, documents: Sequence[Document]) -> Iterator[_Window]:
        ids: list[int] = []
        origin = ("", 0)
        for name, separator, document in self._separated(documents):
            ids = ids + separator
            if len(ids) == self.window_length:
                yield _Window(ids, *origin)
                ids = []
            taken = 0
            while taken < len(document):
                if not ids:
                    origin = (name, taken)
                part = document[taken : taken + self.window_length - len(ids)]
                ids, taken = ids + part, taken + len(part)
                if len(ids) == self.window_length:
                    yield _Window(ids, *origin)
                    ids = []
        if ids:
            yield _Window(ids, *origin)

    def _batch(self, numbered: Sequence[tuple[int, _Window]]) -> TokenBatch:
        sequence, windows = zip(*numbered, strict=True)
        width = max(len(window.ids) for window in windows)
        token_ids = np.full((len(windows), width), PADDING, np.int64)
        for row, window in enumerate(windows):
            token_ids[row, : len(window.ids)] = window.ids
        present = token_ids != PADDING
        special = present & np.isin(token_ids, list(self._tokenizer.special_token_ids))
        bos_columns = self._bos_columns
        ids = torch.from_numpy(np.where(present, token_ids, 0))
        if bos_columns:
            bos = torch.full((len(windows), 1), self._tokenizer.bos_token_id or 0)
            ids = torch.cat((bos, ids), dim=1)
        return TokenBatch(
            ids=ids,
            bos_columns=bos_columns,
            windows=Windows(
                sequence=np.array(sequence, np.int64),
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

    Source: Xiao et al. 2023, "Efficient streaming language models with attention sinks"; Sun et al. 2024, "Massive
    activations in large language models", for knowing them by their norm. The multiple is the caller's.
    """
    median = norms.masked_fill(~keep, float("nan")).nanmedian(dim=1, keepdim=True).values
    return keep & (norms > multiple * median)


def _first(windows: Iterable[_Window], tokens: int) -> Iterator[_Window]:
    """Yield windows as far as that many tokens reach; the last may be cut."""
    for window in windows:
        if tokens <= 0:
            return
        yield _Window(window.ids[:tokens], window.document, window.start)
        tokens -= len(window.ids)
