"""Workers that read chunks of a text."""

import itertools
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sae_analysis.corpus import Chunk, TokenStream
from sae_analysis.errors import OutputError
from sae_analysis.language_model import LanguageModel
from sae_analysis.parts import Unfinished
from sae_analysis.real_activations import Collected, Plan, Progress
from sae_analysis.real_activations.reading import expected_tokens, unread
from sae_analysis.real_activations.stream import Reader
from sae_analysis.scale_out.loading import Subject, check_same
from sae_analysis.scale_out.team import Answer, Lost, Team, Work, Workers


def collect_on_workers(
    planned: Plan,
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
    subject = Subject.of(planned.site, open_model, workers.threads)
    what = {name: getattr(planned, name) for name in ("settings", "selection", "asked_for", "features", "shard")}

    def work(name: str) -> Work:
        return _Reading(
            what=what,
            fingerprint=planned.fingerprint,
            first=stream.first,
            encoders=collected.encoders,
            unfinished=unfinished.by(name),
        )

    with Team(work, subject, workers, lost, is_stopping) as team:
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

    def begin(self, subject: Subject) -> None:
        planned = Plan(site=subject.open(), **self.what)
        check_same(planned.fingerprint, self.fingerprint)
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

    def do(self, item: Chunk) -> Answer:
        collected = self.reader.collected
        before = collected.counts["tokens"]
        if item.number not in collected.chunks:  # else it was safe before its answer got lost
            self.reader.read(item)
        tokens = collected.counts["tokens"] - before
        if self.unfinished.is_due:
            with suppress(OutputError):  # what could not be written now is done again if this worker is lost
                self._write()
        news, self.news = self.news, {}
        return Answer(life=self.life, outcome=tokens, **news)

    def end(self) -> Answer:
        self._write()
        return Answer(life=self.life, **self.news)

    def _write(self) -> None:
        collected = self.reader.collected
        self.news = {"place": self.unfinished.write(collected.state), "safe": list(collected.chunks)}
