"""Several workers, some of which die: the result is that of one process, to the last bit."""

import itertools
import json
import os
import signal
import sys
from contextlib import contextmanager

import psutil
import pytest
from test_long_runs import chunk_numbers, error_of, long_corpus, options, run

from sae_analysis.errors import WorkerError
from sae_analysis.main import main, reading
from sae_analysis.parts import Storage
from sae_analysis.reconstruction import attach
from sae_analysis.sae_interface import UnifiedSAEInterface
from sae_analysis.scale_out import loading, team

__all__ = ["long_corpus", "options"]

ON_RAY = ("--engine", "ray", "--checkpoint-every", "0.2")


def workers():
    """Return the processes of workers that have loaded, and are at work."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if process.name().startswith("ray::") and "_Actor" in process.name()]


@pytest.mark.parametrize("count", [1, 2])
def test_workers_come_to_what_one_process_does(count, options, tmp_path):
    one = run(options, tmp_path / "one", "--table")
    folder = tmp_path / "out"
    assert run(options, folder, "--table", *ON_RAY, "--num-workers", str(count)) == one
    assert sorted(path.name for path in folder.iterdir()) == ["real.json", "real.parquet"]
    assert not workers(), "the cluster ends with the run"


@pytest.fixture
def killed(monkeypatch):
    """Kill a worker when workers have read thirty and sixty chunks, most of them written down; the list says whom."""
    killed, bar = [], reading.spending_bar

    @contextmanager
    def killing_bar(does, *more, **options):
        seen = itertools.count(1)
        with bar(does, *more, **options) as advance:

            def counted(*arguments):
                advance(*arguments)
                if does == "reading" and (there := workers()) and next(seen) in (30, 60):
                    killed.append(there[0].pid)
                    os.kill(there[0].pid, signal.SIGKILL)

            yield counted

    monkeypatch.setattr(reading, "spending_bar", killing_bar)
    return killed


def test_what_lost_workers_had_not_written_down_is_read_again(options, tmp_path, capsys, killed, long_corpus):
    first = json.dumps(
        {"text": "The old ship left the harbour at dawn. " * 3000}
    )  # too long for Ray to carry in a call
    long_corpus.write_text("\n".join([first, *[long_corpus.read_text()] * 7]))
    one = run(options, tmp_path / "one")
    capsys.readouterr()
    assert run(options, tmp_path / "out", *ON_RAY, "--num-workers", "2") == one
    assert len(killed) == 2
    assert capsys.readouterr().err.count("A worker was lost and is started anew; ") >= 1


def test_workers_that_keep_dying_end_the_run_and_what_they_wrote_is_kept(
    *, options, tmp_path, capsys, killed, monkeypatch, long_corpus
):
    long_corpus.write_text("\n".join([long_corpus.read_text()] * 7))
    monkeypatch.setattr(team, "_MOST_LIVES", 0)
    folder = tmp_path / "out"
    capsys.readouterr()
    assert main(["real", *options, "--output", str(folder), *ON_RAY, "--num-workers", "1"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    message = printed.err.splitlines()[-1].removeprefix("error: ")
    assert message.startswith("A worker died 1 times, and the run was given up: ")
    assert message.endswith("the same command goes on from there; fewer workers take less memory.")
    assert len(killed) == 1
    assert run(options, folder) == run(options, tmp_path / "one")


@pytest.mark.parametrize(("device", "is_copied"), [("meta", True), ("cpu", False)])
def test_the_callers_sae_stays_where_it_is(device, is_copied, bos_model, sae, monkeypatch):
    """``meta`` stands for a GPU; what is on the CPU anyway is not copied, for it may be large."""
    site = attach(sae, bos_model)
    site.sae.to(device)
    moved = []
    monkeypatch.setattr(UnifiedSAEInterface, "to", lambda self, to: moved.append(to) or self)
    subject = loading.Subject.of(site, lambda: bos_model, threads=1)
    assert (subject.rest["sae"] is not site.sae) is is_copied
    assert moved == ["cpu"] * is_copied
    assert site.sae.encoder_weights.device.type == device


def test_a_worker_with_other_weights_or_libraries_is_refused():
    with pytest.raises(WorkerError) as caught:
        loading.check_same("found", "expected")
    assert str(caught.value) == (
        f"A worker on {os.uname().nodename} has another model or other versions of libraries than this process: "
        "install the same on all machines of the cluster."
    )


def test_a_run_on_workers_goes_on_in_one_process_and_the_other_way_round(options, tmp_path, monkeypatch):
    one = run(options, tmp_path / "one")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reading, "describe", interrupted)
        assert main(["real", *options, "--output", str(tmp_path / "out"), *ON_RAY, "--num-workers", "2"]) == 130
    assert len(list((tmp_path / "out").glob("*.part"))) >= 2, "each worker has written what it read"
    assert run(options, tmp_path / "out") == one


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_goes_on_from_what_its_workers_wrote(
    *, number, options, tmp_path, capsys, monkeypatch, long_corpus
):
    long_corpus.write_text("\n".join([long_corpus.read_text()] * 7))
    note, seen = team.Team._note, itertools.count(1)

    def stopping(*arguments):
        if next(seen) == 9:
            os.kill(os.getpid(), number)
        return note(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(team.Team, "_note", stopping)
        never = ("--checkpoint-every", "1000")
        assert main(["real", *options, "--output", str(tmp_path / "out"), *ON_RAY, "--num-workers", "2", *never]) == 130
    assert capsys.readouterr().err.endswith("Interrupted; what was written before is whole.\n")
    parts = [path.name for path in (tmp_path / "out").glob("*.part")]
    assert len(parts) == 3, "two workers, and the process that hands out"
    read = [chunk for part in parts for chunk in Storage(tmp_path / "out").header(part)[1]]
    assert 8 <= len(set(read)) == len(read) < len(chunk_numbers(options, tmp_path)) // 2, "the rest was not begun with"
    assert run(options, tmp_path / "out") == run(options, tmp_path / "one")
    said = capsys.readouterr().err
    assert "Going on with an interrupted run" in said


def test_a_search_on_workers_finds_what_one_process_finds(model_folder, fitting_sae_folder, tmp_path):
    typed = {"model": model_folder, "sae": fitting_sae_folder, "features": "0-5", "seq-len": 4, "budget": 600}
    command = [part for name, value in typed.items() for part in (f"--{name}", str(value))]
    command = ["synthetic", *command, "--n-steps", "2", "--batch-size", "2", "--no-figures", "--threads", "1"]
    assert main([*command, "--output", str(tmp_path / "one")]) == 0
    assert main([*command, "--output", str(tmp_path / "out"), "--engine", "ray", "--num-workers", "2"]) == 0
    one, other = ((tmp_path / name / "synthetic.json").read_text().splitlines() for name in ("one", "out"))
    is_same = [left == right for left, right in zip(one, other, strict=True)]
    assert is_same.count(False) == 1, "the time at which it was made"


def test_ray_that_is_missing_is_named_with_the_way_to_get_it(options, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert error_of(capsys, "real", *options, "--output", tmp_path, "--engine", "ray") == (
        "Workers on Ray need what is not installed: pip install 'sae-analysis[ray]', or work in one process."
    )
