"""The grammar of --features, and what each of its rules chooses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_analysis.errors import FeatureError
from sae_analysis.feature_selection import GRAMMAR, parse_features

spans = st.tuples(st.integers(0, 200), st.integers(0, 30)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def chosen(text, d_sae=1000, seed=0):
    return parse_features(text).before_data(d_sae, seed)


def refusal(call):
    with pytest.raises(FeatureError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("0,5,10", (0, 5, 10)),
        ("0-3", (0, 1, 2, 3)),
        ("0-2,50-51", (0, 1, 2, 50, 51)),
        ("7", (7,)),
        (" 3 , 1 ", (3, 1)),
        ("5-5", (5,)),
        ("4,2-5,4", (4, 2, 3, 5)),
        ("007", (7,)),
    ],
)
def test_numbers_and_ranges_are_taken_in_the_order_given_each_once(text, indices):
    assert chosen(text) == indices
    assert not parse_features(text).needs_data


@given(parts=st.lists(spans, min_size=1, max_size=8))
def test_any_list_of_ranges_reads_back(parts):
    text = ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in parts)
    expected = dict.fromkeys(index for first, last in parts for index in range(first, last + 1))
    assert chosen(text) == tuple(expected)


@given(text=st.text(max_size=12) | st.text(alphabet="0123456789,-: altopdmrn", max_size=12))
def test_any_text_is_read_or_refused(text):
    try:
        parse_features(text)
    except FeatureError:
        return


def test_all_means_every_feature():
    assert chosen("all", d_sae=5) == (0, 1, 2, 3, 4)


def test_random_features_are_distinct_sorted_and_follow_the_seed():
    first = chosen("random:20", seed=1)
    assert len(set(first)) == 20
    assert list(first) == sorted(first)
    assert first == chosen("random:20", seed=1) != chosen("random:20", seed=2)
    assert chosen("random:5", d_sae=5) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("rule", ["top:2", "top:2:max", "dead:2"])
def test_rules_about_data_measure_everything_first(rule):
    selection = parse_features(rule)
    assert selection.needs_data
    assert selection.before_data(6, 0) == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("top:2", (3, 1)),
        ("top:4", (3, 1, 4, 0)),
        ("top:2:max", (1, 0)),
        ("dead:1", (2,)),
        ("dead:4", (2, 5)),
    ],
)
def test_data_chooses_with_ties_by_index(rule, expected):
    counts, maxima = [2, 5, 0, 9, 5, 0], [7.0, 8.0, 0.0, 1.0, 7.0, 0.0]
    assert parse_features(rule).after_data(counts, maxima) == expected


def test_no_dead_feature_is_said():
    assert refusal(lambda: parse_features("dead:3").after_data([1, 2], [1.0, 1.0])) == (
        "features dead:3 found none: all 2 features fired on this corpus."
    )


@pytest.mark.parametrize(("text", "first"), [("8", 8), ("0,9", 9), ("5-12", 8), ("20-30", 20)])
def test_a_feature_the_sae_does_not_have(text, first):
    assert refusal(lambda: chosen(text, d_sae=8)) == f"Feature {first} does not exist: the SAE has features 0 to 7."


def test_a_range_that_would_fill_the_memory_is_refused_by_its_bounds():
    assert refusal(lambda: chosen("0-999999999", d_sae=8)) == ("Feature 8 does not exist: the SAE has features 0 to 7.")


@pytest.mark.parametrize("rule", ["random", "top", "dead"])
def test_more_features_than_there_are(rule):
    assert refusal(lambda: chosen(f"{rule}:9", d_sae=8)) == ("9 features were asked for: the SAE has 8. Ask for fewer.")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", ""),
        ("1,,2", ""),
        ("1;2", "1;2"),
        ("a-b", "a-b"),
        ("1-", "1-"),
        ("-1", "-1"),
        ("1.5", "1.5"),
        ("top", "top"),
        ("top:", "top:"),
        ("some:3", "some:3"),
        ("top:3:min", "top:3:min"),
        ("all,1", "all"),
        ("²", "²"),
        ("٣", "٣"),
        ("random:9999999999", "random:9999999999"),
    ],
)
def test_what_is_not_in_the_grammar_is_shown_with_the_grammar(text, part):
    assert refusal(lambda: parse_features(text)) == (
        f"features '{text}' cannot be read at '{part}': expected {GRAMMAR}."
    )


@pytest.mark.parametrize("text", ["random:0", "top:0", "dead:0:max", "dead:5:max", "random:5:max"])
def test_a_rule_that_asks_for_nothing(text):
    assert refusal(lambda: parse_features(text)) == (
        f"features '{text}' asks for nothing that exists: expected {GRAMMAR}."
    )


def test_an_empty_range_is_shown_the_right_way_round():
    assert refusal(lambda: parse_features("1,20-10")) == ("features '1,20-10' has the empty range 20-10: write 10-20.")


def test_the_grammar_names_every_rule():
    assert GRAMMAR == (
        "0,5,10 | 0-20 | 0-10,50-60 | all | random:N | top:N (by density) | top:N:max (by maximum) | dead:N"
    )
