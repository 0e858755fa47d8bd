"""What is said while a command runs: lines on stderr, and bars where somebody looks."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def say(message: str) -> None:
    """Print a line that is no result."""
    print(message, file=sys.stderr)


@contextmanager
def spending_bar(does: str, unit: str, done: int = 0) -> Iterator[Callable[[int, int | None], None]]:
    """Yield a function of what was done since its last call, and about how much there will be in all, if known.

    ``done`` is what was done before, by somebody else.
    """
    from tqdm import tqdm

    with tqdm(initial=done, unit=unit, unit_scale=True, desc=does, disable=None) as bar:

        def advance(done: int, expected: int | None) -> None:
            bar.total = expected
            bar.update(done)

        yield advance


@contextmanager
def hook_bar() -> Iterator[Callable[[int, int], None]]:
    """Yield a bar that appears only if hooks are tried."""
    from tqdm import tqdm

    bars: list[tqdm] = []

    def advance(tried: int, total: int) -> None:
        if not bars or bars[-1].n == bars[-1].total:  # of each batch of text once more
            bars.append(tqdm(total=total, unit="hook", desc="trying", disable=None, leave=False))
        bars[-1].update(tried)

    try:
        yield advance
    finally:
        for bar in bars:
            bar.close()


@contextmanager
def page_bar() -> Iterator[Callable[[int, int], None]]:
    """Yield a function of the pages drawn and the pages in all."""
    from tqdm import tqdm

    with tqdm(unit="page", desc="drawing", disable=None) as bar:

        def advance(drawn: int, total: int) -> None:
            bar.total = total
            bar.update(drawn - bar.n)

        yield advance
