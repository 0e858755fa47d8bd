"""What tests of reading checkpoints share: an input, how far a result is off, what is said where one is refused."""

import pytest
import torch

from sae_analysis.errors import SAEFormatError
from sae_analysis.sae_formats import load_sae


def inputs(d, tokens=40):
    return 2 * torch.randn(tokens, d, generator=torch.Generator().manual_seed(5))


def furthest(found, expected):
    return float((found.double() - expected).abs().max())


def refusal(path):
    """What is said of a path that is refused: one line, and not a long one."""
    with pytest.raises(SAEFormatError) as caught:
        load_sae(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message.replace(str(path), "")) < 1000
    return message
