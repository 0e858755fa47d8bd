"""Which of what was found is reported: chosen by rule; single tokens, which all features try."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import record_factory as make
import torch
from conftest import FEATURES, SHORT, K, make_sae, topk_weights
from hypothesis import given
from hypothesis import strategies as st
from rerun import Plain
from synth_runs import HOOK, found_in, random_texts, searched_as, site_of

from sae_analysis.feature_selection import parse_features
from sae_analysis.reconstruction import attach
from sae_analysis.records import ActivationExample
from sae_analysis.sae_formats import load_sae
from sae_analysis.sae_interface import AbsTopK
from sae_analysis.synth_activations import Evaluator, Search, atlas, synthesize
from sae_analysis.synth_activations.atlas import atlas_groups, make_atlas
from sae_analysis.synth_activations.report import SUFFICIENT, differing, frontier
from sae_analysis.synth_activations.scoring import without
from sae_analysis.visualizer.searches import made_beside

# --- which are reported --------------------------------------------------------------------------------------------


def measured(plain, sequences, feature):
    """Return activation, to the digits that rounding leaves alone, and cross-entropy of each, by the plain path."""
    runs = [plain.run(list(ids), feature) for ids in sequences]
    return [(float(f"{float(acts.max()):.5g}"), surprise) for acts, _, surprise in runs]


def test_examples_are_the_strongest_that_differ_and_the_frontier_is_of_all(
    told, site, vocabulary, bos_model_folder, sae_folder
):
    plain = Plain(bos_model_folder, sae_folder, layer=1, bos=True)
    sequences = random_texts(vocabulary, 60, 3) + random_texts(vocabulary, 60, 6) + random_texts(vocabulary, 10, 1)
    sequences += [(*ids[:5], 60) for ids in sequences if len(ids) == 6]  # near relatives
    stats = told(site, 8, searched_as(found_in(sequences)), replace(SHORT, max_examples=20))
    sequences = [ids for ids in dict.fromkeys(sequences) if vocabulary.texts([ids])[0] is not None]
    points = dict(zip(sequences, measured(plain, sequences, 8), strict=True))
    strongest = sorted((ids for ids in sequences if points[ids][0] > 0), key=lambda ids: (-points[ids][0], len(ids)))
    chosen = []
    for ids in strongest:
        if all(sum(min(ids.count(t), other.count(t)) for t in set(ids)) <= len(ids) / 2 for other in chosen):
            chosen.append(ids)
    assert len(strongest) > len(chosen) > 5, "else this says nothing"
    assert [example.token_ids for example in stats.examples] == chosen[:20]
    along = [example.token_ids for example in stats.search.frontier]
    undominated = {
        ids
        for ids in strongest
        if not any(
            other != ids and points[other][0] >= points[ids][0] and points[other][1] <= points[ids][1]
            for other in strongest
        )
    }
    assert set(along) == undominated
    assert len(along) > 2, "else this says nothing"
    for lower, higher in itertools.pairwise(stats.search.frontier):
        assert lower.synthesis.cross_entropy < higher.synthesis.cross_entropy
        assert lower.max_activation < higher.max_activation


def read_in_text(feature, sequences):
    """Return what an analysis of text would know of a feature that fired at their ends."""
    examples = [
        ActivationExample(
            text="",
            tokens=("x",) * len(ids),
            token_ids=tuple(ids),
            activations=(0.0,) * (len(ids) - 1) + (99.0,),
            max_activation=99.0,
            peak_position=len(ids) - 1,
        )
        for ids in sequences
    ]
    return {feature: make.stats(feature, examples=tuple(examples))}


def test_real_text_that_was_begun_with_counts_at_its_fluency_if_it_is_text(
    told, site, vocabulary, bos_model_folder, sae_folder
):
    plain = Plain(bos_model_folder, sae_folder, layer=1, bos=True)
    texts = random_texts(vocabulary, 80, 4)
    ranked = sorted(texts, key=lambda ids: -measured(plain, [ids], 8)[0][0])
    begun, found = ranked[1:6], [ranked[0], *ranked[6:40]]
    split = [*site.model.tokens.tokenize(["sh"])[0], *site.model.tokens.tokenize(["ip"])[0]]
    assert vocabulary.texts([split]) == [None], "else this says nothing"
    real = read_in_text(8, [*begun, split])
    stats = told(site, 8, searched_as(found_in(found)), replace(SHORT, max_examples=8), real=real)
    known = [*found, *begun]
    points = dict(zip(known, measured(plain, known, 8), strict=True))
    undominated = {
        ids
        for ids, (value, surprise) in points.items()
        if value > 0
        and not any(
            other != (value, surprise) and other[0] >= value and other[1] <= surprise for other in points.values()
        )
    }
    assert {example.token_ids for example in stats.search.frontier} == undominated
    assert undominated.intersection(begun), "else this says nothing"
    assert not {example.token_ids for example in stats.examples}.intersection(begun), "the search found a stronger one"
    assert tuple(split) in {example.token_ids for example in stats.search.excerpts}


def test_no_search_comes_to_less_than_the_text_it_began_with(told, site, vocabulary, bos_model_folder, sae_folder):
    plain = Plain(bos_model_folder, sae_folder, layer=1, bos=True)
    ranked = sorted(random_texts(vocabulary, 60, 4), key=lambda ids: -measured(plain, [ids], 8)[0][0])
    best, *rest = (ids for ids in ranked if measured(plain, [ids], 8)[0][0] > 0)
    found = [replace(one, value=measured(plain, [one.ids], 8)[0][0]) for one in found_in(rest)]
    stats = told(site, 8, searched_as(tuple(found)), real=read_in_text(8, [best]))
    origin = stats.examples[0].synthesis
    assert (stats.examples[0].token_ids, origin.provenance, origin.token_evaluations) == (best, "real text", 0)
    assert stats.search.convergence[-1] == (10, stats.max_activation)
    assert made_beside(stats, stats.search) == "real text that it began with, as it was"


numbers = st.floats(0.1, 9) | st.sampled_from([1.0, 2.0, 3.0])


@given(st.lists(st.tuples(st.none() | numbers, numbers), max_size=25))
def test_a_frontier_holds_what_nothing_beats_and_ascends_in_both(points):
    chosen = [points[place] for place in frontier(points)]
    assert all(entropy is not None for entropy, _ in chosen)
    for (low, weak), (high, strong) in itertools.pairwise(chosen):
        assert low < high
        assert weak < strong
    for entropy, value in points:
        if entropy is not None:
            assert any(other <= entropy and reached >= value for other, reached in chosen)


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=6).map(tuple), max_size=20), st.integers(1, 8))
def test_examples_differ_in_half_of_their_tokens_from_every_stronger_one(sequences, most):
    chosen = differing(sequences, most)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= most
    taken = []
    for place, ids in enumerate(sequences):
        shared = [sum(min(ids.count(t), other.count(t)) for t in set(ids)) for other in taken]
        is_like = any(count > len(ids) / 2 for count in shared)
        if len(taken) == most:
            break
        assert (place in chosen) == (not is_like)
        taken += [] if is_like else [ids]


def test_the_shortest_keeps_enough_and_no_token_of_it_can_go(result, vocabulary, bos_model_folder, sae_folder):
    plain, lengths = Plain(bos_model_folder, sae_folder, layer=1, bos=True), []
    for stats in result.features:
        strongest, shortest = stats.examples[0], stats.search.shortest
        rest = iter(strongest.token_ids)
        assert all(token in rest for token in shortest.token_ids), "its tokens, in their order"
        assert shortest.max_activation >= SUFFICIENT * strongest.max_activation
        lengths.append((len(shortest.token_ids), len(strongest.token_ids)))
        fewer = [without(shortest.token_ids, place) for place in range(len(shortest.token_ids))]
        for ids, text in zip(fewer, vocabulary.texts(fewer), strict=True):
            if ids and text is not None:
                value = float(plain.run(list(ids), stats.feature_idx)[0].max())
                assert value < SUFFICIENT * strongest.max_activation + 1e-4
    assert any(short < long for short, long in lengths), "else this says nothing"


def test_what_is_stronger_without_some_tokens_is_reported_without_them(
    told, site, vocabulary, bos_model_folder, sae_folder
):
    """And takes the place of what is much like it, so that others may be shown again."""
    plain, led, others = Plain(bos_model_folder, sae_folder, layer=1, bos=True), 0, random_texts(vocabulary, 40, 8)
    for feature, sequence in enumerate(random_texts(vocabulary, 24, 8, seed=3)):
        like = [(*sequence[:2], *other[2:4], *sequence[4:6], *other[6:]) for other in others]
        like = [ids for ids, text in zip(like, vocabulary.texts(like), strict=True) if text is not None]
        stats = told(site, feature, searched_as(found_in([sequence, *like], value=1e9)))
        if not stats.max_activation:
            continue
        first = stats.examples[0].token_ids
        assert stats.max_activation >= stats.search.shortest.max_activation * (1 - 1e-5)
        points = dict(zip([sequence, *like], measured(plain, [sequence, *like], feature), strict=True))
        chosen = [first] if first not in points else []
        for ids in sorted((ids for ids in points if points[ids][0] > 0), key=lambda ids: -points[ids][0]):
            if all(sum(min(ids.count(t), other.count(t)) for t in set(ids)) <= len(ids) / 2 for other in chosen):
                chosen.append(ids)
        assert [example.token_ids for example in stats.examples] == chosen[: SHORT.max_examples]
        if len(first) < 8:
            led += 1
            assert first == stats.search.shortest.token_ids
            assert stats.search.convergence[-1][1] == stats.max_activation
    assert led > 3, "else this says nothing"


def test_no_single_token_is_better_than_what_is_reported(told, site, vocabulary, bos_model_folder, sae_folder):
    plain = Plain(bos_model_folder, sae_folder, layer=1, bos=True)
    alone = max(range(40, 56), key=lambda token: float(plain.run([token], 8)[0].max()))
    value = float(plain.run([alone], 8)[0].max())
    for found in (0.9 * value, 1.1 * value):
        stats = told(site, 8, searched_as(found_in(random_texts(vocabulary, 1, 5), value=found)), single_token=(alone,))
        is_told = (alone,) in [example.token_ids for example in stats.examples]
        assert is_told == (found < value)
        if is_told:
            assert stats.max_activation >= value * (1 - 1e-5)


def test_what_is_no_text_is_not_reported_and_doubles_count_once(told, site, vocabulary):
    [ids] = random_texts(vocabulary, 1, 4)
    split = [*site.model.tokens.tokenize(["sh"])[0], *site.model.tokens.tokenize(["ip"])[0]]
    assert vocabulary.texts([split]) == [None], "else this says nothing"
    stats = told(site, 3, searched_as(found_in([split, ids, ids])))
    assert [example.token_ids for example in stats.examples] == [ids]
    assert stats.token_count == 4


def test_a_feature_that_nothing_fires_shows_what_comes_nearest(bos_model, tmp_path):
    weights = topk_weights()
    weights["encoder.bias"][3] = -1e4
    site = attach(load_sae(make_sae(tmp_path / "dead", weights)), bos_model)
    [stats] = synthesize(site, parse_features("3"), SHORT).features
    assert (stats.is_dead, stats.max_activation, stats.mean_activation) == (True, 0.0, None)
    near = [example.synthesis.pre_activation for example in stats.examples]
    assert near == sorted(near, reverse=True)
    assert -1.1e4 < near[0] < -9e3
    assert (stats.search.frontier, stats.search.convergence) == ((), ())
    assert stats.search.single_token[1] == 0
    with torch.no_grad():
        for example in stats.examples:
            ids = torch.tensor([[0, *example.token_ids]])
            pre = site.sae.encode(bos_model.activations(ids, HOOK)[0, 1:]).pre_activation[:, 3]
            assert example.peak_position == int(pre.argmax())
            assert set(example.activations) == {0.0}


def test_a_search_that_found_nothing_is_an_answer(told, site):
    stats = told(site, 3, searched_as(()))
    assert (stats.token_count, stats.density, stats.sparsity, stats.examples) == (0, 0.0, 1.0, ())
    assert stats.top_boosted_tokens


def test_what_fires_is_not_shown_beside_what_does_not(told, site, vocabulary, bos_model_folder, sae_folder):
    plain = Plain(bos_model_folder, sae_folder, layer=1, bos=True)
    sequences = random_texts(vocabulary, 40, 2)
    values = [value for value, _ in measured(plain, sequences, 8)]
    assert 0 < sum(value > 0 for value in values) < 40
    stats = told(site, 8, searched_as(found_in(sequences)), replace(SHORT, max_examples=40))
    assert all(example.max_activation > 0 for example in stats.examples)


def test_single_tokens_lose_all_by_deletion_and_surprise_nobody_without_bos(told, model, vocabulary, sae_folder):
    site = attach(load_sae(sae_folder), model)
    stats = told(site, 8, searched_as(found_in([(int(token),) for token in vocabulary.ids])))
    assert stats.examples
    for example in stats.examples:
        assert example.synthesis.cross_entropy is None
        assert example.synthesis.attribution == (example.max_activation,)
    assert stats.search.frontier == ()


def test_of_a_signed_feature_the_positive_side_is_meant(bos_model, told, vocabulary):
    site = site_of(bos_model, AbsTopK(K))
    stats = told(site, 8, searched_as(found_in(random_texts(vocabulary, 60, 4))), replace(SHORT, max_examples=60))
    assert stats.negative_count > 0, "else this says nothing"
    for example in stats.examples:
        assert example.max_activation == max(example.activations) > 0
    assert stats.max_activation == stats.examples[0].max_activation


# --- single tokens -------------------------------------------------------------------------------------------------


def test_single_tokens_are_tried_once_for_all_features_and_paid_for_by_all(site, vocabulary, result, monkeypatch):
    with torch.no_grad():
        found = make_atlas(site, vocabulary, (3, 17, 40), 1_500, seed=0)
        expected = Evaluator(site, (17, 40)).score(vocabulary.ids[:, None]).value
    tokens, cost = found.of((17, 40))
    assert tokens.front == ()
    np.testing.assert_allclose(tokens.values, expected.numpy(), rtol=1e-5)
    assert (found.token_evaluations, cost) == (len(vocabulary), len(vocabulary) * 2 // 3)
    tried, owed = [], []
    start = Search.__init__
    monkeypatch.setattr(
        Search, "__init__", lambda *given_: (owed.append(given_[1].token_evaluations), start(*given_))[1]
    )
    score = Evaluator.score
    monkeypatch.setattr(
        Evaluator, "score", lambda one, ids, *shared: (tried.append(tuple(ids.shape)), score(one, ids, *shared))[1]
    )
    assert synthesize(site, parse_features(FEATURES), SHORT).features == result.features
    assert tried.count((len(vocabulary), 1)) == 1
    assert owed == [len(vocabulary) * size // 5 for size in (2, 2, 1)]
    for stats in result.features:
        assert stats.search.token_evaluations <= SHORT.budget, "what was shared is within"


def test_without_bos_single_tokens_stand_behind_one_that_the_model_expects(model, vocabulary, sae_folder):
    site = attach(load_sae(sae_folder), model)
    assert not site.prepend_bos
    with torch.no_grad():
        tokens = make_atlas(site, vocabulary, (3, 17), 9_000, seed=0).tokens
        expected = model.forward(vocabulary.ids[:, None])[:, -1].softmax(dim=-1)[:, vocabulary.ids].mean(dim=0)
        assert tokens.front[0] in vocabulary.ids[expected.topk(10).indices], "of all tokens, not of a sample of them"
        pairs = torch.cat((torch.tensor(tokens.front).expand(len(vocabulary), 1), vocabulary.ids[:, None]), dim=1)
        encoded = site.sae.encode(model.activations(pairs, HOOK)[:, 1]).sparse_features[:, [3, 17]].numpy()
    fires = encoded > 0
    assert fires.any()
    np.testing.assert_allclose(tokens.values[fires], encoded[fires], rtol=1e-4)
    assert (tokens.values[~fires] <= 0).all()
    [stats] = synthesize(site, parse_features("17"), replace(SHORT, budget=9_000)).features
    text, value = stats.search.single_token
    assert text == "".join(model.tokens.strings([*tokens.front, int(vocabulary.ids[encoded[:, 1].argmax()])]))
    assert value == pytest.approx(encoded[:, 1].max(), rel=1e-4)


def test_a_memory_that_is_not_exact_is_not_used(site, monkeypatch):
    asked = parse_features("3,17")
    with monkeypatch.context() as patched:
        patched.setattr(Evaluator, "remembers", lambda *_: False)
        expected = synthesize(site, asked, SHORT)
    begin = type(site.model).begin
    monkeypatch.setattr(type(site.model), "begin", lambda model, ids, *rest: begin(model, ids.flip(1), *rest))
    assert synthesize(site, asked, SHORT).features == expected.features


def test_of_a_vocabulary_that_costs_too_much_a_part_is_tried(site, vocabulary):
    with torch.no_grad():
        part, whole = (make_atlas(site, vocabulary, (3, 17), budget, seed=0) for budget in (90, 9_000))
        other = make_atlas(site, vocabulary, (3, 17), 90, seed=1)
    tried = part.tokens.values > -np.inf
    assert (tried.sum(axis=0) == 60).all(), "a third of twice the budget"
    assert part.token_evaluations == 60
    np.testing.assert_allclose(part.tokens.values[tried], whole.tokens.values[tried], rtol=1e-5)
    assert (tried != (other.tokens.values > -np.inf)).any()


def test_batches_share_an_atlas_as_long_as_it_can_be_held(vocabulary, monkeypatch):
    batches = [(1, 2), (3, 4), (5,)]
    assert atlas_groups(batches, vocabulary) == [batches]
    monkeypatch.setattr(atlas, "_NUMBERS_AT_ONCE", 3 * len(vocabulary))
    assert atlas_groups(batches, vocabulary) == [[(1, 2)], [(3, 4), (5,)]]
    monkeypatch.setattr(atlas, "_NUMBERS_AT_ONCE", 1)
    assert atlas_groups(batches, vocabulary) == [[batch] for batch in batches]


def test_a_run_of_several_groups_resumes_to_the_same(site, monkeypatch, vocabulary):
    monkeypatch.setattr(atlas, "_NUMBERS_AT_ONCE", 2 * len(vocabulary))
    whole = synthesize(site, parse_features(FEATURES), SHORT)
    done = {stats.feature_idx: stats for stats in whole.features[2:4]}
    assert synthesize(site, parse_features(FEATURES), SHORT, done=done).features == whole.features
