"""Pictures of features: records in, pages out as PNG, SVG or PDF; nothing is recomputed.

Pages are figures first (``feature_page``, ``summary_page``, ``statistics_page``, ``search_page``, ``comparison_page``,
``feature_comparison_page``), so that a test can read them back and a notebook shows them; ``visualize_features`` and
``visualize_comparison`` write them all.
"""

import math
import multiprocessing
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sae_analysis.errors import OutputError
from sae_analysis.files import prepare_folder, write_whole
from sae_analysis.records import AnalysisResult, AnyResults, Comparison, FeatureStats, whole
from sae_analysis.visualizer.comparison_pages import comparison_page, feature_comparison_page
from sae_analysis.visualizer.encoding import as_outlines, as_png
from sae_analysis.visualizer.pages import feature_page, statistics_page
from sae_analysis.visualizer.sheet import Page
from sae_analysis.visualizer.summary import ROWS_PER_SUMMARY, summary_page
from sae_analysis.visualizer.synthetic_pages import search_page
from sae_analysis.visualizer.theme import LIGHT, THEMES, Theme
from sae_analysis.visualizer.wording import Header

__all__ = [
    "FORMATS",
    "LIGHT",
    "THEMES",
    "Drawing",
    "Header",
    "Page",
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

FORMATS = ("png", "svg", "pdf")

_FEW_PAGES = 12
"""Up to so many pages are drawn in one process: others would take longer to begin."""

Progress = Callable[[int, int], None]
"""Called with the pages written so far and the pages in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How pages are drawn."""

    dpi: int = 150
    """Dots per inch of PNG files."""

    theme: Theme = LIGHT

    formats: tuple[str, ...] = ("png",)
    """File formats, out of ``FORMATS``; what is not PNG is made of outlines, at any size."""

    processes: int = 1
    """Pages drawn at a time; each in a process of its own, so a script that asks for more must guard its main part."""


_DEFAULT = Drawing()


def visualize_features(
    results: AnyResults,
    output_dir: str | Path,
    analysis_type: str = "real",
    *,
    only: Collection[int] | None = None,
    drawing: Drawing = _DEFAULT,
    progress: Progress | None = None,
) -> list[Path]:
    """Write every page of an analysis into ``output_dir`` and return their paths.

    ``feature_N_<type>.png`` for each feature, ``summary_P_<type>.png`` for each page P of the overview, and
    ``statistics_<type>.png``: on the search where features were searched for, else on the whole dictionary of the SAE,
    of which features in a dictionary of one's own say nothing. Each file appears whole or not at all; the same records
    give the same bytes. With ``only``, nothing but the pages of these features.

    Raises:
        OutputError: The folder cannot be made or a file in it cannot be written.
    """
    results = whole(results)
    features, header = _described(results)
    orders = [
        _Order(f"feature_{index}_{analysis_type}", feature_page, (stats, header, analysis_type))
        for index, stats in features.items()
        if only is None or index in only
    ]
    if only is not None:
        return _write_all(orders, Path(output_dir), drawing, progress)
    for page in range(1, math.ceil(len(features) / ROWS_PER_SUMMARY) + 1):
        # A page of the overview has scales common to all of them.
        orders.append(_Order(f"summary_{page}_{analysis_type}", summary_page, (features, page, header, analysis_type)))
    if any(stats.search for stats in features.values()):
        orders.append(_Order(f"statistics_{analysis_type}", search_page, (features, header)))
    elif isinstance(results, AnalysisResult) and results.dictionary:
        about = (results.dictionary, features, header, analysis_type)
        orders.append(_Order(f"statistics_{analysis_type}", statistics_page, about))
    return _write_all(orders, Path(output_dir), drawing, progress)


def visualize_comparison(
    comparisons: Sequence[Comparison],
    real: AnyResults,
    synthetic: AnyResults,
    output_dir: str | Path,
    *,
    only: Collection[int] | None = None,
    drawing: Drawing = _DEFAULT,
    progress: Progress | None = None,
) -> list[Path]:
    """Write ``real_vs_synthetic_comparison.png`` and ``feature_N_comparison.png`` for each feature; return their paths.

    The overview keeps the order of ``comparisons``. With ``only``, nothing but the pages of these features.

    Raises:
        OutputError: The folder cannot be made or a file in it cannot be written.
    """
    (does, header), (could, _) = _described(whole(real)), _described(whole(synthetic))
    token_count = max((stats.token_count for stats in does.values()), default=0)
    orders = [_Order("real_vs_synthetic_comparison", comparison_page, (comparisons, token_count, header))]
    if only is not None:
        orders, comparisons = [], [one for one in comparisons if one.feature_idx in only]
    for one in comparisons:
        parts = (one, does[one.feature_idx], could[one.feature_idx], header)
        orders.append(_Order(f"feature_{one.feature_idx}_comparison", feature_comparison_page, parts))
    return _write_all(orders, Path(output_dir), drawing, progress)


def _described(results: AnyResults) -> tuple[Mapping[int, FeatureStats], Header]:
    if isinstance(results, AnalysisResult):
        return results.by_feature(), Header.of(results)
    return results, Header()


@dataclass(frozen=True, slots=True)
class _Order:
    """A page to be made, and what its file is called but for the ending."""

    name: str
    page: Callable[..., Page]
    parts: tuple[Any, ...]


def _write_all(orders: Sequence[_Order], folder: Path, drawing: Drawing, progress: Progress | None) -> list[Path]:
    """Draw pages, several at a time if there are many, and return their paths in order."""
    written: list[Path] = []
    processes = drawing.processes if len(orders) > _FEW_PAGES else 1
    work = partial(_fill, folder=folder, drawing=drawing)
    with ExitStack() as stack:
        if processes > 1:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(processes))
            done = pool.imap(work, orders)
        else:
            done = map(work, orders)
        for number, paths in enumerate(done, 1):
            written += paths
            if progress is not None:
                progress(number, len(orders))
    return written


def _fill(order: _Order, folder: Path, drawing: Drawing) -> list[Path]:
    page = order.page(*order.parts, theme=drawing.theme, dpi=drawing.dpi)
    return [write_page(page, folder / f"{order.name}.{ending}") for ending in drawing.formats]


def write_page(page: Page, path: str | Path) -> Path:
    """Write a page as what the path's ending says, one of ``FORMATS``, whole or not at all.

    Raises:
        OutputError: Another ending, or the folder or the file cannot be written.
    """
    path = Path(path)
    ending = path.suffix[1:].lower()
    if ending not in FORMATS:
        raise OutputError(
            f"Page {path} ends in {path.suffix or 'nothing'}: give it one of the endings .{', .'.join(FORMATS)}."
        )
    prepare_folder(path.parent)
    write_whole(path, as_png(page) if ending == "png" else as_outlines(page, ending))
    return path
