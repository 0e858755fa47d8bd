"""Context windows: documents cut, batched, and marked with which of their tokens count."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from sae_analysis.accumulators import Windows
from sae_analysis.corpus.documents import Document
from sae_analysis.errors import CorpusError

PADDING = -1
"""Stands for what follows the end of a short window in ``Windows.token_ids``."""

_BATCHES_SORTED = 64
"""Windows of this many batches are sorted by length before they are batched, which saves padding."""

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
