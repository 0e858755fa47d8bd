"""The page to browse a run: what is on it, that it needs nothing else, and that no token can break it."""

import json
import re
from dataclasses import replace

import pytest
import record_factory as make

from sae_analysis.comparison import compare
from sae_analysis.errors import OutputError
from sae_analysis.gallery import left_behind, write_gallery
from sae_analysis.wording import NOT_SEARCHED


def data_of(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])


@pytest.fixture
def run(tmp_path):
    """Return a folder with pictures, and the results they are of."""
    real, synthetic = make.results_of([make.comparison_pair(), make.comparison_pair(potential=20.0)])
    for name in ("feature_0_real", "feature_0_synthetic", "feature_0_comparison", "feature_1_real", "statistics_real"):
        (tmp_path / f"{name}.png").write_bytes(b"picture")
    for page in range(1, 12):
        (tmp_path / f"summary_{page}_real.png").write_bytes(b"picture")
    return tmp_path, real, synthetic, compare(real, synthetic)


def test_everything_known_of_a_feature_is_in_its_row(run):
    folder, real, synthetic, comparison = run
    unsettled = replace(comparison.features[0], is_settled=False)
    comparison = replace(comparison, features=(unsettled, *comparison.features[1:]))
    data = data_of(write_gallery(folder, [comparison, synthetic, real]))
    assert any(row["verdict"].endswith(", unsettled") for row in data["features"])
    assert [column["name"] for column in data["columns"]] == [
        "feature", "density", "real_max", "synthetic_max", "realised", "verdict", "example",
    ]  # fmt: skip
    verdicts = {one.feature_idx: one for one in comparison.features}
    for row, does, could in zip(data["features"], real.features, synthetic.features, strict=True):
        one = verdicts[row["feature"]]
        assert row["density"] == does.density
        assert (row["real_max"], row["synthetic_max"]) == (does.max_activation, could.max_activation)
        assert (row["realised"], row["verdict"]) == (one.realised, one.verdict_in_words)
        best = does.examples[0]
        assert row["example"][1] == best.tokens[best.peak_position]
        assert row["example"][0].startswith("…"), "its window begins at token 340 of the document"
        assert best.text.startswith(row["example"][0].removeprefix("…"))
        assert does.top_tokens[0].token in row["words"]
        assert one.verdict in row["words"]


def test_a_feature_dead_on_text_keeps_what_the_search_found(tmp_path):
    real, synthetic = make.results_of([make.comparison_pair(real_is_dead=True)])
    [row] = data_of(write_gallery(tmp_path, [real, synthetic, compare(real, synthetic)]))["features"]
    best = synthetic.features[0].examples[0]
    assert row["example"][1] == best.tokens[best.peak_position]
    assert best.text in row["words"]
    assert (row["density"], row["real_max"]) == (0.0, 0.0)


def test_words_are_those_of_text_and_search(run):
    folder, real, synthetic, _ = run
    found = synthetic.features[0]
    found = replace(found, examples=(replace(found.examples[0], text="only the search wrote this"),))
    [row, _] = data_of(write_gallery(folder, [real, replace(synthetic, features=(found,))]))["features"]
    assert real.features[0].examples[0].text in row["words"]
    assert "only the search wrote this" in row["words"]


def test_pictures_that_no_result_here_describes_are_left_out(run):
    """Such as those of another SAE whose result was in the folder before."""
    folder, real, _, _ = run
    data = data_of(write_gallery(folder, [real]))
    assert [row["pictures"] for row in data["features"]] == [["feature_0_real.png"], ["feature_1_real.png"]]
    (folder / "statistics_synthetic.png").write_bytes(b"picture")
    assert "the search" not in {one["title"] for one in data_of(write_gallery(folder, [real]))["overviews"]}


def test_a_poor_fit_is_said_before_all_else(run):
    folder, real, synthetic, comparison = run
    poor = replace(real, fit=replace(real.fit, explained_variance=-0.2))
    assert data_of(write_gallery(folder, [poor, synthetic, comparison]))["about"].startswith("POOR FIT")
    assert data_of(write_gallery(folder, [real, synthetic, comparison]))["about"].startswith("SAE ")


def test_what_an_earlier_run_left_behind_is_found(run):
    folder, *_ = run
    ours = [folder / "feature_0_real.png", folder / "statistics_real.png", folder / "summary_1_real.png"]
    others = ("real.parquet", "feature_5_real.svg", "feature_5_real.txt", "my_feature_5_real.png", "real.json")
    for name in others:
        (folder / name).write_bytes(b"something")
    found = {path.name for path in left_behind("real", ours, folder)}
    summaries = {f"summary_{page}_real.png" for page in range(2, 12)}
    assert found == summaries | {"feature_1_real.png", "feature_5_real.svg", "real.parquet"}


def test_pictures_are_those_in_the_folder_pages_in_order(run):
    folder, real, synthetic, comparison = run
    data = data_of(write_gallery(folder, [real, synthetic, comparison]))
    assert [row["pictures"] for row in data["features"]] == [
        ["feature_0_comparison.png", "feature_0_real.png", "feature_0_synthetic.png"],
        ["feature_1_real.png"],
    ]
    overviews = {one["title"]: one["pictures"] for one in data["overviews"]}
    assert overviews == {
        "summary, real": [f"summary_{page}_real.png" for page in range(1, 12)],
        "the dictionary": ["statistics_real.png"],
    }


def test_one_analysis_alone_has_its_columns(run):
    folder, real, synthetic, _ = run
    names = [
        [column["name"] for column in data_of(write_gallery(folder, [result]))["columns"]]
        for result in (real, synthetic)
    ]
    assert names == [["feature", "density", "real_max", "example"], ["feature", "synthetic_max", "example"]]


def test_a_feature_that_was_not_searched_is_marked(run):
    folder, _, synthetic, _ = run
    first, second = synthetic.features
    hasty = replace(first, search=replace(first.search, beginnings=first.search.token_evaluations))
    data = data_of(write_gallery(folder, [replace(synthetic, features=(hasty, second))]))
    assert [row["search"] for row in data["features"]] == [NOT_SEARCHED, None]
    assert NOT_SEARCHED in data["features"][0]["words"], "for whoever looks for it"
    assert [column["name"] for column in data["columns"]] == ["feature", "synthetic_max", "search", "example"]


def test_the_page_asks_for_nothing_from_elsewhere(run):
    folder, real, *_ = run
    page = write_gallery(folder, [real]).read_text()
    assert not re.search(r"https?://|<link|<script src|@import|url\(", page)


@pytest.mark.parametrize("token", ["</script><b>", "<!--", "\u2028", "\ud800", "\x00", "${1}", "__DATA__"])
def test_no_token_breaks_the_page(run, token):
    folder, real, *_ = run
    stats = real.features[0]
    best = stats.examples[0]
    tokens = tuple(token if at == best.peak_position else one for at, one in enumerate(best.tokens))
    hostile = replace(stats, examples=(replace(best, tokens=tokens), *stats.examples[1:]))
    data = data_of(write_gallery(folder, [replace(real, features=(hostile,))]))
    assert data["features"][0]["example"][1] == token


def test_a_failed_write_leaves_the_old_page(run, monkeypatch):
    folder, real, *_ = run
    (folder / "index.html").write_text("old")
    monkeypatch.setattr(
        "pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OutputError, match="No space left on device"):
        write_gallery(folder, [real])
    assert (folder / "index.html").read_text() == "old"
