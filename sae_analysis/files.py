"""Whole files or none: results appear under their name only when they are complete."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from sae_analysis.errors import OutputError


def prepare_folder(folder: Path) -> None:
    """Make sure that a folder exists and can be written to, before hours are spent on what goes into it.

    Raises:
        OutputError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"Output folder {folder} cannot be written to: {error.strerror}. Choose another with --output."
        ) from None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that whoever looks sees the old content or the new, never a part, whatever happens meanwhile.

    Raises:
        OutputError: the disk is full, or the folder cannot be written to; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}. Free space or choose another --output."
        ) from None
    finally:
        with suppress(OSError):  # whatever ended the writing, Ctrl-C included, leaves no part behind
            temporary.unlink(missing_ok=True)
