"""Hostile checkpoints are refused, and nothing else happens: nothing runs, no memory fills."""

import contextlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from checkpoint_factory import (
    circuit_tracer,
    free_keys,
    legacy,
    linear_keys,
    made,
    plain,
    write_bomb,
    write_safetensors,
    write_torch,
)
from checkpoint_reading import refusal
from format_cases_others import gemma_scope_residual
from hostile_checkpoints import (
    HOSTILE,
    a_tensor_of_one_number_repeated,
    code_in_a_bare_pickle,
    code_in_a_legacy_file,
    code_in_a_zip,
    code_that_is_evaluated,
    mark,
    raw_file,
    some_weights,
)

from sae_analysis.sae_formats import load_sae

CHILD = """
import json, os, resource, sys, time
from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats import load_sae

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))

events = []
def watch(event, arguments):
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event.startswith(("os.", "subprocess.", "shutil.", "socket.", "ctypes.")) and "listdir" not in event:
        if event not in ("os.scandir",):
            events.append(f"{event} {arguments}"[:200])

good, hostile = json.load(sys.stdin)
for path in good:
    load_sae(path)
if os.path.exists("/proc/self/statm"):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (4 << 30),) * 2)
sys.addaudithook(watch)
for name, path in hostile.items():
    events.clear()
    before, start = peak(), time.perf_counter()
    try:
        load_sae(path)
        kind, message = "nothing", ""
    except BaseException as error:
        kind, message = type(error).__name__, str(error)
    seconds = time.perf_counter() - start
    found = {"kind": kind, "message": message, "grown": peak() - before, "seconds": seconds, "did": list(events)}
    print(json.dumps({name: found}), flush=True)
"""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """Load every hostile file in one process of its own, with little memory to spare, and watch what it does."""
    pytest.importorskip("resource", reason="limits of a process are asked of Unix")
    root = tmp_path_factory.mktemp("hostile")
    paths = {}
    for name, (write, _) in HOSTILE.items():
        (root / name).mkdir()
        paths[name] = str(write(root / name))
    # A good file of every container first, so that what loading needs once is not taken for growth.
    good = [
        write_torch(root / "good.pt", linear_keys(plain(), "bias")),
        raw_file(root, "old.pt", legacy(some_weights())),
        write_safetensors(root / "good.safetensors", free_keys(plain())),
        gemma_scope_residual(root / "gemma", 6, 10).path,
        circuit_tracer(root / "tracer", plain()),
    ]
    asked = json.dumps([[str(path) for path in good], paths])
    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=100, check=False)
    found = {}
    for line in done.stdout.splitlines():
        found |= json.loads(line)
    assert len(found) == len(HOSTILE), f"the process died: {done.stderr[-2000:]}"
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_and_nothing_else_happens(verdicts, name):
    verdict, (_, fragments) = verdicts[name], HOSTILE[name]
    assert verdict["kind"] == "SAEFormatError", verdict["message"]
    assert verdict["did"] == []
    assert verdict["grown"] < 32, "megabytes"
    assert len(verdict["message"]) < 1000
    assert "\n" not in verdict["message"]
    for fragment in fragments:
        assert fragment in verdict["message"]


def test_no_hostile_file_ran(verdicts, tmp_path_factory):
    assert not list(tmp_path_factory.getbasetemp().glob("hostile*/*/executed"))


@pytest.mark.parametrize("write", [code_in_a_zip, code_in_a_legacy_file, code_in_a_bare_pickle, code_that_is_evaluated])
def test_the_traps_work_so_that_what_was_refused_was_dangerous(tmp_path, write):
    path = write(tmp_path)
    with contextlib.suppress(RuntimeError, pickle.UnpicklingError):  # a bare pickle runs before torch sees what it is
        torch.load(path, weights_only=False)
    assert mark(tmp_path).exists()


def test_objects_are_refused_in_full(tmp_path):
    path = code_in_a_zip(tmp_path)
    assert refusal(path) == (
        f"SAE {path} is not a plain file of tensors: it is damaged, or holds objects that only running its code could "
        "restore, which is refused. Save its state_dict instead."
    )


def test_a_bomb_is_refused_in_full(tmp_path):
    path = write_bomb(tmp_path / "params.npz", "W_enc.npy", 4 << 20)
    assert refusal(path) == (
        f"SAE {path} has {path.stat().st_size} bytes and would unpack to {4 << 20}, which no weights do: it is refused."
    )


def test_a_claim_is_refused_in_full(tmp_path):
    path = a_tensor_of_one_number_repeated(tmp_path)
    assert refusal(path) == (
        f"SAE {path} has {path.stat().st_size} bytes and claims a encoder.weight of shape (1000000, 1000000), which "
        "does not fit into it: it is refused."
    )


def test_weights_that_are_compressed_a_little_are_no_bomb(tmp_path):
    p = plain(64, 512)
    arrays = {key: value.float().numpy() for key, value in (free_keys(p) | {"threshold": p.threshold}).items()}
    np.savez_compressed(made(tmp_path / "params.npz"), **arrays)
    assert load_sae(tmp_path / "params.npz").dict_size == 512
