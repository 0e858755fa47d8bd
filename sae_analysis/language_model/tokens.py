"""Token ids to text and back, byte by byte: what each token is, even when it is a third of a character."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from sae_analysis.errors import ModelError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>\Z")
_WORD_START = "▁"


class TokenText:
    """A Hugging Face tokenizer, seen as bytes.

    Every token stands for some bytes, and a text is the bytes of its tokens in a row. That holds for byte-level BPE
    (GPT-2, Llama 3, SmolLM), where a token spells its bytes in a private alphabet, and for SentencePiece with byte
    fallback (Llama, Gemma), where words begin with ``▁`` and single bytes read ``<0x0A>``.
    """

    def __init__(self, tokenizer: Any, embedded: int | None = None) -> None:  # noqa: ANN401 - they share no base
        """Wrap ``tokenizer``; ``embedded`` is the number of tokens that the model has embeddings for, if known."""
        self._tokenizer = tokenizer
        self._embedded = sys.maxsize if embedded is None else embedded
        self.bos_token_id: int | None = tokenizer.bos_token_id
        self.eos_token_id: int | None = tokenizer.eos_token_id
        added = tokenizer.added_tokens_decoder
        self._added = {index: token.content for index, token in added.items()}
        special = {index for index, token in added.items() if token.special}
        self.special_token_ids = frozenset(special | set(tokenizer.all_special_ids))
        self.size: int = len(tokenizer)
        """Number of tokens; embedding matrices may have more rows."""
        self._alphabet = _byte_alphabet() if _spells_bytes(tokenizer) else None
        self._known = _Known(self._bytes)
        first = tokenizer("a", add_special_tokens=True)["input_ids"][:1]
        self.adds_bos = self.bos_token_id is not None and first == [self.bos_token_id]
        """Whether this tokenizer puts BOS in front of a text by itself."""

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, with no token added.

        Raises:
            ModelError: a token that the model has no embedding for. Only text can tell: many tokenizers have a few
                such tokens, which none contains.
        """
        found = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        if (largest := max(map(max, filter(None, found)), default=0)) >= self._embedded:
            raise ModelError(
                f"The model's tokenizer gives token {largest}, but there are embeddings for {self._embedded} tokens: "
                "the two do not belong together. Fetch the model's folder again."
            )
        return found

    def strings(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Return one string a token; bytes that are no whole character read ``<0xE4>``."""
        return tuple([self._known[index][1] for index in ids])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the tokens in a row; bytes that form no character become U+FFFD."""
        return b"".join([self._known[index][0] for index in ids]).decode("utf-8", errors="replace")

    def _bytes(self, index: int) -> bytes:
        if index in self._added:
            return self._added[index].encode()
        token = self._tokenizer.convert_ids_to_tokens(index)
        if token is None:  # vocabularies are padded to round sizes; such an id has no token
            return f"<{index}>".encode()
        if self._alphabet is not None:
            spelled = [self._alphabet.get(character) for character in token]
            if None not in spelled:
                return bytes(byte for byte in spelled if byte is not None)
            return token.encode()
        match = _BYTE_TOKEN.match(token)
        return bytes([int(match[1], 16)]) if match else token.replace(_WORD_START, " ").encode()


class _Known(dict[int, tuple[bytes, str]]):
    """Tokens as bytes and as text: asked for by the million, so each is worked out once."""

    def __init__(self, spell: Callable[[int], bytes]) -> None:
        super().__init__()
        self._spell = spell

    def __missing__(self, index: int) -> tuple[bytes, str]:
        raw = self._spell(index)
        self[index] = raw, _show(raw)
        return self[index]


def _show(raw: bytes) -> str:
    """Decode UTF-8; undecodable bytes are smuggled through as lone surrogates and spelled out."""
    text = raw.decode("utf-8", errors="surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda match: f"<0x{ord(match[0]) - 0xDC00:02X}>", text)


def _spells_bytes(tokenizer: Any) -> bool:  # noqa: ANN401
    """Return whether tokens are spelled in the byte-level alphabet, by the tokenizer's own decoder."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return hasattr(tokenizer, "byte_decoder")
    return '"ByteLevel"' in json.dumps(json.loads(backend.to_str())["decoder"])


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of the byte-level alphabet stands for.

    Printable Latin-1 bytes stand for themselves, the rest for the characters from U+0100 on, in order.
    Source: Radford et al. 2019, the encoder released with GPT-2.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
