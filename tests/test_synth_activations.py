"""What a search for the hardest input stands on: tokens that can be text, values of integer tokens, slopes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import D_MODEL, D_SAE, TEXTS, K, topk_weights

from sae_analysis.reconstruction import attach
from sae_analysis.sae_formats import load_sae
from sae_analysis.sae_interface import JumpReLU, Origin, SparseAutoencoder, TopK, UnifiedSAEInterface
from sae_analysis.synth_activations import GRADIENT_COST, Evaluator, Search, SearchSettings, Vocabulary
from sae_analysis.synth_activations.search import OPERATORS, Parents

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def vocabulary(model):
    return Vocabulary(model.tokens, model.d_vocab)


def site_of(model, rule=None, **options):
    weights = topk_weights()
    sae = SparseAutoencoder(
        W_enc=weights["encoder.weight"].T,
        b_enc=weights["encoder.bias"],
        W_dec=weights["decoder.weight"].T,
        b_dec=weights["b_dec"],
        rule=rule or TopK(K),
        subtract_b_dec=True,
    )
    return attach(UnifiedSAEInterface(sae, origin=Origin(hook=HOOK)), model, **options)


def random_ids(count, length, seed=0):
    return torch.randint(3, 320, (count, length), generator=torch.Generator().manual_seed(seed))


# --- vocabulary ----------------------------------------------------------------------------------------------------


def test_tokens_that_stand_in_some_text_are_allowed_and_no_others(model, vocabulary):
    allowed = set(vocabulary.ids.tolist())
    seen = {index for ids in model.tokens.tokenize(list(TEXTS)) for index in ids}
    whole = {index for index in seen if "<0x" not in model.tokens.strings([index])[0]}
    assert whole <= allowed, "all that the tokenizer makes of real text, whole characters only"
    assert not allowed & set(model.tokens.special_token_ids)
    assert max(allowed) < model.d_vocab
    for index in set(range(320)) - allowed - set(model.tokens.special_token_ids):
        text = model.tokens.decode([index])
        assert "\ufffd" in text or model.tokens.tokenize([text])[0] != [index]


def test_a_sequence_is_text_if_the_tokenizer_gives_it_back(model, vocabulary):
    [ids] = model.tokens.tokenize([TEXTS[0]])
    split = [*model.tokens.tokenize(["sh"])[0], *model.tokens.tokenize(["ip"])[0]]
    joined = model.tokens.tokenize(["ship"])[0]
    assert vocabulary.texts([ids]) == [TEXTS[0]]
    assert split != joined, "else this says nothing"
    assert vocabulary.texts([split, joined, []]) == [None, "ship", ""]


def test_texts_are_cut_into_exactly_their_tokens(model, vocabulary):
    picks = torch.randint(len(vocabulary), (200, 6), generator=torch.Generator().manual_seed(1))
    sequences = vocabulary.ids[picks].tolist()
    texts = vocabulary.texts(sequences)
    assert 0 < sum(text is not None for text in texts) < 200
    for sequence, text in zip(sequences, texts, strict=True):
        if text is not None:
            assert model.tokens.tokenize([text])[0] == sequence


class SpaceInFront:
    """A tokenizer that, like Llama's, puts a space in front of every text."""

    special_token_ids = frozenset({0})
    words = ("<s>", " a", " b", "c", " ")
    size = len(words)

    def decode(self, ids):
        return "".join(self.words[index] for index in ids)

    def tokenize(self, texts):
        found = []
        for text in texts:
            rest, ids = f" {text}", []
            while rest:
                index = next((i for i in (1, 2, 3, 4) if rest.startswith(self.words[i])), None)
                if index is None:
                    break
                ids.append(index)
                rest = rest[len(self.words[index]) :]
            found.append(ids)
        return found


def test_a_space_that_the_tokenizer_adds_is_no_part_of_the_text():
    vocabulary = Vocabulary(SpaceInFront(), 99)
    assert vocabulary.texts([[1, 2], [1, 3]]) == ["a b", "ac"]
    assert vocabulary.ids.tolist() == [1, 2, 3, 4], "also the rest of a word, which stands only behind another token"


# --- evaluation ----------------------------------------------------------------------------------------------------


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


def test_the_slope_towards_the_present_token_is_zero(model):
    evaluator, ids = Evaluator(site_of(model), [3]), random_ids(4, 6)
    with torch.no_grad():
        position = evaluator.score(ids).position[:, 0]
    slopes = evaluator.gradient(ids, torch.zeros(4, dtype=torch.int64), position, torch.arange(320))
    present = slopes.gather(2, ids[:, :, None])
    torch.testing.assert_close(present, torch.zeros_like(present), atol=1e-4, rtol=0)


def test_a_separable_sae_is_asked_for_its_features_alone(model, monkeypatch):
    widths = []
    encode = SparseAutoencoder.encode
    monkeypatch.setattr(
        SparseAutoencoder, "encode", lambda sae, x: (widths.append(sae.W_enc.shape[1]), encode(sae, x))[1]
    )
    with torch.no_grad():
        Evaluator(site_of(model, JumpReLU(torch.full((D_SAE,), 1.0))), [3, 5]).score(random_ids(2, 4))
        Evaluator(site_of(model), [3, 5]).score(random_ids(2, 4))
    assert widths == [2, D_SAE]


def test_a_checkpoint_read_from_disk_does_as_well(model, sae_folder):
    site = attach(load_sae(sae_folder), model)
    with torch.no_grad():
        assert Evaluator(replace(site), range(D_SAE)).score(random_ids(3, 4)).value.shape == (3, D_SAE)
        assert site.sae.activation_dim == D_MODEL


# --- search --------------------------------------------------------------------------------------------------------

SHORT = SearchSettings(seq_len=6, budget=2_000, population=4, children=8, candidates=32, patience=5)


def searched(model, vocabulary, features=(3, 17, 40), settings=SHORT, *, seeds=None, rule=None):
    evaluator = Evaluator(site_of(model, rule), features)
    return Search(evaluator, vocabulary, settings, seeds).run(), evaluator


def test_the_true_optimum_of_a_case_small_enough_to_enumerate_is_found(model, vocabulary):
    """Every text of two tokens, tried one by one, against a quarter of that; a search may miss one of six."""
    features, rule = tuple(range(0, D_SAE, 8)), JumpReLU(torch.full((D_SAE,), 3.0))
    pairs = torch.cartesian_prod(vocabulary.ids, vocabulary.ids)
    evaluator = Evaluator(site_of(model, rule), features)
    with torch.no_grad():
        value = torch.cat([evaluator.score(part).value for part in pairs.split(4096)])
    settings = replace(SHORT, seq_len=2, budget=20_000, population=8, children=16, candidates=64, patience=15)
    found, _ = searched(model, vocabulary, features, settings, rule=rule)
    hits = 0
    for place, feature in enumerate(features):
        ranked = value[:, place].argsort(descending=True).tolist()[:2000]
        texts = vocabulary.texts([pairs[row].tolist() for row in ranked])
        best = next(row for row, text in zip(ranked, texts, strict=True) if text is not None)
        assert found[feature][0].value <= float(value[best, place]) + 1e-4
        hits += found[feature][0].value == pytest.approx(float(value[best, place]), rel=1e-5)
    assert hits >= len(features) - 1


def test_everything_found_is_text_and_worth_what_is_said(model, vocabulary):
    found, evaluator = searched(model, vocabulary)
    for place, sequences in enumerate(found.values()):
        assert sequences == sorted(sequences, key=lambda one: -one.value)
        assert len({one.ids for one in sequences}) == len(sequences)
        for one in sequences:
            [text] = vocabulary.texts([one.ids])
            assert text is not None
            with torch.no_grad():
                scores = evaluator.score(torch.tensor([one.ids]))
            assert one.value == pytest.approx(float(scores.value[0, place]), rel=1e-5)
            assert one.position == int(scores.position[0, place])


def test_the_same_seed_finds_the_same_and_another_something_else(model, vocabulary):
    first, again = (searched(model, vocabulary)[0] for _ in range(2))
    assert first == again
    assert first != searched(model, vocabulary, settings=replace(SHORT, seed=1))[0]


def test_the_budget_is_spent_and_not_exceeded(model, vocabulary):
    found, evaluator = searched(model, vocabulary)
    round_cost = 3 * 6 * (8 + GRADIENT_COST)
    assert 3 * 2_000 - round_cost < evaluator.token_evaluations <= 3 * 2_000
    assert all(one.evaluations <= 2_000 for sequences in found.values() for one in sequences)


def test_more_is_found_than_by_chance_for_the_same_money(model, vocabulary):
    features = tuple(range(0, D_SAE, 6))
    found, _ = searched(model, vocabulary, features, replace(SHORT, budget=9_000))
    evaluator = Evaluator(site_of(model), features)
    picks = torch.randint(len(vocabulary), (len(features) * 1_500, 6), generator=torch.Generator().manual_seed(0))
    sequences = vocabulary.ids[picks]
    is_text = torch.tensor([text is not None for text in vocabulary.texts(sequences.tolist())])
    with torch.no_grad():
        by_chance = evaluator.score(sequences).value[is_text].max(dim=0).values.tolist()
    assert evaluator.token_evaluations == len(features) * 9_000
    wins = sum(one[0].value > chance for one, chance in zip(found.values(), by_chance, strict=True))
    assert wins >= len(features) - 1


def test_what_one_feature_tries_another_may_keep(model, vocabulary):
    """Two places for one feature: what is found for the first is seen by the second in the same round."""
    found, _ = searched(model, vocabulary, features=(3, 17))
    evaluator = Evaluator(site_of(model), (3, 17))
    search = Search(evaluator, vocabulary, SHORT)
    best = torch.tensor([found[17][0].ids])
    children = vocabulary.ids[torch.randint(len(vocabulary), (2, 8, 6))].numpy()
    children[0, 0] = children[0, 1] = best[0].numpy()  # tried for feature 3, and twice
    search._admit(children)
    search._admit(children)
    kept = [tuple(ids) for ids in search._ids[1].tolist()]
    assert kept.count(found[17][0].ids) == 1


def test_real_text_is_begun_with_and_said_to_be(model, vocabulary):
    [ids] = model.tokens.tokenize([TEXTS[0]])
    seeds = {3: [ids[:6], ids[4:10]]}
    settings = replace(SHORT, budget=150)
    found, _ = searched(model, vocabulary, settings=settings, seeds=seeds)
    assert {one.provenance for one in found[3]} == {"real"}
    assert {one.provenance for one in found[17]} == {"random"}
    with_seed = Search(Evaluator(site_of(model), (3,)), vocabulary, SHORT, {3: [ids]})
    with_seed._begin(0)
    assert with_seed._ids[0, 0].tolist() == ids[-6:], "its end, where it fired"


def test_a_population_that_stands_still_begins_anew_and_its_best_is_kept(model, vocabulary, monkeypatch):
    begun = []
    begin = Search._begin
    monkeypatch.setattr(Search, "_begin", lambda search, place: (begun.append(place), begin(search, place))[1])
    found, _ = searched(model, vocabulary, settings=replace(SHORT, budget=20_000, patience=2))
    assert len(begun) > 3
    assert all(len(sequences) > SHORT.population for sequences in found.values())


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_change_children_in_their_way_and_keep_to_the_vocabulary(name, vocabulary):
    rng = np.random.default_rng(0)
    allowed = vocabulary.ids.numpy()
    ids = rng.choice(allowed, size=(3, 8))
    parents = Parents(
        last=np.array([7, 4, 0]),
        mates=rng.choice(allowed, size=(3, 5, 8)),
        promising=rng.choice(allowed, size=(3, 8, 6)),
        allowed=allowed,
    )
    children = np.repeat(ids[:, None], 400, axis=1)
    OPERATORS[name](children, parents, rng)
    assert np.isin(children, allowed).all()
    changed = children != ids[:, None]
    if name == "cross":
        kept = children == ids[:, None]
        assert 0 < kept[..., 0].mean() < 1, "now one end"
        assert 0 < kept[..., -1].mean() < 1, "now the other"
        for feature in range(3):
            mates = parents.mates[feature]
            for child in children[feature]:
                ends = [(child[:cut], child[cut:]) for cut in range(1, 8)]
                begin, end = ids[feature], mates
                assert any(
                    (np.array_equal(a, begin[: len(a)]) and (end[:, len(a) :] == b).all(1).any())
                    or (np.array_equal(b, begin[len(a) :]) and (end[:, : len(a)] == a).all(1).any())
                    for a, b in ends
                )
    elif name == "shift":
        for child in children[1]:
            kept = [token for token in child]
            without = [[*kept[:i], *kept[i + 1 :]] for i in range(8)]
            parent = ids[1].tolist()
            assert any(w == [*parent[:j], *parent[j + 1 :]] for w in without for j in range(8))
    else:
        assert changed.sum(axis=2).max() == (2 if "twice" in name else 1)
        for feature, last in enumerate(parents.last):
            assert not changed[feature][:, last + 1 :].any(), "what comes after the firing place does not matter"
            assert changed[feature][:, : last + 1].any(axis=0).all(), "every place that does is tried"
    if "slope" in name:
        made = children[changed]
        assert np.isin(made, parents.promising).all()
