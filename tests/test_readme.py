"""Every command of the README, run as it stands there, on a small model; the notebook; links and pictures."""

import glob
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import matplotlib.image
import nbformat
import pytest
from nbclient import NotebookClient

from sae_analysis.main import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()

_SMALL = {
    "gelu-1l": "{model}",
    "0-100": "0-40",
    "0-200": "0-20",
    "random:20": "random:4",
    "100000": "400",
}
"""What is too large, or needs a hub, and what a test takes for it."""

_NOT_FOR_MAIN = {
    "make demo": "test_the_demo_is_the_command_of_the_makefile",
    "make test": "the suite, whose part this is",
    "make setup": "what runs this was made by it",
}


def commands(text):
    """Return the lines of all shell blocks, continued ones as one, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in (line.partition("  #")[0].strip() for line in lines) if line and not line.startswith("#")]


@pytest.fixture
def reader(tmp_path, monkeypatch, model_folder, fitting_sae_folder, corpus_file):
    """Stand in a folder where what the README names lies, and return what runs one of its commands."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("path/to").mkdir(parents=True)
    Path("path/to/model").symlink_to(model_folder)
    Path("path/to/sae").symlink_to(fitting_sae_folder)
    Path("path/to/sae.pt").symlink_to(fitting_sae_folder)
    for name in ("my_data.txt", "data.txt"):
        Path(name).write_text("\n\n".join(Path(corpus_file).read_text().splitlines()))

    def run(line):
        words = [_SMALL.get(word, word).format(model=model_folder) for word in shlex.split(line)]
        assert words[:2] == ["python", "main.py"], line
        words = [found for word in words[2:] for found in (sorted(glob.glob(word)) if "*" in word else [word])]  # noqa: PTH207
        mode = words[0]
        is_whole = "--config" in words or {"--real", "--synthetic"} <= set(words)
        if mode in ("real", "synthetic", "compare") and not is_whole:
            words += [] if "--model" in words else ["--model", str(model_folder)]
            words += [] if "--sae" in words else ["--sae", str(fitting_sae_folder)]
            words += ["--theme", "light"]
            words += [] if {"--budget", "real"} & set(words) else ["--budget", "200"]
        if mode in ("real", "compare") and not {"--corpus", "--real", "--config"} & set(words):
            words += ["--corpus", "data.txt"]
        return main(words)

    return run


def test_every_command_of_the_readme_runs_in_its_order(reader, capsys):
    found = commands(README)
    ours = [line for line in found if line.startswith("python main.py")]
    assert len(ours) > 15
    others = [line for line in found if line not in ours]
    assert set(others) <= {*_NOT_FOR_MAIN, *(line for line in others if line.startswith("pip install"))}
    prepared = False
    for line in ours:
        if " merge " in line and not prepared:
            # The README shows one shard of many; those that its merge names are made here.
            for number in (1, 2):
                assert reader(f"python main.py real --features 0-3 --shard {number}/3 --output part{number}") == 0
            prepared = True
        assert reader(line) == 0, (line, capsys.readouterr().err)
        capsys.readouterr()


def test_what_the_readme_says_of_files_is_written(reader):
    """The tables of files, but for their patterns' numbers."""
    reader("python main.py compare --features 0,1 --corpus data.txt")
    reader("python main.py real --features 0,1 --table")
    written = {re.sub(r"\d+", "N", path.name) for path in Path("results").iterdir()}
    named = set(re.findall(r"^\| `([\w.]+)` \|", README, flags=re.MULTILINE))
    assert len(named) > 9
    assert {name.replace("_P_", "_N_") for name in named} <= written


def test_extras_that_are_named_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pages = [README, *(page.read_text() for page in (ROOT / "docs").glob("*.md"))]
    named = {extra for page in pages for extra in re.findall(r"sae-analysis\[([\w-]+)\]", page)}
    assert named
    assert named <= project["optional-dependencies"].keys()


def test_the_demo_is_the_command_of_the_makefile(reader, capsys):
    recipe = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [line] = [line for line in recipe.splitlines() if "main.py" in line]
    assert reader(f"python {line.partition(' ')[2]}".replace("14000", "200").replace("random:8", "random:3")) == 0
    assert Path("results/index.html").exists()


def test_the_python_of_the_readme_runs(reader, monkeypatch, capsys):
    [block] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert "50_000" in block
    names = {}
    assert '"demo", "demo"' in block  # which would have to be fetched
    exec(block.replace("50_000", "300").replace('"demo", "demo"', '"path/to/sae", "path/to/model"'), names)
    assert capsys.readouterr().out.count("\n") > 3
    assert Path("results/feature_3_real.png").exists()
    assert names["picture"]._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"])
def test_links_and_files_that_pages_name_are_there(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:docs|tests|benchmarks|demo|sae_analysis)/[\w/.-]+\.\w+)", text):
        assert (ROOT / path).exists(), path


def test_images_of_the_readme_are_pictures():
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert shown
    for path in shown:
        height, width, _ = matplotlib.image.imread(ROOT / path).shape
        assert width > 500
        assert os.path.getsize(ROOT / path) < 1 << 20  # noqa: PTH202
        assert height > 200


def test_the_notebook_runs_and_shows_its_pictures(tmp_path, model_folder, fitting_sae_folder, corpus_file):
    """All of it in a real kernel; the subject alone is exchanged, for one that need not be fetched."""
    notebook = nbformat.read(ROOT / "docs" / "example.ipynb", as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    places = f"sae, model, text = {str(fitting_sae_folder)!r}, {str(model_folder)!r}, {str(corpus_file)!r}"
    first.source, subjects = re.subn(r"sae, model, text = .*", places, first.source)
    first.source, chosen = re.subn(r"features = \[.*\]", "features = [1, 2]", first.source)
    assert (subjects, chosen) == (1, 1)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    assert not [output for output in shown if output.output_type == "error"]
