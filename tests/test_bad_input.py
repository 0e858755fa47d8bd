"""Whatever a user gets wrong is one line, exit code 2, and no harm to earlier results: the catalogue.

A row is a command, with ``{name}`` for a file of ``FILES``, and what its message must say. What a row leaves out is
given as it should be, so that nothing but the row's own mistake can be what is complained of.
"""

import json
import os
import shlex
import shutil
from pathlib import Path

import bad_input_models as models
import bad_input_options as options
import bad_input_parts as parts
import bad_input_results as results
import bad_input_saes as saes
import bad_input_texts as texts
import pytest
from command_runs import as_typed
from conftest import TEXTS

from sae_analysis.main import main

FILES = parts.FILES | models.FILES | saes.FILES | texts.FILES | results.FILES
"""Makers of bad files by name: each gets an empty folder and what is ``there``, and returns a path."""

CATALOGUE = [*parts.ROWS, *options.ROWS, *models.ROWS, *saes.ROWS, *texts.ROWS, *results.ROWS]


@pytest.fixture(scope="session")
def there(tmp_path_factory, model_folder, fitting_sae_folder):
    """Model, SAE, text, and the results of a run on them, which is the earlier run that nothing may harm."""
    root = tmp_path_factory.mktemp("there")
    corpus = root / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps({"text": " ".join(TEXTS[i % 5 :] + TEXTS[: i % 3])}) for i in range(24)))
    given = {"model": model_folder, "sae": fitting_sae_folder, "corpus": corpus}
    run = "compare --features 0,1 --seq-len 4 --budget 600 --n-steps 2 --batch-size 2 --no-figures"
    subject = [part for name, path in given.items() for part in (f"--{name}", str(path))]
    assert main([*shlex.split(run), *subject, "--output", str(root / "earlier")]) == 0
    (root / "earlier" / "feature_0_real.png").write_bytes(b"a picture")
    return given | {name: root / "earlier" / f"{name}.json" for name in ("real", "synthetic", "comparison")}


DEFAULTS = {
    "real": "--model {model} --sae {sae} --corpus {corpus} --features 0-1 --seq-len 32 --no-figures --output {earlier}",
    "synthetic": "--model {model} --sae {sae} --features 0-1 --seq-len 4 --budget 600 --n-steps 2 --no-figures "
    "--output {earlier}",
    "compare": "--model {model} --sae {sae} --corpus {corpus} --seq-len 4 --budget 600 --n-steps 2 --no-figures "
    "--output {earlier}",
    "compare --real": "--model {model} --sae {sae} --seq-len 4 --budget 600 --n-steps 2 --no-figures --output {earlier}",
    "compare --synthetic": "--model {model} --sae {sae} --corpus {corpus} --no-figures --output {earlier}",
    "compare --real --synthetic": "--no-figures --output {earlier}",
    "merge": "--output {earlier} --no-figures",
    "redraw": "--output {earlier}",
    "export": "--output {earlier}",
    "inspect": "--sae {sae}",
}
"""What a command gives where its row gives nothing; of what is given twice, the last counts."""


@pytest.fixture
def given(there, tmp_path):
    """Return the arguments of a row, with its files made, and what its message must say."""

    def arguments(command, says):
        mode, *rest = shlex.split(command) or [""]
        paths = {"tmp": tmp_path, "earlier": tmp_path / "earlier", "locked": tmp_path / "locked"} | there
        for name in FILES:
            if f"{{{name}}}" in command:
                (folder := tmp_path / name).mkdir()
                paths[name] = FILES[name](folder, there)
        beside = [option for option in ("--real", "--synthetic") if mode == "compare" and option in rest]
        words = [mode, *DEFAULTS.get(" ".join([mode, *beside]), "").split(), *rest] if mode else []
        return [word.format_map(paths) for word in words], says.format_map(paths)

    shutil.copytree(there["real"].parent, tmp_path / "earlier")
    return arguments


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def check_refused(code, out, err, says):
    assert not [*Path("/tmp").glob("executed-by-a-*")], "code of a file ran"
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert len(err) < 1500
    assert says in err


@pytest.mark.parametrize(("command", "says"), CATALOGUE, ids=[row[0][:80] for row in CATALOGUE])
def test_a_mistake_is_one_line_and_harms_nothing(*, given, tmp_path, capfd, recwarn, command, says):
    arguments, message = given(command, says)
    before = contents(tmp_path / "earlier")
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    printed = capfd.readouterr()
    check_refused(code, printed.out, printed.err, message)
    shown = [str(one.message) for one in recwarn if not issubclass(one.category, DeprecationWarning)]
    assert shown == [], "these would be lines too"
    assert contents(tmp_path / "earlier") == before


LOCKED = [
    ("real --corpus {locked}/a.txt", "Corpus {locked}/a.txt cannot be read: Permission denied. Check the file."),
    ("real --corpus {locked}", "Corpus {locked} cannot be read: Permission denied. Check the file."),
    ("real --sae {locked}/ae.pt", "SAE {locked}/ae.pt cannot be read: Permission denied. Check the file."),
    ("real --model {locked}/model", "Model {locked}/model cannot be read: Permission denied. Check the folder."),
    (
        "redraw {locked}/real.json",
        "Result {locked}/real.json cannot be read: Permission denied. Give a real.json, synthetic.json or comparison.json.",
    ),
    ("synthetic --real {locked}/real.json", "Result {locked}/real.json cannot be read: Permission denied."),
    ("real --output {locked}/out", "Output folder {locked}/out cannot be written to: Permission denied."),
]


@pytest.mark.parametrize(("command", "says"), LOCKED)
def test_what_may_not_be_looked_at_is_one_line(*, given, tmp_path, capfd, monkeypatch, command, says):
    """As for someone who is not the administrator, who may look at everything."""
    locked = str(tmp_path / "locked")
    arguments, message = given(command, says)

    def refusing(call):
        def refuse(path, *rest, **options):
            if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(locked):
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return call(path, *rest, **options)

        return refuse

    for call in ("stat", "mkdir", "scandir", "listdir"):
        monkeypatch.setattr(os, call, refusing(getattr(os, call)))
    code = main(arguments)
    printed = capfd.readouterr()
    check_refused(code, printed.out, printed.err, message)


def test_the_catalogue_is_one():
    assert len({command for command, _ in CATALOGUE}) == len(CATALOGUE) > 150
    used = " ".join(command for command, _ in CATALOGUE)
    assert [name for name in FILES if f"{{{name}}}" not in used] == []


AS_TYPED = [
    ("real --corpus {latin_text}", "is not UTF-8: byte 0xe9 at offset 3."),
    ("real --model {lacking_weights}", "lacks 1 of its parameters (first: lm_head.weight)"),
    ("real --model {own_code}", "cannot be loaded: "),
    ("real --sae {code_in_a_zip}", "is not a plain file of tensors"),
    ("synthetic --learning-rate 1e300", "expected a number above 0"),
    ("redraw {peak_outside}", "does not fit together"),
]
"""Rows in a process of their own, where the libraries' warnings would show."""


@pytest.mark.parametrize(("command", "says"), AS_TYPED)
def test_a_mistake_as_typed_is_one_line(given, tmp_path, command, says):
    arguments, message = given(command, says)
    before = contents(tmp_path / "earlier")
    found = as_typed(arguments, timeout=60)
    check_refused(found.returncode, found.stdout, found.stderr, message)
    assert contents(tmp_path / "earlier") == before
