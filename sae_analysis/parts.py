"""What was read so far, on disk: what a run goes on with after an interruption, and what shards are merged from.

A part is a header (JSON) and arrays (NumPy's ``.npz``, nothing pickled) behind a checksum of both. Parts lie in a
folder or anywhere that fsspec knows (``s3://…``, ``gs://…``). Whoever writes parts of an unfinished run does so in turn
into one of two files, so that a write that fails, or tears, leaves the last good state in the other.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sae_analysis.errors import OutputError
from sae_analysis.files import FINGERPRINT_DIGITS, write_whole

FINISHED = "real.part"
"""Name of the part that a shard ends with."""

_VERSION = 1
_HEADER, _CHUNKS = "header", "chunks"
_DIGEST_BYTES, _BLOCK_BYTES = 32, 1 << 20

BinarySeekable = Any
"""An open binary file that can be read, written and sought in; fsspec's have no common type."""

_LEAST_SHARE = 40
"""Seconds of work for each second that writing a part takes, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What was counted and kept of some chunks, and of which run that is."""

    header: Mapping[str, Any]
    """Anything that JSON holds; ``fingerprint`` says what belongs together."""

    arrays: Mapping[str, npt.NDArray]
    """State of the accumulators; ``chunks`` are the numbers of the chunks read."""

    @property
    def chunks(self) -> frozenset[int]:
        """Numbers of the chunks that were read."""
        return frozenset(self.arrays[_CHUNKS].tolist())


class Storage:
    """A folder for parts: a local one, or anything that fsspec knows."""

    def __init__(self, folder: str | Path) -> None:
        """Name the folder; nothing is read or written.

        Raises:
            OutputError: no way is known to such a place.
        """
        from fsspec.core import url_to_fs  # takes as long to import as all else here
        from fsspec.implementations.local import LocalFileSystem

        self._folder = str(folder)
        try:
            self._files, self._root = url_to_fs(self._folder)
        except (ImportError, ValueError) as error:
            raise OutputError(
                f"Storage {folder} cannot be used: {error}. Give a folder, or install what it needs."
            ) from None
        self._is_local = isinstance(self._files, LocalFileSystem)

    def place(self, name: str) -> str:
        """Return what a file is called, folder and all."""
        return f"{self._folder.rstrip('/')}/{name}"

    def names(self, beginning: str) -> list[str]:
        """Return the names of the parts that begin so, sorted."""
        self._files.invalidate_cache()
        found = self._files.ls(self._root, detail=False) if self._files.isdir(self._root) else []
        names = (path.replace("\\", "/").rpartition("/")[2] for path in found)
        return sorted(name for name in names if name.startswith(beginning) and name.endswith(".part"))

    def write(self, name: str, part: Part) -> None:
        """Write a part; where it is local, whole or not at all.

        Raises:
            OutputError: it cannot be written; other files are untouched.
        """
        if self._is_local:
            with suppress(OSError):  # writing says what is wrong
                Path(self._root).mkdir(parents=True, exist_ok=True)
            write_whole(Path(self._path(name)), lambda file: _write(part, file))
            return
        try:
            with tempfile.TemporaryFile() as file:
                _write(part, file)
                file.seek(0)
                self._files.makedirs(self._root, exist_ok=True)
                with self._files.open(self._path(name), "wb") as target:
                    while block := file.read(_BLOCK_BYTES):
                        target.write(block)
        except OSError as error:
            raise OutputError(f"{self.place(name)} cannot be written: {error}. Check the storage.") from None

    def read(self, name: str) -> Part:
        """Read a part.

        Raises:
            OutputError: missing, damaged, or of another version.
        """
        header, arrays = self._read(name, lambda _: True)
        return Part(header=header, arrays=arrays)

    def header(self, name: str) -> tuple[dict[str, Any], frozenset[int]]:
        """Return the header of a part and the chunks in it, once its checksum has been seen to be right.

        Raises:
            OutputError: missing, damaged, or of another version.
        """
        header, arrays = self._read(name, lambda array: array == _CHUNKS)
        return header, frozenset(arrays[_CHUNKS].tolist())

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, as far as they are there."""
        for name in names:
            if self._files.exists(self._path(name)):
                self._files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _read(self, name: str, is_wanted: Callable[[str], bool]) -> tuple[dict[str, Any], dict[str, npt.NDArray]]:
        try:
            with self._files.open(self._path(name), "rb") as file:
                return _read(file, is_wanted)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(
                f"Part {self.place(name)} cannot be read: {reason}. Give one that a shard wrote."
            ) from None
        except Exception as error:  # torn archives end in BadZipFile, ValueError, KeyError, EOFError, zlib.error …
            raise OutputError(
                f"Part {self.place(name)} is damaged ({error}). Read this part of the text again."
            ) from None


def _write(part: Part, file: BinarySeekable) -> None:
    """Write a part and put its checksum in front."""
    header = json.dumps(dict(part.header) | {"version": _VERSION})
    file.write(bytes(_DIGEST_BYTES))
    arrays = {_HEADER: np.frombuffer(header.encode(), np.uint8), **part.arrays}
    np.savez(file, allow_pickle=False, **arrays)
    file.seek(_DIGEST_BYTES)
    digest = _digest(file)
    file.seek(0)
    file.write(digest)


def _read(file: BinarySeekable, is_wanted: Callable[[str], bool]) -> tuple[dict[str, Any], dict[str, npt.NDArray]]:
    """Return header and arrays, the chunks among them; an error of any kind says what is wrong."""
    digest = file.read(_DIGEST_BYTES)
    if _digest(file) != digest:
        raise ValueError("its checksum is wrong")
    file.seek(_DIGEST_BYTES)
    with np.load(file, allow_pickle=False) as arrays:
        header = json.loads(arrays[_HEADER].tobytes())
        if header["version"] != _VERSION:
            raise ValueError(f"version {header['version']} where {_VERSION} is read")
        found = {name: arrays[name] for name in arrays.files if name != _HEADER and is_wanted(name)}
        if found[_CHUNKS].ndim != 1 or found[_CHUNKS].dtype.kind != "i":
            raise ValueError("its chunks are no numbers in a row")
        return header, found


def _digest(file: BinarySeekable) -> bytes:
    """Hash what follows in a file; hashlib's own way begins at the front of those that live in memory."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.digest()


@dataclass(slots=True, kw_only=True)
class Unfinished:
    """The parts of a run that has not ended, by one writer or several: any whose chunks differ add up.

    A run is known by its fingerprint, so that what belongs to another is never taken.
    """

    storage: Storage
    fingerprint: str
    writer: str = "run"
    """Who writes; no two that live at the same time may have the same name."""

    every: float = 300.0
    """Seconds of work between two writes; more where a write takes long, so that it costs little."""

    _next: int = 0
    _due: float = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    @property
    def _beginning(self) -> str:
        return f"real-{self.fingerprint[:FINGERPRINT_DIGITS]}."

    def _name(self, which: int) -> str:
        return f"{self._beginning}{self.writer}.{which}.part"

    def names(self) -> list[str]:
        """Return the names of this run's parts."""
        return self.storage.names(self._beginning)

    def others(self) -> list[str]:
        """Return where parts of other unfinished runs lie."""
        mine = self.names()
        return [self.storage.place(name) for name in self.storage.names("real-") if name not in mine]

    def by(self, writer: str) -> Self:
        """Return the same for another writer."""
        return replace(self, writer=writer)

    def start(self) -> None:
        """Let the time until the next write begin now, on the clock of this process."""
        self._due = time.monotonic() + self.every

    def own(self) -> list[str]:
        """Return the name of the last good part of this writer, if there is one."""
        chosen, _ = self._chosen([name for name in self.names() if name in (self._name(0), self._name(1))])
        self._next = int(self._name(0) in chosen)
        return chosen

    def parts(self) -> tuple[list[str], list[str]]:
        """Return the names of parts that add up, largest first, and what is wrong with others."""
        self.own()  # what is written next does not go over this writer's last good part
        return self._chosen(self.names())

    def _chosen(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        sound, complaints = [], []
        for name in names:
            try:
                header, chunks = self.storage.header(name)
            except OutputError as error:
                complaints.append(str(error))
                continue
            if header["fingerprint"] == self.fingerprint:
                sound.append((len(chunks), name, chunks))
        chosen, seen = [], frozenset[int]()
        for _, name, chunks in sorted(sound, reverse=True, key=lambda found: (found[0], found[1])):
            if not chunks & seen:
                chosen.append(name)
                seen |= chunks
        return chosen, complaints

    def read(self, names: Iterable[str]) -> Iterator[Part]:
        """Yield parts, one at a time."""
        return (self.storage.read(name) for name in names)

    @property
    def is_due(self) -> bool:
        """Whether it is time to write."""
        return time.monotonic() >= self._due

    def write(self, state: Callable[[], Mapping[str, npt.NDArray]]) -> str:
        """Write all that was collected by this writer, over the older of its two parts, and return its name.

        ``state`` makes the arrays, which takes time that counts as well.

        Raises:
            OutputError: it cannot be written; what was written before it is still there.
        """
        begin, name = time.monotonic(), self._name(self._next)
        try:
            self.storage.write(name, Part(header={"fingerprint": self.fingerprint}, arrays=state()))
            self._next = 1 - self._next  # not after a failure: the other is the last good one
        finally:
            end = time.monotonic()
            self._due = end + max(self.every, _LEAST_SHARE * (end - begin))
        return name

    def remove(self) -> None:
        """Remove all parts of the run: it has ended and its result is written."""
        self.storage.remove(self.names())
