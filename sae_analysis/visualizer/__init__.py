"""Pictures of features: records in, PNG pages out; nothing is recomputed.

Pages are figures first (``feature_page``, ``summary_page``, ``statistics_page``, ``search_page``, ``comparison_page``,
``feature_comparison_page``), so that a test or a notebook can read them back; ``visualize_features`` and
``visualize_comparison`` write them all.
"""

import io
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from sae_analysis.files import prepare_folder, write_whole
from sae_analysis.records import AnalysisResult, ComparisonResult, FeatureStats
from sae_analysis.visualizer.comparison_pages import comparison_page, feature_comparison_page
from sae_analysis.visualizer.pages import feature_page, statistics_page
from sae_analysis.visualizer.sheet import Cell, Lettering, Page
from sae_analysis.visualizer.summary import ROWS_PER_SUMMARY, summary_page
from sae_analysis.visualizer.synthetic_pages import search_page
from sae_analysis.visualizer.theme import LIGHT, Theme
from sae_analysis.visualizer.wording import Header

__all__ = [
    "LIGHT",
    "Cell",
    "Header",
    "Lettering",
    "Page",
    "Theme",
    "comparison_page",
    "feature_comparison_page",
    "feature_page",
    "search_page",
    "statistics_page",
    "summary_page",
    "visualize_comparison",
    "visualize_features",
    "write_page",
]

_COMPRESSION = 2
"""Files 2 % larger than at zlib's default, in two thirds of the time."""

Progress = Callable[[int, int], None]
"""Called with the pages written so far and the pages in all."""


def visualize_features(
    results: AnalysisResult | Mapping[int, FeatureStats],
    output_dir: str | Path,
    analysis_type: str = "real",
    *,
    dpi: int = 150,
    theme: Theme = LIGHT,
    progress: Progress | None = None,
) -> list[Path]:
    """Write every page of an analysis into ``output_dir`` and return their paths.

    ``feature_N_<type>.png`` for each feature, ``summary_P_<type>.png`` for each page P of the overview, and
    ``statistics_<type>.png``: on the search where features were searched for, else on the whole dictionary where the
    result describes it (a bare mapping does not). Each file appears whole or not at all; the same records give the
    same bytes.

    Raises:
        OutputError: The folder cannot be made or a file in it cannot be written.
    """
    folder = Path(output_dir)
    whole = results if isinstance(results, AnalysisResult) else None
    features = results.by_feature() if isinstance(results, AnalysisResult) else dict(results)
    header = Header.of(whole) if whole else Header()
    summaries = math.ceil(len(features) / ROWS_PER_SUMMARY)
    dictionary = whole.dictionary if whole else None
    searched = any(stats.search for stats in features.values())
    total = len(features) + summaries + (searched or dictionary is not None)

    def pages() -> Iterator[tuple[str, Page]]:
        for index, stats in features.items():
            yield f"feature_{index}", feature_page(stats, header, analysis_type, theme=theme, dpi=dpi)
        for page in range(1, summaries + 1):
            yield f"summary_{page}", summary_page(features, page, header, analysis_type, theme=theme, dpi=dpi)
        if searched:
            yield "statistics", search_page(features, header, theme=theme, dpi=dpi)
        elif dictionary:
            yield "statistics", statistics_page(dictionary, features, header, analysis_type, theme=theme, dpi=dpi)

    return _write_pages(pages(), total, folder, analysis_type, progress)


def visualize_comparison(
    result: ComparisonResult,
    real: AnalysisResult,
    synthetic: AnalysisResult,
    output_dir: str | Path,
    *,
    dpi: int = 150,
    theme: Theme = LIGHT,
    progress: Progress | None = None,
) -> list[Path]:
    """Write ``real_vs_synthetic_comparison.png`` and ``feature_N_comparison.png`` for each feature; return their paths.

    Raises:
        OutputError: The folder cannot be made or a file in it cannot be written.
    """
    folder, header = Path(output_dir), Header.of(real)
    does, could = real.by_feature(), synthetic.by_feature()

    def pages() -> Iterator[tuple[str, Page]]:
        yield "real_vs_synthetic", comparison_page(result, header, theme=theme, dpi=dpi)
        for one in result.features:
            both = does[one.feature_idx], could[one.feature_idx]
            yield f"feature_{one.feature_idx}", feature_comparison_page(one, *both, header, theme=theme, dpi=dpi)

    return _write_pages(pages(), len(result.features) + 1, folder, "comparison", progress)


def _write_pages(
    pages: Iterator[tuple[str, Page]], total: int, folder: Path, analysis_type: str, progress: Progress | None
) -> list[Path]:
    written: list[Path] = []
    for name, page in pages:
        written.append(write_page(page, folder / f"{name}_{analysis_type}.png"))
        if progress is not None:
            progress(len(written), total)
    return written


def write_page(page: Page, path: Path) -> Path:
    """Write a page as PNG, whole or not at all.

    Raises:
        OutputError: The folder or the file cannot be written.
    """
    prepare_folder(path.parent)
    write_whole(path, _encoded(page))
    return path


def _encoded(page: Page) -> bytes:
    """Return the page as PNG, without the alpha channel no page uses: that halves the time to compress it."""
    canvas = FigureCanvasAgg(page)
    canvas.draw()
    picture = Image.frombytes("RGBA", canvas.get_width_height(), bytes(canvas.buffer_rgba()))
    file = io.BytesIO()
    picture.convert("RGB").save(file, format="png", dpi=(page.dpi, page.dpi), compress_level=_COMPRESSION)
    return file.getvalue()
