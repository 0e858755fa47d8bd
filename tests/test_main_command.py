"""The command whatever its mode: its help, one line where something goes wrong, old results that stay whole."""

import os
import subprocess
import sys

import pytest
from command_runs import ROOT, make_folder, write
from conftest import D_SAE

from sae_analysis import visualizer
from sae_analysis.errors import CorpusError
from sae_analysis.feature_selection import GRAMMAR
from sae_analysis.main import main
from sae_analysis.main.examples import EXAMPLES


@pytest.mark.parametrize("module", ["sae_analysis", "sae_analysis.main"])
def test_the_package_runs_as_a_module(typed, module):
    arguments = [sys.executable, "-m", module, *typed(features="9999")]
    found = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == f"error: Feature 9999 does not exist: the SAE has features 0 to {D_SAE - 1}.\n"


@pytest.mark.parametrize("mode", [[], *([mode] for mode in EXAMPLES)])
def test_help_imports_nothing_heavy(mode):
    code = (
        "import sys\nfrom sae_analysis.main import main\n"
        f"try:\n    main({[*mode, '--help']!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print(*{'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stderr == "\n"
    assert f"usage: {' '.join(['sae-analysis', *mode])} " in found.stdout


def test_help_names_every_default_and_no_absent_one(capsys):
    with pytest.raises(SystemExit):
        main(["real", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "(default: 128)" in printed
    assert "(default: the demo model)" in printed
    assert "None" not in printed
    assert GRAMMAR in printed


def test_help_of_a_search_names_its_options_and_no_absent_default(capsys):
    with pytest.raises(SystemExit):
        main(["synthetic", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for option in ("n-steps", "seq-len", "learning-rate", "max-examples", "batch-size", "seed", "budget", "fluency"):
        assert f"--{option} " in printed
    assert "1,600 for each token" in printed
    assert "(default: 30)" in printed
    assert "None" not in printed


def test_a_full_disk_is_one_line_and_leaves_the_old_result(typed, tmp_path, capsys, monkeypatch):
    old = write(make_folder(tmp_path / "out") / "real.json", "what an earlier run wrote")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(typed()) == 2
    assert capsys.readouterr().err == (
        f"error: {old} cannot be written: No space left on device. Free space or choose another folder.\n"
    )
    assert old.read_text() == "what an earlier run wrote"


def test_a_message_of_several_lines_is_printed_on_one(typed, capsys, monkeypatch):
    from sae_analysis import feature_selection
    from sae_analysis.errors import FeatureError

    def fail(_text):
        raise FeatureError("first\nsecond")

    monkeypatch.setattr(feature_selection, "parse_features", fail)
    assert main(typed()) == 2
    assert capsys.readouterr().err == "error: first second\n"


OF_OPTIONS = [
    ("Name it with text_field.", "Name it with --text-field."),
    ("seq_len 1 leaves no token: give max_tokens.", "--seq-len 1 leaves no token: give --max-tokens."),
    ("Check `hook` and `bos`: the hook is wrong", "Check --hook and --bos: the hook is wrong"),
    ("`d_in` and `budget` are no options here, nor is list_length", None),
    ("the field 'max_tokens', /tmp/max_tokens, max_tokens/a, max_tokens.txt, my_max_tokens, --max_tokens=3", None),
]


@pytest.mark.parametrize(("message", "said"), OF_OPTIONS)
def test_an_error_of_the_library_names_options_where_its_parameters_are_some(typed, capsys, monkeypatch, message, said):
    def fail(*_, **__):
        raise CorpusError(message)

    monkeypatch.setattr("sae_analysis.main.real.read_text", fail)
    assert main(typed()) == 2
    assert capsys.readouterr().err == f"error: {said or message}\n"


@pytest.mark.parametrize("manner", ["--quiet", ""])
def test_the_hubs_client_is_quiet_though_it_is_imported_after_the_start_and_brings_a_level_of_its_own(manner):
    code = (
        "from sae_analysis.main import main\n"
        f"main({['inspect', '/nowhere', *manner.split()]!r})\n"
        "from huggingface_hub.utils import logging\n"
        "logging.get_logger('huggingface_hub.utils._http').warning('Retrying in 1s')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_VERBOSITY"}
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (found.stdout, found.stderr.count("\n")) == ("", 1)
    assert found.stderr.startswith("error: SAE /nowhere does not exist")


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


def test_what_fails_before_it_writes_leaves_no_folder(typed, tmp_path):
    (there := tmp_path / "there").mkdir()
    for output in (tmp_path / "new" / "below", there / "below", there):
        assert main(typed(hook="nowhere", output=output)) == 2
    assert not (tmp_path / "new").exists()
    assert not list(there.iterdir())


@pytest.mark.parametrize("mode", ["real", "synthetic"])
def test_pictures_are_asked_of_the_visualizer_and_listed(*, typed, searching, tmp_path, monkeypatch, capsys, mode):
    def draw(result, folder, kind, *, drawing, progress):
        progress(1, 1)
        assert (drawing.dpi, drawing.theme, drawing.formats) == (72, visualizer.THEMES["dark"], ("png", "svg"))
        return [folder / f"feature_{feature.feature_idx}_{kind}.png" for feature in result.features]

    monkeypatch.setattr(visualizer, "visualize_features", draw)
    arguments = {"real": typed, "synthetic": searching}[mode](features="4")
    look = ["--dpi", "72", "--theme", "dark", "--format", "svg"]
    assert main([*(part for part in arguments if part != "--no-figures"), *look]) == 0
    out = tmp_path / "out"
    assert capsys.readouterr().out.endswith(
        f"Wrote 3 files to {out}:\n  {out / f'{mode}.json'}\n  {out / f'feature_4_{mode}.png'}\n"
        f"  {out / 'index.html'}\nTo look at them, open {out / 'index.html'}\n"
    )
