"""What is light stays light: lower modules load no model library, and importing says and does nothing."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "transformer_lens", "matplotlib.pyplot", "datasets", "pandas")

LIGHT = (
    "sae_analysis",
    "sae_analysis.errors",
    "sae_analysis.records",
    "sae_analysis.accumulators",
    "sae_analysis.artifacts",
    "sae_analysis.files",
    "sae_analysis.feature_selection",
    "sae_analysis.visualizer",
    "sae_analysis.comparison",
    "sae_analysis.gallery",
    "sae_analysis.exports",
    "sae_analysis.reports",
    "sae_analysis.demo",
    "sae_analysis.main",
)

COMPUTING = (
    "sae_analysis.corpus",
    "sae_analysis.language_model",
    "sae_analysis.sae_interface",
    "sae_analysis.sae_formats",
    "sae_analysis.reconstruction",
    "sae_analysis.real_activations",
    "sae_analysis.synth_activations",
)

REPORT = "import sys; print(*(name for name in {heavy} if name in sys.modules), file=sys.stderr)"


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def loaded_by(module, heavy=HEAVY):
    """Return the heavy libraries that importing a module brings along, and what it prints."""
    found = run(f"import {module}; {REPORT.format(heavy=heavy)}")
    assert found.returncode == 0, found.stderr
    return found.stderr.split(), found.stdout


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_no_heavy_library_and_print_nothing(module):
    assert loaded_by(module) == ([], "")


def test_computing_modules_load_no_library_that_draws_or_loads_models():
    libraries = ("transformers", "transformer_lens", "matplotlib", "datasets", "pandas")
    assert loaded_by(", ".join(COMPUTING), libraries) == ([], "")


def test_importing_changes_no_global_state():
    modules = ", ".join((*LIGHT, *COMPUTING))
    code = (
        "import random, numpy, torch; "
        "state = lambda: (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), "
        "torch.get_default_dtype(), torch.is_grad_enabled()); "
        f"before = state(); import {modules}; assert state() == before"
    )
    assert run(code).stderr == ""


def test_this_check_can_fail():
    assert loaded_by("torch") == (["torch"], "")
    assert loaded_by("this")[1].startswith("The Zen of Python")
