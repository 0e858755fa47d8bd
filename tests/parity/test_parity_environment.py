"""Where one of the libraries is installed, all are, in the versions pinned, and none of these tests is skipped."""

import importlib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

HERE = Path(__file__).parent
LINES = (HERE.parents[1] / "requirements-parity.txt").read_text().splitlines()
PINS = [Requirement(line) for line in LINES if line and not line.startswith("#")]
LIBRARIES = ("sae-lens", "eai-sparsify", "dictionary-learning", "llamascopium", "circuit-tracer")

if not any(list(metadata.distributions(name=name)) for name in LIBRARIES):
    pytest.skip("none of the libraries is installed: they are by 'make parity'", allow_module_level=True)


@pytest.mark.parametrize("pin", PINS, ids=str)
def test_every_pin_is_installed(pin):
    if pin.marker and not pin.marker.evaluate():
        pytest.skip(f"not for this Python: {pin.marker}")
    assert metadata.version(pin.name) in pin.specifier


@pytest.mark.parametrize("file", sorted(path.stem for path in HERE.glob("test_parity_*.py")))
def test_none_is_skipped(file):
    """A library that is there but cannot be imported is a failure, not a reason to skip."""
    if file.endswith("llamascopium") and not list(metadata.distributions(name="llamascopium")):
        pytest.skip("not for this Python")
    try:
        importlib.import_module(file)
    except pytest.skip.Exception as skipped:
        pytest.fail(str(skipped))
