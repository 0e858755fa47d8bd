"""Comparing, redrawing and exporting results as typed."""

import json
from dataclasses import replace

import pytest
import record_factory as make
from command_runs import names_in

from sae_analysis.artifacts import read_result, write_result
from sae_analysis.main import main
from sae_analysis.wording import percent


def test_a_comparison_in_a_folder_of_its_own_is_redrawn_from_the_results_that_it_was_given(
    tmp_path, capsys, monkeypatch
):
    from sae_analysis import visualizer

    real, synthetic = make.results_of([make.comparison_pair()])
    write_result(real, tmp_path / "does.json")
    write_result(synthetic, tmp_path / "could.json")
    given = ["--real", str(tmp_path / "does.json"), "--synthetic", str(tmp_path / "could.json")]
    assert main(["compare", *given, "--no-figures", "--output", str(tmp_path / "c")]) == 0
    seen = []
    monkeypatch.setattr(visualizer, "visualize_comparison", lambda _, *results, **__: seen.extend(results[:2]) or [])
    redraw = ["redraw", str(tmp_path / "c" / "comparison.json")]
    assert main(redraw) == 0
    assert seen == [real, synthetic]
    other = replace(real, provenance=replace(real.provenance, model="beside"))
    write_result(other, tmp_path / "c" / "real.json")
    assert main(redraw) == 0
    assert seen[2:] == [other, synthetic], "what is beside it comes first"
    (tmp_path / "could.json").unlink()
    capsys.readouterr()
    assert main(redraw) == 2
    assert (
        "c/synthetic.json cannot be read: No such file or directory. Give the synthetic.json that"
        in capsys.readouterr().err
    )


# --- compare -------------------------------------------------------------------------------------------------------


@pytest.fixture
def comparing(searching, corpus_file):
    """Return the arguments of a short comparison that works, with what a test changes."""

    def arguments(*extra, **changes):
        return ["compare", *searching(*extra, **{"corpus": corpus_file, "features": "0-2"} | changes)[1:]]

    return arguments


def comparison_of(folder):
    return json.loads((folder / "comparison.json").read_text())


def test_compare_runs_both_and_writes_all_three(comparing, tmp_path, capsys):
    assert main(comparing()) == 0
    out = tmp_path / "out"
    assert names_in(out) == ["comparison.json", "real.json", "synthetic.json"]
    found = comparison_of(out)
    real, synthetic = (read_result(out / f"{name}.json").by_feature() for name in ("real", "synthetic"))
    assert sorted(one["feature_idx"] for one in found["features"]) == [0, 1, 2]
    for one in found["features"]:
        assert one["real_max"] == real[one["feature_idx"]].max_activation
        assert one["synthetic_max"] == synthetic[one["feature_idx"]].max_activation
        assert one["likeness"]["divergence_real"] is not None
    realised = sorted(one["realised"] for one in found["features"])
    assert [one["realised"] for one in found["features"]] == realised
    printed = capsys.readouterr().out
    assert f"Realised: {percent(realised[1])} (median) of what the search reached; least: " in printed
    assert printed.endswith(f"Wrote 1 file to {out}:\n  {out / 'comparison.json'}\n")


@pytest.mark.parametrize("encoder", ["dense", "screened"])
def test_compare_encodes_its_text_as_it_is_told(comparing, tmp_path, encoder):
    assert main(comparing(encoder=encoder)) == 0
    assert read_result(tmp_path / "out" / "real.json").provenance.options["encoder"] == encoder


def test_both_analyses_keep_as_many_examples_as_are_asked_for(comparing, tmp_path):
    assert main(comparing(max_examples=2, firings=1)) == 0
    for name in ("real", "synthetic"):
        for stats in read_result(tmp_path / "out" / f"{name}.json").features:
            assert 1 <= len(stats.examples) <= 2
            assert [example.firing is not None for example in stats.examples] == [True, False][: len(stats.examples)]


def test_results_are_compared_without_a_model(comparing, tmp_path, monkeypatch):
    assert main(comparing()) == 0
    out = tmp_path / "out"
    expected = comparison_of(out)
    monkeypatch.setattr("sae_analysis.language_model.load_model", None)
    monkeypatch.setattr("sae_analysis.sae_formats.load_sae", None)
    given = ["--real", str(out / "real.json"), "--synthetic", str(out / "synthetic.json")]
    assert main(["compare", *given, "--output", str(tmp_path / "again"), "--no-figures"]) == 0
    again = comparison_of(tmp_path / "again")
    assert (expected.pop("asked")["real"], again.pop("asked")["real"]) == (None, given[1])
    assert again == expected


def test_a_real_result_is_taken_instead_of_text_and_its_features_are_those(comparing, typed, tmp_path):
    assert main(typed(seq_len=128, features="3,5")) == 0
    real = tmp_path / "out" / "real.json"
    before = real.read_bytes()
    assert main(comparing(real=real, corpus=None, features=None)) == 0
    assert [one["feature_idx"] for one in comparison_of(tmp_path / "out")["features"]] in ([3, 5], [5, 3])
    assert real.read_bytes() == before


def test_features_choose_among_those_of_results_that_are_given(comparing, tmp_path, capsys):
    assert main(comparing()) == 0
    out, again, third = (tmp_path / name for name in ("out", "again", "third"))
    given = ["--real", str(out / "real.json"), "--synthetic", str(out / "synthetic.json"), "--no-figures"]
    assert main(["compare", *given, "--features", "2,0", "--output", str(again)]) == 0
    found = comparison_of(again)
    assert sorted(one["feature_idx"] for one in found["features"]) == [0, 2]
    assert found["asked"]["features"] == "2,0"
    assert main(["compare", "--config", str(again / "comparison.json"), "--no-figures", "--output", str(third)]) == 0
    assert comparison_of(third) == found
    capsys.readouterr()
    assert main(["compare", *given, "--features", "0,7", "--output", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == (
        f"error: Feature 7 is not in result {out / 'real.json'}, which describes 3 features (0 to 2): give some of "
        "these.\n"
    )


def test_what_config_asks_of_a_run_is_dropped_where_results_are_given(comparing, tmp_path):
    assert main(comparing(features="top:2", max_tokens=500)) == 0
    out, again = tmp_path / "out", tmp_path / "again"
    given = ["--real", str(out / "real.json"), "--synthetic", str(out / "synthetic.json"), "--no-figures"]
    assert main(["compare", "--config", str(out / "comparison.json"), *given, "--output", str(again)]) == 0
    first, second = comparison_of(out), comparison_of(again)
    assert second["features"] == first["features"]
    not_run = {name: second["asked"][name] for name in ("model", "sae", "features", "budget", "max_tokens", "seq_len")}
    assert not_run == {
        "model": None, "sae": None, "features": None, "budget": None, "max_tokens": None, "seq_len": 12,
    }  # fmt: skip


def test_nothing_realised_is_nothing_of_nothing(comparing, tmp_path, capsys):
    assert main(comparing(features="40")) == 0
    assert "\nRealised: nothing, since nothing fired\n" in capsys.readouterr().out


def test_pictures_of_a_comparison_are_drawn_and_listed(comparing, tmp_path, capsys):
    assert main(comparing()) == 0
    out, again = tmp_path / "out", tmp_path / "again"
    capsys.readouterr()
    given = ["--real", str(out / "real.json"), "--synthetic", str(out / "synthetic.json")]
    assert main(["compare", *given, "--output", str(again)]) == 0
    pictures = ["real_vs_synthetic_comparison.png", *(f"feature_{index}_comparison.png" for index in range(3))]
    assert names_in(again) == sorted(["comparison.json", "index.html", *pictures])
    printed = capsys.readouterr().out
    assert all(f"  {again / name}\n" in printed for name in pictures)


# --- redraw --------------------------------------------------------------------------------------------------------


def test_redraw_draws_what_a_run_drew(comparing, tmp_path, capsys):
    assert main([part for part in comparing(features="0,1") if part != "--no-figures"]) == 0
    out, again = tmp_path / "out", tmp_path / "again"
    results = [out / f"{name}.json" for name in ("real", "synthetic", "comparison")]
    expected = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".json"}
    kinds = {"real.png", "synthetic.png", "comparison.png", "index.html"}
    assert {name.split("_")[-1] for name in expected} == kinds
    capsys.readouterr()
    assert main(["redraw", *sorted(map(str, results)), "--output", str(again)]) == 0
    drawn = {path.name: path.read_bytes() for path in again.iterdir()}
    assert {name: content for name, content in drawn.items() if name.endswith(".png")} == {
        name: content for name, content in expected.items() if name.endswith(".png")
    }
    assert drawn.keys() == expected.keys()
    assert drawn["index.html"] == expected["index.html"], "all results, whichever is drawn last"
    assert capsys.readouterr().out.count("Wrote ") == 3


def test_redraw_of_some_features_draws_their_pages_alone(comparing, tmp_path, capsys):
    assert main(comparing(features="0-2")) == 0
    out, again = tmp_path / "out", tmp_path / "again"
    results = [str(out / f"{name}.json") for name in ("real", "synthetic", "comparison")]
    assert main(["redraw", *results, "--features", "0,2", "--output", str(again)]) == 0
    kinds = ("real", "synthetic", "comparison")
    assert names_in(again) == sorted(["index.html", *(f"feature_{n}_{kind}.png" for n in (0, 2) for kind in kinds)])
    capsys.readouterr()
    (alone := tmp_path / "alone").mkdir()
    (alone / "comparison.json").write_bytes((out / "comparison.json").read_bytes())
    assert main(["redraw", str(alone / "comparison.json"), "--output", str(tmp_path / "a" / "b")]) == 2
    assert not (tmp_path / "a").exists()
    assert "Give the real.json that comparison.json was made of beside it." in capsys.readouterr().err


def test_two_results_of_one_kind_are_not_drawn_over_each_other(typed, tmp_path, capsys):
    results = []
    for name in ("a", "b"):
        assert main(typed(features="4", output=tmp_path / name)) == 0
        results.append(str(tmp_path / name / "real.json"))
    capsys.readouterr()
    slides = tmp_path / "slides"
    assert main(["redraw", *results, "--output", str(slides)]) == 2
    assert capsys.readouterr().err == (
        f"error: Results {results[0]} and {results[1]} would be drawn over each other in {slides}: draw one of them, "
        "or each with an --output of its own.\n"
    )
    assert not slides.exists()
    assert main(["redraw", *results]) == 0, "beside each, there is room for both"


def test_redraw_draws_beside_a_result_unless_told_otherwise(typed, tmp_path):
    assert main(typed(features="4")) == 0
    assert main(["redraw", str(tmp_path / "out" / "real.json"), "--format", "svg", "--dpi", "50"]) == 0
    endings = [path.suffix for path in sorted((tmp_path / "out").iterdir()) if path.stem == "feature_4_real"]
    assert endings == [".png", ".svg"]


# --- export --------------------------------------------------------------------------------------------------------


def test_results_are_exported_into_a_folder_of_the_formats_name(comparing, tmp_path, capsys):
    from sae_analysis.exports import FORMATS

    assert main(comparing(features="0-2")) == 0
    out = tmp_path / "out"
    capsys.readouterr()
    for form in FORMATS:
        assert main(["export", str(out / "real.json"), "--to", form]) == 0
    assert main(["export", str(out / "comparison.json"), "--to", "parquet"]) == 0
    assert capsys.readouterr().out.endswith(
        f"Wrote 1 file to {out / 'parquet'}:\n  {out / 'parquet' / 'comparison.parquet'}\n"
    )
    assert {form: names_in(out / form) for form in FORMATS} == {
        "neuronpedia": ["batch-0.json"],
        "circuit-tracer": ["0.json", "1.json", "2.json"],
        "parquet": ["comparison.parquet", "real.parquet"],
    }
    named = ["--to", "neuronpedia", "--sae-name", "res-4k", "--model-name", "tiny", "--output", str(tmp_path / "there")]
    assert main(["export", str(out / "synthetic.json"), *named]) == 0
    batch = json.loads((tmp_path / "there" / "batch-0.json").read_bytes())
    assert (batch["model_id"], batch["sae_set"]) == ("tiny", "res-4k")


def test_what_cannot_be_exported_is_one_line_and_leaves_no_folder(comparing, tmp_path, capsys):
    assert main(comparing(features="0")) == 0
    out = tmp_path / "out"
    before = names_in(out)
    capsys.readouterr()
    assert main(["export", str(out / "comparison.json"), "--to", "neuronpedia"]) == 2
    assert capsys.readouterr().err == (
        "error: A comparison cannot be exported to neuronpedia: give a real.json or synthetic.json, or parquet.\n"
    )
    assert main(["export", str(out / "none.json"), "--to", "parquet"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(out / "real.json"), "--to", "html"])
    assert "neuronpedia" in capsys.readouterr().err
    assert names_in(out) == before
