"""What interruptions, shards and workers cost, and that they change nothing.

    python benchmarks/long_runs.py kills         runs killed (-9) at random and gone on with
    python benchmarks/long_runs.py workers       Ray with 1, 2 and 4 workers; one of two killed
    python benchmarks/long_runs.py checkpoints   what writing down costs
    python benchmarks/long_runs.py scaling       two one-thread processes against one
    python benchmarks/long_runs.py state         size and merging of states of many features

Each prints what it measured. Runs are the command line, each a process of its own with one thread, as a user starts
them; results are compared byte by byte but for the time at which they were made. Without --model, --sae and --corpus it
is the demo.
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil

from sae_analysis.accumulators import (
    DictionaryStatistics,
    ExampleStatistics,
    FitStatistics,
    PositionStatistics,
    SparseActs,
    TokenStatistics,
    ValueStatistics,
    Windows,
)
from sae_analysis.parts import Part, Storage
from sae_analysis.real_activations import Collected

ROOT = Path(__file__).resolve().parent.parent
RAY = ("--engine", "ray", "--num-workers")
_LITTLE = ("--max-tokens", "1000")
"""Start and report, and next to no text."""


class Case:
    """One command, run in many ways."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        """Take model, SAE and text from the options."""
        given = {name: getattr(options, name) for name in ("model", "sae", "corpus") if getattr(options, name)}
        subject = [part for name, value in given.items() for part in (f"--{name}", value)]
        self._command = [*subject, "--features", "0-19", "--threads", "1", "--no-figures", *options.more]
        self._folder = folder

    def start(self, name: str, *more: str) -> subprocess.Popen[str]:
        """Start a run into a folder of that name."""
        run = [sys.executable, str(ROOT / "main.py"), "real", *self._command, "--output", str(self._folder / name)]
        return subprocess.Popen([*run, *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def run(self, name: str, *more: str) -> float:
        """Run to the end and return its seconds."""
        begin = time.perf_counter()
        process = self.start(name, *more)
        _, said = process.communicate()
        if process.returncode:
            raise RuntimeError(said)
        return time.perf_counter() - begin

    def result(self, name: str) -> str:
        """Return a result without the time at which it was made."""
        return re.sub('"created":"[^"]*"', "", (self._folder / name / "real.json").read_text())

    def has_ended(self, name: str) -> bool:
        """Return whether a run has written its result."""
        return (self._folder / name / "real.json").exists()

    def tokens(self, name: str) -> int:
        """Return how many tokens a result counted."""
        return json.loads((self._folder / name / "real.json").read_text())["fit"]["token_count"]

    def written(self, name: str) -> list[float]:
        """Return when the parts of a run were written, the last last."""
        return sorted(path.stat().st_mtime for path in (self._folder / name).glob("real-*.part"))


def kills(case: Case, options: argparse.Namespace) -> None:
    """Kill runs at random moments and go on with them; count what was read again."""
    moments = random.Random(options.seed)
    start = case.run("start", *_LITTLE)
    whole = case.run("whole")
    tokens = case.tokens("whole")
    every = max(whole / 20, 0.1)
    same, killed, resumed = 0, 0, 0
    again: list[int] = []
    lost: list[float] = []
    for number in range(options.runs):
        name = f"killed-{number}"
        for _ in range(options.kills):
            reading = time.time() + start
            process = case.start(name, "--checkpoint-every", str(every))
            try:
                process.wait(moments.uniform(0, whole))
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                killed += 1
                if not case.has_ended(name):
                    lost.append(time.time() - max([reading, *case.written(name)]))
        process = case.start(name, "--checkpoint-every", str(every))
        _, said = process.communicate()
        if found := re.search(r"interrupted run: ([\d,]+) tokens", said):
            resumed += 1
            again.append(int(found[1].replace(",", "")))
        same += process.returncode == 0 and case.result(name) == case.result("whole")
    print(
        f"{options.runs} runs of {tokens:,} tokens ({whole:.1f} s, start included), written down every {every:.1f} s, "
        f"killed {killed} times: {same} results identical to that of a run left alone; {resumed} went on, with "
        f"{statistics.median(again) if again else 0:,.0f} tokens (median); what was read and lost took at most "
        f"{max(lost, default=0):.1f} s"
    )


def workers(case: Case, options: argparse.Namespace) -> None:
    """Compare results of workers with that of one process, and kill one of two while they read."""
    case.run("whole")
    for count in (1, 2, 4):
        seconds = case.run(f"ray-{count}", *RAY, str(count))
        print(f"{count} workers: {seconds:.1f} s, identical: {case.result(f'ray-{count}') == case.result('whole')}")
    moments, same, killed = random.Random(options.seed), 0, 0
    for number in range(options.runs):
        process = case.start(f"lost-{number}", *RAY, "2", "--checkpoint-every", "0.5")
        while process.poll() is None:
            at_work = [one for one in _below(process.pid) if "_Actor.do" in _name(one)]
            if len(at_work) == 2:
                time.sleep(moments.uniform(0, 3))
                moments.choice(at_work).kill()
                killed += 1
                break
            time.sleep(0.05)
        _, said = process.communicate()
        same += process.returncode == 0 and case.result(f"lost-{number}") == case.result("whole")
        if process.returncode:
            print(said.splitlines()[-1])
    print(f"{options.runs} runs, of two workers one killed while both were at work ({killed} times): {same} identical")


def _below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def checkpoints(case: Case, options: argparse.Namespace) -> None:
    """Compare runs that write down as often as they may with runs that never do, in turn."""
    plain, written = [], []
    case.run("warm-up")
    for number in range(options.runs):
        plain.append(case.run(f"plain-{number}", "--checkpoint-every", "100000"))
        written.append(case.run(f"written-{number}", "--checkpoint-every", str(options.every)))
    ratios = [after / before for before, after in zip(plain, written, strict=True)]
    print(
        f"{options.runs} pairs of runs of {case.tokens('plain-0'):,} tokens: {statistics.median(plain):.1f} s; "
        f"written down every {options.every:g} s: {statistics.median(ratios):.3f} of it "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )


def scaling(case: Case, options: argparse.Namespace) -> None:
    """Compare two one-thread shards, at the same time, with one process that reads everything; start not counted."""
    one, two, start = [], [], []
    for number in range(options.runs):
        start.append(case.run(f"start-{number}", *_LITTLE))
        one.append(case.run(f"one-{number}"))
        begin = time.perf_counter()
        pair = [case.start(f"two-{number}-{shard}", "--shard", f"{shard}/2") for shard in (1, 2)]
        for process in pair:
            process.communicate()
        two.append(time.perf_counter() - begin)
    ratios = [(alone - idle) / (both - idle) for alone, both, idle in zip(one, two, start, strict=True)]
    print(
        f"{case.tokens('one-0'):,} tokens, {options.runs} rounds, medians: one process {statistics.median(one):.1f} s, "
        f"two shards at a time {statistics.median(two):.1f} s, start and report {statistics.median(start):.1f} s of "
        f"each: {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def state(_case: Case, options: argparse.Namespace) -> None:
    """Fill states until nearly all lists are full, and say what they take to keep and to merge."""
    for features in options.features:
        first, second = (_filled(features, options.firings, seed) for seed in (0, 1))
        with tempfile.TemporaryDirectory() as folder:
            storage = Storage(folder)
            arrays = first.state()
            begin = time.perf_counter()
            storage.write("a.part", Part(header={}, arrays=arrays))
            written = time.perf_counter()
            restored = Collected.from_state(storage.read("a.part").arrays)
            read = time.perf_counter()
            restored.merge(second)
            restored.state()
            merged = time.perf_counter()
        sizes = Counter[str]()
        for name, array in arrays.items():
            sizes[name.partition(".")[0]] += array.nbytes
        parts = ", ".join(f"{name} {size / features:,.0f}" for name, size in sizes.most_common(4))
        print(
            f"{features:,} features that fired {options.firings} times each: {sizes.total() / 2**20:,.0f} MiB, bytes a "
            f"feature {sizes.total() / features:,.0f} ({parts}); written in {written - begin:.2f} s, read in "
            f"{read - written:.2f} s, merged with another in {merged - read:.2f} s",
            flush=True,
        )


def _filled(features: int, firings: int, seed: int) -> Collected:
    """Return what reading made-up text collects: 32 features a token at random, as strong as a lognormal says."""
    random_numbers, active = np.random.default_rng(seed), 32
    rows, length, vocabulary = 64, 127, 50_000
    collected = Collected(
        values=ValueStatistics(features),
        tokens=TokenStatistics(features, vocabulary),
        positions=PositionStatistics(features, length),
        examples=ExampleStatistics(features, top=20, sampled=48, seed=0),
        dictionary=DictionaryStatistics(features, length),
        fit=FitStatistics(512),
    )
    for number in range(max(1, features * firings // (rows * length * active))):
        row, position = (index.ravel().repeat(active) for index in np.indices((rows, length)))
        ids = (vocabulary * random_numbers.random((rows, length)) ** 4).astype(np.int64)
        windows = Windows(
            sequence=np.arange(rows) + (2 * number + seed) * rows,
            token_ids=ids,
            keep=np.ones((rows, length), np.bool_),
            document=tuple(f"text.jsonl#{(2 * number + seed) * rows + place}" for place in range(rows)),
            start=np.zeros(rows, np.int64),
        )
        # Features fire on few tokens: the token says which block of them may.
        feature = (ids[row, position] * 7919 + random_numbers.integers(0, 512, len(row))) % features
        order = np.unique((row * length + position) * features + feature, return_index=True)[1]
        acts = SparseActs(
            feature=feature[order],
            row=row[order],
            position=position[order],
            value=random_numbers.lognormal(size=len(order)).astype(np.float32),
            windows=windows,
        )
        for accumulator in (collected.values, collected.tokens, collected.positions, collected.examples):
            accumulator.update(acts)
        collected.dictionary.update(acts)
        collected.chunks[2 * number + seed] = bytes(32)
    return collected


def main() -> None:
    """Run one of the benchmarks."""
    benchmarks: Sequence[Callable[[Case, argparse.Namespace], None]] = (kills, workers, checkpoints, scaling, state)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=[benchmark.__name__ for benchmark in benchmarks])
    for name in ("model", "sae", "corpus"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kills", type=int, default=1, help="times that each run is killed")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between checkpoints")
    parser.add_argument("--features", type=int, nargs="+", default=[16_384, 65_536], help="of a state")
    parser.add_argument("--firings", type=int, default=300, help="of each feature of a state")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="further options of real; the last here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        next(one for one in benchmarks if one.__name__ == options.benchmark)(Case(options, Path(folder)), options)


if __name__ == "__main__":
    main()
