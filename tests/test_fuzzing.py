"""No damaged file ends in anything but a value or an error that says so, soon and in little memory.

A short run of what ``fuzz.py`` does for as long as one likes; ``damage.py`` knows the readers and the damage.
"""

from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from damage import READERS
from fuzz import MOST_MEMORY, MOST_SECONDS
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_analysis.errors import SAEAnalysisError

FORGET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def most_memory():
    """Return the most bytes that this process had since it was asked to forget what was before; 0 where none know."""
    return int(STATUS.read_text().split("VmHWM:")[1].split()[0]) << 10 if STATUS.exists() else 0


@pytest.fixture(scope="module")
def whole():
    """Whole files of each reader, made once."""
    return {name: reader.whole() for name, reader in READERS.items()}


@pytest.mark.parametrize("name", READERS)
def test_a_whole_file_is_read(name, whole, tmp_path):
    """At least one, since some of the files that damage begins with are bad already."""
    path = tmp_path / READERS[name].file_name
    found = []
    for content in whole[name]:
        path.write_bytes(content)
        try:
            found.append(READERS[name].read(path))
        except SAEAnalysisError:
            continue
    assert found


@pytest.mark.parametrize("name", READERS)
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=200, deadline=1000 * MOST_SECONDS)
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, whole, name, seed):
    reader, chance = READERS[name], Random(seed)
    path = tmp_path_factory.getbasetemp() / f"damaged-{name}" / reader.file_name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(reader.damaged(chance.choice(whole[name]), chance))
    if FORGET.exists():
        FORGET.write_text("5")
    before = most_memory()
    with suppress(SAEAnalysisError):
        reader.read(path)
    assert most_memory() - before < MOST_MEMORY
