"""What must never happen to a page, whatever stands on it: text on text or outside, ink at the edge."""

from dataclasses import replace

import figure_stress as stress
import pytest
import record_factory as make
from hypothesis import given, settings
from hypothesis import strategies as st
from page_reader import EVERY_GLYPH_IS_THERE, HEADER, HOSTILE, SEARCHED, assert_legible, assert_margin_is_paper

from sae_analysis.records import ActivationExample, FeatureStats, Relaxation
from sae_analysis.visualizer import feature_page, search_page, summary_page, write_page

pytestmark = EVERY_GLYPH_IS_THERE

PAGES = dict(stress.pages())


@pytest.mark.parametrize("name", PAGES)
def test_a_stress_page_is_legible(name):
    assert_legible(PAGES[name]())


TOKEN = st.one_of(
    st.text(max_size=12),
    st.sampled_from([token for run in make.SCRIPTS.values() for token in run]),
    st.lists(st.integers(0, 255), min_size=1, max_size=3).map(lambda run: "".join(f"<0x{byte:02X}>" for byte in run)),
    st.text(alphabet="aWآ水 ", min_size=30, max_size=200),
)
VALUE = st.one_of(st.floats(-1e6, 1e6, width=32), st.just(0.0), st.floats(-(2.0**-20), 2.0**-20, width=32))


@st.composite
def hostile_stats(draw: st.DrawFn) -> FeatureStats:
    windows = draw(st.lists(st.lists(TOKEN, min_size=1, max_size=40), min_size=1, max_size=2))
    examples = []
    for tokens in windows:
        values = [draw(VALUE) for _ in tokens]
        peak = max(range(len(values)), key=lambda at: abs(values[at]))
        source = draw(st.text(max_size=40))
        examples.append(make.example(tokens, peak, activations=values, source=source))
    values = [value for item in examples for value in item.activations if value]
    named = [item.tokens[0] for item in examples]
    return make.stats(
        examples=tuple(examples), example_bands=(), histogram=make.histogram(values),
        max_activation=max([0.0, *values]), min_activation=min([0.0, *values]),
        top_tokens=tuple(replace(make.stats().top_tokens[0], token=token) for token in named),
        top_boosted_tokens=tuple((token, 1e-9) for token in named),
    )  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(hostile_stats(), st.text(max_size=150))
def test_any_feature_is_legible(stats, name):
    header = replace(HEADER, model=name, corpus=name)
    assert_legible(feature_page(stats, header))
    assert_legible(summary_page({7: stats}, 1, header))


def test_no_ink_reaches_the_edge(tmp_path):
    for name in ("odd-tokens", "scripts", "huge"):
        assert_margin_is_paper(write_page(feature_page(HOSTILE[name], HEADER), tmp_path / f"{name}.png"))


@st.composite
def searched_stats(draw: st.DrawFn) -> FeatureStats:
    stats = draw(hostile_stats())
    value = st.one_of(VALUE, st.sampled_from([0.0, 1e-300, 1e30]))
    spent = st.integers(0, 10**13)

    def searched(example: ActivationExample) -> ActivationExample:
        origin = make.synthesis(
            len(example.tokens), pre_activation=draw(value), cross_entropy=draw(st.none() | st.floats(0, 40)),
            attribution=tuple(draw(VALUE) for _ in example.tokens), is_text=draw(st.booleans()),
            is_sink=draw(st.booleans()), provenance=draw(st.text(max_size=30)), token_evaluations=draw(spent),
        )  # fmt: skip
        return replace(example, synthesis=origin)

    examples = tuple(map(searched, stats.examples))
    course = draw(st.lists(st.tuples(spent, st.floats(0, 1e6, width=32)), max_size=5))
    search = make.search(
        token_evaluations=draw(spent), single_token=(draw(TOKEN), draw(value)),
        convergence=tuple(zip(sorted(at for at, _ in course), sorted(value for _, value in course), strict=True)),
        frontier=draw(st.sampled_from([(), examples[:1], examples])),
        relaxation=draw(st.none() | st.builds(Relaxation, relaxed=value, discrete=value)),
    )  # fmt: skip
    return replace(stats, examples=examples, search=search)


@settings(max_examples=40, deadline=None)
@given(searched_stats())
def test_any_search_is_legible(stats):
    for page in (feature_page(stats), summary_page({7: stats}), search_page({7: stats, 8: make.synthetic_stats(8)})):
        assert_legible(page)


def test_no_ink_of_a_search_reaches_the_edge(tmp_path):
    for name in ("odd-tokens", "scripts", "doubtful", "frontier-of-thirty"):
        assert_margin_is_paper(write_page(feature_page(SEARCHED[name], HEADER), tmp_path / f"{name}.png"))
    assert_margin_is_paper(write_page(PAGES["search-hostile"](), tmp_path / "search.png"))
