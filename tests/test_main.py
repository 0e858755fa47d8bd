"""The command line as typed: what it prints and writes, and one line for whatever a user gets wrong."""

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import record_factory as make
import torch
from conftest import D_MODEL, D_SAE, TEXTS, make_sae, topk_weights
from pyarrow import parquet

from sae_analysis import main as command_line
from sae_analysis.artifacts import read_result
from sae_analysis.feature_selection import GRAMMAR
from sae_analysis.main import main, real
from sae_analysis.wording import percent

ROOT = Path(command_line.__file__).resolve().parents[2]


@pytest.fixture
def typed(model_folder, fitting_sae_folder, corpus_file, tmp_path):
    """Return the arguments of a run that works, with what a test changes: a value, or None to leave one out."""

    def arguments(**changes):
        options = {
            "model": model_folder,
            "sae": fitting_sae_folder,
            "corpus": corpus_file,
            "features": "0-2",
            "seq_len": 32,
            "output": tmp_path / "out",
        } | changes
        pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in options.items() if value is not None)
        return ["real", *(part for pair in pairs for part in pair), "--no-figures"]

    return arguments


def as_typed(arguments, **environment):
    return subprocess.run(
        [sys.executable, "main.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


# --- what works ----------------------------------------------------------------------------------------------------


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


def test_the_package_runs_as_a_module(typed):
    arguments = [sys.executable, "-m", "sae_analysis", *typed(features="9999")]
    found = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == f"error: Feature 9999 does not exist: the SAE has features 0 to {D_SAE - 1}.\n"


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


def test_pictures_are_asked_of_the_visualizer_and_listed(typed, tmp_path, monkeypatch, capsys):
    from sae_analysis import visualizer

    def draw(result, folder, kind, *, drawing, progress):
        progress(1, 1)
        assert (drawing.dpi, drawing.theme, drawing.formats) == (72, visualizer.THEMES["dark"], ("png", "svg"))
        return [folder / f"feature_{feature.feature_idx}_{kind}.png" for feature in result.features]

    monkeypatch.setattr(visualizer, "visualize_features", draw)
    look = ["--dpi", "72", "--theme", "dark", "--format", "svg"]
    assert main([*(part for part in typed(features="4") if part != "--no-figures"), *look]) == 0
    assert capsys.readouterr().out.endswith(
        f"Wrote 3 files to {tmp_path / 'out'}:\n  {tmp_path / 'out' / 'real.json'}\n"
        f"  {tmp_path / 'out' / 'feature_4_real.png'}\n  {tmp_path / 'out' / 'index.html'}\n"
        f"To look at them, open {tmp_path / 'out' / 'index.html'}\n"
    )


# --- help ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["real", "--help"], ["synthetic", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom sae_analysis.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print(*{'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stderr == "\n"
    assert arguments[0].removeprefix("--help") in found.stdout


def test_help_names_every_default_and_no_absent_one(capsys):
    with pytest.raises(SystemExit):
        main(["real", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "(default: 128)" in printed
    assert "(default: the demo model)" in printed
    assert "None" not in printed
    assert GRAMMAR in printed


# --- what a user can get wrong -------------------------------------------------------------------------------------


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def broken_sae(folder, **weights):
    return make_sae(folder / "broken", topk_weights() | weights)


def make_folder(path):
    path.mkdir()
    return path


def test_a_full_disk_is_one_line_and_leaves_the_old_result(typed, tmp_path, capsys, monkeypatch):
    old = write(make_folder(tmp_path / "out") / "real.json", "what an earlier run wrote")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(typed()) == 2
    assert capsys.readouterr().err == (
        f"error: {old} cannot be written: No space left on device. Free space or choose another output folder.\n"
    )
    assert old.read_text() == "what an earlier run wrote"


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


def test_a_message_of_several_lines_is_printed_on_one(typed, capsys, monkeypatch):
    from sae_analysis import feature_selection
    from sae_analysis.errors import FeatureError

    def fail(_text):
        raise FeatureError("first\nsecond")

    monkeypatch.setattr(feature_selection, "parse_features", fail)
    assert main(typed()) == 2
    assert capsys.readouterr().err == "error: first second\n"


def test_a_bug_keeps_its_traceback(typed, monkeypatch):
    from sae_analysis import feature_selection

    monkeypatch.setattr(feature_selection, "parse_features", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(typed())


def test_ctrl_c_ends_with_130_and_leaves_the_old_result(typed, tmp_path, capsys, monkeypatch):
    from sae_analysis import real_activations

    old = write(make_folder(tmp_path / "out") / "real.json", "what an earlier run wrote")

    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(real_activations, "collect", interrupt)
    assert main(typed()) == 130
    assert capsys.readouterr() == ("", "Interrupted; what was written before is whole.\n")
    assert old.read_text() == "what an earlier run wrote"


# --- synthetic -----------------------------------------------------------------------------------------------------


@pytest.fixture
def searching(model_folder, fitting_sae_folder, tmp_path):
    """Return the arguments of a short search that works, with what a test changes, as ``typed`` does."""

    def arguments(*extra, **changes):
        options = {
            "model": model_folder,
            "sae": fitting_sae_folder,
            "features": "0-4",
            "seq_len": 4,
            "budget": 600,
            "n_steps": 2,
            "batch_size": 2,
            "output": tmp_path / "out",
        } | changes
        pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in options.items() if value is not None)
        return ["synthetic", *(part for pair in pairs for part in pair), "--no-figures", *extra]

    return arguments


def synthetic_result(tmp_path):
    return read_result(tmp_path / "out" / "synthetic.json")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_search_writes_its_result_and_prints_the_header(
    searching, tmp_path, capsys, model_folder, fitting_sae_folder
):
    assert main(searching()) == 0
    printed = capsys.readouterr()
    result = synthetic_result(tmp_path)
    beyond = sum(stats.max_activation > 1.001 * stats.search.single_token[1] for stats in result.features)
    spent = max(stats.search.token_evaluations for stats in result.features)
    assert printed.out.splitlines() == [
        f"SAE:      {fitting_sae_folder}: dictionary_learning AutoEncoderTopK (dict_class in config.json), TopK(k=12), "
        f"{D_SAE} features",
        f"Model:    {model_folder}, float32 on cpu, 1 thread",
        "Hook:     blocks.1.hook_resid_post (the SAE's configuration says so)",
        "BOS:      not prepended (its tokenizer adds none)",
        "Text:     none to begin with",
        f"Search:   600 token-evaluations a feature, sequences of 4 tokens, seed 0; beginnings alone took {spent:,}, "
        "and nothing was searched: give a larger --budget",
        f"Features: 5 of 5 fired, {beyond} of them harder than by any token alone",
        f"Wrote 1 file to {tmp_path / 'out'}:",
        f"  {tmp_path / 'out' / 'synthetic.json'}",
    ]
    assert printed.err == ""
    assert [stats.feature_idx for stats in result.features] == [0, 1, 2, 3, 4]
    assert names_in(tmp_path / "out") == ["synthetic.json"]


def test_a_search_as_typed_finds_the_same_and_says_nothing_on_stderr(searching, tmp_path):
    assert main(searching()) == 0
    first = synthetic_result(tmp_path)
    found = as_typed(searching())
    assert (found.returncode, found.stderr) == (0, "")
    assert synthetic_result(tmp_path).features == first.features


def test_the_package_of_the_command_runs_as_a_module(searching):
    arguments = [sys.executable, "-m", "sae_analysis.main", *searching(features="9999")]
    found = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == f"error: Feature 9999 does not exist: the SAE has features 0 to {D_SAE - 1}.\n"


def test_search_options_reach_the_result(searching, tmp_path):
    changes = {"learning_rate": 0.3, "fluency": 0.5, "seed": 3, "max_examples": 1, "bos": "always", "features": "7"}
    assert main(searching(**changes, hook="blocks.2.hook_resid_pre")) == 0
    result = synthetic_result(tmp_path)
    assert dict(result.provenance.options) == {
        "seq_len": 4,
        "budget": 600,
        "n_steps": 2,
        "learning_rate": 0.3,
        "fluency": 0.5,
        "max_examples": 1,
        "firings": None,
        "batch_size": 2,
        "seed": 3,
        "bos": "always",
        "list_length": 10,
        "real_windows": 0,
        "threads": "1",
    }
    assert result.provenance.hook == "blocks.2.hook_resid_pre"
    assert result.provenance.bos == "prepended, not counted (bos always)"
    assert [len(stats.examples) for stats in result.features] == [1]
    assert all(len(example.token_ids) <= 4 for example in result.features[0].examples)


def test_a_search_begins_with_the_corpus_or_with_a_real_result_of_it(searching, typed, tmp_path, corpus_file, capsys):
    assert main(searching(corpus=corpus_file)) == 0
    by_corpus = synthetic_result(tmp_path)
    windows = by_corpus.provenance.options["real_windows"]
    assert windows > 0
    said = f"Text:     {corpus_file}: the search began from {windows:,} of its windows, where features fired\n"
    assert said in capsys.readouterr().out
    assert main(typed(seq_len=128, features="0-4")) == 0
    assert main(searching(real=tmp_path / "out" / "real.json")) == 0
    by_result = synthetic_result(tmp_path)
    assert by_result.features == by_corpus.features
    assert by_result.provenance.corpus_sha256 == by_corpus.provenance.corpus_sha256 != ""


def test_text_decides_where_features_are_asked_for_by_what_they_do(searching, typed, tmp_path, corpus_file):
    assert main(typed(seq_len=128, features="top:3")) == 0
    expected = [stats.feature_idx for stats in read_result(tmp_path / "out" / "real.json").features]
    assert main(searching(corpus=corpus_file, features="top:3")) == 0
    assert [stats.feature_idx for stats in synthetic_result(tmp_path).features] == expected
    assert main(typed(seq_len=128, features="all")) == 0
    assert main(searching(real=tmp_path / "out" / "real.json", features="dead:2")) == 0
    assert [stats.feature_idx for stats in synthetic_result(tmp_path).features] == [32, 33]


def test_pictures_of_a_search_are_asked_of_the_visualizer_and_listed(searching, tmp_path, monkeypatch, capsys):
    from sae_analysis import visualizer

    def draw(result, folder, kind, *, drawing, progress):
        progress(1, 1)
        assert (drawing.dpi, drawing.theme, drawing.formats) == (72, visualizer.THEMES["dark"], ("png", "svg"))
        return [folder / f"feature_{feature.feature_idx}_{kind}.png" for feature in result.features]

    monkeypatch.setattr(visualizer, "visualize_features", draw)
    look = ["--dpi", "72", "--theme", "dark", "--format", "svg"]
    assert main([*(part for part in searching(features="4") if part != "--no-figures"), *look]) == 0
    assert capsys.readouterr().out.endswith(
        f"Wrote 3 files to {tmp_path / 'out'}:\n  {tmp_path / 'out' / 'synthetic.json'}\n"
        f"  {tmp_path / 'out' / 'feature_4_synthetic.png'}\n  {tmp_path / 'out' / 'index.html'}\n"
        f"To look at them, open {tmp_path / 'out' / 'index.html'}\n"
    )


def interrupted_after(monkeypatch, batches):
    """Let Ctrl-C be pressed when that many batches have been searched."""
    from sae_analysis.synth_activations import Search

    run, left = Search.run, [batches]

    def count_down(search, progress=None):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return run(search, progress)

    monkeypatch.setattr(Search, "run", count_down)


def searched_features(monkeypatch):
    """Return a list that fills with the features that are searched."""
    from sae_analysis.synth_activations import Search

    run, seen = Search.run, []
    monkeypatch.setattr(
        Search, "run", lambda search, progress=None: (seen.extend(search._evaluator.features), run(search, progress))[1]
    )
    return seen


def test_an_interrupted_search_goes_on_where_it_was_and_comes_to_the_same(searching, tmp_path, capsys, monkeypatch):
    assert main(searching()) == 0
    expected = synthetic_result(tmp_path).features
    old = write(tmp_path / "out" / "synthetic.json", "what an earlier run wrote")
    with monkeypatch.context() as during:
        interrupted_after(during, 1)
        capsys.readouterr()
        assert main(searching()) == 130
    assert capsys.readouterr() == (
        "",
        "2 of 5 features finished; the same command goes on from there.\n"
        "Interrupted; what was written before is whole.\n",
    )
    assert old.read_text() == "what an earlier run wrote"
    assert len(names_in(tmp_path / "out")) == 2
    searched = searched_features(monkeypatch)
    assert main(searching()) == 0
    assert capsys.readouterr().err == "Going on with an interrupted run: 2 of 5 features finished.\n"
    assert synthetic_result(tmp_path).features == expected
    assert searched == [2, 3, 4]
    assert names_in(tmp_path / "out") == ["synthetic.json"]


def test_a_damaged_file_of_finished_features_costs_only_what_is_damaged(searching, tmp_path, capsys, monkeypatch):
    assert main(searching()) == 0
    expected = synthetic_result(tmp_path).features
    with monkeypatch.context() as during:
        interrupted_after(during, 2)
        assert main(searching()) == 130
    [kept] = (tmp_path / "out").glob("*.unfinished.jsonl")
    kept.write_bytes(kept.read_bytes()[:-100])
    searched = searched_features(monkeypatch)
    capsys.readouterr()
    assert main(searching()) == 0
    assert capsys.readouterr().err == (
        f"{kept} is damaged; what stands before the damage is used.\n"
        "Going on with an interrupted run: 3 of 5 features finished.\n"
    )
    assert synthetic_result(tmp_path).features == expected
    assert searched == [2, 3, 4], "the whole batch again, so that it is what it would have been"


def test_what_another_run_finished_is_neither_taken_nor_lost(searching, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as during:
        interrupted_after(during, 1)
        assert main(searching()) == 130
    [other] = (tmp_path / "out").iterdir()
    content = other.read_bytes()
    capsys.readouterr()
    searched = searched_features(monkeypatch)
    assert main(searching(seed=1)) == 0
    assert capsys.readouterr().err == (
        f"{other} belongs to a run of other features, settings or text: it is left as it is, and nothing taken.\n"
    )
    assert searched == [0, 1, 2, 3, 4]
    assert other.read_bytes() == content
    assert main(searching()) == 0
    assert searched == [0, 1, 2, 3, 4, 2, 3, 4], "and its own command still goes on from it"


def test_ctrl_c_before_anything_is_finished_leaves_nothing(searching, tmp_path, capsys, monkeypatch):
    interrupted_after(monkeypatch, 0)
    assert main(searching()) == 130
    assert capsys.readouterr().err == (
        "0 of 5 features finished; the same command goes on from there.\n"
        "Interrupted; what was written before is whole.\n"
    )
    assert not (tmp_path / "out").exists()


def test_help_of_a_search_names_its_options_and_no_absent_default(capsys):
    with pytest.raises(SystemExit):
        main(["synthetic", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for option in ("n-steps", "seq-len", "learning-rate", "max-examples", "batch-size", "seed", "budget", "fluency"):
        assert f"--{option} " in printed
    assert "1,600 for each token" in printed
    assert "(default: 30)" in printed
    assert "None" not in printed


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
            assert [example.firing is not None for example in stats.examples][1:] in ([], [False])


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


def test_what_fails_before_it_writes_leaves_no_folder(typed, tmp_path):
    (there := tmp_path / "there").mkdir()
    for output in (tmp_path / "new" / "below", there / "below", there):
        assert main(typed(hook="nowhere", output=output)) == 2
    assert not (tmp_path / "new").exists()
    assert not list(there.iterdir())


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
