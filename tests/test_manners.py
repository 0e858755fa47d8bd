"""How the command line behaves: what is printed on whose wish, and a run again from its result."""

import argparse
import fcntl
import io
import json
import os
import pty
import statistics
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import record_factory as make

from sae_analysis.artifacts import read_any, read_result, write_result
from sae_analysis.errors import OutputError
from sae_analysis.main import _parser, main, screen
from sae_analysis.main.arguments import HelpFormatter
from sae_analysis.main.examples import EXAMPLES
from sae_analysis.main.repeating import arguments_of

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def options(model_folder, fitting_sae_folder, corpus_file):
    return ["--model", str(model_folder), "--sae", str(fitting_sae_folder), "--corpus", str(corpus_file)]


def content(path):
    """Return a result without the time at which it was made."""
    found = json.loads(path.read_text())
    for run in (found.get("provenance"), found.get("real"), found.get("synthetic")):
        if run:
            run["created"] = ""
    return found


class Terminal(io.StringIO):
    """A stderr at which somebody looks."""

    def isatty(self):
        return True


def test_a_bar_of_features_counts_whole_ones_and_one_that_did_nothing_disappears(monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    screen.set_manner(is_quiet=False, as_json=False)
    with screen.spending_bar("describing", "feature"):
        pass
    assert "describing" in terminal.getvalue()
    assert terminal.getvalue().endswith(" \r")
    assert "\n" not in terminal.getvalue()
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with screen.spending_bar("looking closer", "feature") as advance:
        advance(2, 20)
    assert " 2/20 " in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with screen.spending_bar("reading", "tok", done=2_000) as advance:
        advance(4_000, 20_000)
    assert " 6.00k/20.0k " in terminal.getvalue()


# --- quiet, JSON, the last line ------------------------------------------------------------------------------------


def test_a_quiet_run_says_nothing_and_an_error_all_the_same(options, tmp_path, capsys):
    plain = ["real", *options, "--features", "1", "--no-figures", "--seq-len", "32", "--output", str(tmp_path)]
    assert main([*plain, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main([*plain, "--quiet", "--features", "999"]) == 2
    assert capsys.readouterr().err.startswith("error: Feature 999 does not exist")
    assert main(plain) == 0
    assert capsys.readouterr().out.startswith("SAE: "), "quiet is of one command"


def test_a_summary_as_json_is_a_line_with_the_report_and_the_files(options, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["real", *options, "--features", "1", "--seq-len", "32", "--output", str(out), "--json"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    said = json.loads(line)
    assert said["files"][0] == str(out / "real.json")
    assert sorted(map(Path, said["files"])) == sorted(out.iterdir())
    assert (said["output"], said["browse"]) == (str(out), str(out / "index.html"))
    fit = read_result(out / "real.json").fit
    assert list(said["report"]) == ["sae", "model", "hook", "corpus", "tokens", "bos", "fit", "features"]
    assert said["report"]["fit"].startswith(f"explained variance {fit.explained_variance:.3f}")
    numbers = said["numbers"]
    assert (said["result"], said["left_behind"], numbers["features"]) == ("real", [], 1)
    assert (numbers["explained_variance"], numbers["token_count"]) == (fit.explained_variance, fit.token_count)
    assert main(["real", *options, "--features", "2", "--seq-len", "32", "--output", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_behind"] == [str(out / "feature_1_real.png")]
    assert main(["redraw", str(out / "real.json"), "--output", str(tmp_path / "again"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["report"] == {}
    assert sorted(map(Path, again["files"])) == sorted((tmp_path / "again").iterdir())


def test_the_last_line_says_where_to_look_and_many_files_are_not_listed(tmp_path, capsys):
    screen.set_manner(is_quiet=False, as_json=False)
    pages = [tmp_path / f"feature_{number}_real.png" for number in range(20)]
    screen.print_summary({}, [*pages, tmp_path / "index.html"], tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        f"Wrote 21 files to {tmp_path}:",
        *(f"  {page}" for page in pages[:12]),
        "  … and 9 more",
        f"To look at them, open {tmp_path / 'index.html'}",
    ]
    screen.print_summary({}, [tmp_path / "real.json"], tmp_path)
    assert capsys.readouterr().out == f"Wrote 1 file to {tmp_path}:\n  {tmp_path / 'real.json'}\n"


def test_features_that_only_one_result_describes_are_named(tmp_path, capsys):
    pairs = [make.comparison_pair(potential=20.0), make.comparison_pair(), make.comparison_pair(synthetic_is_dead=True)]
    real, synthetic = make.results_of(pairs)
    two = replace(synthetic, features=synthetic.features[:2])
    files = []
    for name, result in (("real", real), ("synthetic", synthetic), ("two", two)):
        files.append(tmp_path / f"{name}.json")
        write_result(result, files[-1])
    command = ["compare", "--real", str(files[0]), "--no-figures", "--output", str(tmp_path / "out")]
    assert main([*command, "--synthetic", str(files[1])]) == 0
    said = capsys.readouterr().out
    assert "Compared: 3 features on 1,000,000 tokens\n" in said
    assert main([*command, "--synthetic", str(files[2])]) == 0
    said = capsys.readouterr().out
    assert (
        "Compared: 2 features on 1,000,000 tokens; left out, since only one of the results describes them: 2\n" in said
    )
    assert main([*command, "--synthetic", str(files[1]), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    found = read_any(tmp_path / "out" / "comparison.json")
    assert said["result"] == "comparison"
    assert said["numbers"] == {
        "features": 3,
        "token_count": 1_000_000,
        "verdicts": {"superstimulus": 1, "same trigger": 1, "search failed": 1},
        "unsettled": sum(one.is_settled is False for one in found.features),
        "median_realised": statistics.median(one.realised for one in found.features[:2]),
    }


def test_pages_of_an_earlier_run_are_said_to_be_still_there(tmp_path, capsys):
    screen.set_manner(is_quiet=False, as_json=False)
    for number in range(3):
        (tmp_path / f"feature_{number}_real.png").write_bytes(b"")
    screen.print_summary({}, [tmp_path / "feature_2_real.png"], tmp_path, result="real")
    said = "Still there, of an earlier run that real.json no longer describes: feature_0_real.png and 1 more"
    assert capsys.readouterr().out.splitlines()[-1] == said


def on_a_terminal(*arguments, **environment):
    """Return what a command prints to a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    command = [sys.executable, "main.py", *arguments]
    clean = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(command, cwd=ROOT, stderr=theirs, stdout=theirs, env=clean | environment)
    os.close(theirs)
    printed = b""
    try:
        while block := os.read(ours, 1 << 12):
            printed += block
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    process.wait()
    return printed.decode()


def test_colours_are_for_terminals_alone_and_for_those_who_want_them():
    assert "\x1b[1;31merror:\x1b[0m argument --features" in on_a_terminal("real", "--features")
    assert "\x1b[" not in on_a_terminal("real", "--features", NO_COLOR="1")
    found = subprocess.run(
        [sys.executable, "main.py", "real", "--features"], cwd=ROOT, capture_output=True, check=False
    )
    assert found.stderr.startswith(b"error: argument --features")


def test_bars_show_rate_and_time_left_on_a_terminal_unless_quiet(options, tmp_path):
    run = ["real", *options, "--features", "1", "--seq-len", "32", "--no-figures", "--output", str(tmp_path)]
    loud = on_a_terminal(*run)
    assert "reading: " in loud
    assert "tok/s" in loud
    assert on_a_terminal(*run, "--quiet") == ""


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"sae-analysis {version('sae-analysis')}\n")


def test_a_checkout_that_was_not_installed_runs_all_the_same(monkeypatch, capsys):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", absent)
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    said = capsys.readouterr().out
    assert (ended.value.code, said) == (0, "sae-analysis of a checkout that is not installed\n")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["re"], ["real", "redraw"]),
        (["real", "--check"], ["--checkpoint-every"]),
        (["real", "--theme", ""], ["light", "dark", "print"]),
        (["inspect", "--sae", "LIC"], ["LICENSE"]),
    ],
)
def test_a_shell_completes_modes_options_values_and_files(typed, offered, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", "bash"])
    assert ended.value.code == 0
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    words = " ".join(f"'{word}'" for word in ("sae-analysis", *typed))
    script = (
        f"source {tmp_path / 'completion'}; COMP_WORDS=({words}); COMP_CWORD={len(typed)}; "
        "_shtab_sae_analysis; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    found = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stdout.split() == offered, found.stderr


# --- again ---------------------------------------------------------------------------------------------------------


def test_a_run_is_repeated_from_its_result(options, tmp_path):
    asked = ["--features", "2,0", "--seq-len", "24", "--max-tokens", "300", "--max-examples", "3", "--seed", "0"]
    asked += ["--norm-outliers", "7.5", "--pack", "--table"]
    assert main(["real", *options, *asked, "--threads", "1", "--no-figures", "--output", str(tmp_path / "one")]) == 0
    first = tmp_path / "one" / "real.json"
    assert main(["real", "--config", str(first), "--no-figures", "--output", str(tmp_path / "two")]) == 0
    one, two = content(first), content(tmp_path / "two" / "real.json")
    # The way to encode was measured then, and is said now.
    assert (one["provenance"]["asked"].pop("encoder"), two["provenance"]["asked"].pop("encoder")) == ("auto", "dense")
    assert two == one
    assert (tmp_path / "two" / "real.parquet").exists()
    run = read_result(first).provenance
    assert {"mode": "real", "features": "2,0", "pack": True, "hook": None, "norm_outliers": 7.5}.items() <= (
        run.asked.items()
    )
    assert not {"output", "threads", "no_figures", "run", "config"} & run.asked.keys()
    # What is typed beside it counts.
    other = ["--features", "1", "--output", str(tmp_path / "three")]
    assert main(["real", "--config", str(first), "--no-figures", *other]) == 0
    third = read_result(tmp_path / "three" / "real.json")
    assert [stats.feature_idx for stats in third.features] == [1]
    assert third.provenance.options == run.options


def test_a_search_and_a_comparison_are_repeated_too(options, tmp_path):
    searched = ["--features", "1", "--budget", "300", "--seq-len", "4", "--n-steps", "0", "--firings", "0"]
    one, two = tmp_path / "one", tmp_path / "two"
    common = ["--threads", "1", "--no-figures", "--encoder", "dense"]  # which a repetition says, where it was measured
    assert main(["compare", *options, *searched, *common, "--output", str(one)]) == 0
    again = ["compare", "--config", str(one / "comparison.json"), "--no-figures", "--output", str(two)]
    assert main(again) == 0
    for kind in ("real", "synthetic", "comparison"):
        assert content(two / f"{kind}.json") == content(one / f"{kind}.json"), kind
    typed = arguments_of(str(one / "synthetic.json"), "compare")
    assert "--n-steps=0" in typed
    assert "--firings=0" in typed
    given = ["--real", str(one / "real.json"), "--synthetic", str(one / "synthetic.json"), str(two / "synthetic.json")]
    assert main(["compare", *given, "--no-figures", "--output", str(tmp_path / "given")]) == 0
    assert read_any(tmp_path / "given" / "comparison.json").asked["synthetic"] == (given[3], given[4])
    again = ["compare", "--config", str(tmp_path / "given" / "comparison.json"), "--output", str(tmp_path / "again")]
    assert main([*again, "--no-figures"]) == 0
    assert content(tmp_path / "again" / "comparison.json") == content(tmp_path / "given" / "comparison.json")


def test_what_is_given_beside_a_result_drops_what_it_takes_the_place_of(options, corpus_file, tmp_path):
    one, two, three, four = (tmp_path / name for name in ("one", "two", "three", "four"))
    run = [*options, "--features", "1", "--threads", "1", "--no-figures"]
    small = ["--budget", "300", "--seq-len", "4", "--n-steps", "0"]
    assert main(["compare", *run, *small, "--output", str(one)]) == 0
    without_text = [part for part in run if part not in ("--corpus", str(corpus_file))]
    from_result = ["--real", str(one / "real.json"), *small, "--output", str(two)]
    assert main(["synthetic", *without_text, *from_result]) == 0
    again = ["--config", str(two / "synthetic.json"), "--no-figures"]
    assert main(["synthetic", *again, f"--corp={corpus_file}", "--output", str(three)]) == 0
    asked = read_result(three / "synthetic.json").provenance.asked
    assert (asked["real"], asked["corpus"]) == (None, str(corpus_file))
    back = ["--config", str(three / "synthetic.json"), "--no-figures", "--real", str(one / "real.json")]
    assert main(["synthetic", *back, "--output", str(four)]) == 0
    assert content(four / "synthetic.json") == content(two / "synthetic.json")
    given = ["--real", str(one / "real.json"), "--synthetic", str(one / "synthetic.json")]
    assert main(["compare", *given, "--no-figures", "--output", str(two)]) == 0
    kept = arguments_of(str(two / "comparison.json"), "compare", ["--corpus", "demo"])
    assert not any(part.startswith("--real") for part in kept)
    assert "--synthetic" in kept


def test_a_result_of_another_mode_or_of_none_is_refused(options, tmp_path, capsys):
    run = [*options, "--features", "1", "--seq-len", "32", "--no-figures", "--output", str(tmp_path)]
    assert main(["real", *run]) == 0
    capsys.readouterr()
    path = tmp_path / "real.json"
    assert main(["synthetic", "--config", str(path)]) == 2
    assert capsys.readouterr().err == (
        f"error: Result {path} was made by real, and synthetic cannot repeat it: give a result of synthetic.\n"
    )
    old = json.loads(path.read_text())
    del old["provenance"]["asked"]
    path.write_text(json.dumps(old))
    with pytest.raises(OutputError, match="was made from Python, or by an earlier version, and real cannot"):
        arguments_of(str(path), "real")
    old["provenance"]["asked"] = {"mode": "real", "no_such_option": 1}
    path.write_text(json.dumps(old))
    with pytest.raises(SystemExit):
        main(["real", "--config", str(path)])
    assert capsys.readouterr().err == ("error: unrecognized arguments: --no-such-option=1 (see sae-analysis --help)\n")


def test_a_path_of_another_folder_that_a_result_asks_for_is_said_to_be_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make.provenance(asked={"mode": "real", "sae": "lens6", "seq_len": 32})
    write_result(make.result([make.stats()], provenance=run), tmp_path / "real.json")
    again = ["real", "--config", "real.json", "--output", str(tmp_path / "out")]
    assert main(again) == 2
    said = capsys.readouterr().err
    assert "error: SAE lens6 does not exist: " in said
    assert said.endswith(". lens6 is as real.json has it: a path is relative to the folder of that run.\n")
    for other in (["--sae", "lens6"], ["--sae=./lens7"], ["--sae", "/nowhere/lens6"]):
        assert main([*again, *other]) == 2
        assert "is relative to" not in capsys.readouterr().err
    run = make.provenance(asked={"mode": "real", "sae": "/nowhere/lens6"})
    write_result(make.result([make.stats()], provenance=run), tmp_path / "real.json")
    assert main(again) == 2
    assert "is relative to" not in capsys.readouterr().err


def test_a_misspelt_option_is_guessed(capsys):
    with pytest.raises(SystemExit):
        main(["real", "--fetures", "0"])
    assert capsys.readouterr().err == (
        "error: unrecognized arguments: --fetures 0: did you mean --features? (see sae-analysis --help)\n"
    )


def test_an_option_of_other_modes_is_told_from_a_misspelt_one(capsys):
    with pytest.raises(SystemExit):
        main(["real", "--fluency", "3"])
    assert capsys.readouterr().err == (
        "error: unrecognized arguments: --fluency 3: it is an option of synthetic, compare (see sae-analysis --help)\n"
    )


@pytest.mark.parametrize("given", ["model", "sae"])
def test_half_a_demo_is_said_to_be_one(options, monkeypatch, tmp_path, capsys, given):
    model_folder, fitting_sae_folder = (Path(options[at]) for at in (1, 3))
    monkeypatch.setattr("sae_analysis.demo.default_model_folder", lambda *_: model_folder)
    monkeypatch.setattr("sae_analysis.demo.default_sae_path", lambda: fitting_sae_folder)
    path = {"model": model_folder, "sae": fitting_sae_folder}[given]
    short = ["--features", "1", "--max-tokens", "300", "--no-figures", "--output", str(tmp_path)]
    assert main(["real", f"--{given}", str(path), *short]) == 0
    ours, theirs = ("SAE", "model") if given == "model" else ("model", "SAE")
    assert f"The {ours} is the demo's (" in (said := capsys.readouterr().err)
    assert f"), the {theirs} is not.\n" in said
    assert main(["real", "--model", str(model_folder), "--sae", str(fitting_sae_folder), *short]) == 0
    assert "the demo's" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("comparee", "compare"),
        ("reel", "real"),
        ("export --to neuronpeda", "neuronpedia"),
        ("real --theme drak", "dark"),
    ],
)
def test_a_misspelt_mode_or_choice_is_guessed(capsys, typed, meant):
    with pytest.raises(SystemExit):
        main(typed.split())
    assert f"): did you mean {meant}? (see sae-analysis" in capsys.readouterr().err


def test_a_choice_that_resembles_none_is_not_guessed(capsys):
    with pytest.raises(SystemExit):
        main(["bogus"])
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize("mode", EXAMPLES)
def test_help_is_short_and_whole(mode):
    [modes] = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    parser = modes.choices[mode]
    usage, *rest = parser.format_help().splitlines()
    assert usage.startswith(f"usage: sae-analysis {mode} ")
    assert usage.endswith("[options]")
    assert "(default: [])" not in " ".join(" ".join(rest).split())
    grouped = {"subject", "text", "search", "output", "machine", "long runs"}
    alone = {"help", "config", "results", "parts", "result"}
    for group in parser._action_groups:
        for action in group._group_actions:
            assert group.title in grouped or action.dest in alone or "text" in (group.title or ""), action.dest
            assert HelpFormatter("x")._expand_help(action).count("(default") <= 1, action.dest
    assert [line.strip() for line in rest[-len(EXAMPLES[mode]) :]] == [f"sae-analysis {one}" for one in EXAMPLES[mode]]
    for example in EXAMPLES[mode]:
        parsed = _parser().parse_args(example.split())
        assert parsed.run is parser.get_default("run")


def test_an_interpreter_without_our_packages_is_told_what_to_do():
    command = [sys.executable, "-S", "main.py", "real"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == (
        f"error: lazy_loader is not installed for {sys.executable}: run make setup, then "
        "'source .venv/bin/activate', or pip install -e .\n"
    )


def test_a_budget_that_beginnings_use_up_is_said(options, tmp_path, capsys):
    run = ["synthetic", *options, "--features", "1", "--no-figures", "--output", str(tmp_path)]
    assert main([*run, "--budget", "200"]) == 0
    [stats] = read_result(tmp_path / "synthetic.json").features
    assert stats.search.beginnings == stats.search.token_evaluations > 200
    said = f"beginnings alone took {stats.search.beginnings:,}, and nothing was searched: give a larger --budget"
    assert said in capsys.readouterr().out
    assert main([*run, "--budget", "20000", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert "beginnings" not in printed["report"]["search"]
    assert main([*run, "--budget", "4000"]) == 0
    [little] = read_result(tmp_path / "synthetic.json").features
    spent, in_all = little.search.beginnings, little.search.token_evaluations
    assert in_all / 2 < spent < in_all
    assert f"; beginnings took {spent:,} of {in_all:,}: a larger --budget searches longer\n" in capsys.readouterr().out
    assert main([*run, "--budget", "20000"]) == 0
    assert printed["numbers"]["not_searched"] == 0
    [longer] = read_result(tmp_path / "synthetic.json").features
    assert 0 < longer.search.beginnings < longer.search.token_evaluations


def test_a_search_without_a_step_is_said_where_its_results_are_compared(tmp_path, capsys):
    real, synthetic = make.results_of([make.comparison_pair(), make.comparison_pair(potential=20.0)])
    one, other = synthetic.features
    hasty = replace(one, search=replace(one.search, beginnings=one.search.token_evaluations))
    write_result(real, tmp_path / "real.json")
    command = ["compare", "--real", str(tmp_path / "real.json"), "--synthetic", str(tmp_path / "synthetic.json")]
    some = replace(other, search=replace(other.search, beginnings=50_001))
    least = replace(other, search=replace(other.search, beginnings=50_000))
    all_of_it = "beginnings alone took 100,000{}, and nothing was searched: give a larger --budget"
    for features, said in (
        ((hasty, other), all_of_it.format(" for 1 of 2 features")),
        ((hasty,), all_of_it.format("")),
        ((hasty, some), all_of_it.format(" for 1 of 2 features")),
        ((some,), "beginnings took 50,001 of 100,000: a larger --budget searches longer"),
        ((one, some), "beginnings took 50,001 of 100,000 for 1 of 2 features: a larger --budget searches longer"),
        ((least,), ""),
    ):
        write_result(replace(synthetic, features=features), tmp_path / "synthetic.json")
        assert main([*command, "--no-figures", "--output", str(tmp_path)]) == 0
        printed = capsys.readouterr().out
        assert (f"Search:   {said}\n" if said else "") in printed
        assert ("Search: " in printed) is bool(said)
        if hasty in features:
            assert "same trigger: 1 (1 unsettled)" in printed


def test_demo_is_what_stands_there_if_nothing_is_given():
    asked = _parser().parse_args(["real", "--model", "demo", "--sae", "demo", "--corpus", "demo"])
    assert (asked.model, asked.sae, asked.corpus) == (None, None, None)
