"""Settings given from Python: what means nothing is refused before anything is read."""

import subprocess
import sys

import pytest

from sae_analysis.corpus import Windowing
from sae_analysis.errors import SettingError
from sae_analysis.real_activations import RealSettings
from sae_analysis.synth_activations import SynthSettings


@pytest.mark.parametrize(
    ("kind", "name", "value", "wanted"),
    [
        *((Windowing, name, 0, "at least 1") for name in ("seq_len", "batch_size", "max_tokens", "chunk_size")),
        *((RealSettings, name, 0, "at least 1") for name in ("max_examples", "list_length", "dictionary_tokens")),
        (RealSettings, "norm_outliers", 0.5, "at least 1"),
        (RealSettings, "band_examples", -1, "at least 0"),
        (RealSettings, "firings", -1, "at least 0"),
        *((SynthSettings, name, 0, "at least 1") for name in ("seq_len", "budget", "max_examples", "batch_size")),
        (SynthSettings, "list_length", 0, "at least 1"),
        (SynthSettings, "n_steps", -1, "at least 0"),
        (SynthSettings, "firings", -1, "at least 0"),
        (SynthSettings, "learning_rate", float("nan"), "at least 0"),
        (SynthSettings, "fluency", 2.0, "0 to 1"),
        (SynthSettings, "fluency", -0.1, "0 to 1"),
    ],
)
def test_a_number_that_means_nothing_is_refused(kind, name, value, wanted):
    with pytest.raises(SettingError) as caught:
        kind(**{name: value})
    assert str(caught.value) == f"{name} is {value}: give {wanted}."


def test_an_unknown_way_to_encode_is_refused():
    with pytest.raises(SettingError) as caught:
        RealSettings(encoder="fast")  # pyright: ignore[reportArgumentType]
    assert str(caught.value) == "encoder is 'fast': give one of auto, dense, screened."


def test_an_unknown_word_is_refused_and_not_taken_for_no():
    """In a process of its own: here annotations are checked, and refuse the word first."""
    given = {"bos": "allways", "centre": "yes", "sign": "+"}
    script = f"""
from sae_analysis.errors import SettingError
from sae_analysis.reconstruction import attach

for name, word in {given}.items():
    try:
        attach(None, None, **{{name: word}})
    except SettingError as error:
        print(error)
"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [
        "bos is 'allways': give one of auto, always, never.",
        "center_residual is 'yes': give one of auto, on, off.",
        "vsae_sign is '+': give one of auto, relu, signed.",
    ]


def test_the_least_values_are_taken():
    Windowing(seq_len=1, batch_size=1, max_tokens=1, chunk_size=1)
    RealSettings(max_examples=1, list_length=1, dictionary_tokens=1, band_examples=0, firings=0, norm_outliers=1.0)
    SynthSettings(seq_len=1, budget=1, max_examples=1, batch_size=1, list_length=1, n_steps=0, firings=0, fluency=1.0)
