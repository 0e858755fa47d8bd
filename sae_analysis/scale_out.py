"""The same work on several workers: Ray holds them, carries what they are to do, and starts lost ones anew.

Nothing here computes. A worker reads chunks, or searches batches of features, as one process would, and what comes of
each does not depend on who did it. So a worker that dies costs time and nothing else: what it had not made safe is
done again.
"""

import itertools
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
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, Self

from sae_analysis.corpus import Chunk, TokenStream
from sae_analysis.errors import OutputError, SAEAnalysisError, WorkerError
from sae_analysis.language_model import LanguageModel
from sae_analysis.machine import prepare
from sae_analysis.parts import Unfinished
from sae_analysis.real_activations import Collected, Progress
from sae_analysis.real_activations import Plan as ReadingPlan
from sae_analysis.real_activations.reading import expected_tokens, unread
from sae_analysis.real_activations.stream import Reader
from sae_analysis.reconstruction import Site
from sae_analysis.records import FeatureStats
from sae_analysis.synth_activations import Plan as SearchPlan
from sae_analysis.synth_activations import Searcher, SynthSettings

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
    """Graphics processors of each."""

    address: str | None = None
    """Of a Ray cluster that is there; None begins one on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What a worker says when it has done something."""

    life: str
    """Changes when it was started anew, and had lost what was not safe."""

    safe: Sequence[Key] = ()
    """What is safe now, if that is news."""

    place: str = ""
    """Where that lies."""

    outcome: Any = None


class _Work(Protocol):
    """What a worker does, in a process of its own."""

    def begin(self, subject: "_Subject") -> None:
        """Load what is needed."""

    def do(self, item: Any) -> _Answer:  # noqa: ANN401 - a chunk, or features
        """Do one thing."""
        ...

    def end(self) -> _Answer:
        """Make all that was done safe."""
        ...


# --- reading -------------------------------------------------------------------------------------------------------


def collect_on_workers(
    planned: ReadingPlan,
    stream: TokenStream,
    workers: Workers,
    open_model: Callable[[], LanguageModel],
    unfinished: Unfinished,
    *,
    collected: Collected | None = None,
    progress: Progress | None = None,
    lost: Lost | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Collected:
    """Read a corpus as ``collect`` does, to the same result, and return what was counted and kept.

    The first chunk is read here: it shows whether the SAE fits, and how it is encoded fastest.

    Args:
        planned: What to read.
        stream: The text, not yet begun with; this process alone reads it.
        workers: Who reads.
        open_model: Loads the model where it is called, by each worker.
        unfinished: Where workers write what they have read, and how often.
        collected: What was collected before of the same plan and text, to go on with.
        progress: Told of the tokens read.
        lost: Told when a worker was lost.
        is_stopping: Says that no more is to be begun with: what was read is written down.

    Raises:
        KeyboardInterrupt: the reading was stopped.
        SAEAnalysisError: as for ``collect``; or Ray is missing, its cluster cannot be had, or workers keep dying.
    """
    collected = collected or Collected.empty(planned.site, planned.features, planned.settings)
    here = Reader(planned.site, planned.features, planned.settings, stream, collected)
    chunks = unread(planned, stream, collected)

    def told(tokens: int) -> None:
        if progress:
            progress(tokens, expected_tokens(planned, stream))

    for chunk in itertools.islice(chunks, 1):
        here.read(chunk, told)
    if (waiting := next(chunks, None)) is None:
        return collected
    assert stream.first is not None, "a chunk was read"
    subject = _Subject.of(planned.site, open_model, workers.threads)
    what = {name: getattr(planned, name) for name in ("settings", "selection", "asked_for", "features", "shard")}

    def work(name: str) -> _Work:
        return _Reading(
            what=what,
            fingerprint=planned.fingerprint,
            first=stream.first,
            encoders=collected.encoders,
            unfinished=unfinished.by(name),
        )

    with _Team(work, subject, workers, lost, is_stopping) as team:
        for tokens in team.do((chunk.number, chunk) for chunk in itertools.chain([waiting], chunks)):
            told(tokens)
    if is_stopping():
        unfinished.write(collected.state)
        raise KeyboardInterrupt
    for part in unfinished.read(team.places):
        collected.merge(Collected.from_state(part.arrays))
    return collected


@dataclass(kw_only=True)
class _Reading:
    """A worker that reads chunks, and writes down all that it has read when it is time."""

    what: dict[str, Any]
    fingerprint: str
    first: Chunk | None
    encoders: frozenset[str]
    unfinished: Unfinished

    life: str = ""
    reader: Reader = field(init=False)
    news: dict[str, Any] = field(default_factory=dict)

    def begin(self, subject: "_Subject") -> None:
        planned = ReadingPlan(site=subject.open(), **self.what)
        _check_same(planned.fingerprint, self.fingerprint)
        stream = planned.stream(())
        stream.first = self.first
        collected = Collected.empty(planned.site, planned.features, planned.settings)
        collected.encoders = self.encoders
        for name in self.unfinished.own():  # written in an earlier life
            collected = Collected.from_state(self.unfinished.storage.read(name).arrays)
            self.news = {"safe": list(collected.chunks), "place": name}
        self.reader = Reader(planned.site, planned.features, planned.settings, stream, collected)
        self.life = uuid.uuid4().hex
        self.unfinished.start()

    def do(self, item: Chunk) -> _Answer:
        collected = self.reader.collected
        before = collected.counts["tokens"]
        if item.number not in collected.chunks:  # else it was safe before its answer got lost
            self.reader.read(item)
        tokens = collected.counts["tokens"] - before
        if self.unfinished.is_due:
            with suppress(OutputError):  # what could not be written now is done again if this worker is lost
                self._write()
        news, self.news = self.news, {}
        return _Answer(life=self.life, outcome=tokens, **news)

    def end(self) -> _Answer:
        self._write()
        return _Answer(life=self.life, **self.news)

    def _write(self) -> None:
        collected = self.reader.collected
        self.news = {"place": self.unfinished.write(collected.state), "safe": list(collected.chunks)}


# --- searching -----------------------------------------------------------------------------------------------------


def search_on_workers(
    site: Site,
    planned: SearchPlan,
    settings: SynthSettings,
    workers: Workers,
    open_model: Callable[[], LanguageModel],
    *,
    lost: Lost | None = None,
) -> Callable[[Sequence[tuple[int, ...]]], Iterator[tuple[FeatureStats, ...]]]:
    """Return what searches batches of features on workers, for ``synthesize``; batches come back as they are finished.

    Raises:
        SAEAnalysisError: when it is called: Ray is missing, its cluster cannot be had, or workers keep dying.
    """

    def search(batches: Sequence[tuple[int, ...]]) -> Iterator[tuple[FeatureStats, ...]]:
        subject = _Subject.of(site, open_model, workers.threads)
        with _Team(lambda _: _Searching(planned=planned, settings=settings), subject, workers, lost) as team:
            yield from team.do((batch, batch) for batch in batches)

    return search


@dataclass(kw_only=True)
class _Searching:
    """A worker that searches batches of features; what it finds is safe as soon as it is returned."""

    planned: SearchPlan
    settings: SynthSettings
    life: str = ""
    searcher: Searcher = field(init=False)

    def begin(self, subject: "_Subject") -> None:
        self.life = uuid.uuid4().hex
        self.searcher = Searcher(subject.open(), self.planned, self.settings)

    def do(self, item: tuple[int, ...]) -> _Answer:
        return _Answer(life=self.life, safe=[item], outcome=self.searcher.search(item, lambda _: None))

    def end(self) -> _Answer:
        return _Answer(life=self.life)


# --- workers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """A site on its way to a worker: the model is loaded there, all else travels."""

    open_model: Callable[[], LanguageModel]
    model_sha256: str
    rest: dict[str, Any]
    threads: int

    @classmethod
    def of(cls, site: Site, open_model: Callable[[], LanguageModel], threads: int) -> Self:
        rest = {one.name: getattr(site, one.name) for one in fields(site) if one.name != "model"}
        return cls(
            open_model=open_model,
            model_sha256=site.model.fingerprint,
            rest=rest | {"sae": site.sae.to("cpu")},
            threads=threads,
        )

    def open(self) -> Site:
        """Return the site, in the process of a worker."""
        prepare(self.threads)
        model = self.open_model()
        _check_same(model.fingerprint, self.model_sha256)
        return Site(**self.rest | {"model": model, "sae": self.rest["sae"].to(model.device)})


def _check_same(found: str, expected: str) -> None:
    if found != expected:
        raise WorkerError(
            f"A worker on {os.uname().nodename} has another model or other versions of libraries than this process: "
            "install the same on all machines of the cluster."
        )


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


class _Team:
    """Workers that are handed things to do as they have room."""

    def __init__(
        self,
        work: Callable[[str], _Work],
        subject: _Subject,
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

    def _answer(self, call: Any) -> _Answer:  # noqa: ANN401 - Ray's reference
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
                "before is kept, and the same command goes on from there; fewer --num-workers take less memory."
            ) from None

    def _note(self, member: _Member, key: Key | None, answer: _Answer) -> None:
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
        self._work: _Work | None = None

    def do(self, item: Any, given: list[Any]) -> _Answer:  # noqa: ANN401
        return self._ready(given).do(item)

    def end(self, given: list[Any]) -> _Answer:
        return self._ready(given).end()

    def _ready(self, given: list[Any]) -> _Work:
        if self._work is None:
            import ray

            work: _Work
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
            "--engine ray needs Ray, which is not installed: pip install 'sae-analysis[ray]', or leave the option out."
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
            f"The Ray cluster at {workers.address or 'this machine'} cannot be had: {reason}. Check --ray-address."
        ) from None
    return ray
