"""Results on disk: nothing lost on the way, and never half a file."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import record_factory as make
from hypothesis import given
from hypothesis import strategies as st

from sae_analysis.artifacts import FinishedFeatures, read_any, read_result, write_result
from sae_analysis.errors import OutputError
from sae_analysis.files import prepare_folder, write_whole
from sae_analysis.records import SCHEMA_VERSION, FeatureSearch, Histogram, Relaxation

RESULT = make.result(
    [make.stats(7), make.dead_stats(3)],
    provenance=make.provenance(options={"pack": True, "max_tokens": None, "norm_outliers": 2.5, "bos": "auto", "k": 3}),
)


@pytest.fixture
def written(tmp_path):
    write_result(RESULT, path := tmp_path / "real.json")
    return path


def refusal(call, *arguments):
    with pytest.raises(OutputError) as caught:
        call(*arguments)
    return str(caught.value)


# --- round trips ---------------------------------------------------------------------------------------------------


def test_a_result_reads_back_equal(written):
    assert read_result(written) == RESULT


def test_paths_may_be_text(tmp_path):
    write_result(RESULT, path := str(tmp_path / "real.json"))
    assert read_result(path) == read_any(path) == RESULT
    assert refusal(read_result, f"{path}n").startswith(f"Result {path}n cannot be read: No such file")


def test_a_result_without_features_reads_back_equal(tmp_path):
    write_result(make.result(), path := tmp_path / "real.json")
    assert read_result(path) == make.result()


@pytest.mark.parametrize("script", sorted(make.SCRIPTS))
def test_every_script_reads_back_equal(tmp_path, script):
    feature = make.stats(examples=(make.example(make.SCRIPTS[script]),))
    write_result(make.result([feature]), path := tmp_path / "real.json")
    assert read_result(path).features == (feature,)


@given(
    value=st.floats(allow_nan=False, allow_infinity=False),
    pairs=st.lists(st.tuples(st.text(), st.floats(allow_nan=False, allow_infinity=False)), max_size=4),
    none=st.none() | st.floats(-5, 5),
)
def test_numbers_and_pairs_read_back_equal(tmp_path_factory, value, pairs, none):
    feature = replace(RESULT.features[1], max_activation=value, top_boosted_tokens=tuple(pairs), logit_skew=none)
    path = tmp_path_factory.getbasetemp() / "numbers.json"
    write_result(replace(RESULT, features=(feature,)), path)
    assert read_result(path).features == (feature,)


def test_a_file_name_that_is_not_utf8_reads_back_equal(tmp_path):
    named = make.result(
        provenance=make.provenance(corpus=os.fsdecode(b"caf\xe9.txt") if os.name == "posix" else "\udce9")
    )
    write_result(named, path := tmp_path / "real.json")
    assert read_result(path) == named
    path.read_bytes().decode("utf-8")


def test_the_file_has_the_promised_shape(written):
    lines = written.read_text("utf-8").split("\n")
    content = json.loads("\n".join(lines))
    assert list(content) == ["schema_version", "provenance", "fit", "dictionary", "features"]
    assert content["schema_version"] == SCHEMA_VERSION
    assert [json.loads(line.rstrip(","))["feature_idx"] for line in lines[-4:-2]] == [7, 3], "one feature a line"
    feature = content["features"][0]
    assert feature["top_boosted_tokens"][0] == [" yard", 0.42]
    assert feature["density"] == 0.003121
    assert content["features"][1]["mean_activation"] is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_json_has_no_number_for_is_a_bug_and_writes_nothing(written, value):
    before = written.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(make.result([make.stats(max_activation=value)]), written)
    assert written.read_bytes() == before


# --- what cannot be read -------------------------------------------------------------------------------------------


def test_a_missing_result(tmp_path):
    path = tmp_path / "real.json"
    says = f"Result {path} cannot be read: No such file or directory. Give"
    assert refusal(read_any, path) == f"{says} a real.json, synthetic.json or comparison.json."
    assert refusal(read_result, path) == f"{says} a real.json or synthetic.json."
    assert refusal(lambda path: read_result(path, "a real.json"), path) == f"{says} a real.json."


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut", "binary", "deep"])
def test_a_result_that_is_not_json(tmp_path, content):
    (path := tmp_path / "real.json").write_bytes(content)
    assert refusal(read_result, path) == (
        f"Result {path} is not JSON: it is damaged or cut short. Run the analysis again."
    )


def test_a_result_cut_short_anywhere(tmp_path):
    write_result(make.result([make.dead_stats()]), path := tmp_path / "real.json")
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), len(whole) // 20):
        path.write_bytes(whole[:length])
        assert refusal(read_result, path).startswith(f"Result {path} is not JSON")


@pytest.mark.parametrize(
    ("content", "version"), [({"schema_version": SCHEMA_VERSION + 1}, SCHEMA_VERSION + 1), ({}, None), ([1, 2], None)]
)
def test_another_schema(tmp_path, content, version):
    (path := tmp_path / "real.json").write_text(json.dumps(content))
    assert refusal(read_result, path) == (
        f"Result {path} has schema version {version}: this version reads {SCHEMA_VERSION}. Run the analysis again."
    )


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (
            lambda content: content.pop("fit"),
            "fit is missing",
        ),
        (lambda content: content["fit"].update(extra=1), "fit has the unknown field 'extra'"),
        (lambda content: content.update(features="none"), "features is 'none': expected a list"),
        (lambda content: content.update(features=7), "features is 7: expected a list"),
        (
            lambda content: content["features"][0]["nearest_features"].append([1, 2, 3]),
            "features[0].nearest_features[3] is [1, 2, 3]: expected a list of 2",
        ),
    ],
    ids=["missing", "foreign", "text", "number", "triple"],
)
def test_a_result_that_lacks_what_it_should_hold(written, edit, reason):
    edit(content := json.loads(written.read_text()))
    written.write_text(json.dumps(content))
    assert refusal(read_result, written) == (
        f"Result {written} lacks what it should hold ({reason}). Run the analysis again."
    )


def test_a_histogram_checks_its_edges_when_read(written):
    content = json.loads(written.read_text())
    content["features"][0]["histogram"]["edges"].pop()
    written.write_text(json.dumps(content))
    counts = len(RESULT.features[0].histogram.counts)
    assert refusal(read_result, written) == (
        f"Result {written} lacks what it should hold (features[0].histogram does not fit together: {counts} counts "
        f"need {counts + 1} edges, got {counts}). Run the analysis again."
    )
    assert Histogram(edges=(), counts=()).total == 0


# --- whole files or none -------------------------------------------------------------------------------------------


def failing(monkeypatch, error):
    def fail(_descriptor):
        raise error

    monkeypatch.setattr(os, "fsync", fail)


def test_a_full_disk_leaves_the_old_file_and_no_other(written, monkeypatch):
    before = written.read_bytes()
    failing(monkeypatch, OSError(28, "No space left on device"))
    assert refusal(write_result, replace(RESULT, features=()), written) == (
        f"{written} cannot be written: No space left on device. Free space or choose another folder."
    )
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_whatever_ends_the_writing_leaves_the_old_file_and_no_other(written, monkeypatch, error):
    before = written.read_bytes()
    failing(monkeypatch, error)
    with pytest.raises(error):
        write_result(replace(RESULT, features=()), written)
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


def test_a_failed_replacement_leaves_the_old_file_and_no_other(written, monkeypatch):
    def fail(_self, _target):
        raise PermissionError(13, "Permission denied")

    before = written.read_bytes()
    monkeypatch.setattr(Path, "replace", fail)
    assert refusal(write_whole, written, b"new") == (
        f"{written} cannot be written: Permission denied. Free space or choose another folder."
    )
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


def test_the_old_content_is_there_until_the_new_is_whole(written, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(written.read_bytes()))
    before = written.read_bytes()
    write_whole(written, b"new")
    assert seen == [before]
    assert written.read_bytes() == b"new"


def test_a_folder_that_is_gone(tmp_path):
    path = tmp_path / "gone" / "real.json"
    assert refusal(write_whole, path, b"") == (
        f"{path} cannot be written: No such file or directory. Free space or choose another folder."
    )


def test_a_file_in_place_of_the_folder(tmp_path):
    (parent := tmp_path / "file").write_text("")
    assert refusal(write_whole, parent / "real.json", b"") == (
        f"{parent / 'real.json'} cannot be written: Not a directory. Free space or choose another folder."
    )


def test_the_output_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    prepare_folder(folder := tmp_path / "a" / "b")
    prepare_folder(folder)
    assert list(folder.iterdir()) == []


def test_an_output_folder_that_is_a_file(tmp_path):
    (path := tmp_path / "file").write_text("")
    assert refusal(prepare_folder, path) == (
        f"Output folder {path} cannot be written to: File exists. Choose another folder."
    )


def test_an_output_folder_that_is_read_only(tmp_path, monkeypatch):
    def refuse(**_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert refusal(prepare_folder, tmp_path) == (
        f"Output folder {tmp_path} cannot be written to: Permission denied. Choose another folder."
    )


# --- a run that has not ended --------------------------------------------------------------------------------------

ONE, TWO, THREE = make.stats(7), make.dead_stats(3), make.stats(12)


@pytest.fixture
def begun(tmp_path):
    """The finished features of a run, two of them."""
    finished = FinishedFeatures(tmp_path, "synthetic", "ab" * 32)
    finished.add([ONE, TWO])
    return finished


def test_finished_features_read_back_equal_and_more_can_be_added(begun):
    assert begun.path.name == "synthetic-abababababab.unfinished.jsonl"
    assert begun.read() == ({7: ONE, 3: TWO}, False)
    begun.add([THREE])
    assert begun.read() == ({7: ONE, 3: TWO, 12: THREE}, False)
    assert begun.path.read_bytes().count(b"\n") == 4, "the head and one line a feature"
    begun.remove()
    begun.remove()
    assert begun.read() == ({}, False)


def test_features_searched_for_read_back_equal(tmp_path):
    search = FeatureSearch(
        token_evaluations=9,
        convergence=((1, 0.5), (4, 2.0)),
        single_token=(" the", 1.5),
        frontier=ONE.examples[:1],
        relaxation=Relaxation(relaxed=3.0, discrete=2.0),
    )
    finished = FinishedFeatures(tmp_path, "synthetic", "cd" * 32)
    finished.add([replace(ONE, search=search)])
    assert finished.read() == ({7: replace(ONE, search=search)}, False)


def test_every_cut_of_the_file_keeps_whole_features_and_can_be_gone_on_from(begun):
    whole = begun.path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    for size in {0, 1, *ends, *(end - 1 for end in ends), *(end + 5 for end in ends[:-1])}:
        begun.path.write_bytes(whole[:size])
        features, is_damaged = begun.read()
        kept = sum(end <= size for end in ends)
        assert list(features.values()) == [ONE, TWO][: max(0, kept - 1)]
        assert is_damaged == (size not in ends)
        begun.add([THREE])
        assert begun.read() == (features | {12: THREE}, False)


@pytest.mark.parametrize("damage", [b"{", b"[1]", b'{"feature_idx": 1}', b"\xff\xfe", b"[" * 100_000, b""])
def test_what_stands_before_the_damage_is_kept(begun, damage):
    head, first, second = begun.path.read_bytes().splitlines()
    begun.path.write_bytes(b"\n".join([head, first, damage, second, b""]))
    assert begun.read() == ({7: ONE}, True)
    assert begun.read() == ({7: ONE}, False), "it is mended"


def test_a_file_of_another_run_is_refused_and_left_as_it_is(begun):
    other = FinishedFeatures(begun.path.parent, "synthetic", "ab" * 20 + "cd" * 12)
    assert other.path == begun.path
    content = begun.path.read_bytes()
    assert refusal(other.read) == f"{begun.path} holds features of another run: move it away."
    assert begun.path.read_bytes() == content


def test_other_runs_have_files_of_their_own(begun, tmp_path):
    other = FinishedFeatures(tmp_path, "synthetic", "cd" * 32)
    assert other.read() == ({}, False)
    assert other.others() == [begun.path]
    other.add([THREE])
    assert begun.others() == [other.path]
    other.remove()
    assert begun.read()[0] == {7: ONE, 3: TWO}


def test_features_that_cannot_be_written_are_one_line(begun, monkeypatch):
    failing(monkeypatch, OSError(28, "No space left on device"))
    assert refusal(begun.add, [THREE]) == (
        f"{begun.path} cannot be written: No space left on device. Free space or choose another folder."
    )


def test_features_that_cannot_be_read_are_one_line(tmp_path):
    finished = FinishedFeatures(tmp_path, "synthetic", "ab" * 32)
    finished.path.mkdir()
    assert refusal(finished.read) == f"{finished.path} cannot be read: Is a directory. Remove it to begin anew."
