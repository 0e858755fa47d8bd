"""Weights, rules and inputs that do not fit together are refused in plain words."""

import jaxtyping
import pytest
import torch
from small_saes import WEIGHTS, by_hand, random_sae

from sae_analysis.errors import FitError, SAEFormatError
from sae_analysis.sae_interface import AbsTopK, Gated, GroupMax, JumpReLU, ReLU, SparseAutoencoder, TopK


@pytest.fixture
def unchecked_shapes():
    """Outside the tests nothing checks annotations, so the code itself must refuse shapes that do not fit."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("way", ["encode", "encode_sparse"])
def test_a_wrong_width_is_refused(way):
    with pytest.raises(FitError) as caught:
        getattr(by_hand(ReLU()), way)(torch.zeros(3, 5))
    assert str(caught.value) == ("The SAE reads activations of width 2, but was given width 5: choose another hook.")


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [("b_enc", (3,), (2,)), ("W_dec", (3, 2), (2, 2)), ("b_dec", (3,), (2,)), ("W_skip", (2, 3), (2, 2))],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_weights_that_do_not_fit_together_are_refused(name, shape, wanted):
    with pytest.raises(SAEFormatError) as caught:
        SparseAutoencoder(**WEIGHTS | {name: torch.zeros(shape)}, rule=ReLU(), subtract_b_dec=True)
    assert str(caught.value) == (
        f"The SAE's weights do not fit together: W_enc is 2 x 2, so {name} should have shape {wanted}, but it has "
        f"{shape}. The file is damaged or of another layout."
    )


@pytest.mark.parametrize("k", [0, 3])
def test_a_k_outside_the_dictionary_is_refused(k):
    for rule in (TopK(k), AbsTopK(k), GroupMax(k)):
        with pytest.raises(SAEFormatError) as caught:
            by_hand(rule)
        assert str(caught.value) == f"The SAE's k is {k}, but it has 2 features: its file is damaged."


def test_groups_that_do_not_come_out_even_are_refused():
    with pytest.raises(SAEFormatError) as caught:
        random_sae(GroupMax(3))
    assert str(caught.value) == "The SAE's 10 features cannot be cut into 3 equal groups."


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (JumpReLU(torch.ones(3)), "threshold"),
        (TopK(1, rank_by=torch.ones(3)), "rank_by"),
        (Gated(torch.ones(3), torch.ones(3), torch.ones(3)), "b_gate"),
    ],
)
def test_a_rule_of_another_dictionary_is_refused(rule, name):
    with pytest.raises(SAEFormatError) as caught:
        by_hand(rule)
    assert str(caught.value) == f"The SAE has 2 features, but its {name} has shape (3,): its file is damaged."


def test_a_rule_that_is_not_finite_is_refused():
    with pytest.raises(SAEFormatError) as caught:
        by_hand(JumpReLU(torch.tensor([0.0, float("nan")])))
    assert str(caught.value) == "The SAE's threshold holds values that are not finite: its file is damaged."


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
@pytest.mark.usefixtures("unchecked_shapes")
def test_weights_that_are_no_real_numbers_are_refused(dtype):
    with pytest.raises(SAEFormatError) as caught:
        SparseAutoencoder(**WEIGHTS | {"b_enc": torch.zeros(2, dtype=dtype)}, rule=ReLU(), subtract_b_dec=True)
    assert str(caught.value) == f"The SAE's b_enc is of type {dtype}: expected floating point numbers."


@pytest.mark.parametrize("shape", [(2,), (2, 2, 2), (2, 0)])
@pytest.mark.usefixtures("unchecked_shapes")
def test_weights_of_other_dimensions_are_refused(shape):
    with pytest.raises(SAEFormatError) as caught:
        SparseAutoencoder(**WEIGHTS | {"W_enc": torch.zeros(shape)}, rule=ReLU(), subtract_b_dec=True)
    assert str(caught.value).startswith(f"The SAE's W_enc has shape {shape}: ")


def test_a_decoder_bias_of_another_width_cannot_be_subtracted():
    with pytest.raises(SAEFormatError) as caught:
        SparseAutoencoder(
            W_enc=torch.ones(2, 3),
            b_enc=torch.ones(3),
            W_dec=torch.ones(3, 4),
            b_dec=torch.ones(4),
            rule=ReLU(),
            subtract_b_dec=True,
        )
    assert str(caught.value) == "b_dec of width 4 cannot be subtracted from inputs of width 2."


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_weights_that_are_not_finite_are_refused(name, value):
    broken = WEIGHTS[name].clone()
    broken.view(-1)[1] = value
    with pytest.raises(SAEFormatError) as caught:
        SparseAutoencoder(**WEIGHTS | {name: broken}, rule=ReLU(), subtract_b_dec=True)
    assert str(caught.value) == f"The SAE's {name} holds values that are not finite: its file is damaged."
