"""Real beside synthetic: likeness and verdicts by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from record_factory import comparison_pair, results_of, with_values

from sae_analysis import comparison
from sae_analysis.comparison import compare, compare_features, fitted_tail
from sae_analysis.comparison.tails import Interval
from sae_analysis.comparison.verdicts import judge
from sae_analysis.errors import OutputError
from sae_analysis.records import Likeness
from sae_analysis.wording import NOT_SEARCHED

# --- comparing -----------------------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_two_analyses():
    real, synthetic = comparison_pair()
    found = compare_features(real, synthetic)
    assert found.real_max == real.max_activation
    assert found.synthetic_max == synthetic.max_activation
    assert found.realised == real.max_activation / synthetic.max_activation
    fluent = [
        one.max_activation
        for one in (*synthetic.examples, *synthetic.search.frontier)
        if one.synthesis.cross_entropy <= 6.0
    ]
    assert found.fluent_max == max(fluent)
    assert found.excerpt_max == synthetic.search.excerpts[0].max_activation
    assert found.single_token_max == synthetic.search.single_token[1]
    assert found.ceiling is None
    capped = replace(synthetic, search=replace(synthetic.search, ceiling=31.0))
    assert compare_features(real, capped).ceiling == 31.0
    assert found.behind_text == pytest.approx(np.median(synthetic.search.behind_text))


def test_likeness_is_a_mean_over_pairs():
    real, synthetic = comparison_pair()
    likeness = compare_features(real, synthetic).likeness
    ours, theirs = ([example.firing for example in one.examples if example.firing] for one in (real, synthetic))

    def cosine(a, b):
        return np.dot(a.residual, b.residual) / np.linalg.norm(a.residual) / np.linalg.norm(b.residual)

    def jaccard(a, b):
        left, right = dict(a.coactive), dict(b.coactive)
        either = {*left, *right}
        return sum(min(left.get(f, 0), right.get(f, 0)) for f in either) / sum(
            max(left.get(f, 0), right.get(f, 0)) for f in either
        )

    assert likeness.residual == pytest.approx(np.mean([cosine(a, b) for a in ours for b in theirs]))
    assert likeness.residual_among_real == pytest.approx(cosine(*ours))
    assert likeness.length_real == pytest.approx(np.mean([np.linalg.norm(one.residual) for one in ours]))
    assert likeness.length_synthetic == pytest.approx(np.mean([np.linalg.norm(one.residual) for one in theirs]))
    assert likeness.coactive == pytest.approx(np.mean([jaccard(a, b) for a in ours for b in theirs]))
    assert likeness.divergence_real == pytest.approx(np.mean([one.ablation.divergence for one in ours]))
    assert likeness.same_token == pytest.approx(0.5), "one on ' Ship', one on a word of its own"


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "same trigger"),
        ({"potential": 20.0}, "superstimulus"),
        ({"token": "zebra"}, "same meaning in new words"),
        ({"token": "zebra", "residual": (-1.0, 0.0, 0.0), "coactive": ((9, 1.0),), "raised": "else"}, "second sense"),
        ({"residual": (-1.0, 0.0, 0.0), "coactive": ((12, 1.0),)}, "second sense"),
        ({"potential": 20.0, "residual": (-1.0, 0.0, 0.0), "coactive": ((12, 1.0),)}, "second sense"),
        ({"behind_text": (0.1, 0.0, 0.2)}, "artefact"),
        ({"is_sink": True}, "artefact"),
        ({"real_is_dead": True}, "never fires in text but can"),
        ({"synthetic_is_dead": True}, "search failed"),
        ({"real_is_dead": True, "synthetic_is_dead": True}, "dead"),
    ],
)
def test_verdicts(change, verdict):
    found = compare_features(*comparison_pair(**change))
    assert found.verdict == verdict
    assert found.reasons


ALIKE = Likeness(
    same_token=0.8, residual=0.4, residual_among_real=0.8, length_real=2.0, length_synthetic=5.0, coactive=0.2,
    coactive_among_real=0.4, raised=0.1, raised_among_real=0.2, divergence_real=0.1, divergence_synthetic=0.2,
)  # fmt: skip
"""Half as alike as could be expected."""


def judged(likeness=ALIKE, realised=0.8, elsewhere=None, behind_text=None):
    return judge(*comparison_pair(), likeness=likeness, realised=realised, elsewhere=elsewhere, behind_text=behind_text)


def between(low, high):
    return Interval(low=low, median=(low + high) / 2, high=high)


@pytest.mark.parametrize(
    ("name", "value", "at_it", "below"),
    [
        ("behind_text", 0.25, "same trigger", "artefact"),
        ("realised", 0.75, "same trigger", "superstimulus"),
        ("same_token", 0.5, "same trigger", "same meaning in new words"),
        ("residual", 0.45, "same trigger", "second sense"),
    ],
)
def test_a_verdict_changes_at_its_bound(name, value, at_it, below):
    for number, verdict in ((value, at_it), (math.nextafter(value, 0.0), below)):
        if name in ("behind_text", "realised"):
            assert judged(**{name: number}).verdict == verdict
        else:  # likeness by residual vectors alone, where what could be expected is 1
            only = replace(ALIKE, residual_among_real=1.0, residual=0.9, coactive=None)
            assert judged(replace(only, **{name: number})).verdict == verdict


def test_likeness_counts_against_what_could_be_expected_at_the_least():
    """Half of a cosine of 0.5, and of an overlap of 0.15, where real examples have less in common."""
    for name, least, digits in (("residual", 0.5, ".3f"), ("coactive", 0.15, ".4f")):
        only = replace(ALIKE, residual=None, coactive=None)
        apart = replace(only, **{name: 0.46 * least, f"{name}_among_real": 0.01})
        assert judged(apart).verdict == "same trigger"
        assert judged(apart).reasons[1].startswith("46.0 % as alike as could be expected")
        floor = f"{least:.3f} is the least expected"
        assert judged(apart).reasons[2].endswith(f": {0.46 * least:{digits}}, among real examples 0.0100; {floor}")
        assert judged(replace(apart, **{name: 0.44 * least})).verdict == "second sense"
        alone = judged(replace(apart, **{f"{name}_among_real": None}))  # one real example
        assert alone.verdict == "same trigger"
        assert alone.reasons[2].endswith(f": {0.46 * least:{digits}}; {floor}")


def test_what_is_more_alike_than_could_be_expected_makes_up_for_nothing():
    """Twice as alike as real examples in one thing, 0.8 of it in the other: nine tenths, where 1.4 would be a mean."""
    more = replace(ALIKE, residual=1.0, residual_among_real=0.5, coactive=0.32)
    assert judged(more).reasons[1].startswith("90.0 % as alike as could be expected")


def test_the_reason_that_decides_comes_first():
    alike = (
        "50.0 % as alike as could be expected (it takes 45.0 % to be the same thing)",
        "residual vectors: 0.400, among real examples 0.800",
        "features active beside it: 0.200, among real examples 0.400",
    )
    tokens = "80.0 % of its strong sequences fire on a token of its own"
    assert judged().reasons == (tokens, *alike)
    long = "residual vectors are 2.50 times as long there"
    assert judged(realised=0.61).reasons == ("real text reaches 61.0 % of it", long, *alike, tokens)
    assert judged(behind_text=0.1).reasons == ("behind other text 10.0 % is left", tokens, *alike)
    other = replace(ALIKE, residual=0.1, coactive=0.1)
    assert judged(other).reasons[0] == "18.8 % as alike as could be expected (it takes 45.0 % to be the same thing)"
    assert judged(other).reasons[-1] == tokens


def test_a_verdict_that_other_texts_would_not_give_is_said_to_be_unsettled():
    doubt = "other texts as long would reach 39.0 % to 160 %"
    for realised, interval, is_settled in (
        (0.61, between(0.39, 1.6), False),
        (0.80, between(0.39, 1.6), False),
        (0.61, between(0.39, 0.74), True),
        (0.80, between(0.75, 1.6), True),
        (0.80, None, None),
        (1.01, between(0.8, 1.6), False),
        (1.01, None, False),
        (1.0, between(0.8, 1.6), True),
    ):
        found = judged(realised=realised, elsewhere=interval)
        assert found.is_settled is is_settled
        assert (doubt in found.reasons) is (is_settled is False and realised < 1)
        assert ("the search fell short of the text, and a longer one may not" in found.reasons) is (realised > 1)
    assert judged(replace(ALIKE, residual=0.0, coactive=0.0), elsewhere=between(0.39, 1.6)).is_settled is True
    whole = compare_features(*comparison_pair(potential=20.0))
    assert whole.is_settled is (whole.realised_high < 0.75)
    for change in ({"real_is_dead": True}, {"real_is_dead": True, "synthetic_is_dead": True}):
        assert compare_features(*comparison_pair(**change)).is_settled is None, "more text may fire it"


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"potential": 20.0},
        {"is_sink": True},
        {"behind_text": (0.1, 0.0, 0.2)},
        {"synthetic_is_dead": True},
        {"real_is_dead": True},
        {"real_is_dead": True, "synthetic_is_dead": True},
    ],
)
def test_a_verdict_on_a_search_that_never_searched_is_unsettled(change):
    real, synthetic = comparison_pair(**change)
    spent = synthetic.search.token_evaluations
    known, hasty = (
        compare_features(real, replace(synthetic, search=replace(synthetic.search, beginnings=beginnings)))
        for beginnings in (spent - 1, spent)
    )
    assert known == compare_features(real, synthetic), "a result that does not say is taken to have searched"
    assert (hasty.verdict, hasty.reasons[0], hasty.is_settled) == (known.verdict, known.reasons[0], False)
    assert hasty.reasons[1:] == (NOT_SEARCHED, *known.reasons[1:])
    assert hasty.verdict_in_words == f"{known.verdict}, unsettled"


def test_what_leaves_a_verdict_unsettled_stands_behind_the_reason_that_decides():
    for realised in (0.61, 0.8):
        found = judged(realised=realised, elsewhere=between(0.39, 1.6))
        assert found.reasons[1] == "other texts as long would reach 39.0 % to 160 %"


def test_small_activations_are_compared_like_large_ones():
    real, synthetic = comparison_pair()
    rng = np.random.default_rng(2)
    values = rng.uniform(0.01, 0.3, 200)
    found = compare_features(with_values(real, values, 10_000), replace(synthetic, max_activation=0.4))
    assert found.realised == max(values) / 0.4
    tail = fitted_tail(with_values(real, values, 10_000))
    assert found.realised_low == tail.largest_on(10_000).low / 0.4
    assert found.realised_high == tail.largest_on(10_000).high / 0.4
    assert found.tokens_until.median is None or found.tokens_until.median > 10_000


def test_small_sequences_are_strong_ones_of_a_small_feature():
    real, synthetic = comparison_pair()
    shrunk = tuple(replace(one, max_activation=one.max_activation / 1_000) for one in synthetic.examples)
    small = replace(synthetic, max_activation=synthetic.max_activation / 1_000, examples=shrunk)
    assert compare_features(real, small).likeness.same_token == compare_features(real, synthetic).likeness.same_token


@pytest.mark.parametrize("lengths", [{"length_real": None}, {"length_real": 0.0}, {"length_synthetic": None}])
def test_lengths_are_compared_where_both_are_known(lengths):
    alike = replace(ALIKE, residual=0.8, coactive=0.4)
    assert any("times as long" in reason for reason in judged(alike, realised=0.4).reasons)
    assert not any("times as long" in reason for reason in judged(replace(alike, **lengths), realised=0.4).reasons)


def test_a_sequence_of_half_the_activation_is_a_strong_one():
    real, synthetic = comparison_pair()
    on_its_token, elsewhere = synthetic.examples
    half = replace(elsewhere, max_activation=0.5 * synthetic.max_activation)
    assert compare_features(real, replace(synthetic, examples=(on_its_token, half))).likeness.same_token == 0.5


def test_tokens_raised_are_shared_as_far_as_both_raise_them():
    found = compare_features(*comparison_pair(raised=" yard| else|where")).likeness
    assert found.raised == pytest.approx(1 / 3)
    assert found.raised_among_real == 1.0


@pytest.mark.parametrize("swapped", [False, True])
def test_a_list_that_holds_another_has_no_more_in_common_with_it_than_that_one_with_the_list(swapped):
    """Some firings raise fewer tokens than a list has room for."""
    real, synthetic = comparison_pair()
    lists = ((("a", 2.0),), (("a", 2.0), ("b", 1.0), ("c", 1.0), ("d", 1.0)))

    def raising(stats, raised):
        firings = [(one, replace(one.firing.ablation, raised=raised)) for one in stats.examples if one.firing]
        examples = [replace(one, firing=replace(one.firing, ablation=ablation)) for one, ablation in firings]
        return replace(stats, examples=tuple(examples))

    first, second = lists[::-1] if swapped else lists
    assert compare_features(raising(real, first), raising(synthetic, second)).likeness.raised == pytest.approx(1 / 4)


def test_nothing_has_nothing_in_common_with_nothing():
    """No other active feature, a residual vector of zero, a prediction that nothing was measured of."""
    pair = comparison_pair(residual=(0.0, 0.0, 0.0), coactive=(), raised="")
    bare = [replace(e, firing=replace(e.firing, coactive=(), ablation=replace(e.firing.ablation, raised=())))
            for e in pair[0].examples if e.firing]  # fmt: skip
    found = compare_features(replace(pair[0], examples=tuple(bare)), pair[1]).likeness
    assert (found.residual, found.coactive, found.coactive_among_real, found.raised_among_real) == (0.0, 0.0, 0.0, 0.0)


def test_weak_sequences_do_not_say_what_fires_it():
    real, synthetic = comparison_pair()
    on_its_token, elsewhere = synthetic.examples
    weak = replace(elsewhere, max_activation=0.49 * synthetic.max_activation)
    found = compare_features(real, replace(synthetic, examples=(on_its_token, weak)))
    assert found.likeness.same_token == 1.0


def test_sequences_that_fire_nothing_do_not_say_so_either():
    real, synthetic = comparison_pair()
    silent = tuple(replace(one, max_activation=0.0) for one in synthetic.examples)
    found = compare_features(real, replace(synthetic, max_activation=0.0, examples=silent))
    assert found.likeness.same_token is None


def test_where_no_firing_was_looked_at_tokens_decide():
    for token, verdict in ((" Ship", "same trigger"), ("zebra", "second sense")):
        pair = comparison_pair(token=token)
        plain = (replace(one, examples=tuple(replace(e, firing=None) for e in one.examples)) for one in pair)
        assert compare_features(*plain).verdict == verdict


def test_likeness_is_not_measured_against_next_to_nothing():
    """Real examples with nothing in common make no other feature's examples alike."""
    real, synthetic = comparison_pair(residual=(0.1, 1.0, 0.0), coactive=((5, 1.0),))
    apart = [replace(e.firing, residual=r, coactive=c) for e, r, c in zip(
        real.examples, ((1.0, 0.05, 0.0), (0.0, 0.05, 1.0)), (((4, 1.0),), ((9, 1.0),)), strict=False)]  # fmt: skip
    examples = [replace(e, firing=f) for e, f in zip(real.examples, apart, strict=False)]
    found = compare_features(replace(real, examples=tuple(examples)), synthetic)
    assert found.likeness.residual > found.likeness.residual_among_real
    assert found.verdict == "second sense"


def test_the_least_realised_comes_first_and_what_the_search_never_fired_last():
    pairs = [
        comparison_pair(),
        comparison_pair(synthetic_is_dead=True),
        comparison_pair(real_is_dead=True),
        comparison_pair(potential=20.0),
    ]
    real, synthetic = results_of(pairs)
    found = compare(real, synthetic)
    assert [one.feature_idx for one in found.features] == [2, 3, 0, 1]
    assert found.token_count == real.fit.token_count


def test_a_sequence_at_the_bound_is_fluent():
    real, synthetic = comparison_pair()
    at_it = replace(synthetic.examples[0], synthesis=replace(synthetic.examples[0].synthesis, cross_entropy=6.0))
    alone = replace(synthetic, examples=(at_it,), search=replace(synthetic.search, frontier=()))
    assert compare_features(real, alone).fluent_max == at_it.max_activation


@pytest.fixture
def result_pair():
    return results_of([comparison_pair(), comparison_pair(potential=20.0), comparison_pair(synthetic_is_dead=True)])


def test_other_seeds_say_how_much_is_chance(result_pair):
    real, synthetic = result_pair
    other = replace(synthetic, features=tuple(replace(stats, max_activation=11.5) for stats in synthetic.features[:2]))
    found = {one.feature_idx: one for one in compare(real, synthetic, [other, other]).features}
    assert {feature: one.other_seeds for feature, one in found.items()} == {0: (11.5, 11.5), 1: (11.5, 11.5), 2: ()}
    assert found[0].synthetic_max == synthetic.features[0].max_activation
    stranger = replace(other, provenance=replace(other.provenance, hook="another"))
    with pytest.raises(OutputError, match="do not belong together"):
        compare(real, synthetic, [stranger])


@pytest.mark.parametrize("name", ["model_sha256", "hook", "hook_out", "sae_sha256", "activation_rule"])
def test_what_does_not_belong_together_is_refused(result_pair, name):
    real, synthetic = result_pair
    other = replace(synthetic, provenance=replace(synthetic.provenance, **{name: "0123456789abcdef"}))
    with pytest.raises(OutputError, match="do not belong together") as refused:
        compare(real, other)
    named = " (hash 0123456789ab) in the synthetic one" if name.endswith("_sha256") else " and 0123456789abcdef in the"
    assert f"{name.removesuffix('_sha256')} is " in str(refused.value)
    assert named in str(refused.value)


def test_results_in_the_wrong_places_are_refused(result_pair):
    real, synthetic = result_pair
    with pytest.raises(OutputError, match="A result of 'synthetic' was given as the real one"):
        compare(synthetic, real)


def test_results_without_a_feature_in_common_are_refused(result_pair):
    real, synthetic = result_pair
    others = tuple(replace(stats, feature_idx=stats.feature_idx + 100) for stats in synthetic.features)
    with pytest.raises(OutputError) as refused:
        compare(real, replace(synthetic, features=others))
    assert str(refused.value) == (
        "The real result describes 3 features (0 to 2), the synthetic one 3 features (100 to 102): they have none in "
        "common. Give results of the same features."
    )


def test_features_of_which_a_result_describes_none_are_refused(result_pair):
    real, _ = result_pair
    comparison.check_common(real, [7, 2])
    with pytest.raises(OutputError, match=r"\(0 to 2\), and `features` asks for feature 7: they have"):
        comparison.check_common(real, [7])
    with pytest.raises(OutputError, match=r"asks for 2 features \(7 to 9\): they have none"):
        comparison.check_common(real, [7, 9])
