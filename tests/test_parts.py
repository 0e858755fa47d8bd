"""Parts on disk: whole or refused, and the last good one is always there."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_analysis import parts
from sae_analysis.errors import OutputError
from sae_analysis.files import writing_into
from sae_analysis.parts import Part, Storage, Unfinished


def part(*chunks, fingerprint="f" * 64, **arrays):
    return Part(header={"fingerprint": fingerprint}, arrays={"chunks": np.array(chunks, np.int64), **arrays})


def state(*chunks, **arrays):
    """What makes the arrays of a part, when it is called."""
    return lambda: part(*chunks, **arrays).arrays


def unfinished(folder, *, fingerprint="f" * 64, **options):
    return Unfinished(storage=Storage(folder), fingerprint=fingerprint, **options)


def chunks_of(run):
    names, complaints = run.parts()
    return [sorted(part.chunks) for part in run.read(names)], complaints


def refusal(act, *arguments):
    with pytest.raises(OutputError) as caught:
        act(*arguments)
    return str(caught.value)


# --- one part ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [False, True])
def test_a_part_comes_back_as_it_was_written(tmp_path, url):
    storage = Storage(f"memory://{tmp_path}" if url else tmp_path)
    arrays = {
        "counts": np.array([1 << 62, -1]),
        "names": np.array(["Über", "你好", ""]),
        "hashes": np.arange(64, dtype=np.uint8).reshape(2, 32),
        "empty": np.empty((0, 3), np.float32),
        "scalar": np.array(7),
    }
    storage.write("a.part", part(3, 1, **arrays))
    found = storage.read("a.part")
    assert found.chunks == {1, 3}
    assert found.header["fingerprint"] == "f" * 64
    assert found.arrays.keys() == {"chunks", *arrays}
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert np.array_equal(found.arrays[name], array)
    assert storage.header("a.part") == (found.header, found.chunks)
    assert storage.names("") == storage.names("a") == ["a.part"]
    assert storage.names("b") == []
    storage.remove(["a.part", "gone.part"])
    assert storage.names("") == []


@given(data=st.data())
def test_any_damage_is_noticed(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    storage = Storage(folder)
    storage.write("a.part", part(1, 2, values=np.arange(50.0)))
    sound = (folder / "a.part").read_bytes()
    kind = data.draw(st.sampled_from(["flip", "cut", "grow"]))
    place = data.draw(st.integers(0, len(sound) - 1))
    if kind == "flip":
        damaged = sound[:place] + bytes([sound[place] ^ (1 << data.draw(st.integers(0, 7)))]) + sound[place + 1 :]
    else:
        damaged = sound[:place] if kind == "cut" else sound + sound[: place + 1]
    (folder / "a.part").write_bytes(damaged)
    for read in (storage.read, storage.header):
        assert refusal(read, "a.part").startswith(f"Part {folder}/a.part is damaged (")


def test_a_part_that_is_missing_or_of_another_version_is_refused(tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    assert refusal(storage.read, "a.part") == (
        f"Part {tmp_path}/a.part cannot be read: No such file or directory. Give one that a shard wrote."
    )
    monkeypatch.setattr(parts, "_VERSION", 7)
    storage.write("a.part", part(1))
    monkeypatch.undo()
    assert refusal(storage.read, "a.part") == (
        f"Part {tmp_path}/a.part is damaged (version 7 where 1 is read). Read this part of the text again."
    )


def test_nothing_in_a_part_is_executed(tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    storage = Storage(tmp_path)
    with pytest.raises(ValueError, match="allow_pickle"):
        storage.write("a.part", part(1, trap=np.array([Trap()], dtype=object)))
    assert list(tmp_path.iterdir()) == []
    savez = np.savez
    monkeypatch.setattr(np, "savez", lambda file, **named: savez(file, **named | {"allow_pickle": True}))
    storage.write("a.part", part(1, trap=np.array([Trap()], dtype=object)))  # as somebody else may write it
    assert refusal(storage.read, "a.part").startswith(f"Part {tmp_path}/a.part is damaged (Object arrays")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("chunks", [np.ones((2, 2), np.int64), np.array(["1"]), np.array([0.5])])
def test_a_part_that_does_not_say_which_chunks_it_holds_is_refused(tmp_path, chunks):
    storage = Storage(tmp_path)
    storage.write("a.part", Part(header={}, arrays={"chunks": chunks}))
    storage.write("none.part", Part(header={}, arrays={}))
    for read in (storage.read, storage.header):
        assert "is damaged (its chunks are no numbers in a row)" in refusal(read, "a.part")
        assert "is damaged (" in refusal(read, "none.part")


def test_a_place_that_nothing_is_known_of_is_refused():
    assert refusal(Storage, "nowhere://bucket/run").startswith("Storage nowhere://bucket/run cannot be used: Protocol")


# --- unfinished runs -----------------------------------------------------------------------------------------------


def test_a_run_goes_on_with_its_last_part_and_none_of_another_run(tmp_path):
    run, other = unfinished(tmp_path), unfinished(tmp_path, fingerprint="e" * 64)
    other.write(state(9))
    for count in (1, 2, 3):
        run.write(state(*range(count)))
    assert chunks_of(unfinished(tmp_path)) == ([[0, 1, 2]], [])
    assert unfinished(tmp_path).others() == [f"{tmp_path}/real-eeeeeeeeeeee.run.0.part"]
    run.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["real-eeeeeeeeeeee.run.0.part"]


def test_the_whole_fingerprint_decides_and_not_what_of_it_is_in_the_name(tmp_path):
    unfinished(tmp_path, fingerprint="f" * 12 + "0").write(state(1))
    Storage(tmp_path).write("real-ffffffffffff.run.1.part", part(1, 2, fingerprint="f" * 12 + "1"))
    assert chunks_of(unfinished(tmp_path, fingerprint="f" * 12 + "0")) == ([[1]], [])


@pytest.mark.parametrize("writes", [1, 2, 3, 4])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_torn_write_leaves_the_last_good_part(tmp_path, writes, resumed):
    run = unfinished(tmp_path)
    names = [run.write(state(*range(count + 1))) for count in range(writes)]
    if resumed:
        run = unfinished(tmp_path)
        assert chunks_of(run) == ([list(range(writes))], [])
    torn = tmp_path / run.write(state(*range(writes + 1)))
    torn.write_bytes(torn.read_bytes()[:-5])
    assert torn.name != names[-1]
    found, [complaint] = chunks_of(unfinished(tmp_path))
    assert found == [list(range(writes))]
    assert complaint.startswith(f"Part {torn} is damaged (its checksum is wrong)")


def test_parts_of_several_writers_add_up_and_none_counts_twice(tmp_path):
    run = unfinished(tmp_path)
    for writer, chunks in {"a": (0, 2), "b": (1, 3, 4), "c": (3, 5)}.items():
        run.by(writer).write(state(*chunks))
    assert chunks_of(run) == ([[1, 3, 4], [0, 2]], []), "what c has alone is read again"
    assert [name.split(".")[1] for name in run.by("c").own()] == ["c"]


def test_it_is_time_to_write_when_time_has_passed_whatever_the_clock_says(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "time", lambda: -1e9)
    run = unfinished(tmp_path, every=10.0)
    assert not run.is_due
    now += 9.9
    assert not run.is_due
    now += 0.2
    assert run.is_due
    run.write(state(1))
    assert not run.is_due
    now += 10.1
    assert run.is_due


def test_writes_that_take_long_are_far_between(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    run = unfinished(tmp_path, every=10.0)

    def slow(*_):
        nonlocal now
        now += 0.5
        return part(1).arrays

    monkeypatch.setattr(Storage, "write", slow)
    run.write(slow)
    now += 39.9
    assert not run.is_due
    now += 0.2
    assert run.is_due


# --- disks and folders ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 KiB, and how to make it read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting a small file system takes a system that allows it")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_the_last_good_part(small_disk):
    folder, _ = small_disk
    run = unfinished(folder)
    run.write(state(0))
    big = state(0, 1, values=np.zeros(1 << 15))
    for _ in range(2):
        message = refusal(run.write, big)
        assert message.endswith(" cannot be written: No space left on device. Free space or choose another folder.")
        assert chunks_of(unfinished(folder)) == ([[0]], [])
    assert [path.name for path in folder.iterdir()] == ["real-ffffffffffff.run.0.part"]
    run.write(state(0, 1))
    assert chunks_of(unfinished(folder)) == ([[0, 1]], [])


def test_a_disk_that_becomes_read_only_leaves_the_last_good_part(small_disk):
    folder, make_read_only = small_disk
    run = unfinished(folder)
    run.write(state(0))
    make_read_only()
    assert refusal(run.write, state(0, 1)) == (
        f"{folder}/real-ffffffffffff.run.1.part cannot be written: Read-only file system. Free space or choose another "
        "folder."
    )
    assert chunks_of(unfinished(folder)) == ([[0]], [])


def test_two_runs_into_one_folder_are_refused(tmp_path):
    folder = tmp_path / "out"
    with writing_into(folder):
        with pytest.raises(OutputError) as caught, writing_into(folder):
            pass
        with writing_into(tmp_path / "elsewhere"):
            pass
    assert str(caught.value) == (
        f"Output folder {folder} is being written to by another run: wait for its end, or choose another folder."
    )
    with writing_into(folder):
        assert list(folder.iterdir()) == []


def test_a_killed_run_claims_its_folder_no_longer(tmp_path):
    code = (
        "import os, pathlib\nfrom sae_analysis.files import writing_into\n"
        f"with writing_into(pathlib.Path({str(tmp_path)!r})): os.kill(os.getpid(), 9)"
    )
    root = Path(parts.__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == -9
    with writing_into(tmp_path):
        pass
