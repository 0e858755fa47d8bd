"""Workers that search batches of features."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sae_analysis.language_model import LanguageModel
from sae_analysis.reconstruction import Site
from sae_analysis.records import FeatureStats
from sae_analysis.scale_out.loading import Subject
from sae_analysis.scale_out.team import Answer, Lost, Team, Workers
from sae_analysis.synth_activations import Plan, Searcher, SynthSettings


def search_on_workers(
    site: Site,
    planned: Plan,
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
        subject = Subject.of(site, open_model, workers.threads)
        with Team(lambda _: _Searching(planned=planned, settings=settings), subject, workers, lost) as team:
            yield from team.do((batch, batch) for batch in batches)

    return search


@dataclass(kw_only=True)
class _Searching:
    """A worker that searches batches of features; what it finds is safe as soon as it is returned."""

    planned: Plan
    settings: SynthSettings
    life: str = ""
    searcher: Searcher = field(init=False)

    def begin(self, subject: Subject) -> None:
        self.life = uuid.uuid4().hex
        self.searcher = Searcher(subject.open(), self.planned, self.settings)

    def do(self, item: tuple[int, ...]) -> Answer:
        return Answer(life=self.life, safe=[item], outcome=self.searcher.search(item, lambda _: None))

    def end(self) -> Answer:
        return Answer(life=self.life)
