"""Interrupted, killed, sharded, spread over workers: the result is that of one quiet run, to the last bit."""

import json
import multiprocessing
import os
import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from sae_analysis import parts
from sae_analysis.corpus import Corpus, Windowing
from sae_analysis.errors import OutputError
from sae_analysis.feature_selection import parse_features
from sae_analysis.main import main
from sae_analysis.parts import Storage
from sae_analysis.real_activations import Collected, RealSettings, Shard, TextRead, collect, plan, report, stream
from sae_analysis.real_activations.stream import Reader
from sae_analysis.reconstruction import attach

SETTINGS = RealSettings(
    windowing=Windowing(seq_len=16, batch_size=3, chunk_size=300), max_examples=3, dictionary_tokens=150
)
DOCUMENTS = 40


@pytest.fixture
def long_corpus(tmp_path):
    path = tmp_path / "long.jsonl"
    lines = [json.dumps({"text": TEXTS[i % 5][i % 7 :] + " " * (i % 3) + TEXTS[(3 * i) % 5]}) for i in range(DOCUMENTS)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def options(model_folder, fitting_sae_folder, long_corpus):
    """What the same run is typed with, however it is divided."""
    typed = {
        "model": model_folder,
        "sae": fitting_sae_folder,
        "corpus": long_corpus,
        "features": "top:4",
        "seq-len": 16,
        "batch-size": 3,
        "chunk-size": 300,
        "dictionary-tokens": 150,
        "max-examples": 3,
        "threads": 1,
    }
    return [part for name, value in typed.items() for part in (f"--{name}", str(value))] + ["--no-figures"]


def run(options, folder, *more):
    assert main(["real", *options, "--output", str(folder), *more]) == 0
    return content(folder)


def content(folder):
    """Return the bytes of a result without the time at which it was made."""
    text = (folder / "real.json").read_bytes()
    begin = text.index(b'"created":"')
    return text[:begin] + text[text.index(b'"', begin + len(b'"created":"')) :]


def error_of(capsys, *arguments):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err.removeprefix("error: ").rstrip("\n")


# --- shards --------------------------------------------------------------------------------------------------------


@settings(max_examples=6)
@given(readers=st.lists(st.integers(0, 3), min_size=40, max_size=40), seed=st.integers(0, 1000))
@pytest.mark.parametrize("features", ["7,3", "top:5"])
def test_any_division_among_readers_merged_in_any_order_is_one_run(
    *, features, readers, seed, model, fitting_sae_folder, tmp_path_factory
):
    from sae_analysis.sae_formats import load_sae

    path = tmp_path_factory.mktemp("corpus") / "long.jsonl"
    path.write_text("\n".join(json.dumps(TEXTS[i % 5][i % 7 :] + TEXTS[(3 * i) % 5]) for i in range(DOCUMENTS)))
    planned = plan(attach(load_sae(fitting_sae_folder), model, None), parse_features(features), SETTINGS)
    stream = planned.stream(Corpus(source=path))
    together = collect(planned, stream)
    assert len(together.chunks) > 10
    text = TextRead(sha256=stream.sha256, truncated=stream.truncated)

    team = []
    for number in range(4):
        own = planned.stream(Corpus(source=path))
        reader = Reader(
            planned.site, planned.features, SETTINGS, own, Collected.empty(planned.site, planned.features, SETTINGS)
        )
        team.append((reader, own))
        mine = [chunk for chunk in own.chunks(planned.counted_tokens) if readers[chunk.number] == number]
        for chunk in random.Random(seed).sample(mine, len(mine)):
            reader.read(chunk)
    states = [reader.collected.state() for reader, _ in random.Random(seed).sample(team, 4)]
    merged = Collected.from_state(states.pop())
    while states:
        merged.merge(Collected.from_state(states.pop()))
    one, other = (report(planned, collected, text) for collected in (together, merged))
    assert replace(one, provenance=replace(one.provenance, created="")) == replace(
        other, provenance=replace(other.provenance, created="")
    )


def test_chunks_cannot_be_merged_twice(model, sae, long_corpus):
    planned = plan(attach(sae, model, None), parse_features("0"), SETTINGS)
    collected = collect(planned, planned.stream(Corpus(source=long_corpus)))
    with pytest.raises(ValueError, match="the same chunk was read twice"):
        collected.merge(collected)


def test_what_a_chunk_freed_goes_back_to_the_system(model, sae, long_corpus, monkeypatch):
    given_back = []
    monkeypatch.setattr(stream, "return_freed_memory", lambda: given_back.append(True))
    planned = plan(attach(sae, model, None), parse_features("0"), SETTINGS)
    collected = collect(planned, planned.stream(Corpus(source=long_corpus)))
    assert len(given_back) == len(collected.chunks) > 1


@pytest.mark.parametrize("count", [2, 16])
@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--table",),
        ("--max-tokens", "500", "--norm-outliers", "1.5"),
        ("--features", "3,40", "--encoder", "screened", "--pack"),
    ],
)
def test_shards_merged_in_any_order_are_one_run(count, more, options, tmp_path, capsys):
    one = run(options, tmp_path / "one", *more)
    folders = [tmp_path / f"part{number}" for number in range(1, count + 1)]
    for number, folder in enumerate(folders, start=1):
        assert main(["real", *options, "--output", str(folder), *more, "--shard", f"{number}/{count}"]) == 0
        assert [path.name for path in folder.iterdir()] == ["real.part"]
    random.Random(count).shuffle(folders)
    assert main(["merge", *map(str, folders), "--output", str(tmp_path / "whole"), "--no-figures"]) == 0
    assert content(tmp_path / "whole") == one
    if "--table" in more:
        tables = [parquet.read_table(tmp_path / name / "real.parquet") for name in ("one", "whole")]
        assert tables[0].equals(tables[1])


def test_merging_may_go_in_steps_and_after_things_have_moved(options, tmp_path, model_folder, capsys):
    one = run(options, tmp_path / "one")
    for number in range(1, 5):
        assert main(["real", *options, "--output", str(tmp_path / f"p{number}"), "--shard", f"{number}/4"]) == 0
    capsys.readouterr()
    steps = {"ab": ("p4", "p2"), "cd": ("p1", "p3")}
    for into, two in steps.items():
        folders = [str(tmp_path / part) for part in two]
        assert main(["merge", *folders, "--output", str(tmp_path / into), "--partial"]) == 0
        assert capsys.readouterr().err.endswith(f"Wrote {tmp_path / into}/real.part, 2 of 4 shards.\n")
    moved = model_folder.rename(model_folder.with_name("moved"))
    try:
        both = [str(tmp_path / "ab"), str(tmp_path / "cd" / "real.part")]
        whole = ["--output", str(tmp_path / "whole"), "--no-figures", "--model", str(moved)]
        assert main(["merge", *both, *whole]) == 0
    finally:
        moved.rename(model_folder)
    assert content(tmp_path / "whole") == one


def test_a_finished_shard_is_not_read_again(options, tmp_path, capsys, monkeypatch):
    arguments = ["real", *options, "--output", str(tmp_path / "p"), "--shard", "1/2"]
    assert main(arguments) == 0
    before = (tmp_path / "p" / "real.part").read_bytes()
    monkeypatch.setattr(Reader, "read", None)
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().err == (
        f"Shard 1/2 is finished already; remove {tmp_path}/p/real.part to read it again.\n"
    )
    assert (tmp_path / "p" / "real.part").read_bytes() == before


def test_a_damaged_finished_shard_is_said_and_read_again(options, tmp_path, capsys):
    arguments = ["real", *options, "--output", str(tmp_path / "p"), "--shard", "1/2"]
    assert main(arguments) == 0
    whole = (part := tmp_path / "p" / "real.part").read_bytes()
    part.write_bytes(whole[:-1])
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().err.startswith(
        f"Part {part} is damaged (its checksum is wrong). Read this part of the text again. The shard is read again "
        "now.\n"
    )
    assert part.read_bytes() == whole


def test_what_does_not_belong_together_is_not_merged(options, tmp_path, capsys, long_corpus, model_folder):
    def shard(name, spec, *more):
        assert main(["real", *options, "--output", str(tmp_path / name), "--shard", spec, *more]) == 0
        return f"{tmp_path / name}/real.part"

    first, second = shard("a", "1/2"), shard("b", "2/2")
    other, third = shard("c", "2/2", "--seed", "1"), shard("d", "2/3")
    long_corpus.write_text(long_corpus.read_text() + '\n"more"')
    longer = shard("e", "2/2")
    out = tmp_path / "out"

    def refused(*given):
        return error_of(capsys, "merge", *given, "--output", out)

    belongs = "than {}: merge what one command read."
    assert refused(first, other) == (
        f"Part {other} is of another model, SAE, hook, options or versions {belongs.format(first)}"
    )
    assert refused(first, third) == f"Part {third} is of another number of shards {belongs.format(first)}"
    assert refused(first, longer) == f"Part {longer} is of another text {belongs.format(first)}"
    assert refused(first) == (
        "Of 2 shards 2 is missing: read them with real --shard, or merge with --partial what is there."
    )
    assert refused(first, first, second) == f"Parts {first} and {first} both hold shard 1: give each shard once."
    assert refused(tmp_path / "gone") == (
        f"Part {tmp_path}/gone/real.part cannot be read: No such file or directory. Give one that a shard wrote."
    )
    Path(second).write_bytes(Path(second).read_bytes()[:-1])
    assert refused(first, second) == (
        f"Part {second} is damaged (its checksum is wrong). Read this part of the text again."
    )
    assert not out.exists(), "nothing is written before all is known to fit"


def test_parts_are_not_reported_with_another_model(options, tmp_path, capsys, bos_model_folder):
    assert main(["real", *options, "--output", str(tmp_path / "p"), "--shard", "1/1"]) == 0
    message = error_of(capsys, "merge", tmp_path / "p", "--output", tmp_path / "out", "--model", bos_model_folder)
    assert message == (
        "The parts were read with another model, SAE or version of a library than are found now: name those with "
        "--model and --sae, or merge where the shards were read."
    )


def test_a_shard_has_every_nth_chunk_and_all_shards_have_all():
    from sae_analysis.corpus import Chunk

    chunks = [Chunk(number=number, place=0, documents=(), tokens_before=0) for number in range(7)]
    shards = [Shard(number=number, count=3) for number in (1, 2, 3)]
    assert [[chunk.number for chunk in chunks if shard.has(chunk)] for shard in shards] == [[0, 3, 6], [1, 4], [2, 5]]


# --- interruptions -------------------------------------------------------------------------------------------------


def stop_after(monkeypatch, chunks, act):
    """Let something happen when that many chunks have been read."""
    read, count = Reader.read, 0

    def counted(self, *arguments):
        nonlocal count
        if count == chunks:
            act()
        count += 1
        return read(self, *arguments)

    monkeypatch.setattr(Reader, "read", counted)
    return lambda: count


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_with_its_chunk_and_goes_on_from_there(number, options, tmp_path, capsys, monkeypatch):
    one = run(options, tmp_path / "one")
    out, before = tmp_path / "out", signal.getsignal(number)
    with monkeypatch.context() as patch:
        stop_after(patch, 4, lambda: os.kill(os.getpid(), number))
        capsys.readouterr()
        assert main(["real", *options, "--output", str(out)]) == 130
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Stopping after what is being read; once more stops at once."
    tokens = said[1].partition(" ")[0]
    assert said[1:] == [
        f"{tokens} tokens read so far; the same command goes on from there.",
        "Interrupted; what was written before is whole.",
    ]
    assert signal.getsignal(number) is before
    assert [path.suffix for path in out.iterdir()] == [".part"]
    with monkeypatch.context() as patch:
        read = stop_after(patch, -1, lambda: None)
        assert run(options, out) == one
        assert read() == len(chunk_numbers(options, tmp_path)) - 5
    assert f"Going on with an interrupted run: {tokens} tokens read so far.\n" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["real.json"]


def chunk_numbers(options, tmp_path):
    folder = tmp_path / "counted"
    assert main(["real", *options, "--output", str(folder), "--shard", "1/1"]) == 0
    return sorted(Storage(folder).header("real.part")[1])


def interrupted(options, out, monkeypatch, chunks=4):
    with monkeypatch.context() as patch:
        stop_after(patch, chunks, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert main(["real", *options, "--output", str(out)]) == 130
    [part] = out.glob("*.part")
    return part


def test_a_corpus_that_has_changed_is_refused_and_the_state_is_kept(
    options, tmp_path, capsys, monkeypatch, long_corpus
):
    part = interrupted(options, tmp_path / "out", monkeypatch)
    lines = long_corpus.read_text().splitlines()
    command = ["real", *options, "--output", tmp_path / "out"]
    long_corpus.write_text("\n".join([lines[0], lines[1].replace("a", "e"), *lines[2:]]))
    assert error_of_resumed(capsys, command) == (
        "The corpus has changed since an interrupted run read it, at documents long.jsonl#1 to long.jsonl#3: bring the "
        "old text back, or begin anew in another output folder or storage."
    )
    long_corpus.write_text("\n".join(lines[:6]))
    assert error_of_resumed(capsys, command).startswith(
        "The corpus has become shorter since an interrupted run read it, by 3 chunks or more: "
    )
    long_corpus.write_text("\n".join(lines))
    assert list((tmp_path / "out").iterdir()) == [part]
    assert run(options, tmp_path / "out") == run(options, tmp_path / "one")


def error_of_resumed(capsys, command):
    capsys.readouterr()
    assert main([str(argument) for argument in command]) == 2
    *said, error = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("Going on with an interrupted run")
    return error.removeprefix("error: ")


def test_a_run_of_other_options_does_not_take_the_state(options, tmp_path, capsys, monkeypatch):
    part = interrupted(options, tmp_path / "out", monkeypatch)
    capsys.readouterr()
    other = run([*options, "--seed", "1"], tmp_path / "out")
    assert capsys.readouterr().err.startswith(
        f"{part} belongs to a run of other features, settings or text: it is left as it is, and nothing taken.\n"
    )
    assert part.exists()
    assert other == run([*options, "--seed", "1"], tmp_path / "one")


def test_a_damaged_state_is_left_out_and_said(options, tmp_path, capsys, monkeypatch):
    part = interrupted(options, tmp_path / "out", monkeypatch)
    part.write_bytes(part.read_bytes()[:-1])
    capsys.readouterr()
    assert run(options, tmp_path / "out") == run(options, tmp_path / "one")
    assert capsys.readouterr().err.startswith(
        f"Part {part} is damaged (its checksum is wrong). Read this part of the text again. It is left out.\n"
    )


def test_a_stop_where_nothing_can_be_written_promises_nothing(options, tmp_path, capsys, monkeypatch):
    def fail(_self, name, _part):
        raise OutputError(f"{name} cannot be written: No space left on device.")

    stop_after(monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(Storage, "write", fail)
    capsys.readouterr()
    assert main(["real", *options, "--output", str(tmp_path / "out")]) == 130
    assert "goes on from there" not in capsys.readouterr().err


def test_a_state_that_cannot_be_written_does_not_end_the_run(options, tmp_path, capsys, monkeypatch):
    one = run(options, tmp_path / "one")

    def fail(_self, name, _part):
        raise OutputError(f"{name} cannot be written: No space left on device.")

    monkeypatch.setattr(parts, "_LEAST_SHARE", 0)  # after each chunk, however long a state takes to make
    monkeypatch.setattr(Storage, "write", fail)
    capsys.readouterr()
    assert run(options, tmp_path / "out", "--checkpoint-every", "0") == one
    assert capsys.readouterr().err.count(" What was written before it is still there.\n") > 3


def test_states_may_lie_elsewhere(options, tmp_path, monkeypatch):
    storage = ["--storage", str(tmp_path / "scratch")]
    with monkeypatch.context() as patch:
        stop_after(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert main(["real", *options, "--output", str(tmp_path / "out"), *storage]) == 130
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    assert run(options, tmp_path / "out", *storage) == run(options, tmp_path / "one")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_second_run_into_the_same_folder_is_refused(options, tmp_path, capsys, monkeypatch):
    messages = []

    def second():
        messages.append(error_of(capsys, "real", *options, "--output", tmp_path / "out"))

    stop_after(monkeypatch, 2, second)
    run(options, tmp_path / "out")
    assert messages == [
        f"Output folder {tmp_path / 'out'} is being written to by another run: wait for its end, or choose another "
        "folder."
    ]


def child(arguments):
    """Run a command in a process of its own, to be killed."""
    torch.set_num_threads(1)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    os._exit(main(arguments))


def test_runs_killed_at_any_moment_come_to_the_same_result(options, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_long_runs", "sae_analysis.visualizer", "transformers"])
    one = run(options, tmp_path / "one")
    moments, killed = random.Random(0), 0
    for number in range(3):
        out = tmp_path / f"out{number}"
        command = ["real", *options, "--output", str(out), "--checkpoint-every", "0"]
        while True:
            process = context.Process(target=child, args=(command,))
            process.start()
            process.join(moments.uniform(0.1, 1.5) if killed < 12 else 60)
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            killed += 1
        assert process.exitcode == 0
        assert content(out) == one
        assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == ["real.json"]
    assert killed >= 6
