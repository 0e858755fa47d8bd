"""Every rule worked by hand and named in words, and how far by it a feature is from firing."""

import pytest
import torch
from conftest import D_MODEL, D_SAE, K, topk_weights
from hypothesis import given
from hypothesis import strategies as st
from small_saes import ALL, D_IN, FEW, PRE, X, by_hand, pursuing, random_sae

from sae_analysis.sae_interface import (
    AbsTopK,
    Gated,
    GroupMax,
    JumpReLU,
    MatchingPursuit,
    Pursuit,
    ReLU,
    TopK,
    UnifiedSAEInterface,
)

# --- worked by hand ------------------------------------------------------------------------------------------------


def test_relu_by_hand():
    out = by_hand(ReLU()).encode(X)
    assert out.pre_activation.tolist() == PRE
    assert out.sparse_features.tolist() == [[2.5, 1.0], [0.0, 0.0]]
    assert out.top_values.tolist() == [[2.5, 1.0], [0.0, 0.0]]
    assert out.top_indices[0].tolist() == [0, 1]


def test_decoding_by_hand():
    sae = by_hand(ReLU())
    assert sae.decode(torch.tensor([[2.5, 1.0], [0.0, 0.0]])).tolist() == [[7.0, 3.0], [1.0, 2.0]]


def test_without_subtraction_by_hand():
    out = by_hand(ReLU(), subtract_b_dec=False).encode(X)
    assert out.pre_activation.tolist() == [[3.5, 1.0], [0.5, -3.0]]


def test_topk_by_hand_keeps_the_pre_activations_of_what_it_silences():
    out = by_hand(TopK(1)).encode(X)
    assert out.sparse_features.tolist() == [[2.5, 0.0], [0.0, 0.0]]
    assert out.pre_activation.tolist() == PRE
    assert out.top_values.tolist() == [[2.5], [0.0]]
    assert out.top_indices.tolist()[0] == [0]


def test_sizes_and_weights_have_the_promised_orientation(sae):
    assert (sae.activation_dim, sae.dict_size, sae.k) == (D_MODEL, D_SAE, K)
    assert sae.encoder_weights.shape == (D_MODEL, D_SAE)
    assert sae.decoder_weights.shape == (D_SAE, D_MODEL)
    assert torch.equal(sae.encoder_weights, topk_weights()["encoder.weight"].T)
    assert torch.equal(sae.decoder_weights, topk_weights()["decoder.weight"].T)


def test_information_for_reports(sae):
    assert sae.get_info() == {
        "format": "dictionary_learning AutoEncoderTopK",
        "reason": "dict_class in config.json",
        "rule": f"TopK(k={K})",
        "dict_size": D_SAE,
        "activation_dim": D_MODEL,
        "output_dim": D_MODEL,
        "is_transcoder": False,
        "k": K,
    }
    assert by_hand(ReLU()).rule_name == "ReLU"
    assert by_hand(ReLU()).k is None


# --- rules, worked by hand -----------------------------------------------------------------------------------------

ROW = torch.tensor([[0.5, -3.0, 2.0, 1.0]])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (ReLU(), [0.5, 0.0, 2.0, 1.0]),
        (JumpReLU(torch.tensor(1.0)), [0.0, 0.0, 2.0, 0.0]),
        (JumpReLU(torch.tensor([0.4, 0.0, 2.0, 0.9])), [0.5, 0.0, 0.0, 1.0]),
        (JumpReLU(torch.full((4,), -9.0)), [0.5, 0.0, 2.0, 1.0]),
        (TopK(2), [0.0, 0.0, 2.0, 1.0]),
        (TopK(4), [0.5, 0.0, 2.0, 1.0]),
        (TopK(1, rank_by=torch.tensor([9.0, 1.0, 1.0, 1.0])), [0.5, 0.0, 0.0, 0.0]),
        (AbsTopK(2), [0.0, -3.0, 2.0, 0.0]),
        (GroupMax(2), [0.5, 0.0, 2.0, 0.0]),
        (GroupMax(4), [0.5, 0.0, 2.0, 1.0]),
        # pre is e + b_gate, so that e is [0.5, -4, 1, 1]; the last is gated on, but its magnitude is below zero.
        (
            Gated(torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.full((4,), 2.0).log(), torch.tensor([1.0, 9.0, 0.0, -5.0])),
            [2.0, 0.0, 2.0, 0.0],
        ),
    ],
    ids=str,
)
def test_rules_by_hand(rule, expected):
    torch.testing.assert_close(rule(ROW), torch.tensor([expected]))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (ALL["JumpReLU, one threshold"], "JumpReLU(threshold 0.5)"),
        (lambda: random_sae(JumpReLU(torch.linspace(0.25, 1.5, 10))), "JumpReLU(threshold 0.25 to 1.5)"),
        (ALL["Gated"], "Gated"),
        (ALL["AbsTopK"], "AbsTopK(k=3)"),
        (ALL["GroupMax"], "GroupMax(k=5)"),
        (ALL["constant norm"], "JumpReLU(threshold 0.5) after ConstantNorm"),
        (ALL["centred"], "ReLU after Centring"),
        (ALL["matching pursuit"], "MatchingPursuit(at most d_in steps, residue 0.3)"),
        (lambda: pursuing(most=4, tolerance=0.0), "MatchingPursuit(at most 4 steps, residue 0)"),
    ],
)
def test_rules_in_words(make, name):
    assert make().rule_name == name


def test_a_pursuit_by_hand():
    """The longer direction is taken first and comes again at the end, after which nothing more is taken."""
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    x = torch.tensor([[3.0, 1.0]])
    # 3 along the first leaves [0, 1]; 0.8 along the second leaves [-0.48, 0.36], of which no row holds anything.
    for options in ({}, {"stop_on_repeat": False}):
        rule = Pursuit(**{"most": 9, "tolerance": 0.0, "stop_on_repeat": True} | options)
        sae = UnifiedSAEInterface(MatchingPursuit(W_dec=rows, b_dec=torch.zeros(2), rule=rule, subtract_b_dec=False))
        torch.testing.assert_close(sae.encode(x).sparse_features, torch.tensor([[3.0, 0.8]]))
        torch.testing.assert_close(sae.encode(x[0]).sparse_features, torch.tensor([3.0, 0.8]))
        assert sae.encode(x).pre_activation.tolist() == [[3.0, pytest.approx(2.6)]]


@pytest.mark.parametrize(("most", "tolerance", "found"), [(1, 0.0, [3.0, 0.0]), (9, 1.1, [3.0, 0.0])])
def test_a_pursuit_ends_after_its_steps_or_at_its_tolerance(most, tolerance, found):
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    rule = Pursuit(most=most, tolerance=tolerance, stop_on_repeat=False)
    model = MatchingPursuit(W_dec=rows, b_dec=torch.zeros(2), rule=rule, subtract_b_dec=False)
    assert UnifiedSAEInterface(model).encode(torch.tensor([[3.0, 1.0]])).sparse_features.tolist() == [found]


@FEW
@given(seed=st.integers(0, 10_000), stop_on_repeat=st.booleans())
def test_a_pursuit_along_directions_at_right_angles_takes_what_lies_along_each(seed, stop_on_repeat):
    """In any order, whatever their sizes: none holds anything of what another took."""
    x = torch.randint(-3, 4, (20, D_IN), generator=torch.Generator().manual_seed(seed)).float()
    rule = Pursuit(most=None, tolerance=0.0, stop_on_repeat=stop_on_repeat)
    model = MatchingPursuit(W_dec=torch.eye(D_IN), b_dec=torch.zeros(D_IN), rule=rule, subtract_b_dec=True)
    assert torch.equal(UnifiedSAEInterface(model).encode(x).sparse_features, x.relu())


# --- how far a feature is from firing ------------------------------------------------------------------------------

MARGIN_RULES = {
    "relu": ReLU(),
    "jumprelu": JumpReLU(torch.linspace(-0.5, 1.0, 10)),
    "gated": Gated(torch.linspace(-1, 1, 10), torch.linspace(-0.5, 0.5, 10), torch.linspace(1, -1, 10)),
    "topk": TopK(3),
    "topk of all": TopK(10),
    "ranked topk": TopK(3, rank_by=torch.linspace(0.5, 2.0, 10)),
    "abstopk": AbsTopK(3),
    "groupmax": GroupMax(5),
}


@pytest.mark.parametrize("name", MARGIN_RULES)
@given(seed=st.integers(0, 10_000))
def test_the_margin_is_positive_exactly_where_a_feature_fires_upwards(name, seed):
    rule = MARGIN_RULES[name]
    pre = torch.randn(20, 10, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(rule.margin(pre) > 0, rule(pre) > 0)


@pytest.mark.parametrize("name", [name for name, rule in MARGIN_RULES.items() if hasattr(rule, "select")])
@given(seed=st.integers(0, 10_000), features=st.lists(st.integers(0, 9), min_size=1))
def test_margins_of_some_features_are_those_of_all(name, seed, features):
    rule = MARGIN_RULES[name]
    pre = torch.randn(20, 10, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(rule.margin_of(pre, torch.tensor(features)), rule.margin(pre)[:, features])


@pytest.mark.parametrize("name", MARGIN_RULES)
@given(seed=st.integers(0, 10_000))
def test_a_pre_activation_raised_by_a_little_more_than_its_margin_lacks_makes_the_feature_fire(name, seed):
    rule = MARGIN_RULES[name]
    pre = torch.randn(10, generator=torch.Generator().manual_seed(seed))
    margin = rule.margin(pre)
    for feature in range(10):
        if margin[feature] >= -1e-6 or margin[feature] == -torch.inf or (name == "abstopk" and pre[feature] < 0):
            continue  # it fires already; a negative one must pass zero, where its magnitude is least
        for share, fires in ((0.999, False), (1.001, True)):
            raised = pre.clone()
            raised[feature] -= share * margin[feature]
            assert bool(rule(raised)[feature] > 0) is fires
