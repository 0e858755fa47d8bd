"""Reads pages back for their tests: text, bars and lines as they were set, and what must hold of every page."""

from pathlib import Path

import figure_stress as stress
import matplotlib as mpl
import numpy as np
import pytest
import record_factory as make
from PIL import Image

from sae_analysis.comparison import compare_features
from sae_analysis.visualizer import Header, Page
from sae_analysis.visualizer.sheet import Box
from sae_analysis.visualizer.theme import PAGE_WIDTH, Colour

EVERY_GLYPH_IS_THERE = pytest.mark.filterwarnings("error::UserWarning")  # Matplotlib warns of a glyph it had to replace

HEADER = Header.of(make.result())
HOSTILE = stress.hostile_features()
SEARCHED = stress.hostile_searches()


def words(page: Page, panel: str = "") -> str:
    """Return the text of a panel in the order it was set, its pieces parted by single spaces."""
    return " ".join(" ".join(item.text for item in page.lettering if panel in ("", item.panel)).split())


def bars(page: Page, panel: str) -> list[float]:
    return [value for patch in page.plots[panel].patches for value in patch.get_data().values]


def assert_legible(page: Page) -> None:
    """No text leaves the page, none lies on other text, and the margin holds no ink."""
    height = page.get_figheight() * 72
    for item in page.lettering:
        assert item.box.x >= 0, item
        assert item.box.right <= PAGE_WIDTH, item
        assert item.box.y >= 0, item
        assert item.box.bottom <= height, item
    solid = [item for item in page.lettering if item.box.width > 0.5]
    x0, x1, y0, y1 = (
        np.array([pick(item.box) for item in solid])
        for pick in (lambda b: b.x, lambda b: b.right, lambda b: b.y, lambda b: b.bottom)
    )
    wide = np.minimum.outer(x1, x1) - np.maximum.outer(x0, x0)
    high = np.minimum.outer(y1, y1) - np.maximum.outer(y0, y0)
    allowed = 0.45 * np.minimum.outer(y1 - y0, y1 - y0)  # line boxes are taller than letters
    overlaps = np.argwhere(np.triu((wide > 0.75) & (high > allowed), 1))
    assert not len(overlaps), [(solid[a], solid[b]) for a, b in overlaps[:3]]


def assert_margin_is_paper(path: Path) -> None:
    pixels = np.asarray(Image.open(path).convert("RGB"))
    for edge in (pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:]):
        assert (edge == 255).all()


def lines_of(page: Page, panel: str) -> list[tuple[list[float], list[float]]]:
    """Return the points of every line of a chart, in the units of its axes."""
    return [tuple([*map(float, line.get_data()[at])] for at in (0, 1)) for line in page.plots[panel].get_lines()]


def hanging_bars(page: Page, colour: Colour) -> list[Box]:
    """Return the bars below tokens, those of a row in reading order."""
    (rectangles,) = (item for item in page.artists if isinstance(item, mpl.collections.PolyCollection))
    corners = [
        path.vertices for path, face in zip(rectangles.get_paths(), rectangles.get_facecolor(), strict=True)
        if np.allclose(face[:3], colour)
    ]  # fmt: skip
    return [Box(x, y, right - x, bottom - y) for (x, y), (right, bottom) in
            ((points.min(axis=0), points.max(axis=0)) for points in corners)]  # fmt: skip


def compared(**change):
    real, synthetic = make.comparison_pair(**change)
    return compare_features(real, synthetic), real, synthetic
