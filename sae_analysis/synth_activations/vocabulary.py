"""Which tokens a search may use, and which text a sequence of tokens is, if it is one."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from sae_analysis.language_model import TokenText

_NEIGHBOURS = ("a", "the", " the", "1", ".", "\n", "(", "é")
"""Texts behind which a token may stand that cannot begin one, such as the rest of a word."""


class Vocabulary:
    """The tokens that can stand in a text."""

    ids: Int64[Tensor, " allowed"]
    """In ascending order. Special tokens, padding of the embedding matrix, single bytes of longer characters and
    tokens that no text is cut into are left out."""

    def __init__(self, tokens: TokenText, d_vocab: int) -> None:
        """Try every token, alone and behind some neighbours."""
        self._tokens = tokens
        candidates = [index for index in range(min(d_vocab, tokens.size)) if index not in tokens.special_token_ids]
        allowed: set[int] = set()
        beginnings = [ids for text in _NEIGHBOURS if (ids := tokens.tokenize([text])[0])]
        for beginning in ([], *beginnings):
            waiting = [index for index in candidates if index not in allowed]
            texts = self.texts([[*beginning, index] for index in waiting])
            allowed.update(index for index, text in zip(waiting, texts, strict=True) if text is not None)
        self.ids = torch.tensor(sorted(allowed), dtype=torch.int64)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)

    def texts(self, sequences: Sequence[Sequence[int]]) -> list[str | None]:
        """Return for each sequence the text that is cut into exactly these tokens, or None if there is none.

        Tokenizers that put a space in front of a text are given the text without its first one. Special tokens are no
        text: many tokenizers read them back from their names, but no user means them by these.
        """
        special = self._tokens.special_token_ids
        decoded = [self._tokens.decode(sequence) for sequence in sequences]
        texts: list[str | None] = [None] * len(sequences)
        for attempt in (decoded, [text.removeprefix(" ") for text in decoded]):
            open_ones = [place for place, text in enumerate(texts) if text is None]
            found = self._tokens.tokenize([attempt[place] for place in open_ones]) if open_ones else []
            for place, ids in zip(open_ones, found, strict=True):
                if list(ids) == list(sequences[place]) and special.isdisjoint(ids):
                    texts[place] = attempt[place]
        return texts

    def nearby(self, sequences: Sequence[Sequence[int]], length: int) -> list[list[int]]:
        """Return what sequences' texts are cut into: the last ``length`` tokens of each, where these are text.

        Of long sequences made token by token hardly any is text, since somewhere two neighbours are cut otherwise; what
        they are cut into mostly is.
        """
        allowed = set(self.ids.tolist())
        cut = self._tokens.tokenize([self._tokens.decode(sequence) for sequence in sequences])
        ends = [ids[-length:] for ids in cut if len(ids) >= length and allowed.issuperset(ids[-length:])]
        return [ids for ids, text in zip(ends, self.texts(ends), strict=True) if text is not None]
