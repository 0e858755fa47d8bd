"""What is written of results in memory: the comparison from Python, whole results or features alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import record_factory as make

from sae_analysis.artifacts import read_any, write_result
from sae_analysis.comparison import compare
from sae_analysis.errors import OutputError
from sae_analysis.records import FeatureResults
from sae_analysis.reports import browse, compare_real_vs_synthetic
from sae_analysis.visualizer import Drawing

SMALL = Drawing(dpi=40)
PAGES = {"real_vs_synthetic_comparison.png", "feature_0_comparison.png", "feature_1_comparison.png"}


@pytest.fixture
def pair():
    return make.results_of([make.comparison_pair(), make.comparison_pair(potential=20.0)])


def names(folder):
    return {path.name for path in Path(folder).iterdir()}


@pytest.mark.parametrize("given", [lambda result: result, FeatureResults])
def test_whole_results_are_compared_written_and_drawn(pair, tmp_path, given):
    told = []
    real, synthetic = map(given, pair)
    found = compare_real_vs_synthetic(
        real, synthetic, tmp_path / "new", drawing=SMALL, progress=lambda *at: told.append(at)
    )
    assert names(tmp_path / "new") == PAGES | {"comparison.json", "index.html"}
    written = read_any(tmp_path / "new" / "comparison.json")
    assert written == compare(*pair)
    assert list(found.values()) == list(written.features)
    assert list(found) == [1, 0], "the most under-activated first"
    assert told[-1] == (3, 3)


def test_features_alone_are_compared_and_drawn(pair, tmp_path):
    real, synthetic = (result.by_feature() for result in pair)
    found = compare_real_vs_synthetic(real, synthetic, str(tmp_path))
    assert names(tmp_path) == PAGES
    assert tuple(found.values()) == compare(*pair).features


def test_what_does_not_belong_together_leaves_the_old_comparison(pair, tmp_path):
    (tmp_path / "comparison.json").write_text("old")
    with pytest.raises(OutputError, match="was given as the real one"):
        compare_real_vs_synthetic(*reversed(pair), tmp_path)
    with pytest.raises(OutputError, match="none in common"):
        compare_real_vs_synthetic(pair[0].by_feature(), {7: pair[1].features[0]}, tmp_path)
    assert (tmp_path / "comparison.json").read_text() == "old"
    assert names(tmp_path) == {"comparison.json"}


def test_the_page_knows_results_that_lie_elsewhere(pair, tmp_path):
    real, synthetic = pair
    stranger = replace(synthetic, provenance=replace(synthetic.provenance, sae_sha256="another"))
    assert '"synthetic_max"' in browse(real, tmp_path, [synthetic]).read_text()
    assert '"synthetic_max"' not in browse(real, tmp_path, [stranger]).read_text()


def test_the_page_knows_results_of_the_same_subject_beside_it(pair, tmp_path):
    real, synthetic = pair
    write_result(synthetic, tmp_path / "synthetic.json")
    (tmp_path / "comparison.json").write_text("damaged")
    page = browse(real, tmp_path).read_text()
    assert '"synthetic_max"' in page
    other = make.result(real.features, provenance=make.provenance(hook="blocks.9.hook_resid_post"))
    assert '"synthetic_max"' not in browse(other, tmp_path).read_text()
