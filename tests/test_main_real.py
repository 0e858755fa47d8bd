"""The real mode as typed: what it prints and writes, and how its options reach the result."""

import argparse
import json
import re
from dataclasses import replace

import pytest
import record_factory as make
import torch
from command_runs import as_typed
from conftest import D_MODEL, D_SAE, TEXTS, make_sae, topk_weights
from pyarrow import parquet

from sae_analysis.artifacts import read_result
from sae_analysis.main import main, real


def places(examples):
    return [(example.token_ids, example.peak_position, example.source) for example in examples]


@pytest.mark.parametrize("features", ["4,1", "top:2"])
def test_a_table_has_every_feature_and_changes_nothing_of_those_asked_for(typed, tmp_path, capsys, features):
    assert main([*typed(features=features, output=tmp_path / "plain"), "--dictionary-tokens", "1"]) == 0
    assert main([*typed(features=features), "--dictionary-tokens", "1", "--table"]) == 0
    assert str(tmp_path / "out" / "real.parquet") in capsys.readouterr().out
    assert main(typed(features="all", output=tmp_path / "all")) == 0
    plain, with_table, everything = (read_result(tmp_path / name / "real.json") for name in ("plain", "out", "all"))
    for one, other in zip(with_table.features, plain.features, strict=True):
        assert (one.feature_idx, one.active_count, one.top_tokens[0].token) == (
            other.feature_idx, other.active_count, other.top_tokens[0].token,
        )  # fmt: skip
        assert one.max_activation == pytest.approx(other.max_activation, rel=1e-5), "other products are other roundings"
        assert places(one.examples) == places(other.examples)
        assert [places(band.examples) for band in one.example_bands] == [
            places(band.examples) for band in other.example_bands
        ]
        assert one.examples[0].firing is not None
        assert dict(one.quantiles) == pytest.approx(dict(other.quantiles), rel=1e-5)
        assert one.histogram.total == other.histogram.total == one.active_count
        assert one.logit_histogram.total == other.logit_histogram.total > 0
        assert len(one.nearest_features) == len(other.nearest_features) > 0
    rows = parquet.read_table(tmp_path / "out" / "real.parquet").to_pylist()
    for row, stats in zip(rows, everything.features, strict=True):
        singles = ("feature_idx", "active_count", "density", "mean_activation", "std_activation", "max_activation")
        for name in (*singles, "decoder_norm", "logit_skew", "logit_kurtosis"):
            expected = getattr(stats, name)
            assert row[name] == (expected and pytest.approx(expected, rel=1e-5, abs=2e-6))
        assert row["fires_on"] == [activity.token for activity in stats.top_tokens]
        assert row["raises"] == [token for token, _ in stats.top_boosted_tokens]
        assert row["lowers"] == [token for token, _ in stats.top_suppressed_tokens]
        assert row["strongest_text"] == (stats.examples[0].text if stats.examples else None)
    assert sum(row["active_count"] > 0 for row in rows) > 10, "else this says nothing"


def test_a_run_writes_its_result_and_prints_the_header(typed, tmp_path, capsys, model_folder, fitting_sae_folder):
    assert main(typed()) == 0
    result = read_result(tmp_path / "out" / "real.json")
    fit, dictionary = result.fit, result.dictionary
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        f"SAE:      {fitting_sae_folder}: dictionary_learning AutoEncoderTopK (dict_class in config.json), TopK(k=12), "
        f"{D_SAE} features",
        f"Model:    {model_folder}, float32 on cpu, 1 thread",
        "Hook:     blocks.1.hook_resid_post (the SAE's configuration says so)",
        f"Corpus:   {result.provenance.corpus}: 24 documents, {fit.window_count} windows",
        f"Tokens:   {fit.token_count:,} counted; not counted: {fit.excluded['padding']:,} padding",
        "BOS:      not prepended (its tokenizer adds none)",
        f"Fit:      explained variance {fit.explained_variance:.3f}, cosine {fit.cosine:.3f}, L0 {fit.l0:.1f}",
        f"Features: {dictionary.dead_count} of {D_SAE} never fired; {dictionary.dense_count} fired on more than a "
        "tenth of the tokens",
        f"Wrote 1 file to {tmp_path / 'out'}:",
        f"  {tmp_path / 'out' / 'real.json'}",
    ]
    assert [feature.feature_idx for feature in result.features] == [0, 1, 2]
    assert fit.explained_variance > 0.5
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["real.json"]


def test_what_never_fired_is_said_of_the_tokens_on_which_all_features_were_encoded(typed, tmp_path, capsys):
    assert main([*typed(), "--dictionary-tokens", "30"]) == 0
    result = read_result(tmp_path / "out" / "real.json")
    fit, dictionary = result.fit, result.dictionary
    assert 30 <= fit.measured_tokens < fit.token_count
    assert (
        f"\nFeatures: {dictionary.dead_count} of {D_SAE} never fired in the first {fit.measured_tokens:,} tokens; "
        f"{dictionary.dense_count} fired on more than a tenth of these\n"
    ) in capsys.readouterr().out


def test_one_of_a_kind_is_no_plural(typed, tmp_path, capsys):
    (tmp_path / "one.txt").write_text("The old ship left the harbour at dawn, and the crew sang.")
    assert main(typed(corpus=tmp_path / "one.txt", features="0", seq_len=64)) == 0
    assert f"Corpus:   {tmp_path / 'one.txt'}: 1 document, 1 window\n" in capsys.readouterr().out


def test_few_windows_of_many_paragraphs_are_said_to_be_more_documents(typed, tmp_path, capsys):
    (text := tmp_path / "one.txt").write_text("\n\n".join([TEXTS[0]] * 4))
    hint = "The text is 1 document, cut into 2 windows, and an example is one a window. "
    hint += "With --text-unit blank-line it is 4 documents.\n"
    assert main(typed(corpus=text, seq_len=64)) == 0
    assert capsys.readouterr().err == hint
    for enough in ({"max_examples": 2}, {"max_tokens": 60}, {"text_unit": "blank-line"}):
        assert main(typed(corpus=text, seq_len=64, **enough)) == 0
        assert capsys.readouterr().err == "", enough


def test_a_run_as_typed_prints_the_same_and_nothing_on_stderr(typed, tmp_path):
    found = as_typed(typed(features="random:2", max_tokens=200))
    assert (found.returncode, found.stderr) == (0, "")
    result = read_result(tmp_path / "out" / "real.json")
    assert "(stopped by --max-tokens)" in found.stdout
    assert result.fit.token_count == 200
    assert len(result.features) == 2


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("5,1", [5, 1]),
        ("0-2,40-41", [0, 1, 2, 40, 41]),
        ("all", list(range(D_SAE))),
        ("dead:3", [32, 33, 34]),
    ],
)
def test_features_are_those_asked_for(typed, tmp_path, features, expected):
    assert main(typed(features=features)) == 0
    found = read_result(tmp_path / "out" / "real.json").features
    assert [feature.feature_idx for feature in found] == expected


@pytest.mark.parametrize("mode", ["real", "synthetic"])
def test_fewer_dead_features_than_were_asked_for_are_said_to_be_all(typed, capsys, mode):
    few = ["--budget", "300", "--n-steps", "0"] if mode == "synthetic" else []
    assert main([mode, *typed(features="dead:9999", seq_len=8)[1:], *few]) == 2, "more than the SAE has is a slip"
    capsys.readouterr()
    assert main([mode, *typed(features=f"dead:{D_SAE}", seq_len=8)[1:], *few]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"\nAsked:    \d+ of {D_SAE} dead features: there are no more\n", printed)
    assert main([mode, *typed(features="dead:1", seq_len=8)[1:], *few]) == 0
    assert "Asked:" not in capsys.readouterr().out


def test_top_features_are_the_most_frequent_or_the_strongest(typed, tmp_path):
    found = {}
    for features in ("all", "top:4", "top:4:max"):
        assert main(typed(features=features)) == 0
        found[features] = read_result(tmp_path / "out" / "real.json").features
    by_count = sorted(found["all"], key=lambda feature: -feature.active_count)
    by_maximum = sorted(found["all"], key=lambda feature: -feature.max_activation)
    assert found["top:4"] == tuple(by_count[:4])
    assert found["top:4:max"] == tuple(by_maximum[:4])


def test_options_reach_the_result(typed, tmp_path):
    arguments = typed(max_examples=1, norm_outliers=1.5, hook="blocks.2.hook_resid_pre", bos="always", seed=3)
    assert main([*arguments, "--pack", "--allow-poor-fit"]) == 0
    result = read_result(tmp_path / "out" / "real.json")
    options = dict(result.provenance.options)
    assert result.provenance.hook == "blocks.2.hook_resid_pre"
    assert result.provenance.bos == "prepended, not counted (bos always)"
    assert {name: options[name] for name in ("max_examples", "norm_outliers", "pack", "seed", "seq_len")} == {
        "max_examples": 1,
        "norm_outliers": 1.5,
        "pack": True,
        "seed": 3,
        "seq_len": 32,
    }
    assert result.fit.excluded.keys() == {"BOS", "norm outlier", "padding", "special"}
    assert all(len(feature.examples) <= 1 for feature in result.features)


def test_a_batch_of_nothing_but_special_tokens_is_no_obstacle(typed, tmp_path):
    (corpus := tmp_path / "corpus.json").write_text(json.dumps(["<eos><eos>", *TEXTS, "<bos>"]))
    assert main(typed(corpus=corpus, batch_size=1)) == 0
    assert read_result(tmp_path / "out" / "real.json").fit.excluded["special"] == 3


def test_a_bare_command_uses_the_demo(monkeypatch, tmp_path, model_folder, fitting_sae_folder, corpus_file):
    from sae_analysis import demo

    monkeypatch.setattr(demo, "default_model_folder", lambda *_: model_folder)
    monkeypatch.setattr(demo, "default_sae_path", lambda: fitting_sae_folder)
    monkeypatch.setattr(demo, "default_corpus", lambda: corpus_file)
    monkeypatch.chdir(tmp_path)
    assert main(["real", "--no-figures"]) == 0
    result = read_result(tmp_path / "results" / "real.json")
    assert len(result.features) == 10
    assert result.provenance.model == "SmolLM2-135M-Instruct (embedded default)"
    assert result.provenance.sae == "demo/sae (embedded default)"


def test_the_text_of_the_demo_can_be_searched_from(monkeypatch, typed, tmp_path, corpus_file):
    from sae_analysis import demo

    monkeypatch.setattr(demo, "default_corpus", lambda: (corpus_file,))
    run = typed(corpus="demo", features="1", seq_len=4)[1:]
    assert main(["synthetic", *run, "--budget", "500"]) == 0
    said = read_result(tmp_path / "out" / "synthetic.json").provenance
    assert said.options["real_windows"] > 0
    assert said.corpus.startswith("State of the Union addresses"), "as real calls it"


def broken_sae(folder, **weights):
    return make_sae(folder / "broken", topk_weights() | weights)


def test_a_poor_fit_can_be_looked_at_anyway_and_is_said_to_be_one(typed, tmp_path, capsys):
    sae = broken_sae(tmp_path, b_dec=torch.full((D_MODEL,), 100.0))
    assert main([*typed(sae=sae), "--allow-poor-fit"]) == 0
    assert read_result(tmp_path / "out" / "real.json").fit.is_poor
    assert "; POOR FIT, the mean explains more: nothing here can be trusted; inspect SAE" in capsys.readouterr().out
    assert main(typed()) == 0
    assert "POOR" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("explained", "said"),
    [
        (-0.1, "POOR FIT, the mean explains more: nothing here can be trusted; inspect SAE --model MODEL shows"),
        (0.1, "weak; inspect SAE --model MODEL shows whether it fits better elsewhere"),
        (0.31, ""),
    ],
)
def test_behind_a_fit_that_another_place_may_beat_stands_how_to_look_for_it(tmp_path, capsys, explained, said):
    result = make.result([make.stats()])
    result = replace(result, fit=replace(result.fit, explained_variance=explained))
    options = argparse.Namespace(output=tmp_path, no_figures=True)
    real.write(result, options)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Fit:"))
    assert said in line
    assert ("inspect" in line) is bool(said)
