"""``real``: what each feature does on real text."""

import argparse
from typing import TYPE_CHECKING, Any

from sae_analysis.main.arguments import (
    HelpFormatter,
    add_bos_option,
    add_output_options,
    add_reading_options,
    add_subject_options,
    multiple,
    name_or_demo,
    positive,
    shard,
)
from sae_analysis.main.reading import add_long_run_options, read_text
from sae_analysis.main.repeating import add_config_option
from sae_analysis.main.running import corpus_of, open_site, pictures, subject_rows
from sae_analysis.main.screen import print_rows, print_summary
from sae_analysis.main.shards import read_shard
from sae_analysis.wording import POOR_FIT, counted

if TYPE_CHECKING:
    from sae_analysis.exports import FeatureTable
    from sae_analysis.real_activations import RealSettings
    from sae_analysis.records import AnalysisResult, Fit, HookScore


def add_mode(modes: argparse._SubParsersAction) -> None:
    """Add the mode and its options."""
    parser = modes.add_parser(
        "real",
        help="what each feature does on real text",
        description="Run text through a model and an SAE; write pictures and JSON of what each feature does.",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run, mode="real")
    add_config_option(parser)
    add_subject_options(parser, seed="seed of random features and examples")
    _add_text_options(parser)
    add_long_run_options(parser).add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="read the I-th of N shards of the text alone, for merge to put together",
    )
    results = add_output_options(parser, max_examples=20)
    results.add_argument(
        "--table",
        action="store_true",
        help="write real.parquet too, with a row for every feature of the SAE, whichever --features asks for",
    )


def _add_text_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("text")
    group.add_argument(
        "--corpus",
        type=name_or_demo,
        help=".txt, .jsonl, .json, .parquet, a folder of these, or a data set's name (default: the demo corpus)",
    )
    add_reading_options(group)
    group.add_argument("--seq-len", type=positive, default=128, help="tokens in a context window, BOS included")
    group.add_argument("--batch-size", type=positive, default=16, help="windows of full length in a batch")
    group.add_argument(
        "--dictionary-tokens",
        type=positive,
        default=1_000_000,
        help="tokens on which all features are encoded, for the fit and the dictionary; after these only those asked "
        "for",
    )
    group.add_argument(
        "--pack",
        action="store_true",
        help="let windows run on from one document into the next; an example is said to be of the one its window "
        "begins in",
    )
    add_bos_option(group, where="window")
    group.add_argument(
        "--norm-outliers",
        type=multiple,
        metavar="MULTIPLE",
        help="leave out tokens whose activation norm exceeds this multiple of their window's median",
    )


def run(options: argparse.Namespace) -> int:
    """Analyse real text: everything a user can get wrong is checked before the long part begins."""
    from sae_analysis.feature_selection import parse_features
    from sae_analysis.files import writing_into

    selection = parse_features(options.features)
    with writing_into(options.output):
        table, corpus = new_table(options), corpus_of(options)
        site = open_site(options, corpus)
        settings = settings_of(options)
        if options.shard:
            read_shard(site, selection, corpus, settings, options)
        else:
            with read_text(site, selection, corpus, settings, options, table=table) as found:
                write(found, options, table)
    return 0


def new_table(options: argparse.Namespace) -> "FeatureTable | None":
    """Return the table of all features, if one is asked for."""
    from sae_analysis.exports import FeatureTable

    return FeatureTable() if options.table else None


def settings_of(options: argparse.Namespace) -> "RealSettings":
    """Return how the text is analysed."""
    from sae_analysis.corpus import Windowing
    from sae_analysis.real_activations import RealSettings

    return RealSettings(
        windowing=Windowing(
            seq_len=options.seq_len,
            batch_size=options.batch_size,
            pack=options.pack,
            max_tokens=options.max_tokens,
            chunk_size=options.chunk_size,
        ),
        bos=options.bos,
        max_examples=options.max_examples,
        firings=options.firings,
        norm_outliers=options.norm_outliers,
        dictionary_tokens=options.dictionary_tokens,
        encoder=options.encoder,
        seed=options.seed,
        allow_poor_fit=options.allow_poor_fit,
    )


def write(result: "AnalysisResult", options: argparse.Namespace, table: "FeatureTable | None" = None) -> None:
    """Write JSON, the table if there is one, and pictures, and print what was found."""
    from sae_analysis.artifacts import write_result
    from sae_analysis.files import write_whole

    written = [options.output / "real.json"]
    write_result(result, written[0])
    if table:
        written.append(options.output / "real.parquet")
        write_whole(written[1], table.finish(result.provenance))
    rows = _rows(result)
    print_rows(rows)
    written += pictures(result, options)
    print_summary(rows, written, options.output, result="real", numbers=_numbers(result))


def _rows(result: "AnalysisResult") -> dict[str, str]:
    fit, run_, dictionary = result.fit, result.provenance, result.dictionary
    assert fit is not None, "measured by every analysis of text"
    assert dictionary is not None, "as above"
    first = f" in the first {fit.measured_tokens:,} tokens" if fit.measured_tokens < fit.token_count else ""
    excluded = ", ".join(f"{count:,} {reason}" for reason, count in fit.excluded.items()) or "none"
    return subject_rows(result, dictionary.d_sae) | {
        "Corpus": f"{run_.corpus}: {counted(fit.document_count, 'document')}, "
        f"{counted(fit.window_count, 'window')}" + (" (stopped by --max-tokens)" if fit.truncated else ""),
        "Tokens": f"{fit.token_count:,} counted; not counted: {excluded}",
        "BOS": run_.bos,
        "Fit": fit_words(fit),
        "Features": f"{dictionary.dead_count:,} of {dictionary.d_sae:,} never fired{first}; "
        f"{dictionary.dense_count:,} fired on more than a tenth of {'these' if first else 'the tokens'}",
    }


def fit_words(fit: "Fit | HookScore", on: str = "") -> str:
    """Return how well the SAE fits, ``on`` what, and what is said where another place may beat it.

    Where it is read is not searched for again.
    """
    from sae_analysis.reconstruction import LEAST_EXPLAINED

    words = f"explained variance {fit.explained_variance:.3f}, cosine {fit.cosine:.3f}, L0 {fit.l0:.1f}{on}"
    if fit.explained_variance >= LEAST_EXPLAINED:
        return words
    doubt = "weak" if fit.explained_variance >= 0 else POOR_FIT
    return f"{words}; {doubt}; inspect SAE --model MODEL shows whether it fits better elsewhere"


def _numbers(result: "AnalysisResult") -> dict[str, Any]:
    """Return what a script wants of the report, by the names in ``real.json``."""
    fit, dictionary = result.fit, result.dictionary
    assert fit is not None, "measured by every analysis of text"
    assert dictionary is not None, "as above"
    of_fit = ("token_count", "document_count", "window_count", "explained_variance", "cosine", "l0", "is_poor")
    of_dictionary = ("d_sae", "dead_count", "dense_count")  # on measured_tokens
    return (
        {name: getattr(fit, name) for name in of_fit}
        | {name: getattr(dictionary, name) for name in of_dictionary}
        | {"measured_tokens": fit.measured_tokens, "features": len(result.features)}
    )
