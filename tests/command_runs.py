"""What tests of the command line share: a run as typed, and files and folders to find before and after it."""

import os
import subprocess
import sys
from pathlib import Path

from sae_analysis import main as command_line

ROOT = Path(command_line.__file__).resolve().parents[2]


def as_typed(arguments, *, timeout=120, **environment):
    return subprocess.run(
        [sys.executable, "main.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def make_folder(path):
    path.mkdir()
    return path


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())
