"""What modes do alike: names, text, model and SAE brought together, what a report says of them, pictures."""

import argparse
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sae_analysis.main.screen import hook_bar, page_bar, say
from sae_analysis.wording import counted

if TYPE_CHECKING:  # heavy: loaded when a mode runs
    from sae_analysis.corpus import Corpus
    from sae_analysis.language_model import LanguageModel
    from sae_analysis.reconstruction import Site
    from sae_analysis.records import AnalysisResult, ComparisonResult
    from sae_analysis.visualizer import Drawing

DEMO_NAMES = {
    "model": "SmolLM2-135M-Instruct (embedded default)",
    "sae": "demo/sae (embedded default)",
    "corpus": "State of the Union addresses the SAE was not trained on (embedded default)",
}


def names_of(options: argparse.Namespace, *parts: str) -> dict[str, str]:
    """Return what model, SAE and corpus are called, as typed."""
    given = {part: getattr(options, part) for part in parts}
    return {part: DEMO_NAMES[part] if name in (None, "demo") else name for part, name in given.items()}


def corpus_of(options: argparse.Namespace) -> "Corpus":
    """Return the text that is asked for."""
    from sae_analysis.corpus import Corpus
    from sae_analysis.demo import DEMO, default_corpus

    source = default_corpus() if options.corpus in (None, DEMO) else options.corpus
    return Corpus(source=source, text_unit=options.text_unit, text_field=options.text_field)


def open_site(options: argparse.Namespace, corpus: "Corpus | None") -> "Site":
    """Load SAE and model and bring them together; what is quickly seen to be wrong is said first."""
    from sae_analysis.demo import default_sae_path
    from sae_analysis.inspection import score_table
    from sae_analysis.machine import prepare
    from sae_analysis.reconstruction import attach
    from sae_analysis.sae_formats import load_sae

    prepare(options.threads)
    if bool(options.sae) != bool(options.model):
        theirs, ours = ("model", "SAE") if options.model else ("SAE", "model")
        say(f"The {ours} is the demo's ({DEMO_NAMES[ours.lower()]}), the {theirs} is not.")
    sae = load_sae(options.sae or default_sae_path())
    if corpus is not None:
        next(iter(corpus), None)  # a corpus that is not there should say so before a model is loaded
    model = model_loader(options)()
    with hook_bar() as advance:
        site = attach(
            sae,
            model,
            options.hook,
            options.bos,
            hook_out=options.hook_out,
            centre=options.center_residual,
            sign=options.vsae_sign,
            documents=corpus,
            progress=advance,
        )
    for line in score_table(site.hook_search) if site.hook_search else ():
        say(line)
    return site


def model_loader(options: argparse.Namespace) -> "Callable[[], LanguageModel]":
    """Return what loads the model that is asked for, in this process or in another one, on this machine or another."""
    from sae_analysis.demo import default_model_folder
    from sae_analysis.language_model import load_model

    name = options.model or str(default_model_folder(say))
    if os.path.isdir(name):  # noqa: PTH112 - says no where nothing may be looked at; loading says more
        name = os.path.abspath(name)  # noqa: PTH100 - as above; a worker may stand in another folder
    return partial(load_model, name, dtype=options.dtype, device=options.device)


def numbers_among(
    asked: str, found: "Sequence[tuple[Path, AnalysisResult | ComparisonResult]]", done: str
) -> frozenset[int]:
    """Return the features asked for of results; ``done`` is what is to be done with them.

    Raises:
        FeatureError: they are not given by number, or a result does not describe one of them.
    """
    from sae_analysis.errors import FeatureError
    from sae_analysis.feature_selection import parse_features

    selection = parse_features(asked)
    if selection.kind != "indices":
        raise FeatureError(f"features {asked} cannot be {done}: give numbers, such as 0,5,10-20.")
    for path, result in found:
        known = {one.feature_idx for one in result.features}
        lost = next((number for numbers in selection.ranges for number in numbers if number not in known), None)
        if lost is not None:
            described = (
                f"{counted(len(known), 'feature')} ({min(known)} to {max(known)}): give some of these."
                if known
                else "none: leave out --features."
            )
            raise FeatureError(f"Feature {lost} is not in result {path}, which describes {described}")
    return frozenset().union(*selection.ranges)


def subject_rows(result: "AnalysisResult", d_sae: int) -> dict[str, str]:
    """Return the rows of a report that say what was analysed."""
    run = result.provenance
    threads = run.options.get("threads")
    with_threads = f", {threads} thread{'' if threads == '1' else 's'}" if threads else ""
    return {
        "SAE": f"{run.sae}: {run.sae_format}, {run.activation_rule}, {counted(d_sae, 'feature')}",
        "Model": f"{run.model}, {run.dtype} on {run.device}{with_threads}",
        "Hook": f"{run.place} ({run.hook_reason})",
    } | _fewer_than_asked(result)


def _fewer_than_asked(result: "AnalysisResult") -> dict[str, str]:
    """Return the row that says so where fewer features are dead than were asked for; no other rule finds too few."""
    from sae_analysis.feature_selection import parse_features

    asked, found = result.provenance.asked.get("features"), len(result.features)
    if not isinstance(asked, str) or found >= (wanted := parse_features(asked).count):
        return {}
    return {"Asked": f"{found:,} of {counted(wanted, 'dead feature')}: there are no more"}


def pictures(result: "AnalysisResult", options: argparse.Namespace) -> list[Path]:
    """Draw the pages of a result that is written already, unless told not to, and return their files."""
    if options.no_figures:
        return []
    from sae_analysis.reports import browse
    from sae_analysis.visualizer import visualize_features

    with page_bar() as advance:
        kind = result.provenance.analysis
        written = visualize_features(result, options.output, kind, drawing=drawing_of(options), progress=advance)
    return [*written, browse(result, options.output)]


def drawing_of(options: argparse.Namespace) -> "Drawing":
    """Return how pictures are drawn: on every core, since the models have done their work."""
    from sae_analysis.visualizer import THEMES, Drawing

    return Drawing(
        dpi=options.dpi,
        theme=THEMES[options.theme],
        formats=tuple(dict.fromkeys(("png", options.format))),
        processes=options.threads or os.cpu_count() or 1,
    )
