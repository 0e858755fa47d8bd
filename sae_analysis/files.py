"""Whole files or none: results appear under their name only when they are complete."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sae_analysis.errors import OutputError

FINGERPRINT_DIGITS = 12
"""Of a run's fingerprint, in the names of files that belong to it; the whole of it is inside."""

WEIGHT_SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".bin")
"""Endings of files that hold an SAE's weights."""


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
            f"Output folder {folder} cannot be written to: {error.strerror}. Choose another folder."
        ) from None


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Make sure of a folder as ``prepare_folder`` does; what was made for it goes again if a failure leaves it empty.

    Raises:
        OutputError: it cannot be made or written to.
    """
    new = [one for one in (folder, *folder.parents) if not os.path.exists(one)]  # noqa: PTH110 - locked counts as new
    try:
        prepare_folder(folder)
        yield
    except BaseException:  # Ctrl-C too
        for one in new:
            with suppress(OSError):  # it holds something, or was never made
                one.rmdir()
        raise


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """Make sure that a folder can be written to and that no other run writes into it meanwhile.

    The system ends the claim with the process, however that ends; nothing is left in the folder. Where the file system
    has no locks, nothing is claimed.

    Raises:
        OutputError: it cannot be made or written to, or another run has claimed it.
    """
    with made(folder), ExitStack() as claim:
        if not _claimed(folder, claim):
            raise OutputError(
                f"Output folder {folder} is being written to by another run: wait for its end, or choose another "
                "folder."
            )
        yield


def _claimed(folder: Path, claim: ExitStack) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    descriptor = os.open(folder, os.O_RDONLY)
    claim.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def write_whole(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a file so that whoever looks sees the old content or the new, never a part, whatever happens meanwhile.

    ``content`` is what is written, or writes it to the open file.

    Raises:
        OutputError: the disk is full, or the folder cannot be written to; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("w+b") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        with suppress(OSError):  # whatever ended the writing, Ctrl-C included, leaves no part behind
            temporary.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> OutputError:
    """Return what to say of a file that could not be written, be it a result or what a run keeps elsewhere."""
    return OutputError(f"{path} cannot be written: {error.strerror}. Free space or choose another folder.")
