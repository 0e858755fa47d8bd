"""Tokens give back the text they are of, and read as bytes where they are no characters."""

import pytest
from conftest import TEXTS, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from sae_analysis.language_model import TokenText

SCRIPTS = (
    "plain words",
    "Über",
    "你好世界",
    "مرحبا",
    "नमस्ते",
    "🤗🏳️‍🌈",
    "tab\there\n\nnew",
    "  two  spaces ",
    "x\x00\x7f",
    "<0x41>",
)


def sentence_piece(merges=(), words=(), *, truncates=False):
    """SentencePiece BPE with byte fallback, as Llama 2 and Gemma have it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghilnorstuw.,Ü", *words]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: index for index, piece in enumerate(pieces)}, list(merges), unk_token="<unk>", byte_fallback=True
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    if truncates:
        tokenizer.enable_truncation(4)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def byte_fallback():
    return TokenText(sentence_piece(merges=[("▁", "t"), ("t", "h"), ("▁t", "h")], words=["▁t", "th", "▁th"]))


@pytest.mark.parametrize("text", [*TEXTS, *SCRIPTS])
def test_byte_level_tokens_give_back_the_text(byte_level, text):
    [ids] = byte_level.tokenize([text])
    assert byte_level.decode(ids) == text
    assert len(byte_level.strings(ids)) == len(ids)


@pytest.mark.parametrize("text", [*TEXTS, *SCRIPTS])
def test_byte_fallback_tokens_give_back_the_text_behind_the_space_that_sentence_piece_adds(byte_fallback, text):
    [ids] = byte_fallback.tokenize([text])
    assert byte_fallback.decode(ids) == " " + text
    assert len(byte_fallback.strings(ids)) == len(ids)


@given(text=st.text())
def test_any_text_survives_byte_level_tokens(byte_level, text):
    [ids] = byte_level.tokenize([text])
    assert byte_level.decode(ids) == text
    assert "".join(byte_level.strings(ids)).count("�") == text.count("�")


def test_fragments_of_a_character_read_as_bytes(byte_fallback):
    [ids] = byte_fallback.tokenize(["ä\n"])
    assert byte_fallback.strings(ids) == (" ", "<0xC3>", "<0xA4>", "\n")
    assert byte_fallback.decode(ids[:2]) == " �"


def test_byte_level_fragments_read_as_bytes(byte_level):
    [ids] = byte_level.tokenize(["鬱"])
    assert "".join(byte_level.strings(ids)) == "<0xE9><0xAC><0xB1>"
    assert byte_level.strings(byte_level.tokenize([" "])[0]) == (" ",)


def test_word_starts_are_spaces(byte_fallback):
    assert byte_fallback.strings(byte_fallback.tokenize(["the thin"])[0]) == (" th", "e", " th", "i", "n")


def test_special_tokens_read_as_they_are_and_are_known(byte_level, byte_fallback):
    assert byte_level.strings([0, 1, 2]) == ("<bos>", "<eos>", "<pad>")
    assert byte_level.special_token_ids == {0, 1, 2}
    assert byte_fallback.decode([1, 2]) == "<s></s>"
    assert byte_fallback.special_token_ids == {0, 1, 2}


def test_added_tokens_that_are_not_special_keep_their_text_and_count(tmp_path):
    from transformers import AutoTokenizer

    make_tokenizer(tmp_path, adds_bos=False)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens(["<über tool>"])
    tokens = TokenText(tokenizer)
    [ids] = tokens.tokenize(["a<über tool>b"])
    assert tokens.strings(ids) == ("a", "<über tool>", "b")
    assert not tokens.special_token_ids & set(ids)


def test_an_id_beyond_the_vocabulary_reads_as_a_number(byte_level, byte_fallback):
    assert byte_level.strings([100_000]) == byte_fallback.strings([100_000]) == ("<100000>",)


def test_no_token_is_added_and_bos_habits_are_known(byte_level, byte_fallback, bos_model):
    assert byte_level.adds_bos is False
    assert byte_fallback.adds_bos is True
    assert bos_model.tokens.adds_bos is True, "BOS with id 0 is a token, not nothing"
    assert byte_fallback.tokenize(["", "a"])[0] == []
    assert 1 not in byte_fallback.tokenize(["the"])[0]


def test_a_tokenizer_that_truncates_by_itself_drops_nothing():
    tokens = TokenText(sentence_piece(truncates=True))
    assert tokens.decode(tokens.tokenize(["a long line of words"])[0]) == " a long line of words"
