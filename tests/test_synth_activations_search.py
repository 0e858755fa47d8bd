"""A search for the hardest input: tokens that can be text, mixtures of them, and what is found by which stage."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import D_SAE, TEXTS
from synth_runs import HOOK, random_ids, site_of

from sae_analysis.language_model import TokenText
from sae_analysis.sae_interface import JumpReLU
from sae_analysis.synth_activations import GRADIENT_COST, Evaluator, Search, SearchSettings, Vocabulary
from sae_analysis.synth_activations.fluency import LEVEL_EDGES, LEVEL_SLOTS
from sae_analysis.synth_activations.operators import OPERATORS, Parents
from sae_analysis.synth_activations.relaxation import relax
from sae_analysis.synth_activations.starts import Starts


@pytest.fixture(scope="module")
def vocabulary(model):
    return Vocabulary(model.tokens, model.d_vocab)


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


def test_special_tokens_are_no_text_even_where_the_tokenizer_gives_them_back(model, vocabulary):
    special = sorted(model.tokens.special_token_ids)
    text = model.tokens.decode(special)
    assert model.tokens.tokenize([text]) == [special], "else this says nothing"
    assert vocabulary.texts([special, [0], [*model.tokens.tokenize(["ship"])[0], 0]]) == [None, None, None]


class SpaceInFront(TokenText):
    """A tokenizer that, like Llama's, puts a space in front of every text."""

    def __init__(self):
        """Wrap none."""

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


# --- relaxation ----------------------------------------------------------------------------------------------------


def test_mixtures_rise_and_their_value_is_that_of_mixed_embeddings(bos_model, vocabulary):
    evaluator, ids = Evaluator(site_of(bos_model), [3, 17]), vocabulary.ids[random_ids(2, 5) % len(vocabulary)]
    feature = torch.arange(2)
    with torch.no_grad():
        values = [
            relax(evaluator, vocabulary.ids, ids, feature, n_steps=steps, learning_rate=0.1).value for steps in (0, 20)
        ]
        spent = evaluator.token_evaluations
        relaxed = relax(evaluator, vocabulary.ids, ids, feature, n_steps=7, learning_rate=0.1)
        assert evaluator.token_evaluations - spent == 2 * 5 * (7 * GRADIENT_COST + 1)
        embeddings = relaxed.mixtures @ bos_model.embed(vocabulary.ids)
        x = bos_model.activations_of_embeddings(evaluator._with_bos_embedded(embeddings), HOOK)[:, 1:]
        again = torch.stack([evaluator._values(x)[row, :, row].max() for row in range(2)])
    assert (values[1] > values[0]).all()
    torch.testing.assert_close(relaxed.value, again)
    torch.testing.assert_close(relaxed.mixtures.sum(dim=-1), torch.ones(2, 5))


def test_mixtures_begin_near_their_sequence(bos_model, vocabulary):
    ids = vocabulary.ids[random_ids(2, 5) % len(vocabulary)]
    with torch.no_grad():
        relaxed = relax(
            Evaluator(site_of(bos_model), [3]), vocabulary.ids, ids, torch.zeros(2, dtype=torch.int64),
            n_steps=0, learning_rate=0.1,
        )  # fmt: skip
    assert torch.equal(vocabulary.ids[relaxed.mixtures.argmax(dim=-1)], ids)
    torch.testing.assert_close(relaxed.mixtures.max(dim=-1).values, torch.full((2, 5), 0.1))


# --- search --------------------------------------------------------------------------------------------------------

SHORT = SearchSettings(
    seq_len=6, budget=4_000, population=4, children=8, candidates=32, patience=5, pool=8, n_steps=4
)  # fmt: skip


def searched(model, vocabulary, features=(3, 17, 40), settings=SHORT, *, seeds=None, rule=None):
    """Return what was found, by feature, and the evaluator."""
    evaluator = Evaluator(site_of(model, rule), features)
    found = Search(evaluator, vocabulary, settings, seeds).run()
    return {feature: one.found for feature, one in found.items()}, evaluator


@pytest.mark.parametrize("rule", [None, JumpReLU(torch.full((D_SAE,), 3.0))], ids=["topk", "jumprelu"])
def test_the_true_optimum_of_a_case_small_enough_to_enumerate_is_found(model, vocabulary, rule):
    """Of all texts of three out of 24 tokens; twelve features side by side, each for half of what trying all costs."""
    features, small = tuple(range(0, D_SAE, 4)), copy.copy(vocabulary)
    small.ids = vocabulary.ids[::8]
    every = torch.cartesian_prod(small.ids, small.ids, small.ids)
    evaluator = Evaluator(site_of(model, rule), features)
    with torch.no_grad():
        value = torch.cat([evaluator.score(part).value for part in every.split(4096)])
    settings = replace(SHORT, seq_len=3, budget=20_000, population=8, children=64, patience=15, fluency=0.0)
    assert evaluator.token_evaluations > 2 * settings.budget
    found, _ = searched(model, small, features, settings, rule=rule)
    for place, feature in enumerate(features):
        ranked = value[:, place].argsort(descending=True).tolist()[:2000]
        texts = vocabulary.texts([every[row].tolist() for row in ranked])
        best = next(row for row, text in zip(ranked, texts, strict=True) if text is not None)
        assert found[feature][0].value == pytest.approx(float(value[best, place]), rel=1e-5)


def test_no_sequence_is_tried_twice_while_there_are_new_ones(model, vocabulary, monkeypatch):
    tried = []
    score = Evaluator.score
    monkeypatch.setattr(
        Evaluator, "score", lambda one, ids, *rest: (tried.extend(ids.tolist()), score(one, ids, *rest))[1]
    )
    searched(model, vocabulary, settings=replace(SHORT, pool=1, seed=1))
    rows = [tuple(ids) for ids in tried if len(ids) == SHORT.seq_len]
    assert len(rows) > 1_000
    assert len(set(rows)) > 0.97 * len(rows), "all but what populations begin with, and places where all was tried"


def test_no_token_is_tried_that_is_not_allowed(model, vocabulary, monkeypatch):
    """Not the one of id 0 either, which fills slots that are empty."""
    tried, score = set(), Evaluator.score
    monkeypatch.setattr(
        Evaluator, "score", lambda self, ids, *rest: (tried.update(ids.flatten().tolist()), score(self, ids, *rest))[1]
    )
    searched(model, vocabulary, settings=replace(SHORT, fluency=0.6))
    assert tried
    assert tried <= set(vocabulary.ids.tolist())


def test_everything_found_is_text_and_worth_what_is_said(model, vocabulary):
    found, evaluator = searched(model, vocabulary)
    for place, sequences in enumerate(found.values()):
        assert list(sequences) == sorted(sequences, key=lambda one: -one.value)
        assert len({one.ids for one in sequences}) == len(sequences)
        for one in sequences:
            [text] = vocabulary.texts([one.ids])
            assert text is not None
            with torch.no_grad():
                scores = evaluator.score(torch.tensor([one.ids]))
            assert one.value == pytest.approx(float(scores.value[0, place]), rel=1e-5)
            assert one.position == int(scores.position[0, place])
            if one.cross_entropy is not None:
                with torch.no_grad():
                    surprise = evaluator.fluency(torch.tensor([one.ids]), vocabulary.ids, 1).cross_entropy
                assert one.cross_entropy == pytest.approx(float(surprise), rel=1e-5)


def test_the_same_seed_finds_the_same_and_another_something_else(model, vocabulary):
    first, again = (searched(model, vocabulary)[0] for _ in range(2))
    assert first == again
    assert first != searched(model, vocabulary, settings=replace(SHORT, seed=1))[0]


def test_the_budget_is_spent_and_not_exceeded(model, vocabulary):
    for change in ({}, {"fluency": 0.0}, {"caching": False}, {"harvest": False}):
        settings = replace(SHORT, **change)
        found, evaluator = searched(model, vocabulary, settings=settings)
        assert 3 * 4_000 - 3 * 6 * 20 < evaluator.token_evaluations <= 3 * 4_000
        assert all(one.evaluations <= 4_000 for sequences in found.values() for one in sequences)


def test_what_went_into_beginnings_is_told_from_what_was_searched(model, vocabulary):
    for budget in (1, 4_000):
        search = Search(Evaluator(site_of(model), (3, 17)), vocabulary, replace(SHORT, budget=budget))
        for one in search.run().values():
            assert 0 < one.beginnings <= one.token_evaluations
            assert (one.beginnings < one.token_evaluations) is (budget == 4_000)


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
    """Tried for the first of two features, and twice: the second sees it in the same round, and keeps it once."""
    found, _ = searched(model, vocabulary, features=(3, 17))
    best = np.array(found[17][0].ids)
    for harvest in (True, False):
        search = Search(Evaluator(site_of(model), (3, 17)), vocabulary, replace(SHORT, harvest=harvest))
        children = vocabulary.ids[torch.randint(len(vocabulary), (2, 8, 6))].numpy()
        children[0, 0] = children[0, 1] = best
        with torch.no_grad():
            for _ in range(2):
                search._try(np.arange(2), children, np.array(["one", "two"], object))
        kept = [tuple(ids) for ids in search._free.ids[1].tolist()]
        assert kept.count(tuple(best.tolist())) == harvest
        origins = set(search._free.origin[1][search._free.value[1] > -np.inf])
        assert origins <= {"two", "another feature"}
        assert ("another feature" in origins) == harvest


def test_sources_have_their_turns_and_keep_to_what_they_are(vocabulary):
    allowed = vocabulary.ids.numpy()
    seeds = [[(5, 6, 7, 8), (9, 4)], ()]
    starts = Starts(("real text", "random"), allowed, seeds, np.random.default_rng(0))
    turns = [starts.next(0, 6, 3) for _ in range(3)]
    assert [source for source, _ in turns] == ["real text", "random", "real text"]
    assert [starts.next(1, 6, 3)[0] for _ in range(2)] == ["random", "random"]
    ends = {tuple(row[1:]) for row in turns[0][1].tolist()}
    assert (7, 8) in ends, "the end of what is too long, where it fired"
    assert (9, 4) in ends
    assert np.isin(turns[1][1], allowed).all()


def test_real_text_is_begun_with_and_said_to_be(model, vocabulary):
    [ids] = model.tokens.tokenize([TEXTS[0]])
    settings = replace(SHORT, budget=150, n_steps=0, fluency=0.0, harvest=False)
    found, _ = searched(model, vocabulary, settings=settings, seeds={3: [ids[:6], ids[4:10]]})
    assert {one.provenance for one in found[3]} == {"real text"}
    assert {one.provenance for one in found[17]} == {"random"}


def test_every_stage_leaves_its_name(model, vocabulary):
    names = set()
    for seed in (0, 1):
        found, _ = searched(model, vocabulary, settings=replace(SHORT, seed=seed))
        names |= {one.provenance for sequences in found.values() for one in sequences}
    assert names == {"random", "relaxed", "model text", "another feature"}


def test_a_population_that_stands_still_begins_anew_and_its_best_is_kept(model, vocabulary, monkeypatch):
    begun = []
    begin = Search._begin
    monkeypatch.setattr(Search, "_begin", lambda search, places: (begun.extend(places), begin(search, places))[1])
    found, _ = searched(model, vocabulary, settings=replace(SHORT, budget=8_000, patience=2))
    assert len(begun) > 3
    assert all(len(sequences) > SHORT.population for sequences in found.values())


def test_levels_of_fluency_hold_what_belongs_there_and_no_sequence_twice(model, vocabulary):
    evaluator = Evaluator(site_of(model), (3, 17, 40))
    search = Search(evaluator, vocabulary, replace(SHORT, fluency=0.6))
    search.run()
    fluent = search._fluent
    filled = fluent.value > -np.inf
    assert filled.sum() > 3
    for place, slot in zip(*np.nonzero(filled), strict=True):
        surprise = fluent.cross_entropy[place, slot]
        assert slot // LEVEL_SLOTS == np.digitize(surprise, LEVEL_EDGES)
        with torch.no_grad():
            again = evaluator.fluency(torch.from_numpy(fluent.ids[place, slot][None]), vocabulary.ids, 1)
        assert surprise == pytest.approx(float(again.cross_entropy), rel=1e-5)
    for place in range(3):
        assert len(fluent.known(place)) == filled[place].sum()


@pytest.mark.parametrize("bos", ["never", "always"])
def test_single_tokens_are_searched_for_and_fluent_only_behind_bos(bos_model, vocabulary, bos):
    """Before a token that stands alone there is nothing that could expect it."""
    evaluator = Evaluator(site_of(bos_model, bos=bos), (3, 17, 40))
    found = Search(evaluator, vocabulary, replace(SHORT, seq_len=1, fluency=0.6)).run()
    with torch.no_grad():
        best = evaluator.score(vocabulary.ids[:, None]).value.max(dim=0).values
    for place, one in enumerate(found.values()):
        assert one.found[0].value == pytest.approx(float(best[place]), rel=1e-5)
        known = [each.cross_entropy for each in one.found if each.cross_entropy is not None]
        assert bool(known) == (bos == "always")
        assert np.isfinite(known).all()


def test_a_share_of_the_effort_goes_to_fluent_sequences(model, vocabulary, monkeypatch):
    wholes = []
    measure = Evaluator.fluency
    monkeypatch.setattr(
        Evaluator, "fluency", lambda one, ids, *rest: (wholes.append(len(ids)), measure(one, ids, *rest))[1]
    )
    amounts = []
    for share in (0.0, 0.2, 0.8):
        wholes.clear()
        searched(model, vocabulary, settings=replace(SHORT, fluency=share))
        amounts.append(sum(wholes))
    assert amounts[0] == 0 < amounts[1] < amounts[2]


@pytest.mark.parametrize("turn", [1, -1])
def test_a_sequence_that_both_populations_have_was_found_when_the_first_had_it(model, vocabulary, turn):
    search = Search(Evaluator(site_of(model), (3,)), vocabulary, SHORT)
    for population, found_at in zip((search._free, search._fluent), (10, 20)[::turn], strict=True):
        population.put(0, 0, vocabulary.ids[:6].numpy(), 5.0, 3)
        population.found_at[0, 0] = found_at
    [found] = search._outcome(0).found
    assert found.evaluations == 10


def test_convergence_rises_to_the_best_and_relaxation_is_told(model, vocabulary):
    for n_steps in (0, 4):
        evaluator = Evaluator(site_of(model), (3, 17))
        for one in Search(evaluator, vocabulary, replace(SHORT, n_steps=n_steps)).run().values():
            spent, best = zip(*one.convergence, strict=True)
            assert list(best) == sorted(set(best))
            assert list(spent) == sorted(spent)
            assert best[-1] == max(found.value for found in one.found)
            assert one.token_evaluations == evaluator.token_evaluations // 2
            assert (one.relaxation is None) == (n_steps == 0)


# --- sequences so long that hardly any drawn at random is text ------------------------------------------------------

LONG = SearchSettings(seq_len=100, budget=100 * 100, population=4, children=8, pool=16, n_steps=0, fluency=0.0)


def seldom_text(vocabulary, monkeypatch):
    """Have sequences of chance be no text, as those of large vocabularies seldom are: what was drawn is refused."""
    drawn, draw, texts = set(), Starts.next, Vocabulary.texts

    def next_(starts, *asked):
        source, rows = draw(starts, *asked)
        drawn.update(map(tuple, rows.tolist()))
        return source, rows

    monkeypatch.setattr(Starts, "next", next_)
    monkeypatch.setattr(
        Vocabulary,
        "texts",
        lambda self, sequences: [
            None if tuple(ids) in drawn else text for ids, text in zip(sequences, texts(self, sequences), strict=True)
        ],
    )


@pytest.mark.parametrize("change", [{}, {"n_steps": 2}, {"fluency": 0.5}, {"harvest": False}], ids=str)
def test_long_sequences_begin_with_texts_and_with_nothing_that_is_not_allowed(
    model, vocabulary, monkeypatch, change, recwarn
):
    seldom_text(vocabulary, monkeypatch)
    begun, begin = [], Search._begin
    monkeypatch.setattr(
        Search,
        "_begin",
        lambda self, places: (begin(self, places), begun.append((self._free.value[places] > -np.inf).all()))[0],
    )
    found, _ = searched(model, vocabulary, settings=replace(LONG, **change))
    assert begun
    assert all(begun), "populations are full"
    allowed = set(vocabulary.ids.tolist())
    for sequences in found.values():
        assert len(sequences) >= LONG.population
        for one in sequences:
            assert allowed.issuperset(one.ids)
            assert len(one.ids) == LONG.seq_len
            assert vocabulary.texts([one.ids]) != [None]
            assert one.provenance
    assert not [str(one.message) for one in recwarn if issubclass(one.category, RuntimeWarning)]


@pytest.mark.parametrize("change", [{}, {"n_steps": 2}, {"fluency": 0.5}], ids=str)
def test_where_nothing_is_text_nothing_is_found_and_the_search_ends(model, vocabulary, monkeypatch, change):
    monkeypatch.setattr(Vocabulary, "texts", lambda _, sequences: [None] * len(sequences))
    found, _ = searched(model, vocabulary, settings=replace(LONG, seq_len=6, **change))
    assert list(found.values()) == [(), (), ()]


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_change_children_in_their_way_and_keep_to_the_vocabulary(name, vocabulary):
    rng = np.random.default_rng(0)
    allowed = vocabulary.ids.numpy()
    ids = rng.choice(allowed, size=(3, 8))
    place, last = np.array([4, 2, 0]), np.array([7, 4, 0])
    parents = Parents(
        place=place,
        last=last,
        mates=rng.choice(allowed, size=(3, 5, 8)),
        promising=rng.choice(allowed, size=(3, 8, 6)),
        others=np.broadcast_to(allowed, (3, 8, len(allowed))),
    )
    children = np.repeat(ids[:, None], 400, axis=1)
    OPERATORS[name](children, parents, rng)
    assert np.isin(children, allowed).all()
    for row, first in enumerate(place):
        assert (children[row, :, :first] == ids[row, :first]).all(), "what is before the place is shared"
    changed = children != ids[:, None]
    if name == "cross":
        for row in (0, 1):
            ends = {tuple(mate[place[row] :]) for mate in parents.mates[row].tolist()}
            assert {tuple(child[place[row] :]) for child in children[row].tolist()} == ends
        for child in children[2].tolist():
            mates = parents.mates[2].tolist()
            assert any(child == [*mate[:cut], *ids[2, cut:]] for mate in mates for cut in range(1, 8))
    elif name == "shift":
        for child in children[1].tolist():
            without = [[*child[:i], *child[i + 1 :]] for i in range(8)]
            parent = ids[1].tolist()
            assert any(one == [*parent[:j], *parent[j + 1 :]] for one in without for j in range(8))
        assert changed[1].any(axis=0)[2:].all()
    else:
        assert changed.sum(axis=2).max() == (1 if "two" not in name else 2)
        for row in range(3):
            assert not changed[row][:, last[row] + 1 :].any(), "what comes after the firing place does not matter"
            assert changed[row][:, place[row]].mean() > 0.5
        if "two" in name:
            assert changed[0][:, 4:8].any(axis=0).all(), "the other one is anywhere up to where it fires"
    if "promising" in name:
        assert np.isin(children[changed], parents.promising).all()
