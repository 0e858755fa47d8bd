"""What is reported of synthetic maximizers: chosen by rule, measured anew, resumed to the same result."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import D_SAE, TEXTS, K, make_model, make_sae, topk_weights
from hypothesis import given
from hypothesis import strategies as st
from rerun import ALLOWED, Plain, differences

from sae_analysis.artifacts import write_result
from sae_analysis.corpus import Corpus, Windowing
from sae_analysis.errors import FeatureError, ModelError, OutputError
from sae_analysis.feature_selection import parse_features
from sae_analysis.language_model import load_model
from sae_analysis.real_activations import RealSettings, analyze
from sae_analysis.reconstruction import attach
from sae_analysis.records import ActivationExample
from sae_analysis.sae_formats import load_sae
from sae_analysis.sae_interface import AbsTopK, Origin, SparseAutoencoder, TopK, UnifiedSAEInterface
from sae_analysis.synth_activations import (
    Evaluator,
    Found,
    Search,
    Searched,
    SynthSettings,
    Vocabulary,
    atlas,
    generate_synthetic_maximizers,
    plan,
    synthesize,
)
from sae_analysis.synth_activations.atlas import SingleTokens, atlas_groups, make_atlas
from sae_analysis.synth_activations.real_windows import real_windows
from sae_analysis.synth_activations.report import SUFFICIENT, differing, frontier
from sae_analysis.synth_activations.scoring import SINK_MULTIPLE, Reader, without

HOOK = "blocks.1.hook_resid_post"
SHORT = SynthSettings(seq_len=5, budget=1_500, n_steps=3, max_examples=4, batch_size=2)
FEATURES = "3,17,40,8,25"


@pytest.fixture(scope="module")
def site(bos_model, sae_folder):
    return attach(load_sae(sae_folder), bos_model)


@pytest.fixture(scope="module")
def vocabulary(bos_model):
    return Vocabulary(bos_model.tokens, bos_model.d_vocab)


@pytest.fixture(scope="module")
def result(site):
    return synthesize(site, parse_features(FEATURES), SHORT)


@pytest.fixture(scope="module")
def real(site, tmp_path_factory):
    (path := tmp_path_factory.mktemp("text") / "corpus.json").write_text(json.dumps(TEXTS * 2))
    settings = RealSettings(windowing=Windowing(seq_len=24), allow_poor_fit=True)
    return analyze(site, parse_features("all"), Corpus(source=path), settings)


def found_in(sequences, **changes):
    """What a search might have found, with numbers that nobody should believe."""
    lies = {"value": 99.0, "position": 0, "provenance": "random", "evaluations": 7, "cross_entropy": 0.5} | changes
    return tuple(Found(ids=tuple(ids), **lies) for ids in sequences)


def searched_as(found, **changes):
    parts = {"token_evaluations": 10, "beginnings": 4, "convergence": (), "relaxation": None} | changes
    return Searched(found=found, **parts)


@pytest.fixture
def told(monkeypatch):
    """Return a function that reports what a search is said to have found."""

    def report(site, feature, searched, settings=SHORT, *, single_token=(50,)):
        monkeypatch.setattr(Search, "run", lambda *_: {feature: searched})
        monkeypatch.setattr(SingleTokens, "best", lambda *_: single_token)
        return synthesize(site, parse_features(str(feature)), settings).features[0]

    return report


def random_texts(vocabulary, count, length, seed=0):
    """Return that many different sequences that are text."""
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(vocabulary), (20 * count, length), generator=generator)
    sequences = [tuple(ids) for ids in vocabulary.ids[picks].tolist()]
    texts = vocabulary.texts(sequences)
    return list(dict.fromkeys(ids for ids, text in zip(sequences, texts, strict=True) if text is not None))[:count]


# --- every number by another way -----------------------------------------------------------------------------------


@pytest.mark.parametrize("has_bos", [True, False])
def test_plain_transformers_give_every_number_of_every_example(
    *, has_bos, tmp_path, model_folder, bos_model_folder, sae_folder
):
    folder = bos_model_folder if has_bos else model_folder
    site = attach(load_sae(sae_folder), load_model(str(folder), device="cpu"))
    result = synthesize(site, parse_features(FEATURES), SHORT)
    assert site.prepend_bos == has_bos
    assert sum(len(stats.examples) for stats in result.features) > 5
    write_result(result, path := tmp_path / "synthetic.json")
    found = differences(folder, sae_folder, path)
    assert len(found) == 8
    assert max(found.values()) <= ALLOWED


def test_the_second_look_sees_what_is_wrong(tmp_path, result, bos_model_folder, sae_folder):
    (stats, *others) = result.features
    (example, *rest) = stats.examples
    assert example.synthesis is not None
    lost = (example.synthesis.attribution[0] + 0.01 * stats.max_activation, *example.synthesis.attribution[1:])
    wrong = {
        "peak activation": replace(example, max_activation=1.001 * example.max_activation),
        "activation": replace(example, activations=(0.0,) * len(example.tokens)),
        "pre-activation": with_synthesis(example, pre_activation=1.001 * example.synthesis.pre_activation),
        "cross-entropy": with_synthesis(example, cross_entropy=1.001 * (example.synthesis.cross_entropy or 0)),
        "attribution": with_synthesis(example, attribution=lost),
        "round trip": replace(example, text=example.text + "!"),
    }
    for kind, changed in wrong.items():
        features = (replace(stats, examples=(changed, *rest)), *others)
        write_result(replace(result, features=features), path := tmp_path / "synthetic.json")
        assert differences(bos_model_folder, sae_folder, path)[kind] > ALLOWED, kind


def with_synthesis(example: ActivationExample, **changes: object) -> ActivationExample:
    return replace(example, synthesis=replace(example.synthesis, **changes))


def test_counts_are_those_of_the_examples_tokens(result, bos_model_folder, sae_folder):
    plain = Plain(bos_model_folder, sae_folder, layer=1, bos=True)
    for stats in result.features:
        runs = [plain.run(list(example.token_ids), stats.feature_idx)[0] for example in stats.examples]
        values = torch.cat(runs)
        active = values[values != 0].double()
        assert stats.token_count == len(values) == sum(stats.position_token_counts)
        assert stats.active_count == len(active) == stats.histogram.total == stats.position_histogram.total
        assert stats.density == len(active) / len(values)
        assert stats.sparsity == 1 - stats.density
        assert stats.max_activation == pytest.approx(float(values.max()), rel=1e-5) == stats.examples[0].max_activation
        assert stats.mean_activation == pytest.approx(float(active.mean()), rel=1e-5)
        assert stats.std_activation == pytest.approx(float(active.std(correction=0)), rel=1e-4, abs=1e-6)
        assert sum(row.active_count for row in stats.top_tokens) == len(active)
        for row in stats.top_tokens:
            held = [
                ids.index(row.token_id) for ids in (list(e.token_ids) for e in stats.examples) if row.token_id in ids
            ]
            assert held
            assert 0 < row.firing_rate <= 1


def test_what_weights_say_is_what_the_real_analysis_says(result, real):
    for stats in result.features:
        other = real.by_feature()[stats.feature_idx]
        assert stats.decoder_norm == other.decoder_norm
        assert stats.encoder_norm == other.encoder_norm
        assert stats.encoder_decoder_cosine == other.encoder_decoder_cosine
        assert [f for f, _ in stats.nearest_features] == [f for f, _ in other.nearest_features]
        assert [t for t, _ in stats.top_boosted_tokens] == [t for t, _ in other.top_boosted_tokens]
        assert [t for t, _ in stats.top_suppressed_tokens] == [t for t, _ in other.top_suppressed_tokens]


def test_every_text_is_cut_into_its_tokens_and_says_where_it_is_from(result, bos_model):
    for stats in result.features:
        assert stats.search is not None
        assert stats.search.shortest is not None
        for example in (*stats.examples, *stats.search.frontier, stats.search.shortest):
            assert bos_model.tokens.tokenize([example.text]) == [list(example.token_ids)]
            assert bos_model.tokens.strings(example.token_ids) == example.tokens
            assert example.synthesis is not None
            assert example.synthesis.is_text
            assert example.synthesis.seed == SHORT.seed
            assert example.source == example.synthesis.provenance != ""
            assert 0 < example.synthesis.token_evaluations <= SHORT.budget


def test_nothing_of_what_the_search_measured_is_believed(told, site, vocabulary):
    sequences = random_texts(vocabulary, 6, 5)
    honest = told(site, 8, searched_as(found_in(sequences)))
    lies = [found_in([ids], value=float(n), position=4, cross_entropy=None)[0] for n, ids in enumerate(sequences)]
    assert told(site, 8, searched_as(tuple(lies))) == honest
    assert honest.search is not None
    assert honest.search.single_token[0] == site.model.tokens.strings([50])[0]
    assert honest.max_activation < 99


def test_the_best_single_token_is_measured_anew(told, site, bos_model_folder, sae_folder):
    plain, values = Plain(bos_model_folder, sae_folder, layer=1, bos=True), []
    for token in range(40, 56):
        values.append(float(plain.run([token], 8)[0].max()))
        stats = told(site, 8, searched_as(()), single_token=(token,))
        text = site.model.tokens.strings([token])[0]
        assert stats.search.single_token == (text, pytest.approx(values[-1], rel=1e-5))
    assert 0 < sum(value > 0 for value in values) < len(values), "else this says nothing"


def test_what_it_cost_and_how_it_went_is_passed_on(told, site, vocabulary):
    went = ((1, -3.0), (5, -1.0), (9, 0.0), (20, 0.5), (30, 0.5), (40, 2.0))
    stats = told(
        site,
        3,
        searched_as(
            found_in(random_texts(vocabulary, 1, 5), evaluations=123, provenance="relaxed"),
            token_evaluations=777,
            convergence=went,
            relaxation=(3.0, 2.5),
        ),
    )
    assert stats.search.token_evaluations == 777
    assert stats.search.convergence == ((20, 0.5), (40, 2.0)), "nothing fired before"
    assert (stats.search.relaxation.relaxed, stats.search.relaxation.discrete) == (3.0, 2.5)
    assert (stats.examples[0].synthesis.token_evaluations, stats.examples[0].source) == (123, "relaxed")


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


def test_what_is_stronger_without_some_tokens_is_reported_without_them(told, site, vocabulary):
    led = 0
    for feature, sequence in enumerate(random_texts(vocabulary, 24, 8, seed=3)):
        stats = told(site, feature, searched_as(found_in([sequence], value=1e-9)))
        assert stats.max_activation >= (stats.search.shortest.max_activation if stats.search.shortest else 0.0)
        if len(stats.examples[0].token_ids) < 8 and stats.max_activation:
            led += 1
            assert stats.search.convergence[-1][1] == stats.max_activation
            assert stats.examples[1].token_ids == sequence
    assert led, "else this says nothing"


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
    weights = topk_weights()
    sae = SparseAutoencoder(
        W_enc=weights["encoder.weight"].T,
        b_enc=weights["encoder.bias"],
        W_dec=weights["decoder.weight"].T,
        b_dec=weights["b_dec"],
        rule=AbsTopK(K),
        subtract_b_dec=True,
    )
    site = attach(UnifiedSAEInterface(sae, origin=Origin(hook=HOOK)), bos_model)
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


# --- sinks ---------------------------------------------------------------------------------------------------------


def test_the_usual_norm_is_that_of_tokens_with_many_before_them(site, vocabulary):
    reader = Reader(site, vocabulary)
    ids = torch.tensor([[0, *ids] for ids in random_texts(vocabulary, 40, 20, seed=5)])
    with torch.no_grad():
        norms = site.model.activations(ids, HOOK)[:, 10:].norm(dim=-1)
    assert reader.usual_norm == pytest.approx(float(norms.median()), rel=0.1)


def test_sinks_in_front_do_not_make_a_large_norm_usual(model, sae_folder, vocabulary, monkeypatch):
    site = attach(load_sae(sae_folder), model)
    before = Reader(site, vocabulary).usual_norm
    activations = model.activations

    def with_sinks(ids, hook):
        x = activations(ids, hook)
        return torch.cat((100 * x[:, :3], x[:, 3:]), dim=1)

    monkeypatch.setattr(model, "activations", with_sinks)
    assert Reader(site, vocabulary).usual_norm == before


def test_a_token_of_many_times_the_usual_norm_is_a_sink(tmp_path, sae_folder, vocabulary, told):
    loud = load_model(str(make_model(tmp_path / "loud", adds_bos=True)), device="cpu")
    token = int(vocabulary.ids[100])
    with torch.no_grad():
        loud.module.get_input_embeddings().weight[token] *= 1000
    site = attach(load_sae(sae_folder), loud)
    sequences = [ids for ids in random_texts(vocabulary, 60, 3) if token not in ids]
    sequences += [ids for ids in ((*ids[:2], token) for ids in sequences) if vocabulary.texts([ids])[0]]
    usual, seen = Reader(site, vocabulary).usual_norm, []
    with torch.no_grad():
        acts = site.sae.encode(loud.activations(torch.tensor([[0, *sequences[-1]]]), HOOK)[0, -1])
    for feature in (*acts.top_indices.tolist(), 8):
        for example in told(site, feature, searched_as(found_in(sequences))).examples:
            with torch.no_grad():
                norms = loud.activations(torch.tensor([[0, *example.token_ids]]), HOOK)[0, 1:].norm(dim=-1)
            is_loud = float(norms[example.peak_position]) > SINK_MULTIPLE * usual
            assert example.synthesis.is_sink == is_loud == (example.token_ids[example.peak_position] == token)
            seen.append(is_loud)
    assert 0 < sum(seen) < len(seen), "else this says nothing"


def test_values_that_are_not_finite_are_an_error(tmp_path, sae_folder, told, vocabulary):
    broken = load_model(str(make_model(tmp_path / "broken", adds_bos=True)), device="cpu")
    with torch.no_grad():
        broken.module.model.layers[0].mlp.down_proj.weight.fill_(float("inf"))
    site = attach(load_sae(sae_folder), broken)
    with pytest.raises(ModelError) as error:
        told(site, 3, searched_as(found_in(random_texts(vocabulary, 1, 3))))
    assert str(error.value) == f"{site.name} gives values that are not finite in torch.float32: use dtype float32."


# --- real text to begin with ---------------------------------------------------------------------------------------


def test_seeds_are_the_ends_of_real_windows_up_to_the_peak(real):
    seeds = real_windows(real, (3, 17), 5, frozenset({0, 1, 2}))
    for feature, windows in seeds.items():
        examples = real.by_feature()[feature].examples
        expected = [e.token_ids[max(0, e.peak_position - 4) : e.peak_position + 1] for e in examples]
        assert list(windows) == list(dict.fromkeys(expected))
    assert set(seeds) == {3, 17}
    assert real_windows(real.by_feature(), (3, 17), 5, frozenset()) == real_windows(real, (3, 17), 5, frozenset())


def test_seeds_begin_behind_special_tokens_and_leave_out_what_fires_downwards(real):
    stats = real.by_feature()[3]
    five = {"tokens": tuple("abcde"), "token_ids": (9, 1, 7, 8, 5), "activations": (0, 0, 0, 2, 0)}
    first = replace(stats.examples[0], **five, peak_position=3)
    special = replace(first, token_ids=(9, 7, 8, 1, 5))
    downwards = replace(first, max_activation=-2.0)
    known = {3: replace(stats, examples=(first, first, special, downwards)), 4: replace(stats, examples=(downwards,))}
    assert real_windows(known, (3, 4, 5), 12, frozenset({1})) == {3: ((7, 8),)}


def test_a_search_is_given_the_seeds_of_its_own_features(site, real, monkeypatch):
    given_ = {}
    start = Search.__init__

    def spy(search, evaluator, vocabulary, settings, seeds, *others):
        given_[evaluator.features] = seeds
        start(search, evaluator, vocabulary, settings, seeds, *others)

    monkeypatch.setattr(Search, "__init__", spy)
    result = synthesize(site, parse_features("3,17,40"), SHORT, real=real)
    expected = real_windows(real, (3, 17, 40), 5, frozenset({0, 1, 2}))
    assert given_ == {
        batch: {feature: expected[feature] for feature in batch if feature in expected} for batch in ((3, 17), (40,))
    }
    run = result.provenance
    assert run.options["real_windows"] == sum(map(len, expected.values())) > 0
    assert (run.corpus, run.corpus_sha256) == (real.provenance.corpus, real.provenance.corpus_sha256)


def refusal(kind, call, *arguments, **options):
    with pytest.raises(kind) as error:
        call(*arguments, **options)
    return str(error.value)


def test_a_real_result_of_something_else_is_refused(site, real, bos_model):
    def refused(**changes):
        other = replace(real, provenance=replace(real.provenance, **changes))
        return refusal(OutputError, synthesize, site, parse_features("3"), SHORT, real=other)

    advice = "Give a real.json of the same model, SAE and hook, or drop --real."
    ours = f"{bos_model.name} (hash {bos_model.fingerprint[:12]})"
    assert refused(model="gpt2", model_sha256="0" * 64) == (
        f"The real result is of another model: it was made with gpt2 (hash {'0' * 12}), and the search is to run on "
        f"{ours}. {advice}"
    )
    origin = site.sae.origin
    assert refused(sae="theirs.pt", sae_sha256="") == (
        "The real result is of another SAE: it was made with theirs.pt (hash unknown), and the search is to run on "
        f"{origin.format_name} (hash {origin.sha256[:12]}). {advice}"
    )
    assert refused(hook="blocks.0.hook_resid_post") == (
        "The real result is of another hook: it was made with blocks.0.hook_resid_post, and the search is to run on "
        f"{HOOK}. {advice}"
    )
    assert refused(activation_rule="ReLU") == (
        "The real result is of another reading of the SAE: it was made with ReLU, and the search is to run on "
        f"TopK(k={K}). {advice}"
    )
    assert refused(analysis="synthetic") == (
        "A result of 'synthetic' was given as real text to begin with: give a real.json, or drop --real."
    )


# --- what is to be done --------------------------------------------------------------------------------------------


def test_features_are_cut_into_batches_in_order(site):
    planned = plan(site, parse_features(FEATURES), SHORT)
    assert planned.batches == ((3, 17), (40, 8), (25,))
    assert planned.features == (3, 17, 40, 8, 25)
    again = plan(site, parse_features("random:6"), SHORT)
    assert again.features == parse_features("random:6").before_data(D_SAE, SHORT.seed)


def test_what_text_decides_is_read_off_a_real_analysis_of_all_features(site, real):
    stats = real.features
    by_density = sorted(stats, key=lambda one: (-one.active_count, one.feature_idx))
    by_maximum = sorted(stats, key=lambda one: (-one.max_activation, one.feature_idx))
    dead = [one.feature_idx for one in stats if one.is_dead]
    assert plan(site, parse_features("top:4"), SHORT, real).features == tuple(s.feature_idx for s in by_density[:4])
    assert plan(site, parse_features("top:4:max"), SHORT, real).features == tuple(s.feature_idx for s in by_maximum[:4])
    if dead:
        assert plan(site, parse_features("dead:1"), SHORT, real).features == (dead[0],)
    question = "features top:N, top:N:max and dead:N ask what features do on text, and "
    advice = ": give a corpus to scan, or a real result of all features."
    assert refusal(FeatureError, plan, site, parse_features("top:4"), SHORT) == f"{question}no text was read{advice}"
    some = replace(real, features=stats[:9])
    assert refusal(FeatureError, plan, site, parse_features("dead:4"), SHORT, some) == (
        f"{question}the real result describes 9 of {D_SAE} features{advice}"
    )
    assert refusal(FeatureError, plan, site, parse_features("top:49"), SHORT, real) == (
        "49 features were asked for: the SAE has 48. Ask for fewer."
    )


def test_sequences_that_the_model_cannot_read_are_refused(site, model, sae_folder, monkeypatch):
    long = replace(SHORT, seq_len=128)
    name = site.model.name
    assert refusal(ModelError, plan, site, parse_features("3"), long) == (
        f"seq_len 128 is more than {name} was made for beside BOS: give at most 127."
    )
    without = attach(load_sae(sae_folder), model)
    assert plan(without, parse_features("3"), long).features == (3,)
    assert refusal(ModelError, plan, without, parse_features("3"), replace(long, seq_len=129)) == (
        f"seq_len 129 is more than {model.name} was made for: give at most 128."
    )
    monkeypatch.setattr(site.model.tokens, "bos_token_id", None)
    assert refusal(ModelError, plan, site, parse_features("3"), SHORT) == (
        "BOS is to stand in front of each sequence, but this tokenizer has none: use bos never."
    )


def test_a_fingerprint_is_of_all_that_matters_and_of_nothing_else(site, real, bos_model, sae_folder, tmp_path):
    def of(site=site, features="3,17", settings=SHORT, real=None):
        return plan(site, parse_features(features), settings, real).fingerprint

    other_sae = attach(load_sae(make_sae(tmp_path / "other", topk_weights(seed=2))), bos_model)
    renamed = load_model(bos_model.name, device="cpu")
    renamed.name = "elsewhere"
    assert of() == of(attach(load_sae(sae_folder), renamed))
    different = [
        of(features="3,18"),
        of(features="17,3"),
        of(real=real),
        of(other_sae),
        of(attach(load_sae(sae_folder), bos_model, bos="never")),
        of(attach(load_sae(sae_folder), bos_model, "blocks.0.hook_resid_post")),
        *(
            of(settings=replace(SHORT, **{name: value}))
            for name, value in {
                "seq_len": 6,
                "budget": 1_501,
                "n_steps": 4,
                "learning_rate": 0.1,
                "fluency": 0.5,
                "max_examples": 5,
                "batch_size": 3,
                "seed": 1,
                "list_length": 9,
            }.items()
        ),
    ]
    assert len({of(), *different}) == len(different) + 1


# --- interrupted, resumed, repeated --------------------------------------------------------------------------------


class KilledError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2])
def test_a_run_that_was_killed_and_resumed_comes_to_the_same(after, site, result, monkeypatch):
    kept, searched = {}, []
    run = Search.run
    monkeypatch.setattr(
        Search,
        "run",
        lambda search, progress=None: (searched.extend(search._evaluator.features), run(search, progress))[1],
    )

    def keep(features):
        kept.update({stats.feature_idx: stats for stats in features})
        if len(kept) >= 2 * after:
            raise KilledError

    with pytest.raises(KilledError):
        synthesize(site, parse_features(FEATURES), SHORT, keep=keep)
    assert list(kept) == [3, 17, 40, 8][: 2 * after]
    resumed = synthesize(site, parse_features(FEATURES), SHORT, done=kept)
    assert resumed.features == result.features
    assert searched == [3, 17, 40, 8, 25], "each once"


def test_a_batch_of_which_a_feature_is_missing_is_searched_whole(site, result):
    done = {3: result.features[0], 40: replace(result.features[2], token_count=-1), 8: result.features[3]}
    resumed = synthesize(site, parse_features(FEATURES), SHORT, done=done)
    assert resumed.features[:2] == result.features[:2]
    assert resumed.features[2].token_count == -1, "a whole batch is not searched again"


def test_a_finished_run_searches_nothing(site, result, monkeypatch):
    monkeypatch.setattr(Search, "run", lambda *_: pytest.fail("nothing is left to search"))
    assert synthesize(site, parse_features(FEATURES), SHORT, done=result.by_feature()).features == result.features


def test_the_same_seed_gives_the_same_tokens_and_another_others(site, result):
    again = synthesize(site, parse_features(FEATURES), SHORT)
    assert replace(again, provenance=result.provenance) == result
    other = synthesize(site, parse_features(FEATURES), replace(SHORT, seed=1))
    found, others = ([e.token_ids for s in one.features for e in s.examples] for one in (result, other))
    assert found != others
    assert {e.synthesis.seed for s in other.features for e in s.examples} == {1}


def test_the_header_says_what_was_run(result, site):
    run = result.provenance
    assert (run.analysis, run.hook, run.corpus, run.corpus_sha256) == ("synthetic", HOOK, "", "")
    assert run.sae_sha256 == site.sae.origin.sha256
    assert dict(run.options) == {
        "seq_len": 5,
        "budget": 1_500,
        "n_steps": 3,
        "learning_rate": 0.2,
        "fluency": 0.4,
        "firings": None,
        "max_examples": 4,
        "batch_size": 2,
        "seed": 0,
        "bos": "auto",
        "list_length": 10,
        "real_windows": 0,
        "threads": "1",
    }
    assert (result.fit, result.dictionary) == (None, None)


def test_progress_adds_up_to_what_was_spent(site, result):
    steps = []
    synthesize(site, parse_features(FEATURES), SHORT, progress=lambda spent, total: steps.append((spent, total)))
    spent = np.cumsum([spent for spent, _ in steps])
    assert all(total >= so_far for so_far, (_, total) in zip(spent.tolist(), steps, strict=True))
    assert steps[0][1] == 5 * SHORT.budget
    assert 0.5 * 5 * SHORT.budget < spent[-1] <= 5 * SHORT.budget
    resumed = []
    done = {stats.feature_idx: stats for stats in result.features[:4]}
    synthesize(
        site, parse_features(FEATURES), SHORT, done=done, progress=lambda spent, total: resumed.append((spent, total))
    )
    assert resumed[0][1] == SHORT.budget, "what is finished is not counted"


def test_the_library_function_takes_paths_and_objects(bos_model, bos_model_folder, sae_folder, real):
    options = {"seq_len": 5, "budget": 1_500, "n_steps": 3, "max_examples": 4, "batch_size": 2}
    by_path = generate_synthetic_maximizers(str(sae_folder), str(bos_model_folder), "3,17", **options)
    site = attach(load_sae(sae_folder), bos_model)
    assert by_path == synthesize(site, parse_features("3,17"), SHORT).by_feature()
    sae = load_sae(sae_folder)
    assert generate_synthetic_maximizers(sae, bos_model, [3, 17], **options) == by_path
    without = attach(sae, bos_model, bos="never")
    assert generate_synthetic_maximizers(sae, bos_model, [3, 17], bos="never", **options) == (
        synthesize(without, parse_features("3,17"), SHORT).by_feature()
    )
    with_text = generate_synthetic_maximizers(sae, bos_model, [3, 17], real=real, **options)
    assert with_text == generate_synthetic_maximizers(sae, bos_model, [3, 17], real=real.by_feature(), **options)
    assert with_text != by_path


def test_an_sae_given_as_a_module_is_searched_too(bos_model):
    weights = topk_weights()
    sae = SparseAutoencoder(
        W_enc=weights["encoder.weight"].T,
        b_enc=weights["encoder.bias"],
        W_dec=weights["decoder.weight"].T,
        b_dec=weights["b_dec"],
        rule=TopK(K),
        subtract_b_dec=True,
    )
    [stats] = generate_synthetic_maximizers(sae, bos_model, [3], hook=HOOK, seq_len=3, budget=600).values()
    assert stats.max_activation > 0
