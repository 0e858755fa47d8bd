"""What the process is told about the machine."""

import ctypes
import gc
import platform
import subprocess
import sys

import pytest
import torch

from sae_analysis import machine


@pytest.fixture(autouse=True)
def same_settings_afterwards():
    threads, thresholds = torch.get_num_threads(), gc.get_threshold()
    yield
    torch.set_num_threads(threads)
    gc.set_threshold(*thresholds)


@pytest.mark.parametrize(("seconds", "best"), [({1: 2.0, 3: 1.0}, 3), ({1: 1.0, 3: 6.0}, 1)])
def test_the_number_of_threads_that_is_faster_is_taken(seconds, best, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(machine, "_seconds_of_products", seconds.__getitem__)
    assert machine.use_threads() == best
    monkeypatch.undo()
    assert torch.get_num_threads() == best


def test_a_number_of_threads_that_was_asked_for_is_not_measured(monkeypatch):
    monkeypatch.setattr(machine, "_seconds_of_products", None)
    assert machine.prepare(2) == 2
    assert torch.get_num_threads() == 2


def test_cycles_are_looked_for_seldom_but_still_looked_for():
    gc.set_threshold(700, 10, 10)
    machine.prepare(1)
    assert gc.isenabled()
    assert gc.get_threshold() == (20_000, 10, 10)


PRODUCTS = """
import os, sys, torch
from sae_analysis.machine import prepare, return_freed_memory
from sae_analysis.products import product
def resident():
    return int(open("/proc/self/statm").read().split()[1])
os.environ |= dict(name.split("=") for name in sys.argv[1:])
prepare(1)
before = resident()
for rows in range(64, 2048, 64):
    for columns in range(256, 512, 64):
        product(torch.ones(rows, 256), torch.ones(columns, 256))
return_freed_memory()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_machine_code_of_few_products_is_kept_unless_more_is_asked_for():
    """Of 124 products, half a megabyte each."""
    names = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    few, many = (
        int(subprocess.check_output([sys.executable, "-c", PRODUCTS, *settings], text=True))
        for settings in ([], [f"{name}=1024" for name in names])
    )
    assert few < 20 * 250 < many - 20 * 250, "pages of 4 kB"


FAULTS = """
import resource, sys, torch
from sae_analysis.machine import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)
def touch():
    torch.ones(1 << 24), torch.ones(1 << 10)
for _ in range(10):
    touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again_instead_of_given_back():
    """Of ten times 64 MB, hardly a page is asked for again, once the heap has found its size."""
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, how], text=True)) for how in ("keep", "give back")
    )
    assert kept < 200
    assert given_back > 10_000


TOP = """
import ctypes, resource
from sae_analysis.machine import keep_freed_memory
keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
def touch():
    block = ctypes.c_void_p(library.malloc(1 << 26))
    library.memset(block, 1, 1 << 26)
    library.free(block)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_is_freed_at_the_end_of_the_heap_is_kept_too():
    """Where a tensor happens to lie last, and nothing in use keeps the C library from giving it back."""
    assert int(subprocess.check_output([sys.executable, "-c", TOP], text=True)) < 200


HEAPS = """
import ctypes, sys, threading
from sae_analysis.machine import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
library = ctypes.CDLL(None)
thread = threading.Thread(target=library.malloc, args=(1 << 20,))
thread.start()
thread.join()
library.malloc_info(0, ctypes.c_void_p.in_dll(library, "stdout"))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_threads_share_what_is_kept():
    shared, each = (
        subprocess.check_output([sys.executable, "-c", HEAPS, how], text=True).count("<heap nr")
        for how in ("keep", "give back")
    )
    assert shared == 1 < each


PIECES = """
import torch
from sae_analysis.machine import keep_freed_memory, return_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1])
keep_freed_memory()
pieces = [torch.ones(1 << 18) for _ in range(200)]  # a megabyte each
del pieces[:-1]
before = resident()
assert return_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_was_kept_is_returned_at_once_even_below_what_is_in_use():
    assert int(subprocess.check_output([sys.executable, "-c", PIECES], text=True)) > 199 * 250, "pages of 4 kB"


def test_another_c_library_is_left_as_it_is(monkeypatch):
    class Other:
        pass

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Other())
    assert machine.keep_freed_memory() is False
    assert machine.return_freed_memory() is False
