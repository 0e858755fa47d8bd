"""What is written of results that are there: a comparison with its pictures, and the page to browse a folder."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from sae_analysis.artifacts import read_any, write_result
from sae_analysis.comparison import compare, compare_all
from sae_analysis.errors import SAEAnalysisError
from sae_analysis.files import prepare_folder
from sae_analysis.gallery import write_gallery
from sae_analysis.records import AnalysisResult, AnyResults, Comparison, ComparisonResult, FeatureStats, whole
from sae_analysis.visualizer import Drawing, Progress, visualize_comparison

_KINDS = ("real", "synthetic", "comparison")


def compare_real_vs_synthetic(
    real: AnyResults,
    synthetic: AnyResults,
    output_dir: str | Path,
    *,
    drawing: Drawing | None = None,
    progress: Progress | None = None,
) -> dict[int, Comparison]:
    """Compare what features do with what they could do, write the pictures, and return the numbers by feature index.

    What ``read_result``, ``analyze_real_activations`` and ``generate_synthetic_maximizers`` return is refused unless it
    belongs together, and then ``comparison.json`` and ``index.html`` are written too; features in a dictionary of
    one's own do not say where they come from. The most under-activated come first.

    Raises:
        OutputError: they have no feature in common or do not belong together, or a file cannot be written.
    """
    folder = Path(output_dir)
    prepare_folder(folder)
    real, synthetic, compared = whole(real), whole(synthetic), None
    if isinstance(real, AnalysisResult) and isinstance(synthetic, AnalysisResult):
        compared = compare(real, synthetic)
        write_result(compared, folder / "comparison.json")
        found = compared.features
    else:
        found = compare_all(_features(real), _features(synthetic))
    visualize_comparison(found, real, synthetic, folder, drawing=drawing or Drawing(), progress=progress)
    if compared:
        browse(compared, folder)
    return {one.feature_idx: one for one in found}


def browse(
    result: AnalysisResult | ComparisonResult, folder: Path, others: Iterable[AnalysisResult | ComparisonResult] = ()
) -> Path:
    """Write the page to browse a folder's pictures by what is known of their features, from all results in it.

    ``others`` are results that lie elsewhere, whose pictures are here. Results of another subject, or that cannot be
    read, are left out.

    Raises:
        OutputError: the page cannot be written.
    """
    there: list[AnalysisResult | ComparisonResult] = []
    for kind in _KINDS:
        path = folder / f"{kind}.json"
        if kind != _kind(result) and path.exists():
            with suppress(SAEAnalysisError):
                there.append(read_any(path))
    known = {_kind(one): one for one in (*others, *there, result) if _subject(one) == _subject(result)}
    return write_gallery(folder, known.values())


def _features(results: AnyResults) -> Mapping[int, FeatureStats]:
    return results.by_feature() if isinstance(results, AnalysisResult) else results


def _kind(result: AnalysisResult | ComparisonResult) -> str:
    return result.provenance.analysis if isinstance(result, AnalysisResult) else "comparison"


def _subject(result: AnalysisResult | ComparisonResult) -> tuple[str, str, str]:
    run = result.provenance if isinstance(result, AnalysisResult) else result.real
    return run.sae_sha256, run.model_sha256, run.hook
