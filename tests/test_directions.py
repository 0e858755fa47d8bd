"""What weights say: lengths, neighbours, effects on the logits, and distributions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import D_MODEL, D_SAE, topk_weights
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sae_analysis import directions
from sae_analysis.directions import (
    LOGIT_BINS,
    LogitEffects,
    distribution,
    largest,
    logit_effects,
    nearest_features,
    norms,
)
from sae_analysis.reconstruction import attach
from sae_analysis.records import Histogram
from sae_analysis.sae_interface import ReLU, SparseAutoencoder, UnifiedSAEInterface

HOOK = "blocks.1.hook_resid_post"


def build(W_enc, W_dec):
    d_in, d_sae = W_enc.shape
    return UnifiedSAEInterface(
        SparseAutoencoder(
            W_enc=W_enc,
            b_enc=torch.zeros(d_sae),
            W_dec=W_dec,
            b_dec=torch.zeros(W_dec.shape[1]),
            rule=ReLU(),
            subtract_b_dec=d_in == W_dec.shape[1],
        )
    )


@pytest.fixture
def site(sae, model):
    return attach(sae, model, HOOK)


def test_norms_and_cosines_by_hand():
    found = norms(
        build(torch.tensor([[3.0, 0.0, 1.0], [4.0, 0.0, 0.0]]), torch.tensor([[0.0, 2.0], [1.0, 0.0], [-5.0, 0.0]]))
    )
    assert found.encoder.tolist() == [5.0, 0.0, 1.0]
    assert found.decoder.tolist() == [2.0, 1.0, 5.0]
    assert found.cosine[[0, 2]].tolist() == pytest.approx([0.8, -1.0])
    assert np.isnan(found.cosine[1]), "a zero direction has no angle"


def test_directions_of_different_widths_have_no_angle():
    found = norms(build(torch.ones(2, 3), torch.ones(3, 5)))
    assert np.isnan(found.cosine).all()
    assert found.decoder.tolist() == pytest.approx([5**0.5] * 3)


def test_norms_follow_the_weights(sae):
    weights = topk_weights()
    found = norms(sae)
    np.testing.assert_allclose(found.decoder, weights["decoder.weight"].norm(dim=0), rtol=1e-6)
    np.testing.assert_allclose(found.encoder, weights["encoder.weight"].norm(dim=1), rtol=1e-6)
    np.testing.assert_allclose(found.cosine, 1.0, rtol=1e-6)


def test_norms_of_more_features_than_are_measured_at_once():
    features = 2 * directions._MEASURED_AT_ONCE + 3
    W_enc, W_dec = torch.randn(4, features), torch.randn(features, 4)
    found = norms(build(W_enc, W_dec))
    encoder, decoder = W_enc.double().numpy(), W_dec.double().numpy()
    encoder_norms, decoder_norms = np.linalg.norm(encoder, axis=0), np.linalg.norm(decoder, axis=1)
    np.testing.assert_allclose(found.encoder, encoder_norms, rtol=1e-12)
    np.testing.assert_allclose(found.decoder, decoder_norms, rtol=1e-12)
    cosines = np.einsum("if,fi->f", encoder, decoder) / (encoder_norms * decoder_norms)
    np.testing.assert_allclose(found.cosine, cosines, rtol=1e-9)


def test_nearest_features_against_brute_force(sae):
    rows = torch.nn.functional.normalize(sae.decoder_weights, dim=1).double().numpy()
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -2)
    for feature, found in enumerate(nearest_features(sae, range(D_SAE), 5)):
        order = np.argsort(-cosines[feature])[:5]
        assert [index for index, _ in found] == order.tolist()
        assert [cosine for _, cosine in found] == pytest.approx(cosines[feature][order].tolist(), abs=1e-6)


def test_neighbours_are_found_in_batches_in_the_order_asked(sae):
    asked = [5, 3, *range(48), *range(48)]  # more than are held at a time
    found = list(nearest_features(sae, asked, 2))
    assert len(found) == len(asked)
    assert found[0] == found[2 + 5]
    assert found[1] == found[2 + 3]


def test_a_small_dictionary_has_fewer_neighbours():
    sae = build(torch.eye(2), torch.eye(2))
    assert list(nearest_features(sae, [0, 1], 10)) == [((1, 0.0),), ((0, 0.0),)]


def test_logit_effects_are_summarised_like_numpy_and_scipy_do(site, model):
    features = [3, 7]
    dense = model.logit_effects(site.sae.decoder_weights[features], HOOK).double().numpy()
    for row, found in zip(dense, logit_effects(site, features, 4), strict=True):
        order = np.argsort(-row)
        assert [token for token, _ in found.boosted] == list(model.tokens.strings(order[:4].tolist()))
        assert [value for _, value in found.boosted] == pytest.approx(row[order[:4]].tolist())
        assert [token for token, _ in found.suppressed] == list(model.tokens.strings(order[:-5:-1].tolist()))
        assert [value for _, value in found.suppressed] == pytest.approx(row[order[:-5:-1]].tolist())
        counts, edges = np.histogram(row, bins=LOGIT_BINS)
        assert found.histogram.counts == tuple(counts.tolist())
        assert found.histogram.edges == pytest.approx(edges.tolist())
        assert found.skew == pytest.approx(stats.skew(row), abs=2e-6)
        assert found.kurtosis == pytest.approx(stats.kurtosis(row), abs=2e-6)


def test_logit_effects_come_in_batches_in_the_order_asked(site):
    asked = [9, 2, *range(48), *range(48)]
    found = list(logit_effects(site, asked, 1))
    assert len(found) == len(asked)
    assert found[0].boosted == found[2 + 9].boosted
    assert found[1].boosted == found[2 + 2].boosted


@pytest.mark.parametrize("scale", [1e-20, 1e12])
def test_the_shape_does_not_depend_on_the_scale(site, monkeypatch, scale):
    [expected] = logit_effects(site, [3], 1)
    effects = type(site.model).logit_effects
    monkeypatch.setattr(type(site.model), "logit_effects", lambda *arguments: scale * effects(*arguments))
    [found] = logit_effects(site, [3], 1)
    assert (found.skew, found.kurtosis) == (
        pytest.approx(expected.skew, abs=1e-6), pytest.approx(expected.kurtosis, abs=1e-6),
    )  # fmt: skip


def test_only_bins_are_left_out_where_they_are_not_asked_for(site):
    whole, some = (list(logit_effects(site, [5, 2, 9], 3, binned)) for binned in (None, [2]))
    assert some[1] == whole[1]
    assert whole[0].histogram.total == site.model.d_vocab
    for at in (0, 2):
        assert some[at] == replace(whole[at], histogram=Histogram(edges=(), counts=()))


@given(
    rows=st.integers(1, 3),
    columns=st.sampled_from([1, 63, 64, 65, 640, 641, 1000, 2000]),
    most=st.integers(1, 12),
    levels=st.sampled_from([3, 1 << 30]),
    seed=st.integers(0, 99),
)
def test_the_largest_are_those_of_torch(rows, columns, most, levels, seed):
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(-levels, levels, (rows, columns), generator=draw).float()  # few levels are many ties
    most = min(most, columns)
    found, places = largest(values, most)
    assert torch.equal(found, values.topk(most, dim=1).values)
    assert torch.equal(values.gather(1, places), found)
    assert all(len(set(row)) == most for row in places.tolist()), "no column twice"


def test_lists_are_no_longer_than_the_vocabulary(site, model):
    [found] = logit_effects(site, [0], 10_000)
    assert len(found.boosted) == len(found.suppressed) == model.d_vocab


def test_a_direction_without_effect_has_no_shape(model):
    sae = build(torch.ones(D_MODEL, 2), torch.zeros(2, D_MODEL))
    [found] = logit_effects(attach(sae, model, HOOK), [0], 3)
    assert (found.skew, found.kurtosis) == (None, None)
    assert [value for _, value in found.boosted] == [0.0, 0.0, 0.0]


def test_no_linear_path_gives_an_empty_answer_for_every_feature(site, monkeypatch):
    monkeypatch.setattr(type(site.model), "logit_effects", lambda *_: None)
    found = list(logit_effects(site, [0, 1, 2], 3))
    assert found == [LogitEffects()] * 3
    assert (found[0].boosted, found[0].histogram.counts, found[0].skew) == ((), (), None)


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), bins=st.integers(1, 9))
def test_a_distribution_counts_every_value_once(values, bins):
    found = distribution(np.array(values), bins)
    assert found.total == len(values)
    assert len(found.counts) == bins
    assert (np.diff(found.edges) > 0).all()
    assert found.edges[0] <= min(values)
    assert found.edges[-1] >= max(values)


def test_a_distribution_equals_numpys_where_values_differ():
    values = np.random.default_rng(0).normal(size=500)
    counts, edges = np.histogram(values, bins=7)
    assert distribution(values, 7) == Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def test_a_distribution_leaves_out_what_is_no_number():
    assert distribution(np.array([np.nan, 1.0, np.inf, 2.0]), 2).counts == (1, 1)
    assert distribution(np.array([np.nan]), 2) == distribution(np.array([]), 2) == Histogram(edges=(), counts=())


def test_values_equal_but_for_rounding_fall_into_one_bin():
    found = distribution(np.array([1.0, 1.0 + 1e-7, 1.0 - 1e-7]), 9)
    assert sorted(found.counts) == [0] * 8 + [3]
    assert found.edges[-1] - found.edges[0] == pytest.approx(1e-3)
