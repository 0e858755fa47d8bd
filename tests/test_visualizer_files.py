"""Pages as files: under which name, the same every time, whole or not at all."""

from pathlib import Path

import matplotlib as mpl
import pytest
import record_factory as make
from page_reader import EVERY_GLYPH_IS_THERE, HEADER, HOSTILE
from PIL import Image

from sae_analysis.comparison import compare
from sae_analysis.errors import OutputError
from sae_analysis.visualizer import Drawing, feature_page, visualize_comparison, visualize_features, write_page

pytestmark = EVERY_GLYPH_IS_THERE


def test_every_page_is_written_under_its_name(tmp_path):
    features = [make.stats(at, example_count=1, example_bands=()) for at in range(13)]
    calls = []
    paths = visualize_features(
        make.result(features), tmp_path / "new" / "folder", progress=lambda *at: calls.append(at)
    )
    assert [path.name for path in paths] == [
        *(f"feature_{at}_real.png" for at in range(13)),
        "summary_1_real.png", "summary_2_real.png", "statistics_real.png",
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(path.name for path in paths)
    assert calls == [(at, 16) for at in range(1, 17)]
    assert Image.open(paths[0]).size[0] == 1200


@pytest.mark.parametrize(("name", "found"), [("page.jpg", ".jpg"), ("page", "nothing")])
def test_an_ending_that_is_no_format_is_refused_with_those_that_are(name, found, tmp_path):
    path = tmp_path / "new" / name
    with pytest.raises(OutputError) as caught:
        write_page(feature_page(make.dead_stats()), path)
    assert str(caught.value) == f"Page {path} ends in {found}: give it one of the endings .png, .svg, .pdf."
    assert not path.parent.exists()


def test_an_ending_may_be_in_capitals(tmp_path):
    page = feature_page(make.dead_stats(), dpi=40)
    assert Image.open(write_page(page, tmp_path / "page.PNG")).format == "PNG"
    assert write_page(page, tmp_path / "page.PDF").read_bytes().startswith(b"%PDF")


def test_a_bare_mapping_has_no_statistics_page(tmp_path):
    paths = visualize_features({3: make.dead_stats(3)}, str(tmp_path), "synthetic", drawing=Drawing(dpi=60))
    assert [path.name for path in paths] == ["feature_3_synthetic.png", "summary_1_synthetic.png"]
    assert Image.open(paths[0]).size[0] == 480


def test_the_same_records_give_the_same_bytes(tmp_path):
    first, second = (write_page(feature_page(HOSTILE["scripts"], HEADER), tmp_path / f"{at}.png") for at in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "page.png"
    path.write_bytes(b"old")

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError) as error:
        write_page(feature_page(make.dead_stats()), path)
    assert str(error.value).startswith(f"{path} cannot be written: No space left on device.")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError) as error:
        visualize_features({3: make.dead_stats(3)}, tmp_path / "file" / "folder")
    assert str(error.value).startswith(f"Output folder {tmp_path / 'file' / 'folder'} cannot be written to: Not a dir")


def test_the_path_of_a_page_may_be_text(tmp_path):
    path = write_page(feature_page(make.dead_stats()), str(tmp_path / "new" / "page.png"))
    assert path == tmp_path / "new" / "page.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_drawing_changes_no_global_setting(tmp_path):
    before = dict(mpl.rcParams)
    write_page(feature_page(make.stats(example_count=1)), tmp_path / "page.png")
    assert dict(mpl.rcParams) == before


def test_settings_of_the_reader_do_not_move_anything(tmp_path):
    usual = write_page(feature_page(make.stats(example_count=1)), tmp_path / "usual.png").read_bytes()
    with mpl.rc_context({"figure.autolayout": True, "axes.grid": True, "axes.facecolor": "red", "font.size": 30}):
        own = write_page(feature_page(make.stats(example_count=1)), tmp_path / "own.png").read_bytes()
    assert own == usual


def test_pages_are_the_same_from_several_processes(tmp_path):
    features = [make.stats(at, example_count=1, example_bands=()) for at in range(12)]
    one, two = (
        visualize_features(make.result(features), tmp_path / str(many), drawing=Drawing(dpi=40, processes=many))
        for many in (1, 2)
    )
    assert [path.name for path in one] == [path.name for path in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def test_outlines_are_written_beside_png_and_are_the_same_every_time(tmp_path):
    drawing = Drawing(dpi=40, formats=("png", "svg", "pdf"))
    first, second = (
        visualize_features({3: make.stats(3, example_count=1)}, tmp_path / name, drawing=drawing) for name in "ab"
    )
    assert [path.name for path in first] == [
        f"{name}_real.{ending}" for name in ("feature_3", "summary_1") for ending in ("png", "svg", "pdf")
    ]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
    assert first[1].read_text().lstrip().startswith("<?xml")
    assert "<text" not in first[1].read_text(), "letters are outlines: no font is needed to see them"
    assert first[2].read_bytes().startswith(b"%PDF")


def test_every_page_of_a_search_is_written(tmp_path):
    features = [make.synthetic_stats(at, example_count=1) for at in range(2)] + [make.unfired_stats(2)]
    result = make.result(features, provenance=make.provenance(corpus=""), fit=None, dictionary=None)
    calls = []
    paths = visualize_features(
        result, tmp_path, "synthetic", drawing=Drawing(dpi=60), progress=lambda *at: calls.append(at)
    )
    assert [path.name for path in paths] == [
        *(f"feature_{at}_synthetic.png" for at in range(3)), "summary_1_synthetic.png", "statistics_synthetic.png",
    ]  # fmt: skip
    assert calls[-1] == (5, 5)
    again = visualize_features(result.by_feature(), tmp_path, "synthetic", drawing=Drawing(dpi=60))
    assert [path.name for path in again] == [path.name for path in paths]


def test_every_page_of_a_comparison_is_written(tmp_path):
    real, synthetic = make.results_of([make.comparison_pair() for _ in range(2)])
    calls = []
    paths = visualize_comparison(
        compare(real, synthetic).features,
        real,
        synthetic,
        tmp_path,
        drawing=Drawing(dpi=40),
        progress=lambda *at: calls.append(at),
    )
    assert [path.name for path in paths] == [
        "real_vs_synthetic_comparison.png", "feature_0_comparison.png", "feature_1_comparison.png",
    ]  # fmt: skip
    assert calls == [(1, 3), (2, 3), (3, 3)]
