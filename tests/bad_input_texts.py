"""Bad files and folders of text, and what a command says of each."""

import os

import pyarrow as pa
from file_makers import file, into
from pyarrow import parquet

FILES = {
    "empty_text": file("a.txt", ""),
    "empty_list": file("a.json", "[]"),
    "one_word": file("a.txt", "ship"),
    "blank_text": file("a.txt", "\n \n\t\n"),
    "word_document": file("a.docx", "x"),
    "no_suffix": file("corpus", "x"),
    "latin_text": file("a.txt", b"caf\xe9"),
    "utf16_text": file("a.txt", "Two words".encode("utf-16")),
    "binary_text": file("a.txt", bytes(range(128, 256))),
    "broken_line": file("a.jsonl", '{"text": "one"}\n{"text": two}'),
    "cut_line": file("a.jsonl", '{"text": "one"}\n{"text": "tw'),
    "latin_line": file("a.jsonl", b'{"text": "one"}\n{"text": "caf\xe9"}'),
    "surrogate_line": file("a.jsonl", '{"text": "\\ud83e"}'),
    "number_line": file("a.jsonl", '{"text": "one"}\n3'),
    "null_line": file("a.jsonl", '{"text": null}'),
    "nested_line": file("a.jsonl", '{"text": {"text": "one"}}'),
    "bracket_line": file("a.jsonl", "[" * 100_000),
    "digits_line": file("a.jsonl", '{"text": ' + "9" * 5000 + "}"),
    "broken_list": file("a.json", '["one", "two"'),
    "object_file": file("a.json", '{"text": "one"}'),
    "word_file": file("a.json", '"one"'),
    "latin_list": file("a.json", b'["caf\xe9"]'),
    "lines_as_list": file("a.json", '{"text": "one"}\n{"text": "two"}'),
    "list_of_numbers": file("a.json", "[1, 2]"),
    "text_as_parquet": file("a.parquet", "Not a table"),
    "empty_parquet": file("a.parquet", ""),
    "image_as_parquet": file("a.parquet", b"PAR1" + bytes(100) + b"PAR1"),
}
maker = into(FILES)


def table(folder, **columns):
    parquet.write_table(pa.table(columns), path := folder / "a.parquet")
    return path


@maker
def cut_parquet(folder, there):
    path = table(folder, text=["some words"] * 50)
    path.write_bytes(path.read_bytes()[:-20])
    return path


@maker
def parquet_of_numbers(folder, there):
    return table(folder, text=[1, 2, 3])


@maker
def parquet_without_text(folder, there):
    return table(folder, body=["one", "two"])


@maker
def parquet_with_a_hole(folder, there):
    return table(folder, text=["one", None])


@maker
def parquet_damaged_inside(folder, there):
    path = table(folder, text=[f"some words and the number {number}" for number in range(2000)])
    content = bytearray(path.read_bytes())
    content[8:900] = bytes(892)
    path.write_bytes(content)
    return path


@maker
def empty_folder(folder, there):
    return folder


@maker
def folder_of_pictures(folder, there):
    (folder / "a.png").write_bytes(b"\x89PNG")
    return folder


@maker
def folder_with_a_bad_file(folder, there):
    (folder / "a.txt").write_text("The old ship left the harbour at dawn. " * 9)
    (folder / "b.jsonl").write_text("{")
    return folder


@maker
def folder_named_like_text(folder, there):
    (folder / "a.txt").mkdir()
    return folder / "a.txt"


@maker
def link_to_nowhere(folder, there):
    (folder / "a.txt").symlink_to(folder / "gone.txt")
    return folder / "a.txt"


@maker
def link_to_itself(folder, there):
    (folder / "a.txt").symlink_to(folder / "a.txt")
    return folder / "a.txt"


@maker
def text_pipe(folder, there):
    os.mkfifo(folder / "a.txt")
    return folder / "a.txt"


@maker
def endless_device(folder, there):
    (folder / "a.txt").symlink_to("/dev/zero")
    return folder / "a.txt"


ROWS = [
    # Text.
    ("real --corpus {tmp}/no.txt", "Corpus {tmp}/no.txt does not exist: give a .txt, .jsonl, .json, .parquet file, a folder or a data set."),
    ("real --corpus ./no-such-folder", "Corpus no-such-folder does not exist: give a"),
    ("real --corpus no-such-set", "Corpus 'no-such-set' is no file or folder here and could not be loaded as a data set: "),
    ("real --corpus {empty_folder}", "Corpus folder {empty_folder} holds no .txt, .jsonl, .json, .parquet file: put text files into it."),
    ("real --corpus {folder_of_pictures}", "Corpus folder {folder_of_pictures} holds no .txt"),
    ("real --corpus {folder_named_like_text}", "Corpus folder {folder_named_like_text} holds no .txt"),
    ("real --corpus {folder_with_a_bad_file}", "Corpus {folder_with_a_bad_file}/b.jsonl line 1 is not JSON: "),
    ("real --corpus {word_document}", "Corpus {word_document} has the type .docx: expected one of .txt, .jsonl, .json, .parquet."),
    ("real --corpus {no_suffix}", "Corpus {no_suffix} has the type none: expected one of .txt"),
    ("real --corpus {link_to_nowhere}", "Corpus {link_to_nowhere} does not exist: give a"),
    ("real --corpus {link_to_itself}", "Corpus {link_to_itself} "),
    ("real --corpus {text_pipe}", "Corpus {text_pipe} is no regular file: give a .txt, .jsonl, .json, .parquet file or a folder."),
    ("real --corpus {endless_device}", "Corpus {endless_device} is no regular file: give a"),
    ("real --corpus {empty_text}", "The corpus has 0 tokens to count, in 1 document: statistics need at least 16. Give more text."),
    ("real --corpus {empty_list}", "The corpus has 0 tokens to count, in 0 documents: statistics need at least 16. Give more text."),
    ("real --corpus {one_word}", "The corpus has 3 tokens to count, in 1 document: statistics need at least 16. Give more text."),
    ("real --corpus {blank_text} --text-unit blank-line", "The corpus has 0 tokens to count, in 0 documents"),
    ("real --corpus {empty_text} --hook auto", "The corpus has no text to look for the SAE's place on: give more, or name the hook."),
    ("real --corpus {latin_text}", "Corpus {latin_text} is not UTF-8: byte 0xe9 at offset 3. Convert it, for instance with iconv."),
    ("real --corpus {latin_text} --text-unit blank-line", "Corpus {latin_text} is not UTF-8: byte 0xe9 at offset 3."),
    ("real --corpus {utf16_text}", "Corpus {utf16_text} is not UTF-8: byte 0xff at offset 0."),
    ("real --corpus {binary_text}", "Corpus {binary_text} is not UTF-8: byte 0x80 at offset 0."),
    ("real --corpus {broken_line}", "Corpus {broken_line} line 2 is not JSON: Expecting value. Mend or remove the line."),
    ("real --corpus {cut_line}", "Corpus {cut_line} line 2 is not JSON: "),
    ("real --corpus {latin_line}", "Corpus {latin_line} is not UTF-8: byte 0xe9 at offset "),
    ("real --corpus {bracket_line}", "Corpus {bracket_line} line 1 is not JSON: "),
    ("real --corpus {digits_line}", "Corpus {digits_line} line 1 is not JSON: "),
    ("real --corpus {surrogate_line}", "Corpus {surrogate_line} line 1 holds half a surrogate pair, which is no text. Mend or remove it."),
    ("real --corpus {number_line}", "Corpus {number_line} line 2 has no text in field 'text': found int. Name it with --text-field."),
    ("real --corpus {null_line}", "Corpus {null_line} line 1 has no text in field 'text': found fields text."),
    ("real --corpus {nested_line}", "Corpus {nested_line} line 1 has no text in field 'text': found fields text."),
    ("real --text-field body", "Corpus {corpus} line 1 has no text in field 'body': found fields text. Name it with --text-field."),
    ("real --corpus {broken_list}", "Corpus {broken_list} is not JSON: "),
    ("real --corpus {lines_as_list}", "A file of one object a line is .jsonl."),
    ("real --corpus {object_file}", "Corpus {object_file} holds a JSON dict: expected a list of texts or objects."),
    ("real --corpus {word_file}", "Corpus {word_file} holds a JSON str: expected a list of texts or objects."),
    ("real --corpus {latin_list}", "Corpus {latin_list} is not UTF-8: byte 0xe9 at offset 5."),
    ("real --corpus {list_of_numbers}", "Corpus {list_of_numbers} item 1 has no text in field 'text': found int."),
    *(
        (f"real --corpus {{{name}}}", f"Corpus {{{name}}} is not a readable parquet file: ")
        for name in ("text_as_parquet", "empty_parquet", "cut_parquet")
    ),
    ("real --corpus {image_as_parquet}", "Corpus {image_as_parquet} cannot be read: Couldn't deserialize thrift"),
    ("real --corpus {parquet_damaged_inside}", "Corpus {parquet_damaged_inside} cannot be read: Couldn't deserialize thrift"),
    ("real --corpus {parquet_of_numbers}", "Corpus {parquet_of_numbers} row 1 has no text in field 'text': found int."),
    ("real --corpus {parquet_without_text}", "Corpus {parquet_without_text} has no column 'text': found body. Name it with --text-field."),
    ("real --corpus {parquet_with_a_hole}", "Corpus {parquet_with_a_hole} row 2 has no text in field 'text': found NoneType."),
    ("synthetic --corpus {tmp}/no.txt", "Corpus {tmp}/no.txt does not exist: give a"),
    ("synthetic --corpus {empty_text}", "The corpus has 0 tokens to count, in 1 document: statistics need at least 16. Give more text."),
    ("compare --corpus {broken_line}", "Corpus {broken_line} line 2 is not JSON: "),
    ("inspect --model {model} --corpus {tmp}/no.txt", "Corpus {tmp}/no.txt does not exist"),
    ("inspect --corpus {latin_text}", "Corpus {latin_text} is not UTF-8: byte 0xe9 at offset 3."),
    ("inspect --corpus {empty_text} --model {model}", "The corpus has no text to look for the SAE's place on"),
]  # fmt: skip
