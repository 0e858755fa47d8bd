"""The input that would fire a feature hardest: searched for, read anew, and said what it is worth.

Vocabulary (which sequences are text), evaluation (what they do to features, and the slope towards more), search;
planning (features, text to begin with), atlas (single tokens), scoring (what a finished sequence does, measured
anew), report (records).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Int64
from torch import Tensor

from sae_analysis import directions
from sae_analysis.feature_selection import FeatureSelection
from sae_analysis.feature_stats import weight_sides
from sae_analysis.firings import FiringReader, looked_at
from sae_analysis.provenance import describe_run
from sae_analysis.reconstruction import BosPolicy, Sign, Site, Switch, attach
from sae_analysis.records import AnalysisResult, AnyResults, FeatureResults, FeatureStats, whole
from sae_analysis.subject import AnyModel, AnySAE, open_subject
from sae_analysis.synth_activations.atlas import Atlas, atlas_groups, make_atlas
from sae_analysis.synth_activations.evaluation import GRADIENT_COST, Evaluator, Scores
from sae_analysis.synth_activations.planning import Plan, SynthSettings, plan
from sae_analysis.synth_activations.real_windows import check_origin
from sae_analysis.synth_activations.report import Reporter
from sae_analysis.synth_activations.scoring import Reader
from sae_analysis.synth_activations.search import Search
from sae_analysis.synth_activations.terms import Found, Searched, SearchSettings
from sae_analysis.synth_activations.vocabulary import Vocabulary

__all__ = [
    "GRADIENT_COST",
    "Evaluator",
    "Found",
    "Plan",
    "Progress",
    "Scores",
    "Search",
    "SearchAll",
    "SearchSettings",
    "Searched",
    "Searcher",
    "SynthSettings",
    "Vocabulary",
    "check_origin",
    "generate_synthetic_maximizers",
    "plan",
    "synthesize",
]

Progress = Callable[[int, int | None], None]
"""Called with the token-evaluations spent since the last call, and about how many there will be in all."""

Keep = Callable[[Sequence[FeatureStats]], None]
"""Called with the features of each batch as soon as they are finished."""

SearchAll = Callable[[Sequence[tuple[int, ...]]], Iterator[tuple[FeatureStats, ...]]]
"""Searches batches of features; they may come back in another order."""

_CHECKED_TOKENS = 8
"""Tokens on which embeddings and remembered beginnings are held against whole sequences before a search."""

_CONTEXTS, _CONTEXT_LENGTH = 8, 16
"""Texts that the model writes, behind which the shortest maximizers are tried, and their tokens."""

_DEFAULT = SynthSettings()


def generate_synthetic_maximizers(
    sae_model: AnySAE,
    transformer_model: AnyModel,
    feature_indices: Sequence[int] | str,
    *,
    max_examples: int = _DEFAULT.max_examples,
    seq_len: int = _DEFAULT.seq_len,
    n_steps: int = _DEFAULT.n_steps,
    learning_rate: float = _DEFAULT.learning_rate,
    budget: int | None = _DEFAULT.budget,
    fluency: float = _DEFAULT.fluency,
    batch_size: int = _DEFAULT.batch_size,
    firings: int | None = _DEFAULT.firings,
    list_length: int = _DEFAULT.list_length,
    seed: int = _DEFAULT.seed,
    bos: BosPolicy = _DEFAULT.bos,
    hook: str | None = None,
    hook_out: str | None = None,
    center_residual: Switch = "auto",
    vsae_sign: Sign = "auto",
    real: AnyResults | None = None,
    progress: Progress | None = None,
) -> FeatureResults:
    """Return the token sequences that fire each feature hardest, and what they say of it, by feature index.

    SAE and model are objects or what ``load_sae`` and ``load_model`` take; features are numbers or a specification
    such as ``"0-10,50-60"`` or ``"random:20"``.

    Args:
        sae_model: The SAE.
        transformer_model: The model.
        feature_indices: The features.
        max_examples: Strongest examples of a feature.
        seq_len: Tokens of a sequence, BOS not counted.
        n_steps: Steps of the stage in embedding space; 0 leaves it out.
        learning_rate: Size of its steps, in the unit of the softmax's logits.
        budget: Token-evaluations for each feature; None is some 20,000 for a sequence of 12, and more for longer ones.
        fluency: Share of the effort for sequences that read like text, from 0 to 1.
        batch_size: Features searched side by side, which look at each other's sequences.
        firings: Strongest examples of which it is measured what goes on where they peak; None is 3 for up to 50
            features, and else none.
        list_length: Tokens fired on, promoted and suppressed tokens, nearest features.
        seed: Seed of the search, and of random features.
        bos: BOS in front of each sequence; ``"auto"`` asks the checkpoint, then the model.
        hook: Where the SAE reads; None follows the checkpoint, or looks for the place.
        hook_out: Where a transcoder writes.
        center_residual: Whether the mean over its entries is taken off each activation.
        vsae_sign: Reading of files that leave open whether activations keep their sign.
        real: An analysis of real text whose examples are begun with.
        progress: Told of what was spent.

    Raises:
        SAEAnalysisError: anything asked for that is not there or does not fit; the message says what to do.
    """
    settings = SynthSettings(
        seq_len=seq_len,
        budget=budget,
        n_steps=n_steps,
        learning_rate=learning_rate,
        fluency=fluency,
        max_examples=max_examples,
        batch_size=batch_size,
        firings=firings,
        list_length=list_length,
        seed=seed,
        bos=bos,
    )
    sae, model, selection = open_subject(sae_model, transformer_model, feature_indices)
    site = attach(sae, model, hook, bos, hook_out=hook_out, centre=center_residual, sign=vsae_sign)
    return FeatureResults(
        synthesize(site, selection, settings, real=None if real is None else whole(real), progress=progress)
    )


def synthesize(
    site: Site,
    selection: FeatureSelection,
    settings: SynthSettings,
    *,
    real: AnyResults | None = None,
    names: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    done: Mapping[int, FeatureStats] | None = None,
    keep: Keep | None = None,
    search: SearchAll | None = None,
) -> AnalysisResult:
    """Search for each feature's hardest input and return what was found with its header.

    Args:
        site: SAE and model.
        selection: The features.
        settings: How to search.
        real: An analysis of real text whose examples are begun with.
        names: What model, SAE and corpus are called.
        progress: Told of what was spent.
        done: Features of an earlier run of the same ``plan`` that need not be searched again; a batch of which any is
            missing is searched whole, so that the result is that of a run that was never interrupted.
        keep: Given the features of each batch when they are finished.
        search: Searches batches and yields them as they are finished; None is this process, one after the other.

    Raises:
        SAEAnalysisError: anything asked for that is not there or does not fit; the message says what to do.
    """
    planned = plan(site, selection, settings, real)
    finished = dict(done or {})
    waiting = [batch for batch in planned.batches if not finished.keys() >= set(batch)]
    if waiting:
        meter = _Meter(progress=progress)
        for stats in search(waiting) if search else Searcher(site, planned, settings).search_all(waiting, meter):
            finished |= {one.feature_idx: one for one in stats}
            if keep:
                keep(stats)
    run = real.provenance if isinstance(real, AnalysisResult) else None
    windows = sum(len(seeds) for seeds in planned.seeds.values())
    return AnalysisResult(
        provenance=describe_run(
            site,
            analysis="synthetic",
            names={"corpus": run.corpus if run else ""} | dict(names or {}),
            corpus_sha256=run.corpus_sha256 if run else "",
            options=asdict(settings)
            | {"budget": settings.search.budget, "real_windows": windows, "threads": str(torch.get_num_threads())},
        ),
        fit=None,
        dictionary=None,
        features=tuple(finished[feature] for feature in planned.features),
    )


@dataclass(slots=True, kw_only=True)
class _Meter:
    """What was spent, told to whoever draws a bar."""

    progress: Progress | None
    spent: int = 0
    total: int = 0

    def expect(self, token_evaluations: int) -> None:
        """Say how many are to come; a search may end before its budget does."""
        self.total = self.spent + token_evaluations

    def spend(self, token_evaluations: int) -> None:
        """Count what was spent since the last call."""
        self.spent += token_evaluations
        if self.progress:
            self.progress(token_evaluations, max(self.total, self.spent))


class Searcher:
    """What the batches of one run share."""

    def __init__(self, site: Site, planned: Plan, settings: SynthSettings) -> None:
        """Prepare to search batches of a plan."""
        self._site, self._seeds, self._settings = site, planned.seeds, settings
        self._vocabulary = Vocabulary(site.model.tokens, site.model.d_vocab)
        self._norms = directions.norms(site.sae)
        self._firings = FiringReader(site, settings.list_length)
        self._looked_at = looked_at(settings.firings, len(planned.features))
        self._groups = atlas_groups(planned.batches, self._vocabulary)
        self._atlas: Atlas | None = None
        with torch.no_grad():
            evaluator = Evaluator(site, planned.features[:1])
            tried = self._vocabulary.ids[torch.arange(_CHECKED_TOKENS) % len(self._vocabulary)][
                None, : settings.seq_len
            ]
            evaluator.check(tried)
            self._search_settings = replace(settings.search, caching=evaluator.remembers(tried))
            self._reporter = Reporter(
                site.model,
                Reader(site, self._vocabulary),
                self._vocabulary,
                self._contexts(evaluator),
                max_examples=settings.max_examples,
                list_length=settings.list_length,
                seed=settings.seed,
            )

    def _contexts(self, evaluator: Evaluator) -> Int64[Tensor, "contexts seq"]:
        """Return texts that the model writes, the same for every seed of a search, with room for a sequence behind."""
        most = self._site.model.context_length or _CONTEXT_LENGTH + self._settings.seq_len + 1
        length = min(_CONTEXT_LENGTH, most - self._site.prepend_bos - self._settings.seq_len)
        if length < 1:
            return self._vocabulary.ids.new_zeros((0, 1))
        return evaluator.sample(_CONTEXTS, length, self._vocabulary.ids, torch.Generator().manual_seed(0))

    def search(self, batch: tuple[int, ...], spend: Callable[[int], None]) -> tuple[FeatureStats, ...]:
        """Search some features side by side; no other batch changes what is found, whenever it is searched."""
        single_tokens, cost = self._atlas_of(batch).of(batch)
        evaluator = Evaluator(self._site, batch)
        evaluator.token_evaluations = cost
        seeds = {feature: self._seeds[feature] for feature in batch if feature in self._seeds}
        searched = Search(evaluator, self._vocabulary, self._search_settings, seeds).run(spend)
        with torch.no_grad():
            weights = weight_sides(self._site, batch, self._norms, self._settings.list_length)
            stats = (
                self._reporter.feature_stats(
                    feature, searched[feature], weight_side, single_tokens.best(column), seeds.get(feature, ())
                )
                for column, (feature, weight_side) in enumerate(zip(batch, weights, strict=True))
            )
            return tuple(self._firings.look(one, self._looked_at) for one in stats)

    def search_all(self, batches: Sequence[tuple[int, ...]], meter: "_Meter") -> Iterator[tuple[FeatureStats, ...]]:
        """Search batches one after the other."""
        for place, batch in enumerate(batches):
            meter.expect(sum(map(len, batches[place:])) * self._settings.search.budget)
            yield self.search(batch, meter.spend)

    def _atlas_of(self, batch: tuple[int, ...]) -> Atlas:
        """Return the atlas of the batch's group; a group of which a part was finished before has the same one."""
        if self._atlas is None or batch[0] not in self._atlas.columns:
            group = next(group for group in self._groups if batch in group)
            features = tuple(feature for member in group for feature in member)
            with torch.no_grad():
                search = self._search_settings
                self._atlas = make_atlas(
                    self._site, self._vocabulary, features, search.budget, search.seed, caching=search.caching
                )
        return self._atlas
