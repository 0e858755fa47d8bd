"""``synthetic``: what each feature could do, on the input that fires it hardest."""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sae_analysis.main.arguments import (
    HelpFormatter,
    add_bos_option,
    add_output_options,
    add_reading_options,
    add_subject_options,
    count,
    name,
    portion,
    positive,
    rate,
)
from sae_analysis.main.reading import HOW_TEXT_IS_READ, add_long_run_options, scan, workers_of
from sae_analysis.main.real import fit_words
from sae_analysis.main.repeating import add_config_option, refuse_idle, with_asked
from sae_analysis.main.running import corpus_of, model_loader, names_of, open_site, pictures, subject_rows
from sae_analysis.main.screen import print_rows, print_summary, say, spending_bar
from sae_analysis.wording import counted

if TYPE_CHECKING:  # heavy: loaded when the mode runs
    from sae_analysis.artifacts import FinishedFeatures
    from sae_analysis.feature_selection import FeatureSelection
    from sae_analysis.reconstruction import Site
    from sae_analysis.records import AnalysisResult, FeatureStats
    from sae_analysis.synth_activations import Plan, SearchAll, SynthSettings


# --- arguments -----------------------------------------------------------------------------------------------------


def add_mode(modes: argparse._SubParsersAction) -> None:
    """Add the mode and its options."""
    parser = modes.add_parser(
        "synthetic",
        help="what each feature could do, on the input that fires it hardest",
        description="Search for the token sequences that fire each feature hardest; write pictures and JSON of them. "
        "A run that was interrupted goes on when the same command is given again.",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run, mode="synthetic")
    add_config_option(parser)
    add_subject_options(parser, seed="seed of random features and of the search: same seed, same tokens")
    add_search_options(parser)
    _add_text_options(parser)
    add_long_run_options(parser)
    add_output_options(parser, max_examples=10)


HOW_IT_IS_SEARCHED = ("seq_len", "budget", "n_steps", "learning_rate", "fluency", "batch_size")
"""Options that change nothing where nothing is searched."""


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """Add how to search."""
    group = parser.add_argument_group("search")
    group.add_argument("--seq-len", type=positive, default=12, help="tokens in a sequence, BOS not counted")
    group.add_argument(
        "--budget",
        type=positive,
        help="token-evaluations for each feature: a token run through the model is one, run backward too three; "
        "beginnings alone take 2,000 to 3,600 of a small one, for sequences of 12 tokens "
        "(default: 1,600 for each token of a sequence, and what --n-steps cost)",
    )
    group.add_argument(
        "--n-steps", type=count, default=30, help="gradient steps of the stage in embedding space; 0 leaves it out"
    )
    group.add_argument("--learning-rate", type=rate, default=0.2, help="of that stage")
    group.add_argument(
        "--fluency", type=portion, default=0.4, help="share of the effort for sequences that read like text, 0 to 1"
    )
    group.add_argument("--batch-size", type=positive, default=8, help="features searched side by side")
    add_bos_option(group, where="sequence")


def _add_text_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("text to begin with")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--corpus", type=name, help="text to scan first: file, folder, data set's name or demo (default: none is read)"
    )
    either.add_argument(
        "--real", type=name, metavar="FILE", help="real.json of the same model, SAE and hook, instead of --corpus"
    )
    add_reading_options(group)


# --- the run -------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> int:
    """Search: everything a user can get wrong is checked before the long part begins."""
    from sae_analysis.artifacts import read_result
    from sae_analysis.feature_selection import parse_features
    from sae_analysis.files import writing_into

    if not options.corpus:
        refuse_idle(options, HOW_TEXT_IS_READ, "without --corpus, for no text is read: leave it out, or give --corpus")
    selection = parse_features(options.features)
    with writing_into(options.output), ExitStack() as kept:  # the text that was read too, until the search has ended
        real = read_result(Path(options.real), "a real.json") if options.real else None
        corpus = corpus_of(options) if options.corpus else None
        site = open_site(options, corpus)
        if corpus is not None:
            scanned = scan(site, selection, corpus, options, firings=0)  # nobody asked what goes on there
            real, selection = kept.enter_context(scanned)
        fit = fit_of(site, real, options)
        result = kept.enter_context(search(site, selection, real, options))
        write(result, site.sae.dict_size, options, fit=fit)
    return 0


def fit_of(site: "Site", real: "AnalysisResult | None", options: argparse.Namespace) -> str:
    """Return in words how well the SAE fits the text that was read, or where none was, a text of our own.

    Raises:
        FitError: it explains less of the latter than the mean would, and nobody allowed that.
    """
    from sae_analysis.reconstruction import check_fit, fit_on_sample

    if real and real.fit:
        return fit_words(real.fit)
    score, tokens = fit_on_sample(site)
    if not tokens:
        return "not measured, since the tokenizer makes no token of the text of our own"
    text = f" on {counted(tokens, 'token')} of a text of our own"
    if not options.allow_poor_fit:
        check_fit(score.explained_variance, f"{site.name}{text}")
    return fit_words(score, text)


@contextmanager
def search(
    site: "Site", selection: "FeatureSelection", real: "AnalysisResult | None", options: argparse.Namespace
) -> Iterator["AnalysisResult"]:
    """Yield what a search found, going on with what an interrupted run of the same command came to.

    What was kept for going on is removed when the caller has written the result.
    """
    from sae_analysis.artifacts import FinishedFeatures
    from sae_analysis.synth_activations import plan, synthesize

    settings = _settings(options)
    planned = plan(site, selection, settings, real)
    finished = FinishedFeatures(options.output, "synthetic", planned.fingerprint)
    done = _resume(finished, len(planned.features))
    try:
        with spending_bar("searching", "eval") as advance:
            result = synthesize(
                site,
                selection,
                settings,
                real=real,
                names=names_of(options, "model", "sae"),
                progress=advance,
                done=done,
                keep=finished.add,
                search=_on_workers(site, planned, settings, options),
            )
    except KeyboardInterrupt:
        done, _ = finished.read()
        of = counted(len(planned.features), "feature")
        goes_on = f"{len(done)} of {of} finished; the same command goes on from there."
        say(goes_on if done else f"None of {of} finished, and nothing is kept; the same command begins anew.")
        raise
    yield with_asked(result, options)
    finished.remove()


def _on_workers(
    site: "Site", planned: "Plan", settings: "SynthSettings", options: argparse.Namespace
) -> "SearchAll | None":
    """Return what searches on several workers, if that is asked for."""
    if options.engine != "ray":
        return None
    from sae_analysis.machine import use_threads
    from sae_analysis.scale_out import search_on_workers

    workers = workers_of(options, site)
    lost = "A worker was lost and is started anew; what it was at is searched again."
    use_threads(workers.threads)  # the result says how many there were, and that is those of the workers
    return search_on_workers(site, planned, settings, workers, model_loader(options), lost=lambda _: say(lost))


def write(result: "AnalysisResult", d_sae: int, options: argparse.Namespace, *, fit: str) -> None:
    """Write JSON and pictures, and print what was found; ``fit`` says how well the SAE fits."""
    from sae_analysis.artifacts import write_result

    json_path = options.output / "synthetic.json"
    write_result(result, json_path)
    rows = _rows(result, d_sae, fit)
    print_rows(rows)
    written = [json_path, *pictures(result, options)]
    print_summary(rows, written, options.output, result="synthetic", numbers=_numbers(result))


def _settings(options: argparse.Namespace) -> "SynthSettings":
    from sae_analysis.synth_activations import SynthSettings

    return SynthSettings(
        seq_len=options.seq_len,
        budget=options.budget,
        n_steps=options.n_steps,
        learning_rate=options.learning_rate,
        fluency=options.fluency,
        max_examples=options.max_examples,
        firings=options.firings,
        batch_size=options.batch_size,
        seed=options.seed,
        bos=options.bos,
    )


# --- interrupted and resumed ---------------------------------------------------------------------------------------


def _resume(finished: "FinishedFeatures", total: int) -> "dict[int, FeatureStats]":
    """Return what an interrupted run of the same command came to, and say so."""
    done, is_damaged = finished.read()
    if is_damaged:
        say(f"{finished.path} is damaged; what stands before the damage is used.")
    if done:
        say(f"Going on with an interrupted run: {len(done)} of {counted(total, 'feature')} finished.")
    for other in finished.others():
        say(f"{other} belongs to a run of other features, settings or text: it is left as it is, and nothing taken.")
    return done


# --- the report ----------------------------------------------------------------------------------------------------


def hardly_searched(result: "AnalysisResult") -> str:
    """Return what is to be said where most of the budget went into what populations begin with, or all of it."""
    searches = [stats.search for stats in result.features if stats.search]
    not_searched = [search for search in searches if not search.is_searched]
    hasty = not_searched or [one for one in searches if one.beginnings and 2 * one.beginnings > one.token_evaluations]
    if not hasty:
        return ""
    of = "" if len(hasty) == len(searches) else f" for {len(hasty):,} of {len(searches):,} features"
    most = max(hasty, key=lambda search: search.beginnings or 0)
    if not_searched:
        return f"beginnings alone took {most.token_evaluations:,}{of}, and nothing was searched: give a larger --budget"
    return f"beginnings took {most.beginnings:,} of {most.token_evaluations:,}{of}: a larger --budget searches longer"


_BEYOND = 1.001
"""Multiple of another activation from which it is not rounding that one is larger."""


def _rows(result: "AnalysisResult", d_sae: int, fit: str) -> dict[str, str]:
    run_, options = result.provenance, result.provenance.options
    found = _numbers(result)
    numbers = {name: value for name, value in options.items() if isinstance(value, int)}
    caveat = hardly_searched(result)
    return subject_rows(result, d_sae) | {
        "BOS": run_.bos,
        "Text": f"{run_.corpus}: the search began from {numbers['real_windows']:,} of its windows, where features fired"
        if run_.corpus
        else "none to begin with",
        "Fit": fit,
        "Search": f"{counted(numbers['budget'], 'token-evaluation')} a feature, sequences of "
        f"{counted(numbers['seq_len'], 'token')}, "
        f"seed {options['seed']}" + (f"; {caveat}" if caveat else ""),
        "Features": f"{found['fired']:,} of {found['features']:,} fired, {found['beyond_one_token']:,} of them harder "
        "than by any token alone",
    }


def _numbers(result: "AnalysisResult") -> dict[str, int]:
    """Return what a script wants of the report."""
    hasty = sum(not stats.search.is_searched for stats in result.features if stats.search)
    fired = [stats for stats in result.features if not stats.is_dead]
    alone = [stats.search.single_token[1] for stats in fired if stats.search]
    beyond = sum(stats.max_activation > _BEYOND * value for stats, value in zip(fired, alone, strict=True))
    return {"features": len(result.features), "fired": len(fired), "beyond_one_token": beyond, "not_searched": hasty}
