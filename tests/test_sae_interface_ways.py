"""An SAE is the same whichever way it is asked: dense or sparse, of all features or of some."""

import pytest
import torch
from conftest import D_MODEL, K, topk_weights
from hypothesis import given
from hypothesis import strategies as st
from small_saes import ALL, D_IN, FEW, N_FEATURES, OTHERS, SEPARABLE, dense, drawn

from sae_analysis.errors import FitError
from sae_analysis.sae_interface import SparseAutoencoder

# --- against the formula, and every way against every other -----------------------------------------------------


def test_topk_follows_the_formula(sae):
    weights = topk_weights()
    x = torch.randn(200, D_MODEL)
    pre = (x - weights["b_dec"]) @ weights["encoder.weight"].T + weights["encoder.bias"]
    threshold = pre.sort(dim=-1, descending=True).values[:, K - 1 : K]
    expected = torch.where(pre >= threshold, pre.relu(), 0.0)
    out = sae.encode(x)
    torch.testing.assert_close(out.pre_activation, pre)
    torch.testing.assert_close(out.sparse_features, expected)
    torch.testing.assert_close(out.top_values, pre.topk(K).values.relu())


inputs = st.integers(0, 10_000).map(lambda seed: 2 * drawn(seed)(5, D_IN))


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
@FEW
@given(x=inputs)
def test_sparse_and_dense_ways_agree(make, x):
    sae = make()
    out, code = sae.encode(x), sae.encode_sparse(x)
    assert torch.equal(dense(code), out.sparse_features)
    assert (code.value != 0).all()
    assert (code.token.diff() >= 0).all(), "ordered by token"
    torch.testing.assert_close(sae.decode_sparse(code, x), sae.decode(out.sparse_features, x))
    rebuilt = torch.zeros(5, N_FEATURES).scatter(1, out.top_indices, out.top_values)
    assert torch.equal(rebuilt, out.sparse_features)
    assert (out.top_values.abs().diff(dim=-1) <= 0).all(), "largest first"
    assert out.top_values.shape[-1] == (sae.k or (out.sparse_features != 0).sum(-1).max())


# --- features alone ------------------------------------------------------------------------------------------------

chosen = st.lists(st.integers(0, N_FEATURES - 1), max_size=N_FEATURES)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
@FEW
@given(x=inputs, features=chosen)
def test_features_encoded_alone_are_as_among_all(make, x, features):
    sae = make()
    code = sae.encoder_of(features)(x)
    expected = torch.zeros(5, N_FEATURES)
    expected[:, features] = sae.encode(x).sparse_features[:, features]
    torch.testing.assert_close(dense(code), expected, atol=1e-5, rtol=1e-5)
    assert (code.value != 0).all()
    assert (code.token.diff() >= 0).all(), "ordered by token"
    assert set(code.feature.tolist()) <= set(features)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
@FEW
@given(x=inputs, features=chosen.filter(len))
def test_a_probe_gives_activations_and_where_a_feature_is_silent_what_it_lacks(make, x, features):
    sae = make()
    out = sae.encode(x)
    is_ours = isinstance(sae.model, SparseAutoencoder)
    margin = sae.model.rule.margin(out.pre_activation) if is_ours else out.pre_activation
    expected = torch.where(out.sparse_features > 0, out.sparse_features, margin.clamp(max=0.0))[:, features]
    probed = sae.probe_of(features)(x.requires_grad_())
    torch.testing.assert_close(probed, expected, atol=1e-5, rtol=1e-5)
    assert probed.requires_grad


class Widths(torch.overrides.TorchFunctionMode):
    """Notes how many columns every matrix product has."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_function__(self, function, _types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if getattr(function, "__name__", "") in ("addmm", "matmul", "mm", "__matmul__", "linear"):
            self.seen.add(result.shape[-1])
        return result


@pytest.mark.parametrize("make", SEPARABLE.values(), ids=SEPARABLE)
def test_what_is_separable_computes_the_columns_asked_for_and_no_others(make):
    sae, x = make(), drawn(1)(5, D_IN)
    assert sae.is_separable
    for few in (sae.encoder_of([7, 2, 2]), sae.probe_of([7, 2])):
        with Widths() as widths:
            few(x)
        assert widths.seen == {2}
    with Widths() as widths:
        sae.encode_sparse(x)
    assert widths.seen == {N_FEATURES}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_what_sets_features_against_each_other_is_not_separable(make):
    assert not make().is_separable


@pytest.mark.parametrize("make", [ALL["JumpReLU, thresholds"], ALL["TopK"], ALL["foreign"]])
def test_no_feature_at_all_gives_no_activation(make):
    code = make().encoder_of([])(drawn(1)(5, D_IN))
    assert [len(part) for part in code] == [0, 0, 0]
    assert [part.dtype for part in code] == [torch.int64, torch.int64, torch.float32]


@pytest.mark.parametrize("name", ["ReLU", "TopK"])
def test_features_alone_also_refuse_a_wrong_width(name):
    for few in (ALL[name]().encoder_of([1]), ALL[name]().probe_of([1])):
        with pytest.raises(FitError, match="reads activations of width 6, but was given width 5"):
            few(torch.zeros(3, 5))
