"""``redraw``: the pictures of results that are there already."""

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sae_analysis.main.arguments import HelpFormatter, add_drawing_options, add_manner_options, name, threads
from sae_analysis.main.running import drawing_of, numbers_among
from sae_analysis.main.screen import page_bar, print_summary

if TYPE_CHECKING:  # heavy: loaded when the mode runs
    from sae_analysis.records import AnalysisResult, ComparisonResult
    from sae_analysis.visualizer import Drawing


def add_mode(modes: argparse._SubParsersAction) -> None:
    """Add the mode and its options."""
    parser = modes.add_parser(
        "redraw",
        help="draw the pictures of results again",
        description="Draw the pictures of results again, without model, SAE or text. A comparison takes its examples "
        "from the real.json and the synthetic.json beside it, else from those that compare was given.",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "results", nargs="+", type=name, metavar="FILE", help="real.json, synthetic.json, comparison.json"
    )
    group = parser.add_argument_group("subject")
    group.add_argument(
        "--features",
        metavar="SPEC",
        help="draw the pages of these features alone, such as 0,5,10-20 (default: all pages)",
    )
    group = parser.add_argument_group("output")
    group.add_argument("--output", type=Path, help="folder for pictures (default: beside each result)")
    add_manner_options(group)
    add_drawing_options(group)
    group = parser.add_argument_group("machine")
    group.add_argument("--threads", type=threads, help="processes (default: one for each core)")


def run(options: argparse.Namespace) -> int:
    """Read all results before the first picture is drawn."""
    from sae_analysis.artifacts import read_any
    from sae_analysis.files import made
    from sae_analysis.reports import browse

    found = [(Path(path), read_any(Path(path))) for path in options.results]
    _check_room(found, options.output)
    only = numbers_among(options.features, found, "redrawn") if options.features else None
    for path, result in found:
        folder = options.output or path.parent
        with made(folder):
            written = _draw(path, result, folder, only, drawing_of(options))
            others = [other for elsewhere, other in found if (options.output or elsewhere.parent) == folder]
            print_summary({}, [*written, browse(result, folder, others)], folder)
    return 0


def _check_room(found: "Sequence[tuple[Path, AnalysisResult | ComparisonResult]]", output: Path | None) -> None:
    """Check that no two results would have pictures of the same names in one folder.

    Raises:
        OutputError: two would.
    """
    from sae_analysis.errors import OutputError
    from sae_analysis.records import ComparisonResult

    taken: dict[tuple[str, Path], Path] = {}
    for path, result in found:
        folder = output or path.parent
        kind = "comparison" if isinstance(result, ComparisonResult) else result.provenance.analysis
        other = taken.setdefault((kind, folder.resolve()), path)
        if other is not path:
            raise OutputError(
                f"Results {other} and {path} would be drawn over each other in {folder}: draw one of them, or each "
                "with an --output of its own."
            )


def _part(path: Path, comparison: "ComparisonResult", kind: str) -> Path:
    """Return the result beside a comparison that it was made of, or where there is none, the one that was typed."""
    beside, asked = path.parent / f"{kind}.json", comparison.asked.get(kind)
    typed = asked[0] if isinstance(asked, tuple) and asked else asked
    return Path(typed) if isinstance(typed, str) and not beside.exists() and Path(typed).is_file() else beside


def _draw(
    path: Path,
    result: "AnalysisResult | ComparisonResult",
    folder: Path,
    only: "Collection[int] | None",
    drawing: "Drawing",
) -> list[Path]:
    from sae_analysis.artifacts import read_result
    from sae_analysis.errors import OutputError
    from sae_analysis.records import ComparisonResult
    from sae_analysis.visualizer import visualize_comparison, visualize_features

    with page_bar() as advance:
        if isinstance(result, ComparisonResult):
            real, synthetic = (
                read_result(_part(path, result, kind), f"the {kind}.json that {path.name} was made of beside it")
                for kind in ("real", "synthetic")
            )
            lost = [
                one.feature_idx
                for one in result.features
                if one.feature_idx not in real.by_feature() or one.feature_idx not in synthetic.by_feature()
            ]
            if lost:
                raise OutputError(
                    f"Result {path} compares feature {lost[0]}, which the real.json and synthetic.json beside it do "
                    "not both describe: put those beside it that it was made of."
                )
            return visualize_comparison(
                result.features, real, synthetic, folder, only=only, drawing=drawing, progress=advance
            )
        kind = result.provenance.analysis
        return visualize_features(result, folder, kind, only=only, drawing=drawing, progress=advance)
