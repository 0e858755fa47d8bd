"""Text in, context windows out: the one place that says which documents are read and which tokens count.

A corpus is a ``.txt``, ``.jsonl``, ``.json`` or ``.parquet`` file, a folder of these, or the name of a data set that
the ``datasets`` library can load. Documents are read in order and none is dropped; an empty one is counted.

How windows are made. Each document is cut into consecutive windows of ``seq_len`` tokens, of which the last may be
shorter. With ``pack``, the documents of a chunk are first joined with the model's EOS between them, so that only its
last window is short; these separators are not counted, where a window ends with a document there is none, and an empty
document has no place. An example then has the name of the document that its window begins in, and the place in it,
wherever in the window it peaks. BOS, where the model wants one, is put in front of each window,
exactly once, takes up one of its ``seq_len`` places, and appears in no result. Short windows are padded at the end,
where a causal model cannot see it.

Consecutive documents make up chunks of about as much text each, and no batch has windows of two: a chunk comes out the
same whether it is read in one run with all others or alone, on another machine, next week.
"""

from sae_analysis.corpus.documents import Corpus, Document, TextUnit, read_documents
from sae_analysis.corpus.windows import (
    PADDING,
    Chunk,
    TokenBatch,
    Tokenizer,
    TokenStream,
    Windowing,
    norm_outliers,
)

MIN_TOKENS = 16
"""Fewest kept tokens that statistics are made from."""

__all__ = [
    "MIN_TOKENS",
    "PADDING",
    "Chunk",
    "Corpus",
    "Document",
    "TextUnit",
    "TokenBatch",
    "TokenStream",
    "Tokenizer",
    "Windowing",
    "norm_outliers",
    "read_documents",
]
