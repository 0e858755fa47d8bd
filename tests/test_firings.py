"""What goes on where a feature fires: against a forward pass hooked by hand, through plain transformers."""

import pytest
import torch
from conftest import D_SAE, TEXTS, topk_weights
from hypothesis import given
from hypothesis import strategies as st
from small_saes import interface

from sae_analysis.corpus import Document
from sae_analysis.feature_selection import parse_features
from sae_analysis.firings import MOST_FEATURES, USUAL, FiringReader, looked_at
from sae_analysis.real_activations import RealSettings, analyze
from sae_analysis.reconstruction import attach
from sae_analysis.records import ActivationExample
from sae_analysis.sae_interface import Origin, TopK

DOCUMENTS = [Document(name="text", text=text) for text in TEXTS]


@pytest.fixture(scope="module")
def result(site):
    return analyze(site, parse_features("all"), DOCUMENTS, RealSettings(allow_poor_fit=True, firings=2))


def by_hand(site, ids, feature):
    """Return (logits with the feature less without it, divergence, codes, x) at the last token, with plain torch."""
    weights, k = topk_weights(), site.sae.k
    whole = torch.tensor([[site.model.tokens.bos_token_id, *ids]])
    layer = site.model.module.model.layers[1]
    kept = {}

    def hook(_module, _inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        x = hidden[0, -1]
        pre = (x - weights["b_dec"]) @ weights["encoder.weight"].T + weights["encoder.bias"]
        values, places = pre.relu().topk(k)
        kept["code"] = torch.zeros(D_SAE).scatter(0, places, values)
        kept["x"] = x.clone()
        if kept.get("ablate"):
            hidden = hidden.clone()
            hidden[0, -1] -= kept["code"][feature] * weights["decoder.weight"][:, feature]
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
        return output

    handle = layer.register_forward_hook(hook)
    try:
        with torch.no_grad():
            clean = site.model.module(whole).logits[0, -1].double()
            kept["ablate"] = True
            without = site.model.module(whole).logits[0, -1].double()
    finally:
        handle.remove()
    p, q = clean.log_softmax(0), without.log_softmax(0)
    return clean - without, float((p.exp() * (p - q)).sum()), kept["code"], kept["x"]


def test_an_ablation_is_that_of_a_forward_pass_hooked_by_hand(site, result):
    compared = 0
    for stats in result.features:
        for example in stats.examples[:2]:
            ids = example.token_ids[: example.peak_position + 1]
            change, divergence, code, x = by_hand(site, ids, stats.feature_idx)
            firing = example.firing
            assert code[stats.feature_idx] == pytest.approx(example.max_activation, rel=1e-4)
            assert firing.ablation.divergence == pytest.approx(divergence, rel=1e-3, abs=1e-7)
            order = change.argsort(descending=True).tolist()
            raised, lowered = firing.ablation.raised, firing.ablation.lowered
            assert [value for _, value in raised] == pytest.approx(change[order[:10]].tolist(), abs=1e-4)
            assert [value for _, value in lowered] == pytest.approx(change[order[::-1][:10]].tolist(), abs=1e-4)
            assert raised[0][0] == site.model.tokens.strings([order[0]])[0]
            others = {index: float(value) for index, value in enumerate(code) if value and index != stats.feature_idx}
            assert dict(firing.coactive) == pytest.approx(others, rel=1e-4)
            strengths = [value for _, value in firing.coactive]
            assert strengths == sorted(strengths, reverse=True)
            assert firing.residual == pytest.approx((x - topk_weights()["b_dec"]).tolist(), rel=1e-3, abs=1e-4)
            compared += 1
    assert compared > D_SAE / 2


def test_only_the_strongest_are_looked_at(result):
    for stats in result.features:
        assert [example.firing is not None for example in stats.examples] == [
            place < 2 for place in range(len(stats.examples))
        ]


def test_nothing_is_looked_at_where_nothing_is_asked(site):
    told = []
    settings = RealSettings(allow_poor_fit=True, firings=0)
    found = analyze(site, parse_features("0-3"), DOCUMENTS, settings, looked=lambda *one: told.append(one))
    assert all(example.firing is None for stats in found.features for example in stats.examples)
    assert told == []


def test_progress_is_told_of_each_feature(site):
    told = []
    analyze(
        site, parse_features("0-3"), DOCUMENTS, RealSettings(allow_poor_fit=True), looked=lambda *one: told.append(one)
    )
    assert told == [(1, 4)] * 4


@given(seed=st.integers(0, 1000))
def test_a_transcoder_is_ablated_where_it_writes(bos_model, seed):
    """The feature of a transcoder adds to the MLP's output, and reads something else: its bias is none of that."""
    weights = topk_weights()
    origin = Origin(hook="blocks.1.hook_resid_mid", hook_out="blocks.1.hook_mlp_out")  # two places of one width
    sae = interface(weights, rule=TopK(4), origin=origin, subtract_b_dec=False, is_transcoder=True)
    site = attach(sae, bos_model)
    ids = torch.randint(3, 320, (5,), generator=torch.Generator().manual_seed(seed)).tolist()
    whole = torch.tensor([[0, *ids]])
    with torch.no_grad():
        x = bos_model.activations(whole, "blocks.1.hook_resid_mid")[0, -1:]
        code = sae.encode(x).sparse_features[0]
        feature = int(code.argmax())
        mlp = bos_model.module.model.layers[1].mlp

        def hook(_module, _inputs, output):
            edited = output.clone()
            edited[0, -1] -= code[feature] * weights["decoder.weight"][:, feature]
            return edited

        clean = bos_model.module(whole).logits[0, -1]
        handle = mlp.register_forward_hook(hook)
        without = bos_model.module(whole).logits[0, -1]
        handle.remove()
        example = ActivationExample(
            text="", tokens=("",) * 5, token_ids=tuple(ids), activations=(0.0,) * 5, max_activation=1.0, peak_position=4
        )
        found = FiringReader(site, 10).read(example, feature)
    assert found.residual == pytest.approx(x[0].tolist(), rel=1e-3, abs=1e-4)
    raised = (clean - without).topk(10).values.tolist()
    assert [value for _, value in found.ablation.raised] == pytest.approx(raised, abs=1e-4)


def test_many_features_are_not_looked_at_unless_asked():
    assert [looked_at(None, MOST_FEATURES), looked_at(None, MOST_FEATURES + 1), looked_at(2, 10**6)] == [USUAL, 0, 2]


def test_what_is_not_raised_is_not_listed_as_raised(site, result):
    """A list as long as the vocabulary would have all of it twice."""
    stats = next(stats for stats in result.features if stats.examples and stats.examples[0].firing)
    found = FiringReader(site, list_length=10**6).look(stats, 1).examples[0].firing.ablation
    assert found.raised
    assert found.lowered
    assert min(value for _, value in found.raised) > 0 > max(value for _, value in found.lowered)
    assert len(found.raised) + len(found.lowered) <= site.model.d_vocab
