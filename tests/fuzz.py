"""Feed damaged files to a reader for as long as one likes, and keep what ends otherwise than it should.

    python tests/fuzz.py --reader checkpoint-pt --seconds 600 --cases 200000 --findings /tmp/findings

Every file must be read or refused by a SAEAnalysisError, within five seconds and one GiB. With ``atheris`` installed
(``pip install atheris``, Linux), what is tried next follows from which lines the last files reached; without it, whole
files are damaged at random. The reader runs in a process of its own: one that dies is a finding, and is replaced.
Prints the number of files, the processor's seconds, and the findings, each with the file that caused it.
"""

import argparse
import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # this checkout, whatever is installed

try:
    import atheris
except ImportError:
    atheris = None

MOST_SECONDS = 5.0
MOST_MEMORY = 1 << 30
_LARGEST = 1 << 16
"""Bytes of a file that is tried."""

_FOLLOWED = (
    "sae_analysis",
    "torch.serialization",
    "torch._weights_only_unpickler",
    "zipfile",
    "numpy.lib",
    "json",
    "yaml",
)
_REPORT_EVERY = 500


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", required=True, help="one of damage.READERS, for instance checkpoint-pt")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the processor's time")
    parser.add_argument("--cases", type=int, default=1 << 62, help="files at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="folder for files that misbehave")
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scratch:
        return _try_files(options)
    return _watch(options)


# --- the process that watches --------------------------------------------------------------------------------------


def _watch(options: argparse.Namespace) -> int:
    """Run the reader in processes of its own until the time is up; return 1 if anything was found."""
    options.findings.mkdir(parents=True, exist_ok=True)
    memory = Path("/dev/shm")  # a disk would be slower than most readers
    scratch = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    total = {"cases": 0, "seconds": 0.0, "read": 0, "grown": 0, "findings": {}}
    turn = 0
    try:
        while total["seconds"] < options.seconds and total["cases"] < options.cases:
            command = [sys.executable, __file__, "--reader", options.reader, "--scratch", str(scratch)]
            command += ["--seconds", str(options.seconds - total["seconds"]), "--seed", str(options.seed + turn)]
            command += ["--cases", str(options.cases - total["cases"]), "--findings", str(options.findings)]
            ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
            found = json.loads((scratch / "report.json").read_text()) if (scratch / "report.json").exists() else {}
            (scratch / "report.json").unlink(missing_ok=True)
            total |= {name: total[name] + found.get(name, 0) for name in ("cases", "seconds", "read")}
            total["grown"] = max(total["grown"], found.get("grown", 0))
            for name, many in found.get("findings", {}).items():
                total["findings"][name] = total["findings"].get(name, 0) + many
            if ended.returncode:
                name = f"the process ended with {ended.returncode}: {_last_line(ended.stdout)}"
                total["findings"][name] = total["findings"].get(name, 0) + 1
                for file in scratch.glob("case/*"):
                    if file.is_file():
                        shutil.copy(file, options.findings / f"{options.reader}-died-{turn}-{file.name}")
                if not found.get("cases"):
                    print(ended.stdout.decode(errors="replace")[-4000:])
                    break
            turn += 1
    finally:
        shutil.rmtree(scratch)
    how = "guided" if atheris else "blind"
    print(
        f"{options.reader}: {total['cases']:,} files ({how}), {total['read']:,} of them read, {total['seconds']:.0f} "
        f"CPU seconds, {total['grown'] >> 20} MiB grown, {len(total['findings'])} findings"
    )
    for name, many in total["findings"].items():
        print(f"  {many} x {name}")
    return 1 if total["findings"] else 0


def _last_line(output: bytes) -> str:
    lines = [
        line
        for line in output.decode(errors="replace").splitlines()
        if "Error" in line or "ERROR" in line or "Timeout" in line
    ]
    return (lines or ["nothing said"])[0][:200]


# --- the process that reads ----------------------------------------------------------------------------------------


class _Trial:
    """A reader, what it was given so far, and what came of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Read every whole file once, so that what reading needs once is no growth; then limit memory."""
        with atheris.instrument_imports(include=list(_FOLLOWED)) if atheris else nullcontext():
            from damage import READERS

            from sae_analysis.errors import SAEAnalysisError
        import torch

        torch.set_num_threads(1)
        self._refusal, self._options, self.reader = SAEAnalysisError, options, READERS[options.reader]
        self.whole = self.reader.whole()
        self._path = options.scratch / "case" / self.reader.file_name
        self._path.parent.mkdir(exist_ok=True)
        self._report: dict[str, Any] = {"cases": 0, "seconds": 0.0, "read": 0, "grown": 0, "findings": {}}
        for content in self.whole:
            self._path.write_bytes(content)
            with suppress(SAEAnalysisError):
                self.reader.read(self._path)
        limit = _address_space() + MOST_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.signal(signal.SIGALRM, _hang)
        self._before, self._begin = _peak(), time.process_time()
        self._tell()

    def give(self, content: bytes) -> None:
        """Have the reader read a file; end the process when the time or the number of files is up."""
        self._path.write_bytes(content)
        faulthandler.dump_traceback_later(2 * MOST_SECONDS, exit=True)  # where no signal gets through
        signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
        try:
            self.reader.read(self._path)
            self._report["read"] += 1
        except self._refusal as error:
            cause = error.__context__  # a refusal for want of memory or time is none
            if isinstance(cause, (MemoryError, TimeoutError)) or "memory" in str(cause):
                self._keep(cause, content)
        except Exception as error:
            self._keep(error, content)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
        self._report["cases"] += 1
        spent = time.process_time() - self._begin
        is_over = self._report["cases"] >= self._options.cases or spent >= self._options.seconds
        if self._report["cases"] % _REPORT_EVERY == 0 or is_over:
            self._tell()
        if is_over:
            os._exit(0)  # the fuzzer would go on

    def mutate(self, content: bytes, most: int, seed: int) -> bytes:
        """Return what to try next: of the fuzzer's own changes and of ours, which keep a container together."""
        chance = random.Random(seed)
        if chance.random() < 0.4:
            return atheris.Mutate(content, most)
        return self.reader.damaged(chance.choice(self.whole) if chance.random() < 0.05 else content, chance)[:most]

    def _keep(self, error: BaseException, content: bytes) -> None:
        """Count a finding; of those of one kind at one line, keep the first file."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        findings, kind = (
            self._report["findings"],
            f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno} ",
        )
        name = next((one for one in findings if one.startswith(kind)), f"{kind}({str(error)[:100]!r})")
        if name not in findings:
            at = f"{self._options.reader}-{type(error).__name__}-{Path(where.filename).stem}-{where.lineno}"
            (self._options.findings / at).write_bytes(content)
        findings[name] = findings.get(name, 0) + 1

    def _tell(self) -> None:
        self._report["seconds"] = time.process_time() - self._begin
        self._report["grown"] = _peak() - self._before
        (self._options.scratch / "report.json").write_text(json.dumps(self._report))


def _try_files(options: argparse.Namespace) -> int:
    trial = _Trial(options)
    if atheris is None:
        chance = random.Random(options.seed)
        while True:
            trial.give(trial.reader.damaged(chance.choice(trial.whole), chance))
    seeds = options.scratch / "seeds"
    seeds.mkdir(exist_ok=True)
    for number, content in enumerate(trial.whole):
        (seeds / str(number)).write_bytes(content)
    command = [sys.argv[0], f"-seed={options.seed + 1}", f"-max_len={_LARGEST}", "-rss_limit_mb=0", "-len_control=0"]
    command += [f"-artifact_prefix={options.scratch}/", str(seeds)]
    atheris.Setup(command, _or_end(trial.give), custom_mutator=_or_end(trial.mutate))
    atheris.Fuzz()
    return 0


def _or_end(call: Callable[..., Any]) -> Callable[..., Any]:
    """End the process where the harness itself is wrong: an exception would leave the fuzzer waiting for ever."""

    def guarded(*given: Any) -> Any:
        try:
            return call(*given)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(3)

    return guarded


def _hang(*_: object) -> None:
    raise TimeoutError(f"more than {MOST_SECONDS} seconds")


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    raise SystemExit(main())
