"""Which documents are read, from files of every kind, and what is said of those that cannot be."""

import json
import sys
from pathlib import Path

import pytest

from sae_analysis.corpus import Corpus, Document, read_documents
from sae_analysis.errors import CorpusError


def texts(source, **options):
    return [document.text for document in read_documents(source, **options)]


def refusal(source, **options):
    with pytest.raises(CorpusError) as caught:
        list(read_documents(source, **options))
    return str(caught.value)


# --- reading -------------------------------------------------------------------------------------------------------


def test_a_text_file_is_one_document(tmp_path):
    (path := tmp_path / "a.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    assert list(read_documents(path)) == [Document(name="a.txt", text="one\n\ntwo\n")]


def test_blank_lines_separate_documents_where_asked(tmp_path):
    (path := tmp_path / "a.txt").write_bytes("\n\none\nmore\r\n \t\r\n\ntwo 你好".encode())
    assert list(read_documents(path, text_unit="blank-line")) == [
        Document(name="a.txt#1", text="one\nmore"),
        Document(name="a.txt#2", text="two 你好"),
    ]


@pytest.mark.parametrize("unit", ["file", "blank-line"])
def test_a_byte_order_mark_is_no_text(tmp_path, unit):
    (path := tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone")
    assert texts(path, text_unit=unit) == ["one"]


def test_json_lines_hold_texts_or_objects(tmp_path):
    (path := tmp_path / "a.jsonl").write_text('"one"\n\n{"text": "two", "id": 3}\n', encoding="utf-8")
    assert list(read_documents(path)) == [
        Document(name="a.jsonl#1", text="one"),
        Document(name="a.jsonl#3", text="two"),
    ]


def test_a_json_list_holds_texts_or_objects(tmp_path):
    (path := tmp_path / "a.json").write_text('["one", {"body": "two"}]', encoding="utf-8")
    assert texts(path, text_field="body") == ["one", "two"]


def test_a_parquet_column_is_read_in_order(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    expected = [f"text {number} Ünï" for number in range(70)]
    parquet.write_table(pyarrow.table({"text": expected, "id": list(range(70))}), path := tmp_path / "a.parquet")
    assert texts(path) == expected


def test_a_folder_is_read_in_order_of_names(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, content in {"b.txt": "b", "a.json": '["a1", "a2"]', "sub/c.jsonl": '"c"', "notes.md": "no"}.items():
        (tmp_path / name).write_text(content)
    found = [(document.name, document.text) for document in read_documents(tmp_path)]
    assert found == [("a.json#1", "a1"), ("a.json#2", "a2"), ("b.txt", "b"), (f"{Path('sub/c.jsonl')}#1", "c")]


def test_several_files_are_read_in_the_order_given(tmp_path):
    paths = [tmp_path / name for name in ("b.txt", "a.txt")]
    for path in paths:
        path.write_text(path.name)
    assert texts(paths) == ["b.txt", "a.txt"]


def test_files_may_be_named_by_text(tmp_path):
    (tmp_path / "a.txt").write_text("twelve bytes")
    corpus = Corpus(source=[str(tmp_path / "a.txt")])
    assert [(document.name, document.text) for document in corpus] == [("a.txt", "twelve bytes")]
    assert corpus.text_bytes == 12


def test_a_data_set_is_read_by_name_and_configuration(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(*arguments, **options):
        asked.append((arguments, options))
        return [{"text": "one"}, {"text": "two"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(read_documents("owner/set:small")) == [
        Document(name="owner/set:small#1", text="one"),
        Document(name="owner/set:small#2", text="two"),
    ]
    assert asked == [(("owner/set", "small"), {"split": "train", "streaming": True})]


def test_a_corpus_can_be_read_twice_and_knows_its_size(tmp_path):
    (path := tmp_path / "a.txt").write_text("onetwo")
    corpus = Corpus(source=path)
    assert [document.text for document in corpus] == [document.text for document in corpus] == ["onetwo"]
    assert corpus.text_bytes == 6
    assert Corpus(source="no/file").text_bytes is None


# --- what cannot be read -------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "no.txt"
    assert refusal(path) == (
        f"Corpus {path} does not exist: give a .txt, .jsonl, .json, .parquet file, a folder or a data set."
    )


def test_an_unknown_file_type_is_named(tmp_path):
    (path := tmp_path / "a.pdf").write_text("x")
    assert refusal(path) == f"Corpus {path} has the type .pdf: expected one of .txt, .jsonl, .json, .parquet."


def test_a_folder_without_texts_is_refused(tmp_path):
    assert refusal(tmp_path) == (
        f"Corpus folder {tmp_path} holds no .txt, .jsonl, .json, .parquet file: put text files into it."
    )


@pytest.mark.parametrize("unit", ["file", "blank-line"])
@pytest.mark.parametrize(("start", "offset"), [(b"", 6), (b"\xef\xbb\xbf", 9)])
def test_text_that_is_not_utf8_names_byte_and_offset(tmp_path, unit, start, offset):
    (path := tmp_path / "a.txt").write_bytes(start + b"one\nca\xe9 x")
    assert refusal(path, text_unit=unit) == (
        f"Corpus {path} is not UTF-8: byte 0xe9 at offset {offset}. Convert it, for instance with iconv."
    )


def test_json_lines_that_are_not_utf8_name_byte_and_offset(tmp_path):
    (path := tmp_path / "a.jsonl").write_bytes(b'"one"\n"\xff"\n')
    assert refusal(path) == f"Corpus {path} is not UTF-8: byte 0xff at offset 7. Convert it, for instance with iconv."


def test_a_file_that_cannot_be_read_says_why(tmp_path, monkeypatch):
    (path := tmp_path / "a.txt").write_text("one")

    def refuse(_self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert refusal(path) == f"Corpus {path} cannot be read: Permission denied. Check the file."


def test_a_broken_json_line_is_named(tmp_path):
    (path := tmp_path / "a.jsonl").write_text('"fine"\n{"text": two}\n')
    assert refusal(path) == f"Corpus {path} line 2 is not JSON: Expecting value. Mend or remove the line."


def test_brackets_without_end_are_a_broken_line(tmp_path):
    (path := tmp_path / "a.jsonl").write_text('"fine"\n' + "[" * 100_000)
    assert refusal(path).startswith(f"Corpus {path} line 2 is not JSON: maximum recursion depth exceeded")


def test_a_number_too_long_for_python_is_refused_like_other_broken_json(tmp_path):
    (path := tmp_path / "a.json").write_text("[" + "9" * 5000 + "]")
    message = refusal(path)
    assert message.startswith(f"Corpus {path} is not JSON: Exceeds the limit")
    assert message.endswith(". A file of one object a line is .jsonl.")


def test_a_broken_json_list_is_named(tmp_path):
    (path := tmp_path / "a.json").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert refusal(path) == (
        f"Corpus {path} is not JSON: Extra data: line 2 column 1 (char 14). A file of one object a line is .jsonl."
    )


def test_json_that_is_no_list_is_refused(tmp_path):
    (path := tmp_path / "a.json").write_text('{"text": "a"}')
    assert refusal(path) == f"Corpus {path} holds a JSON dict: expected a list of texts or objects."


@pytest.mark.parametrize(
    ("item", "found"),
    [({"body": "x", "id": 1}, "fields body, id"), ({}, "fields none"), (7, "int"), ({"text": None}, "fields text")],
)
def test_an_item_without_text_is_named(tmp_path, item, found):
    (path := tmp_path / "a.jsonl").write_text(json.dumps(item))
    assert refusal(path) == (
        f"Corpus {path} line 1 has no text in field 'text': found {found}. Name it with text_field."
    )


def test_half_a_surrogate_pair_is_no_text(tmp_path):
    (path := tmp_path / "a.json").write_text(r'["ok \ud83d\ude00", "\ud83d"]')
    assert refusal(path) == f"Corpus {path} item 2 holds half a surrogate pair, which is no text. Mend or remove it."


def test_parquet_without_the_column_names_what_there_is(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"body": ["x"], "id": [1]}), path := tmp_path / "a.parquet")
    assert refusal(path) == f"Corpus {path} has no column 'text': found body, id. Name it with text_field."


def test_a_null_in_parquet_is_named_by_row(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["x", None]}), path := tmp_path / "a.parquet")
    assert refusal(path) == (
        f"Corpus {path} row 2 has no text in field 'text': found NoneType. Name it with text_field."
    )


def test_a_broken_parquet_file_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    (path := tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    message = refusal(path)
    assert message.startswith(f"Corpus {path} is not a readable parquet file: ")
    assert message.endswith(". Write it anew.")


def test_a_missing_library_is_named_with_the_way_to_get_it(tmp_path, monkeypatch):
    (path := tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refusal(path) == (
        f"Corpus {path} needs pyarrow, which is not installed: pip install 'sae-analysis[parquet]'."
    )
    assert refusal("owner/set") == (
        "Corpus 'owner/set' is no file or folder, and data sets need a library that is not installed: "
        "give a path, or pip install 'sae-analysis[datasets]'."
    )


def test_a_data_set_that_cannot_be_loaded_gives_the_first_line_of_the_reason(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def fail(*_arguments, **_options):
        raise ConnectionError("No way.\nDetails follow")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert refusal("owner/set") == (
        "Corpus 'owner/set' is no file or folder here and could not be loaded as a data set: No way. "
        "Give a path, or check the name and the connection."
    )
