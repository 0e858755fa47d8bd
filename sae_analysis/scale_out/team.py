"""Workers on Ray that are handed things to do, and started anew when they are lost."""

import logging
import os
import re
import signal
import socket
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from sae_analysis.errors import SAEAnalysisError, WorkerError
from sae_analysis.scale_out.loading import Subject

Key = int | tuple[int, ...]
"""A chunk's number, or the features of a batch."""

Lost = Callable[[int], None]
"""Called with the number of things that are to be done again when a worker is found to have been lost."""

_IN_FLIGHT = 2
"""Things that a worker has at a time: one to work at, and the next, so that it never waits; no more, so that text does
not pile up before slow workers."""

_MOST_LIVES = 20
"""How often a worker is started anew before it is taken to be no accident."""

_CONNECT_SECONDS = 10

_STORE_BYTES = 1 << 28
"""Shared memory of a cluster of our own: it holds the SAE and some chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many workers there are, and what each of them has."""

    count: int
    threads: int
    """Processor threads of each."""

    gpus: float = 0
    """Graphics processors of each; a share of one if workers are to share it."""

    address: str | None = None
    """Of a Ray cluster that is there; None begins one on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a worker says when it has done something."""

    life: str
    """Changes when it was started anew, and had lost what was not safe."""

    safe: Sequence[Key] = ()
    """What is safe now, if that is news."""

    place: str = ""
    """Where that lies."""

    outcome: Any = None


class Work(Protocol):
    """What a worker does, in a process of its own."""

    def begin(self, subject: Subject) -> None:
        """Load what is needed."""

    def do(self, item: Any) -> Answer:  # noqa: ANN401 - a chunk, or features
        """Do one thing."""
        ...

    def end(self) -> Answer:
        """Make all that was done safe."""
        ...


@dataclass(slots=True, eq=False)
class _Member:
    """One worker as it is seen from here."""

    actor: Any
    given: list[Any]
    """Ray's references to its work and to the subject, which must be held as long as it may be started anew."""

    life: str = ""
    place: str = ""
    unsafe: dict[Key, Any] = field(default_factory=dict)
    """What it was given and would have to be done again if it were lost."""


class Team:
    """Workers that are handed things to do as they have room."""

    def __init__(
        self,
        work: Callable[[str], Work],
        subject: Subject,
        workers: Workers,
        lost: Lost | None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare; ``work`` is given the name of each worker."""
        self._work, self._subject, self._workers = work, subject, workers
        self._lost, self._is_stopping = lost, is_stopping
        self._members: list[_Member] = []
        self._flying: dict[Any, tuple[_Member, Key | None]] = {}
        self._waiting: deque[tuple[Key, Any]] = deque()
        self._quiet = ExitStack()

    @property
    def places(self) -> list[str]:
        """Where all lies that was made safe."""
        return [member.place for member in self._members if member.place]

    def __enter__(self) -> Self:
        """Begin a cluster of our own or join the one that is there, and start the workers."""
        self._ray = _connected(self._workers)
        self._quiet.enter_context(redirect_stdout(sys.stderr))  # where Ray says that it has lost somebody
        actor = self._ray.remote(_Actor).options(
            num_cpus=self._workers.threads,
            num_gpus=self._workers.gpus,
            max_restarts=_MOST_LIVES,
            max_task_retries=-1,
        )
        subject = self._ray.put(self._subject)  # once, however many take it
        works = (self._work(uuid.uuid4().hex[:8]) for _ in range(self._workers.count))
        self._members = [_Member(actor.remote(), [self._ray.put(work), subject]) for work in works]
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()
        self._quiet.close()

    def do(self, items: Iterable[tuple[Key, Any]]) -> Iterator[Any]:
        """Do all things, or those begun with when stopped, and yield what comes of each once, in no order."""
        source, done = iter(items), set[Key]()
        while True:
            self._hand_out(source)
            if not self._flying:
                self._flying = {member.actor.end.remote(member.given): (member, None) for member in self._members}
            is_ending = all(key is None for _, key in self._flying.values())
            ready, _ = self._ray.wait(list(self._flying), num_returns=1)
            for call in ready:
                member, key = self._flying.pop(call)
                answer = self._answer(call)
                self._note(member, key, answer)
                if key is not None and key not in done:  # else done again, after its worker was lost
                    done.add(key)
                    yield answer.outcome
            if is_ending and not self._flying and (not self._waiting or self._is_stopping()):
                return

    def _hand_out(self, source: Iterator[tuple[Key, Any]]) -> None:
        """Give everybody enough to do."""
        if self._is_stopping():
            return
        load = {id(member): 0 for member in self._members}
        for member, _ in self._flying.values():
            load[id(member)] += 1
        while (member := min(self._members, key=lambda one: load[id(one)])) and load[id(member)] < _IN_FLIGHT:
            if (given := self._waiting.popleft() if self._waiting else next(source, None)) is None:
                return
            key, item = given
            member.unsafe[key] = item
            self._flying[member.actor.do.remote(item, member.given)] = (member, key)
            load[id(member)] += 1

    def _answer(self, call: Any) -> Answer:  # noqa: ANN401 - Ray's reference
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return self._ray.get(call)
        except RayTaskError as error:
            if isinstance(error.cause, SAEAnalysisError):
                raise error.cause from None
            raise
        except RayActorError as error:
            reason = str(error).strip().splitlines()[0]
            raise WorkerError(
                f"A worker died {_MOST_LIVES + 1} times, and the run was given up: {reason} What was written down "
                "before is kept, and the same command goes on from there; fewer workers take less memory."
            ) from None

    def _note(self, member: _Member, key: Key | None, answer: Answer) -> None:
        """Take note of what is safe, and of what a lost worker has lost."""
        for safe in answer.safe:
            member.unsafe.pop(safe, None)
        member.place = answer.place or member.place
        if member.life not in ("", answer.life):
            kept = {key, *(flying for owner, flying in self._flying.values() if owner is member)}
            again = [known for known in member.unsafe if known not in kept]
            self._waiting.extend((known, member.unsafe.pop(known)) for known in again)
            if self._lost:
                self._lost(len(again))
        member.life = answer.life


class _Actor:
    """What Ray holds: it makes the work ready when it is needed, also in a new life.

    It is made of nothing: Ray does not keep what an actor was made of until it is started anew. In a list, references
    come as they are, and what they stand for is fetched once a life.
    """

    def __init__(self) -> None:
        self._work: Work | None = None

    def do(self, item: Any, given: list[Any]) -> Answer:  # noqa: ANN401
        return self._ready(given).do(item)

    def end(self, given: list[Any]) -> Answer:
        return self._ready(given).end()

    def _ready(self, given: list[Any]) -> Work:
        if self._work is None:
            import ray

            work: Work
            work, subject = ray.get(given)
            work.begin(subject)
            self._work = work
        return self._work


def _connected(workers: Workers) -> Any:  # noqa: ANN401 - the module
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told that somebody runs this
    try:
        import ray
    except ImportError:
        raise WorkerError(
            "Workers on Ray need what is not installed: pip install 'sae-analysis[ray]', or work in one process."
        ) from None
    where: dict[str, Any] = {"address": workers.address}
    if not workers.address:
        cores = workers.count * workers.threads
        where = {"address": "local", "num_cpus": cores, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    try:
        if host := re.fullmatch(r"(?:ray://)?([^/:]+):(\d+)", workers.address or ""):
            socket.create_connection((host[1], int(host[2])), timeout=_CONNECT_SECONDS).close()  # Ray waits for minutes
        handler = signal.getsignal(signal.SIGTERM)
        ray.init(**where, logging_level=logging.ERROR, log_to_driver=False)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own would end this process at once
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise WorkerError(
            f"The Ray cluster at {workers.address or 'this machine'} cannot be had: {reason}. Check the address."
        ) from None
    return ray
