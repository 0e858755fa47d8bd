"""``compare``: what each feature does beside what it could do."""

import argparse
import statistics
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_analysis.main import real, synthetic
from sae_analysis.main.arguments import (
    FEATURES,
    HelpFormatter,
    add_output_options,
    add_reading_options,
    add_subject_options,
    name,
    name_or_demo,
)
from sae_analysis.main.reading import HOW_TEXT_IS_READ, add_long_run_options, scan
from sae_analysis.main.repeating import add_config_option, asked_for, refuse_idle
from sae_analysis.main.running import drawing_of, numbers_among, open_site
from sae_analysis.main.screen import page_bar, print_rows, print_summary
from sae_analysis.wording import counted, percent

if TYPE_CHECKING:  # heavy: loaded when the mode runs
    from sae_analysis.records import AnalysisResult, ComparisonResult

_FIRINGS = 3
"""Examples of each kind whose firings are compared."""

_NAMED = 5
"""Most features named in the report."""


_OF_RESULTS = ("real", "synthetic", "features", "output", "no_figures", "dpi", "theme", "format", "threads")
"""Options that count where nothing is run."""

_OF_ANY_RUN = ("run", "mode", "default_of", "typed", "config", "verbose", "quiet", "json")


def add_mode(modes: argparse._SubParsersAction) -> None:
    """Add the mode and its options."""
    parser = modes.add_parser(
        "compare",
        help="both, and whether a feature does what it could do",
        description="Run real and synthetic, or take results of theirs, and compare what each feature does with what "
        "it could do; write pictures and JSON of all three.",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run, mode="compare")
    add_config_option(parser)
    add_subject_options(parser, seed="seed of random features and of the search: same seed, same tokens")
    parser.set_defaults(features=None, firings=_FIRINGS)
    _add_text_options(parser)
    synthetic.add_search_options(parser)
    add_long_run_options(parser)
    add_output_options(parser, max_examples=10)


def _add_text_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("text, or results of earlier runs")
    group.add_argument(
        "--corpus", type=name_or_demo, help="text: file, folder or data set's name (default: the demo corpus)"
    )
    add_reading_options(group)
    group.add_argument("--real", type=name, metavar="FILE", help="real.json, instead of reading text")
    group.add_argument(
        "--synthetic",
        type=name,
        nargs="+",
        default=[],
        metavar="FILE",
        help="synthetic.json, instead of a search; behind it those of other seeds, to see what they matter",
    )


def run(options: argparse.Namespace) -> int:
    """Compare; what is not given is made first, each result written as soon as it is there."""
    from sae_analysis.artifacts import read_result, write_result
    from sae_analysis.comparison import compare
    from sae_analysis.files import writing_into

    _refuse_idle(options)
    does = read_result(Path(options.real), "a real.json") if options.real else None
    searched = [read_result(Path(path), "a synthetic.json") for path in options.synthetic]
    could = searched[0] if searched else None
    with writing_into(options.output), ExitStack() as kept:
        if does is None or could is None:
            does, could = _make(does, could, options, kept)
        elif options.features is not None:
            does, could = _chosen(does, could, options)
        found = replace(compare(does, could, searched[1:]), asked=asked_for(options))
        json_path = options.output / "comparison.json"
        write_result(found, json_path)
        rows = _rows(found, does, could)
        print_rows(rows)
        written = [json_path, *_pictures(found, does, could, options)]
        print_summary(rows, written, options.output, result="comparison", numbers=_numbers(found))
    return 0


def _refuse_idle(options: argparse.Namespace) -> None:
    """Refuse what would need a run that the results given take the place of.

    Raises:
        SAEAnalysisError: it was typed.
    """
    from sae_analysis.feature_selection import parse_features

    if options.real and options.synthetic:
        idle = [name for name in vars(options) if name not in _OF_RESULTS + _OF_ANY_RUN]
        refuse_idle(
            options,
            idle,
            "where --real and --synthetic are given, for nothing is run: leave it out, or one of these",
        )
        is_typed = vars(options).get("typed", options).features is not None
        if options.features and not is_typed and parse_features(options.features).kind != "indices":
            options.features = None  # a rule that --config had for a run; these results have answered theirs
    elif options.real:
        refuse_idle(
            options,
            ("corpus", *HOW_TEXT_IS_READ),
            "where --real is given, for no text is read: leave out one of the two",
        )
    elif options.synthetic:
        refuse_idle(
            options,
            synthetic.HOW_IT_IS_SEARCHED,
            "where --synthetic is given, for nothing is searched: leave out one of the two",
        )


def _chosen(
    does: "AnalysisResult", could: "AnalysisResult", options: argparse.Namespace
) -> tuple["AnalysisResult", "AnalysisResult"]:
    """Return two results with the features asked for alone.

    Raises:
        FeatureError: one of them does not describe such a feature.
    """
    found = [(Path(options.real), does), (Path(options.synthetic[0]), could)]
    only = numbers_among(options.features, found, "compared")
    does, could = (
        replace(result, features=tuple(one for one in result.features if one.feature_idx in only))
        for _, result in found
    )
    return does, could


def _pictures(
    found: "ComparisonResult", does: "AnalysisResult", could: "AnalysisResult", options: argparse.Namespace
) -> list[Path]:
    if options.no_figures:
        return []
    from sae_analysis.reports import browse
    from sae_analysis.visualizer import visualize_comparison

    with page_bar() as advance:
        written = visualize_comparison(
            found.features, does, could, options.output, drawing=drawing_of(options), progress=advance
        )
    return [*written, browse(found, options.output)]


def _make(
    does: "AnalysisResult | None", could: "AnalysisResult | None", options: argparse.Namespace, kept: ExitStack
) -> tuple["AnalysisResult", "AnalysisResult"]:
    """Run the analyses that are missing, with pictures; ``kept`` removes what is kept of them for going on."""
    from sae_analysis.comparison import check_common
    from sae_analysis.corpus import Corpus
    from sae_analysis.demo import default_corpus
    from sae_analysis.feature_selection import parse_features
    from sae_analysis.synth_activations import check_origin

    given = does or could
    asked = options.features
    if asked is None:
        asked = _listed(given) if given else FEATURES
    corpus, selection = None, parse_features(asked)
    if does is None:
        source = options.corpus or default_corpus()
        corpus = Corpus(source=source, text_unit=options.text_unit, text_field=options.text_field)
    site = open_site(options, corpus)
    if given:  # before the missing one takes its time and is written over an earlier one
        check_common(given, selection.before_data(site.sae.dict_size, options.seed))
        check_origin(given, site, "synthetic" if does is None else "real")
    if corpus is not None:
        reported = {"firings": options.firings, "max_examples": options.max_examples}
        does, selection = kept.enter_context(scan(site, selection, corpus, options, **reported))
        real.write(does, options)
    assert does is not None, "read or made"
    if could is None:
        could = kept.enter_context(synthetic.search(site, selection, does, options))
        synthetic.write(could, site.sae.dict_size, options, fit=synthetic.fit_of(site, does, options))
    return does, could


def _listed(result: "AnalysisResult") -> str:
    return ",".join(str(stats.feature_idx) for stats in result.features)


def _rows(found: "ComparisonResult", does: "AnalysisResult", could: "AnalysisResult") -> dict[str, str]:
    verdicts = Counter(one.verdict for one in found.features)
    unsettled = Counter(one.verdict for one in found.features if one.is_settled is False)
    alone = sorted(does.by_feature().keys() ^ could.by_feature().keys())
    others = f"; left out, since only one of the results describes them: {_named(alone)}" if alone else ""
    realised = [one.realised for one in found.features if one.realised is not None]
    least = [
        f"{one.feature_idx} ({percent(one.realised)})" for one in found.features[:_NAMED] if one.realised is not None
    ]
    middle = "nothing, since nothing fired"
    if realised:
        middle = f"{percent(statistics.median(realised))} (median) of what the search reached"
    caveat = synthetic.hardly_searched(could)
    return {
        "Compared": f"{counted(len(found.features), 'feature')} on {counted(found.token_count, 'token')}{others}",
        "Verdicts": "; ".join(
            f"{verdict}: {many:,}" + (f" ({unsettled[verdict]:,} unsettled)" if unsettled[verdict] else "")
            for verdict, many in verdicts.most_common()
        ),
        "Realised": middle + (f"; least: {', '.join(least)}" if least else ""),
    } | ({"Search": caveat} if caveat else {})


def _numbers(found: "ComparisonResult") -> dict[str, Any]:
    """Return what a script wants of the report."""
    realised = [one.realised for one in found.features if one.realised is not None]
    return {
        "features": len(found.features),
        "token_count": found.token_count,
        "verdicts": Counter(one.verdict for one in found.features),
        "unsettled": sum(one.is_settled is False for one in found.features),
        "median_realised": statistics.median(realised) if realised else None,
    }


def _named(features: Sequence[int]) -> str:
    more = len(features) - _NAMED
    return ", ".join(map(str, features[:_NAMED])) + (f" and {more:,} more" if more > 0 else "")
