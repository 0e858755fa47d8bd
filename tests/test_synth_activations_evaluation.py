"""What a sequence is worth to a feature: values of integer tokens, slopes, fluency, and what they cost."""

import pytest
import torch
from conftest import D_SAE, K
from synth_runs import HOOK, random_ids, site_of

from sae_analysis.errors import ModelError
from sae_analysis.reconstruction import attach
from sae_analysis.sae_formats import load_sae
from sae_analysis.sae_interface import JumpReLU, SparseAutoencoder, TopK
from sae_analysis.synth_activations import GRADIENT_COST, Evaluator


@pytest.mark.parametrize("prepend", ["always", "never"])
@pytest.mark.parametrize("rule", [None, JumpReLU(torch.linspace(0.1, 2.0, D_SAE))], ids=["topk", "jumprelu"])
def test_values_are_activations_where_a_feature_fires(bos_model, rule, prepend):
    site = site_of(bos_model, rule, bos=prepend)
    features, ids = (3, 17, 40), random_ids(30, 7)
    with torch.no_grad():
        scores = Evaluator(site, features).score(ids)
        for row, sequence in enumerate(ids):
            whole = torch.cat((torch.zeros(1, dtype=torch.int64), sequence)) if site.prepend_bos else sequence
            x = bos_model.activations(whole[None], HOOK)[0, int(site.prepend_bos) :]
            found = site.sae.encode(x).sparse_features[:, features]
            for place in range(len(features)):
                best = found[:, place].max()
                if best > 0:
                    assert float(scores.value[row, place]) == pytest.approx(float(best), rel=1e-5)
                    assert int(scores.position[row, place]) == int(found[:, place].argmax())
                else:
                    assert scores.value[row, place] <= 0


def test_a_model_whose_embeddings_are_not_what_it_makes_of_tokens_is_refused(bos_model, monkeypatch):
    evaluator, ids = Evaluator(site_of(bos_model), [3]), random_ids(1, 8)
    with torch.no_grad():
        evaluator.check(ids)
        embed = type(bos_model).embed
        monkeypatch.setattr(type(bos_model), "embed", lambda model, ids: 1.5 * embed(model, ids))
        with pytest.raises(ModelError) as caught:
            evaluator.check(ids)
    assert str(caught.value).startswith(f"{bos_model.name} makes other activations at {HOOK} of its tokens' embeddings")
    assert str(caught.value).endswith("): it cannot be searched by slopes.")


def test_features_that_do_not_fire_are_ordered_by_what_they_lack(model):
    site = site_of(model, JumpReLU(torch.full((D_SAE,), 50.0)))
    ids = random_ids(20, 5)
    with torch.no_grad():
        value = Evaluator(site, [3]).score(ids).value[:, 0]
        x = model.activations(ids, HOOK)
        pre = site.sae.encode(x).pre_activation[:, :, 3].max(dim=1).values
    torch.testing.assert_close(value, pre - 50)


def test_tokens_are_counted_and_splitting_changes_nothing(model, monkeypatch):
    from sae_analysis.synth_activations import evaluation

    ids = random_ids(20, 6)
    with torch.no_grad():
        evaluator = Evaluator(site_of(model), [1, 2])
        whole = evaluator.score(ids)
        assert evaluator.token_evaluations == 120
        monkeypatch.setattr(evaluation, "_NUMBERS_AT_ONCE", 1)
        parts = evaluator.score(ids)
    torch.testing.assert_close(parts.value, whole.value)
    assert torch.equal(parts.position, whole.position)
    evaluator.gradient(ids, torch.zeros(20, dtype=torch.int64), whole.position[:, 0], torch.arange(3, 9))
    assert evaluator.token_evaluations == 240 + GRADIENT_COST * 120


@pytest.mark.parametrize("prepend", ["always", "never"])
@pytest.mark.parametrize("rule", [TopK(K), JumpReLU(torch.full((D_SAE,), 3.0))], ids=["topk", "jumprelu"])
def test_slopes_are_finite_differences_of_the_value(bos_model, rule, prepend):
    """Towards each candidate's embedding, a little of the way, by the embeddings' own path."""
    site = site_of(bos_model, rule, bos=prepend)
    evaluator, ids, candidates = Evaluator(site, [3, 17]), random_ids(2, 5), torch.arange(3, 40)
    feature = torch.tensor([0, 1])
    with torch.no_grad():
        scores = evaluator.score(ids)
    position = scores.position[torch.arange(2), feature]
    slopes = evaluator.gradient(ids, feature, position, candidates)
    assert slopes.shape == (2, 5, len(candidates))
    table, step = bos_model.embed(candidates), 1e-3
    with torch.no_grad():
        base = bos_model.embed(evaluator._with_bos(ids))
        shift = int(site.prepend_bos)

        def value(embeddings, row):
            x = bos_model.activations_of_embeddings(embeddings, HOOK)[:, shift:]
            return evaluator._values(x)[0, position[row], feature[row]]

        for row, place, candidate in ((0, 0, 5), (0, 2, 20), (1, 1, 33), (1, 0, 0)):
            if place > position[row]:
                assert slopes[row, place].abs().max() == 0, "what comes after cannot matter"
                continue
            moved = [base[row : row + 1].clone() for _ in range(2)]
            towards = table[candidate] - base[row, place + shift]
            moved[0][0, place + shift] += step * towards
            moved[1][0, place + shift] -= step * towards
            difference = (value(moved[0], row) - value(moved[1], row)) / (2 * step)
            assert float(slopes[row, place, candidate]) == pytest.approx(float(difference), rel=2e-2, abs=2e-2)


@pytest.mark.parametrize("prepend", ["always", "never"])
@pytest.mark.parametrize("shared", [1, 4, 5])
def test_a_beginning_that_is_run_once_changes_nothing_behind_it(bos_model, prepend, shared):
    evaluator, ids = Evaluator(site_of(bos_model, bos=prepend), [3, 17, 40]), random_ids(12, 6)
    ids[:, :shared] = ids[::4, :shared].repeat_interleave(4, dim=0)
    with torch.no_grad():
        x = bos_model.activations(evaluator._with_bos(ids), HOOK)[:, evaluator._bos_columns :]
        behind = evaluator._values(x)[:, shared:].max(dim=1)
        found = evaluator.score(ids, shared, 4)
    torch.testing.assert_close(found.value, behind.values)
    assert torch.equal(found.position, behind.indices + shared)
    assert evaluator.token_evaluations == 3 * shared + 12 * (6 - shared), "and costs what is run"


def test_a_model_without_a_memory_runs_the_whole(bos_model, monkeypatch):
    ids = random_ids(4, 6)
    ids[:, :3] = ids[:1, :3]
    remembering, forgetful = (Evaluator(site_of(bos_model), [3, 17]) for _ in range(2))
    with torch.no_grad():
        first = remembering.score(ids, 3, 4)
        monkeypatch.setattr(type(bos_model), "begin", lambda *_: None)
        second = forgetful.score(ids, 3, 4)
    torch.testing.assert_close(second.value, first.value)
    assert torch.equal(second.position, first.position)
    assert (remembering.token_evaluations, forgetful.token_evaluations) == (15, 24)


@pytest.mark.parametrize("prepend", ["always", "never"])
def test_fluency_is_the_models_surprise_at_each_token(bos_model, prepend):
    evaluator, ids, candidates = Evaluator(site_of(bos_model, bos=prepend), [3]), random_ids(5, 6), torch.arange(3, 60)
    with torch.no_grad():
        fluency = evaluator.fluency(ids, candidates, 4)
        for row, sequence in enumerate(ids):
            whole = torch.cat((torch.zeros(1, dtype=torch.int64), sequence)) if prepend == "always" else sequence
            chances = bos_model.module(whole[None]).logits[0].log_softmax(dim=-1)
            surprise = -torch.stack([chances[place, token] for place, token in enumerate(whole[1:])])
            assert float(fluency.cross_entropy[row]) == pytest.approx(float(surprise.mean()), rel=1e-5)
            expected = candidates[chances[-2, candidates].topk(4).indices]
            assert candidates[fluency.likely[row, -1]].tolist() == expected.tolist(), "given all before the last"
    assert fluency.likely.shape == (5, 6, 4)
    assert evaluator.token_evaluations == 30


@pytest.mark.parametrize("prepend", ["always", "never"])
def test_samples_are_what_the_model_would_write(bos_model, prepend, monkeypatch):
    def written(count=3000):
        evaluator = Evaluator(site_of(bos_model, bos=prepend), [3])
        with torch.no_grad():
            return evaluator.sample(count, 3, candidates, torch.Generator().manual_seed(0)), evaluator

    candidates = torch.tensor([5, 9, 40, 41])
    found, evaluator = written()
    assert set(found.flatten().tolist()) <= set(candidates.tolist())
    assert found.shape == (3000, 3)
    first = found[:, 0].mode().values
    prefix = first[None, None]
    with torch.no_grad():
        chances = bos_model.module(evaluator._with_bos(prefix)).logits[0, -1, candidates].softmax(dim=-1)
    follows = found[found[:, 0] == first][:, 1]
    shares = torch.stack([(follows == token).float().mean() for token in candidates])
    assert (shares - chances).abs().max() < 0.06
    monkeypatch.setattr(type(bos_model), "new_memory", lambda _: None)
    assert torch.equal(written()[0], found), "with or without a memory"


def test_the_slope_towards_the_present_token_is_zero(model):
    evaluator, ids = Evaluator(site_of(model), [3]), random_ids(4, 6)
    with torch.no_grad():
        position = evaluator.score(ids).position[:, 0]
    slopes = evaluator.gradient(ids, torch.zeros(4, dtype=torch.int64), position, torch.arange(320))
    present = slopes.gather(2, ids[:, :, None])
    torch.testing.assert_close(present, torch.zeros_like(present), atol=1e-4, rtol=0)


def test_a_separable_sae_is_asked_for_its_features_alone(model, monkeypatch):
    widths = []
    encode = SparseAutoencoder.pre_activation
    monkeypatch.setattr(
        SparseAutoencoder, "pre_activation", lambda sae, x: (widths.append(sae.W_enc.shape[1]), encode(sae, x))[1]
    )
    with torch.no_grad():
        Evaluator(site_of(model, JumpReLU(torch.full((D_SAE,), 1.0))), [3, 5]).score(random_ids(2, 4))
        Evaluator(site_of(model), [3, 5]).score(random_ids(2, 4))
    assert widths == [2, D_SAE]


def test_a_checkpoint_read_from_disk_does_the_same(model, sae_folder):
    sites, ids = (attach(load_sae(sae_folder), model), site_of(model)), random_ids(3, 4)
    with torch.no_grad():
        found, expected = (Evaluator(site, range(D_SAE)).score(ids).value for site in sites)
    torch.testing.assert_close(found, expected)
