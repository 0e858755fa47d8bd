"""What the process is told about the machine it runs on."""

import ctypes
import gc
import os
import time
from collections.abc import Callable

import torch

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8
"""Names of glibc's settings, from its ``malloc.h``."""

_NEVER = (1 << 31) - 1

_PRODUCTS = 16
"""Kinds of products that oneDNN keeps machine code for, half a megabyte each; a batch has fewer. Its own choice is
1,024."""

_RECORDS = 20_000
"""Objects made before Python looks for cycles among them, by its own choice 700: records come by the hundred thousand,
and none is in a cycle."""


def prepare(threads: int | None = None) -> int:
    """Set the whole process up for large tensors and return the number of threads; see ``use_threads``."""
    gc.set_threshold(_RECORDS)
    keep_few_kinds_of_products()
    keep_freed_memory()
    return use_threads(threads)


def use_threads(count: int | None = None) -> int:
    """Set torch's threads for the whole process and return their number; without a count, measure which is best.

    On a machine that is busy with something else, threads wait for each other: two can be six times slower than one.
    """
    if count is None:
        candidates = sorted({1, torch.get_num_threads()}, reverse=True)
        count = min(candidates, key=_seconds_of_products) if len(candidates) > 1 else candidates[0]
    torch.set_num_threads(count)
    return count


def keep_few_kinds_of_products() -> None:
    """Have oneDNN, and torch's own layer above it, keep machine code for few kinds, unless the environment says more.

    Both look there when the first product is computed: a process that has computed one already goes on as it did.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(_PRODUCTS))


def keep_freed_memory() -> bool:
    """Have the C library keep what tensors free for the next ones, and return whether it can (glibc).

    It gives large blocks back to the system, and gets them again page by page, zeroed: batch after batch a seventh of
    a run's time. Who goes on for long calls ``return_freed_memory`` now and then. All threads share what is kept: of
    several heaps each would grow to what a batch needs.
    """
    mallopt = _of_c_library("mallopt")
    settings = {_MMAP_THRESHOLD: _NEVER, _TRIM_THRESHOLD: _NEVER, _ARENA_MAX: 1}
    return all([bool(mallopt(name, value)) for name, value in settings.items()])


def return_freed_memory() -> bool:
    """Give what is free back to the system at once, and return whether any was (glibc).

    Kept memory lies in pieces between what is still in use, and the next tensors do not always fit into one: without
    this, a run over millions of tokens holds several times what it uses. It takes about 10 ms.
    """
    return bool(_of_c_library("malloc_trim")(0))


def _of_c_library(name: str) -> Callable[..., int]:
    """Return a function of the C library, or one that does nothing where it has none of that name."""
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return lambda *_: 0
    return function


def _seconds_of_products(threads: int) -> float:
    """Return how long a few products of a small layer's size take, the first of them not counted."""
    torch.set_num_threads(threads)
    left, right = torch.ones(1024, 512), torch.ones(512, 2048)
    begin = 0.0
    for turn in range(12):
        if turn == 1:
            begin = time.perf_counter()
        torch.mm(left, right)
    return time.perf_counter() - begin
