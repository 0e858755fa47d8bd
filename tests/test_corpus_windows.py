"""How documents become windows and chunks, and which tokens count."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_analysis.corpus import PADDING, Corpus, Document, TokenStream, Windowing, norm_outliers
from sae_analysis.errors import CorpusError

BOS, EOS = 0, 1


class Letters:
    """A tokenizer whose tokens are characters: '^' is BOS, '$' is EOS, anything else its code point."""

    bos_token_id, eos_token_id = BOS, EOS
    special_token_ids = frozenset({BOS, EOS})

    def tokenize(self, texts):
        return [[{"^": BOS, "$": EOS}.get(character, ord(character)) for character in text] for text in texts]


class Nameless(Letters):
    """The same without BOS and EOS."""

    bos_token_id = eos_token_id = None


def documents(*texts):
    return [Document(name=f"d{number}", text=text) for number, text in enumerate(texts)]


def stream(*texts, bos=False, tokenizer=None, **windowing):
    return TokenStream(documents(*texts), tokenizer or Letters(), Windowing(**windowing), prepend_bos=bos)


def windows(batches):
    """Windows by sequence number: (document, start, text, kept text, ids the model sees)."""
    found = {}
    for batch in batches:
        w = batch.windows
        for row, sequence in enumerate(w.sequence.tolist()):
            real = w.token_ids[row] != PADDING
            text = "".join({BOS: "^", EOS: "$"}.get(i, chr(i)) for i in w.token_ids[row][real])
            kept = "".join(chr(i) for i in w.token_ids[row][w.keep[row]])
            found[sequence] = (w.document[row], int(w.start[row]), text, kept, batch.ids[row].tolist())
    return [found[sequence] for sequence in sorted(found)]


# --- windows -------------------------------------------------------------------------------------------------------


def test_documents_are_cut_into_consecutive_windows():
    assert windows(stream("abcde", "fg", seq_len=3)) == [
        ("d0", 0, "abc", "abc", [97, 98, 99]),
        ("d0", 3, "de", "de", [100, 101, 0]),
        ("d1", 0, "fg", "fg", [102, 103]),
    ]


def test_bos_takes_one_place_of_every_window_and_is_not_part_of_it():
    found = windows(stream("abcde", seq_len=3, bos=True))
    assert found == [
        ("d0", 0, "ab", "ab", [BOS, 97, 98]),
        ("d0", 2, "cd", "cd", [BOS, 99, 100]),
        ("d0", 4, "e", "e", [BOS, 101]),
    ]


def test_packed_windows_run_on_with_eos_between_documents():
    found = windows(stream("abc", "", "de", "fg", seq_len=4, pack=True))
    assert [(name, start, text, kept) for name, start, text, kept, _ in found] == [
        ("d0", 0, "abc$", "abc"),
        ("d2", 0, "de$f", "def"),
        ("d3", 1, "g", "g"),
    ]


@given(
    lengths=st.lists(st.integers(0, 20), max_size=12),
    seq_len=st.integers(2, 9),
    chunk_size=st.integers(1, 60),
    pack=st.booleans(),
    limit=st.none() | st.integers(1, 60),
)
def test_documents_that_count_are_those_of_which_something_is_read(*, lengths, seq_len, chunk_size, pack, limit):
    originals = [chr(200 + number) * length for number, length in enumerate(lengths)]
    tokens = stream(*originals, seq_len=seq_len, chunk_size=chunk_size, pack=pack, max_tokens=limit)
    counted, read = [], ""
    for chunk in tokens.chunks():
        counted += [document.text for document in chunk.documents if document.text]
        text = "".join(text for _, _, text, _, _ in windows(tokens.batches(chunk)))
        assert "$$" not in text
        assert not text.startswith("$")
        assert tokens.truncated or not text.endswith("$"), "separators stand between documents alone"
        read += text
    assert counted == [text for text in originals if text and text[0] in read]


@pytest.mark.parametrize(("pack", "begun"), [(False, 43), (True, 38)])
def test_documents_that_max_tokens_does_not_reach_neither_count_nor_are_hashed(pack, begun):
    tokens = stream(*["abcdefg"] * 60, seq_len=16, pack=pack, max_tokens=300)
    [chunk] = tokens.chunks()
    assert len(chunk.documents) == begun
    assert tokens.sha256 == hashlib.sha256(b"abcdefg\0" * begun).hexdigest()


def test_special_tokens_of_the_text_are_read_but_not_counted():
    [batch] = stream("a^b$", seq_len=8, bos=True)
    assert [kept for *_, kept, _ in windows([batch])] == ["ab"]
    assert batch.excluded == {"BOS": 1, "special": 2, "padding": 0}


@given(
    lengths=st.lists(st.integers(0, 40), max_size=12),
    seq_len=st.integers(2, 9),
    batch_size=st.integers(1, 5),
    bos=st.booleans(),
    pack=st.booleans(),
    limit=st.none() | st.integers(1, 60),
)
def test_every_token_is_in_exactly_one_window(*, lengths, seq_len, batch_size, bos, pack, limit):
    letters = iter(range(1000, 2000))
    originals = ["".join(chr(next(letters)) for _ in range(length)) for length in lengths]
    tokens = stream(*originals, seq_len=seq_len, batch_size=batch_size, bos=bos, pack=pack, max_tokens=limit)
    batches = list(tokens)
    found = windows(batches)
    joined = "".join(text for _, _, text, _, _ in found)
    everything = "".join(originals)
    assert joined.replace("$", "") == everything[: len(joined.replace("$", ""))]
    if limit is None:
        assert joined.replace("$", "") == everything
    else:
        assert len(joined) <= limit
        if not pack:
            assert joined == everything[:limit]
            assert tokens.truncated == (len(everything) > limit)
    for name, start, text, kept, ids in found:
        assert originals[int(name[1:])][start] == text[0]
        assert len(text) <= seq_len - bos
        assert kept == text.replace("$", "")
        assert (ids[0] == BOS) == bos
    assert sum(batch.token_count for batch in batches) == len(joined)
    assert all(batch.ids.numel() <= batch_size * seq_len for batch in batches)
    positions = sum(batch.ids.numel() for batch in batches)
    kept_count = sum(int(batch.windows.keep.sum()) for batch in batches)
    assert positions == kept_count + sum(sum(batch.excluded.values()) for batch in batches)


@pytest.mark.parametrize(
    ("lengths", "limit", "truncated"), [((5,), 5, False), ((5,), 4, True), ((5, 1), 5, True), ((9,), 3, True)]
)
def test_reading_is_truncated_when_text_is_left_over(lengths, limit, truncated):
    tokens = stream(*("x" * length for length in lengths), seq_len=8, max_tokens=limit)
    assert sum(batch.token_count for batch in tokens) == limit
    assert tokens.truncated is truncated


def test_the_batch_size_changes_neither_windows_nor_their_numbers():
    originals = ["abcdefgh", "i", "jkl", "mnopq"]
    one = windows(stream(*originals, seq_len=4, batch_size=1))
    many = windows(stream(*originals, seq_len=4, batch_size=16))
    assert [row[:4] for row in one] == [row[:4] for row in many]


def test_a_batch_has_as_many_tokens_of_short_windows_as_of_long_ones():
    batches = list(stream(*["abcdefgh"] * 3, *["abcd"] * 5, *["ab"] * 8, seq_len=8, batch_size=2))
    assert [tuple(batch.ids.shape) for batch in batches] == [(2, 8), (2, 8), (4, 4), (8, 2)]
    assert batches[1].token_count == 12, "the longest windows stand first, beside the shorter ones that follow"


def test_the_end_of_a_chunk_is_read_in_halves():
    """A product keeps machine code for each number of rows that it has seen."""
    shapes = {
        tuple(batch.ids.shape)
        for windows_in_all in range(1, 40)
        for batch in stream(*["abcd"] * windows_in_all, seq_len=4, batch_size=16)
    }
    assert shapes == {(rows, 4) for rows in (1, 2, 4, 8, 16)}


def test_an_empty_document_gives_no_window():
    assert len(windows(stream("", "ab", seq_len=4))) == 1


# --- chunks --------------------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(0, 40), max_size=12),
    chunk_size=st.integers(1, 60),
    bos=st.booleans(),
    pack=st.booleans(),
    limit=st.none() | st.integers(1, 60),
    count_until=st.integers(0, 200),
    data=st.data(),
)
def test_a_chunk_read_alone_is_as_it_is_among_all(*, lengths, chunk_size, bos, pack, limit, count_until, data):
    originals = [chr(200 + number) * length for number, length in enumerate(lengths)]
    windowing = {"seq_len": 5, "batch_size": 2, "pack": pack, "max_tokens": limit, "chunk_size": chunk_size, "bos": bos}
    together = stream(*originals, **windowing)
    found, before, numbers = {}, 0, []
    for chunk in together.chunks(count_until):
        assert min(before, max(count_until, limit or 0)) <= chunk.tokens_before <= before
        found[chunk.number] = list(together.batches(chunk))
        before += sum(batch.token_count for batch in found[chunk.number])
        numbers += sorted(int(number) for batch in found[chunk.number] for number in batch.windows.sequence)
    assert numbers == sorted(set(numbers)), "windows are numbered in the order of the corpus, each once"
    assert list(found) == list(range(len(found)))
    if found:
        alone = stream(*originals, **windowing)
        wanted = data.draw(st.sampled_from(sorted(found)))
        [chunk] = [chunk for chunk in alone.chunks(count_until) if chunk.number == wanted]
        assert windows(alone.batches(chunk)) == windows(found[wanted])
        assert (alone.sha256, alone.truncated) == (together.sha256, together.truncated)


def test_chunks_are_of_whole_documents_and_about_as_long_as_asked():
    chunks = stream("abc", "d", "", "efghij", "k", seq_len=4, chunk_size=4).chunks()
    assert [[document.text for document in chunk.documents] for chunk in chunks] == [
        ["abc", "d"],
        ["", "efghij"],
        ["k"],
    ]


def test_the_hash_of_a_chunk_tells_text_name_and_place():
    def hashes(*texts):
        return [chunk.sha256 for chunk in stream(*texts, seq_len=4, chunk_size=2).chunks()]

    same = hashes("ab", "cd")
    assert hashes("ab", "cd") == same
    assert hashes("ab", "ce")[0] == same[0] != hashes("ax", "cd")[0]
    assert hashes("abc", "cd")[1] != same[1], "it stands elsewhere"
    assert hashes("ab", "", "cd")[1] != same[1], "the document has another name"


def test_text_with_more_windows_than_numbers_is_refused():
    class Prolific(Letters):
        def tokenize(self, texts):
            return [[7] * 20 * len(text) for text in texts]

    with pytest.raises(CorpusError) as caught:
        list(stream("ab", seq_len=2, tokenizer=Prolific()))
    assert str(caught.value) == "The text has several windows a character: give a greater seq_len."


def test_a_corpus_too_long_for_its_windows_to_be_numbered_is_refused(monkeypatch):
    monkeypatch.setattr("sae_analysis.corpus.windows.MOST_WINDOWS", 40)
    with pytest.raises(CorpusError) as caught:
        list(stream("abcde", "fghij", seq_len=4, chunk_size=1))
    assert str(caught.value) == (
        "The corpus has more than 10 characters, more than can be analysed at once: give a part of it."
    )


def test_the_hash_is_of_the_documents_in_order():
    tokens = stream("ab", "é", seq_len=4)
    list(tokens)
    assert tokens.sha256 == hashlib.sha256("ab\0é\0".encode()).hexdigest()


def test_the_number_of_tokens_to_come_is_estimated_from_the_bytes_read(tmp_path):
    (path := tmp_path / "a.txt").write_text("x" * 50)

    def expected(**windowing):
        tokens = TokenStream(Corpus(source=path), Letters(), Windowing(seq_len=8, **windowing), prepend_bos=False)
        before = tokens.expected_tokens
        list(tokens)
        return before, tokens.expected_tokens

    assert expected() == (None, 50)
    assert expected(max_tokens=20) == (20, 20)


def test_bos_that_the_tokenizer_lacks_is_refused():
    with pytest.raises(CorpusError) as caught:
        stream("a", bos=True, tokenizer=Nameless())
    assert str(caught.value) == ("BOS is to stand in front of each window, but this tokenizer has none: use bos never.")


def test_packing_without_eos_is_refused():
    with pytest.raises(CorpusError) as caught:
        stream("a", pack=True, tokenizer=Nameless())
    assert str(caught.value) == (
        "Packing needs an EOS token between documents, and this tokenizer has none: drop pack."
    )


def test_a_window_with_no_place_beside_bos_is_refused():
    with pytest.raises(CorpusError) as caught:
        stream("a", seq_len=1, bos=True)
    assert str(caught.value) == "seq_len 1 leaves no token beside BOS: give at least 2."


# --- norm outliers -------------------------------------------------------------------------------------------------


def test_norm_outliers_exceed_the_median_of_the_kept_tokens_of_their_own_window():
    norms = torch.tensor([[1.0, 2.0, 3.0, 50.0, 999.0], [100.0, 100.0, 100.0, 50.0, 1.0]])
    keep = torch.tensor([[True, True, True, True, False], [True] * 5])
    found = norm_outliers(norms, keep, 3.0)
    assert found.tolist() == [[False, False, False, True, False], [False] * 5]


def test_a_window_without_kept_tokens_has_no_outliers():
    assert not norm_outliers(torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool), 2.0).any()


def test_windows_are_arrays_of_the_types_that_accumulators_expect():
    [batch] = stream("abc", seq_len=4)
    assert batch.windows.token_ids.dtype == batch.windows.sequence.dtype == np.int64
    assert batch.ids.dtype == torch.int64
