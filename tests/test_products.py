"""Products by another library are the same products."""

import pytest
import torch

from sae_analysis.products import product


@pytest.mark.parametrize("is_available", [True, False])
def test_a_product_is_what_float64_says_to_the_precision_of_float32(monkeypatch, is_available):
    if not is_available:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        monkeypatch.setattr(torch.Tensor, "to_mkldnn", None)
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(7, 300, generator=draw), torch.randn(300, 11, generator=draw).T
    found = product(left, right)
    assert (found.dtype, found.layout, found.is_contiguous()) == (torch.float32, torch.strided, True)
    torch.testing.assert_close(found.double(), left.double() @ right.double().T, rtol=0, atol=1e-4)
    assert (product(left[:1], right) - found[:1]).abs().max() < 1e-4


def test_no_product_is_taken_in_less_than_float32():
    """Such numbers are whole in float32, and in bfloat16 or TF32 they are not."""
    left, right = torch.full((40, 64), 1.0), torch.full((50, 64), 1.0 + 2.0**-15)
    assert product(left, right).unique().tolist() == [64.0 + 2.0**-9]
