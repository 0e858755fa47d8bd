"""What is said while a command runs: lines on stderr, and bars where somebody looks."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_analysis.wording import counted

if TYPE_CHECKING:
    from tqdm import tqdm

_RED, _PLAIN = "\033[1;31m", "\033[0m"

_MOST_LISTED = 12
"""Files that are named one by one."""


@dataclass(frozen=True, slots=True)
class _Manner:
    """What the command that runs is to print."""

    is_quiet: bool = False
    as_json: bool = False


_manner = _Manner()


def set_manner(*, is_quiet: bool, as_json: bool) -> None:
    """Have this process print results as JSON, or nothing but errors and what is asked for, from now on."""
    global _manner  # noqa: PLW0603 - of the process, as stdout and stderr are
    _manner = _Manner(is_quiet=is_quiet, as_json=as_json)


def say(message: str) -> None:
    """Print a line that is no result."""
    if not _manner.is_quiet:
        print(message, file=sys.stderr)


def print_rows(rows: Mapping[str, str]) -> None:
    """Print a report, unless ``print_summary`` is to print it as JSON."""
    if _manner.is_quiet or _manner.as_json:
        return
    for row, text in rows.items():
        print(f"{row + ':':<10}{text}")


def print_summary(
    rows: Mapping[str, str],
    written: Sequence[Path],
    folder: Path,
    *,
    result: str | None = None,
    numbers: Mapping[str, Any] | None = None,
) -> None:
    """Print the last of a command: what was written, and where to look; as JSON, a line with the report in it too.

    ``result`` is what kind of result was written, ``numbers`` what its report says, for scripts.
    """
    from sae_analysis.gallery import left_behind

    pages = [path for path in written if path.suffix == ".html"]
    stale = left_behind(result, written, folder) if result else []
    if _manner.as_json:
        said = {"result": result, "numbers": dict(numbers or {}), "report": {row.lower(): rows[row] for row in rows}}
        files = {"output": str(folder), "files": list(map(str, written)), "browse": str(pages[0]) if pages else None}
        print(json.dumps(said | files | {"left_behind": list(map(str, stale))}, ensure_ascii=False))
    elif not _manner.is_quiet:
        print(f"Wrote {counted(len(written), 'file')} to {folder}:")
        for path in written[:_MOST_LISTED]:
            print(f"  {path}")
        if len(written) > _MOST_LISTED:
            print(f"  … and {len(written) - _MOST_LISTED} more")
        if stale:
            more = f" and {len(stale) - 1:,} more" if len(stale) > 1 else ""
            print(f"Still there, of an earlier run that {result}.json no longer describes: {stale[0].name}{more}")
        for page in pages:
            print(f"To look at them, open {page}")


def print_error(message: str) -> None:
    """Print one line, whatever a library put into its message; on a terminal that wants colours in one."""
    line = " ".join(message.splitlines())
    is_plain = "NO_COLOR" in os.environ or not sys.stderr.isatty()
    print("error:" if is_plain else f"{_RED}error:{_PLAIN}", line, file=sys.stderr)


def _bar(**options: Any) -> "tqdm":  # noqa: ANN401 - as tqdm has them
    """Return a bar with rate and time left, which shows where stderr is a terminal."""
    from tqdm import tqdm

    return tqdm(disable=True if _manner.is_quiet else None, **options)


@contextmanager
def spending_bar(does: str, unit: str, done: int = 0) -> Iterator[Callable[[int, int | None], None]]:
    """Yield a function of what was done since its last call, and about how much there will be in all, if known.

    ``done`` is what was done before, by somebody else. Features are counted one by one, all else in thousands. Where
    nothing is done, no bar is left behind.
    """
    with _bar(initial=done, unit=unit, unit_scale=unit != "feature", desc=does) as bar:

        def advance(done: int, expected: int | None) -> None:
            bar.total = expected
            bar.update(done)

        try:
            yield advance
        finally:
            bar.leave = bar.n > done


@contextmanager
def hook_bar() -> Iterator[Callable[[int, int], None]]:
    """Yield a bar that appears only if hooks are tried."""
    bars: list[tqdm] = []

    def advance(tried: int, total: int) -> None:
        if not bars or bars[-1].n == bars[-1].total:  # of each batch of text once more
            bars.append(_bar(total=total, unit="hook", desc="trying", leave=False))
        bars[-1].update(tried)

    try:
        yield advance
    finally:
        for bar in bars:
            bar.close()


@contextmanager
def page_bar() -> Iterator[Callable[[int, int], None]]:
    """Yield a function of the pages drawn and the pages in all."""
    with _bar(unit="page", desc="drawing") as bar:

        def advance(drawn: int, total: int) -> None:
            bar.total = total
            bar.update(drawn - bar.n)

        yield advance
