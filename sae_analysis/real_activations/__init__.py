"""Real text -> transformer -> SAE -> statistics, in one streaming pass over the corpus for all features asked for."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import cast

import torch

from sae_analysis import directions
from sae_analysis.corpus import MIN_TOKENS, Corpus, Document
from sae_analysis.demo import DEMO, default_corpus
from sae_analysis.errors import CorpusError
from sae_analysis.feature_selection import FeatureSelection
from sae_analysis.firings import FiringReader, looked_at
from sae_analysis.provenance import describe_run
from sae_analysis.real_activations.collected import Collected
from sae_analysis.real_activations.reading import Plan, Progress, Shard, TextRead, collect, plan
from sae_analysis.real_activations.report import dictionary_stats, feature_stats
from sae_analysis.real_activations.settings import RealSettings
from sae_analysis.reconstruction import Sign, Site, Switch, attach, check_fit
from sae_analysis.records import AnalysisResult, FeatureResults, FeatureStats, Fit
from sae_analysis.subject import AnyModel, AnySAE, open_subject
from sae_analysis.wording import counted

__all__ = [
    "Collected",
    "Plan",
    "Progress",
    "RealSettings",
    "Shard",
    "TextRead",
    "analyze",
    "analyze_real_activations",
    "collect",
    "plan",
    "report",
]


def analyze_real_activations(
    sae_model: AnySAE,
    transformer_model: AnyModel,
    feature_indices: Sequence[int] | str,
    corpus: str | Path | Sequence[Path] | Iterable[Document],
    *,
    hook: str | None = None,
    hook_out: str | None = None,
    center_residual: Switch = "auto",
    vsae_sign: Sign = "auto",
    settings: RealSettings | None = None,
    progress: Progress | None = None,
) -> FeatureResults:
    """Return what each feature does on a corpus, by feature index.

    SAE and model are objects or what ``load_sae`` and ``load_model`` take; features are numbers or a specification
    such as ``"0-10,50-60"`` or ``"random:20"``; the corpus is a file, a folder, files, documents, or ``"demo"``.
    ``attach`` says what ``center_residual`` and ``vsae_sign`` leave open.

    Raises:
        SAEAnalysisError: anything asked for that is not there or does not fit; the message says what to do.
    """
    settings = settings or RealSettings()
    sae, model, selection = open_subject(sae_model, transformer_model, feature_indices)
    documents = _documents(corpus)
    again = documents if isinstance(documents, (Corpus, Sequence)) else None  # what can be read only once is kept whole
    site = attach(
        sae,
        model,
        hook,
        settings.bos,
        hook_out=hook_out,
        centre=center_residual,
        sign=vsae_sign,
        documents=again,
    )
    return FeatureResults(analyze(site, selection, documents, settings, progress=progress))


def _documents(corpus: str | Path | Sequence[Path] | Iterable[Document]) -> Iterable[Document]:
    if isinstance(corpus, (str, Path)):
        return Corpus(source=default_corpus() if corpus == DEMO else corpus)
    if not isinstance(corpus, Sequence):
        return cast(Iterable[Document], corpus)
    if corpus and all(isinstance(one, Path) for one in corpus):
        return Corpus(source=cast(Sequence[Path], corpus))
    wrong = sorted((one for one in corpus if not isinstance(one, Document)), key=lambda one: isinstance(one, Path))
    if wrong:
        raise CorpusError(
            f"The corpus holds a {type(wrong[0]).__name__} where documents are expected: give each text as "
            "Document(name=..., text=...), or nothing but files as Path."
        )
    return cast(Sequence[Document], corpus)


def analyze(
    site: Site,
    selection: FeatureSelection,
    documents: Iterable[Document],
    settings: RealSettings,
    *,
    names: dict[str, str] | None = None,
    progress: Progress | None = None,
    looked: Callable[[int, int], None] | None = None,
    survey: Callable[[FeatureStats], None] | None = None,
) -> AnalysisResult:
    """Run the whole analysis and return it with its header; ``names`` says what model, SAE and corpus are called.

    ``progress`` is told of the text that was read, ``looked`` of the features of whose firings more was measured then.
    ``survey`` is given every feature of the SAE in turn, asked for or not; those not asked for have one example
    and no distributions.

    Raises:
        SAEAnalysisError: anything asked for that is not there or does not fit; the message says what to do.
    """
    planned = plan(site, selection, settings, everything=survey is not None)
    stream = planned.stream(documents)
    collected = collect(planned, stream, progress=progress)
    text = TextRead(sha256=stream.sha256, truncated=stream.truncated)
    return report(planned, collected, text, names=names, looked=looked, survey=survey)


def report(
    planned: Plan,
    collected: Collected,
    text: TextRead,
    *,
    names: dict[str, str] | None = None,
    looked: Callable[[int, int], None] | None = None,
    survey: Callable[[FeatureStats], None] | None = None,
) -> AnalysisResult:
    """Return the analysis that was read; see ``analyze``.

    Raises:
        CorpusError: too little text.
        FitError: the SAE explains less than the mean, and that is not allowed.
    """
    site, settings = planned.site, planned.settings
    fit = _fit(collected, text)
    if not settings.allow_poor_fit:
        check_fit(fit.explained_variance, site.name)
    counts, maxima, _ = collected.dictionary.finish()
    chosen = (
        planned.selection.after_data(counts.tolist(), maxima.tolist())
        if planned.selection.needs_data
        else planned.asked_for
    )
    in_full, norms = frozenset(chosen), directions.norms(site.sae)
    described = feature_stats(
        site,
        collected,
        settings,
        norms,
        measured=planned.features,
        wanted=planned.features if survey else chosen,
        in_full=in_full,
    )
    reported: dict[int, FeatureStats] = {}
    for stats in described:
        if survey:
            survey(stats)
        if stats.feature_idx in in_full:
            reported[stats.feature_idx] = stats
    return AnalysisResult(
        provenance=describe_run(
            site,
            analysis="real",
            names=names or {},
            corpus_sha256=text.sha256,
            options=planned.options | _ways(collected),
        ),
        fit=fit,
        dictionary=dictionary_stats(collected, norms),
        features=_with_firings(site, tuple(reported[feature] for feature in chosen), settings, looked),
    )


def _with_firings(
    site: Site, features: tuple[FeatureStats, ...], settings: RealSettings, looked: Callable[[int, int], None] | None
) -> tuple[FeatureStats, ...]:
    """Return the features with what goes on where their strongest examples peak."""
    most = looked_at(settings.firings, len(features))
    if not most:
        return features
    reader, found = FiringReader(site, settings.list_length), []
    with torch.no_grad():
        for stats in features:
            found.append(reader.look(stats, most))
            if looked:
                looked(1, len(features))
    return tuple(found)


def _ways(collected: Collected) -> dict[str, str]:
    """Return what was decided while reading, and by several readers perhaps in several ways."""
    threads = map(str, sorted(collected.threads))
    return {"encoder": " and ".join(sorted(collected.encoders)), "threads": " and ".join(threads)}


def _fit(collected: Collected, text: TextRead) -> Fit:
    counts = collected.counts
    if collected.token_count < MIN_TOKENS:
        raise CorpusError(
            f"The corpus has {counted(collected.token_count, 'token')} to count, in "
            f"{counted(counts['documents'], 'document')}: statistics need at least {MIN_TOKENS}. Give more text."
        )
    explained_variance, cosine, l0 = collected.fit.finish()
    return Fit(
        explained_variance=explained_variance,
        cosine=cosine,
        l0=l0,
        token_count=collected.token_count,
        measured_tokens=collected.fit.token_count,
        excluded={reason: count for reason, count in sorted(collected.excluded.items()) if count},
        document_count=counts["documents"],
        window_count=counts["windows"],
        truncated=text.truncated,
    )
