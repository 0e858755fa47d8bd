"""Products by another library are the same products."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from sae_analysis import products
from sae_analysis.products import fast_products, product


@pytest.fixture(autouse=True)
def every_product_is_worth_it(monkeypatch):
    monkeypatch.setattr(products, "_WORTH_IT", 0)


@pytest.fixture
def given(monkeypatch):
    """Keep the shapes of what oneDNN is given."""
    seen, multiply = [], products._by_onednn

    def counted(left, right, bias):
        seen.append(tuple(left.shape))
        return multiply(left, right, bias)

    monkeypatch.setattr(products, "_by_onednn", counted)
    return seen


@pytest.mark.parametrize("is_available", [True, False])
def test_a_product_is_what_float64_says_to_the_precision_of_float32(monkeypatch, is_available):
    if not is_available:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        monkeypatch.setattr(products, "_by_onednn", None)
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(7, 300, generator=draw), torch.randn(300, 11, generator=draw).T
    found = product(left, right)
    assert (found.dtype, found.layout, found.is_contiguous()) == (torch.float32, torch.strided, True)
    torch.testing.assert_close(found.double(), left.double() @ right.double().T, rtol=0, atol=1e-4)
    assert (product(left[:1], right) - found[:1]).abs().max() < 1e-4


def test_a_long_run_has_few_numbers_of_rows(given):
    """oneDNN keeps code for each that it has seen."""
    right = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    for rows in range(1, 2100):
        left = torch.arange(rows * 8.0).reshape(rows, 8)
        torch.testing.assert_close(product(left, right), left @ right.T)
    assert len(set(given)) == 33
    assert all(taken[0] < rows * 9 / 8 + 32 for rows, taken in enumerate(given, 1))
    assert products.with_few_numbers(2049) == 2304


def test_no_product_is_taken_in_less_than_float32():
    """Such numbers are whole in float32, and in bfloat16 or TF32 they are not."""
    left, right = torch.full((40, 64), 1.0), torch.full((50, 64), 1.0 + 2.0**-15)
    assert product(left, right).unique().tolist() == [64.0 + 2.0**-9]


@pytest.mark.parametrize("has_bias", [True, False])
def test_layers_give_the_same_in_the_context(given, has_bias):
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=draw) for shape in ((3, 5, 64), (40, 64), (40,)))
    layer = nn.Linear(64, 40, bias=has_bias)
    with torch.no_grad():
        layer.weight.copy_(weight)
        plain = layer(x), torch.addmm(bias, x[0], weight.T), functional.linear(x[0, 0], weight)
        assert given == []
        with fast_products():
            fast = layer(x), torch.addmm(bias, x[0], weight.T), functional.linear(x[0, 0], weight)
    assert given == [(32, 64), (32, 64)], "a vector is left where it is"
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


def test_nothing_changes_where_gradients_are_on_or_numbers_are_of_another_kind(given):
    x, weight = torch.ones(4, 8, requires_grad=True), torch.ones(3, 8)
    with fast_products():
        functional.linear(x, weight).sum().backward()
    assert torch.equal(x.grad, torch.full((4, 8), 3.0))
    with torch.no_grad(), fast_products():
        functional.linear(x.bfloat16(), weight.bfloat16())
        functional.linear(x.double(), weight.double())
        torch.addmm(torch.ones(4, 3), x, weight.T, beta=2.0)
    assert given == []


def test_small_products_are_left_where_they_are(given, monkeypatch):
    monkeypatch.setattr(products, "_WORTH_IT", 4 * 8 * 3 + 1)
    product(torch.ones(4, 8), torch.ones(3, 8))
    assert given == []
    product(torch.ones(5, 8), torch.ones(3, 8))
    assert given == [(32, 8)]


def test_contexts_may_stand_in_one_another(given):
    with torch.no_grad(), fast_products(), fast_products():
        found = torch.addmm(torch.ones(3), torch.ones(4, 8), torch.ones(8, 3))
    assert found.tolist() == [[9.0] * 3] * 4
    assert set(given) == {(32, 8)}
