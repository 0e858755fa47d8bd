"""The overview of features and the page on the dictionary read back."""

import math
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
import record_factory as make
from page_reader import EVERY_GLYPH_IS_THERE, HEADER, assert_legible, bars, compared, words

from sae_analysis.records import FeatureStats, Histogram
from sae_analysis.visualizer import digits, feature_comparison_page, feature_page, statistics_page, summary_page
from sae_analysis.visualizer.plots import bin_position

pytestmark = EVERY_GLYPH_IS_THERE


def test_the_summary_is_sorted_by_density_and_paged():
    features = {at: make.stats(at, density=at / 100, example_count=1) for at in range(1, 15)}
    features[99] = make.dead_stats(99)
    first, second = (summary_page(features, page, HEADER) for page in (1, 2))
    assert [name for name in dict.fromkeys(item.panel for item in first.lettering) if name.startswith("feature")] == [
        f"feature {at}" for at in range(14, 2, -1)
    ]
    assert "never fired in" in words(second, "feature 99")
    assert "15 features, most frequent first; 1 feature never fired" in words(first, "title")


def test_a_summary_row_holds_the_features_own_words():
    said = words(summary_page({7: make.stats()}, 1, HEADER), "feature 7")
    for part in ("7", "0.312 %", "10.0", "vessel", "yard", "→"):
        assert part in said


def test_sparkline_heights_are_log_counts_over_the_common_range():
    features = {1: make.stats(1, scale=1.0), 2: make.stats(2, scale=100.0)}
    page = summary_page(features, 1, HEADER)
    for feature, stats in features.items():
        axes = page.plots[f"feature {feature}"]
        (patch,) = axes.patches
        assert list(patch.get_data().values) == pytest.approx([math.log10(1 + many) for many in stats.histogram.counts])
    assert page.plots["feature 1"].get_xlim() == page.plots["feature 2"].get_xlim()


@pytest.mark.parametrize(("many", "is_few"), [(1, True), (19, True), (20, False)])
def test_a_histogram_of_few_firings_says_so_and_counts_on_an_even_scale(many, is_few):
    values = [1.0 + 0.2 * at for at in range(many)]
    fired = make.stats(7, histogram=make.histogram(values), active_count=many, max_activation=values[-1])
    said = digits.shortened(many, "firing")
    page = feature_page(fired)
    for panel in ("activation histogram", "positions"):
        assert (f"only {said}" in words(page, panel)) == is_few
    assert (page.plots["activation histogram"].get_yscale() == "linear") == is_few
    assert ("tokens per bin, log scale" in words(page, "activation histogram")) != is_few
    assert (said in words(summary_page({7: fired}, 1, HEADER), "feature 7")) == is_few
    one, _, synthetic = compared()
    page = feature_comparison_page(one, fired, synthetic, HEADER)
    assert (f"only {said}" in words(page, "activation histogram")) == is_few
    assert (page.plots["activation histogram"].get_yscale() == "linear") == is_few
    assert_legible(page)


def test_the_statistics_page_states_and_draws_the_dictionary():
    dictionary = make.dictionary()
    page = statistics_page(dictionary, {7: make.stats()}, HEADER)
    said = words(page)
    for part in ("4,096", "203", "(4.96 %)", "12", "(0.293 %)", "82.1 %", "31.8"):
        assert part in said
    assert bars(page, "How often features fire") == list(dictionary.density.counts)
    assert bars(page, "Encoder and decoder") == list(dictionary.encoder_decoder_cosine.counts)
    assert bars(page, "Active features by position") == pytest.approx(dictionary.l0_by_position)


def test_a_dictionary_without_dead_or_dense_features_says_so():
    page = statistics_page(make.dictionary(dead_count=0, dense_count=0), {}, HEADER)
    assert "4,096 features: all of them fired, none on more than a tenth of the tokens" in words(page, "title")


def test_a_dictionary_of_fewer_tokens_than_the_text_says_of_how_many():
    header = replace(HEADER, fit=make.fit(measured_tokens=1_000_000, token_count=5_000_000))
    said = "203 (4.96 %) never fired in the first 1.00 M tokens, 12 (0.293 %) on more than a tenth of these"
    assert said in words(statistics_page(make.dictionary(), {}, header), "title")
    page = statistics_page(make.dictionary(dead_count=0, dense_count=0), {}, header)
    said = "all of them fired in the first 1.00 M tokens, none on more than a tenth of these"
    assert said in words(page, "title")


def test_the_features_asked_for_are_ticks_below_the_bars():
    def ticks(features: dict[int, FeatureStats]) -> int:
        page = statistics_page(make.dictionary(), features, HEADER)
        (rectangles,) = page.findobj(mpl.collections.PolyCollection)
        return sum(math.isclose(np.ptp(path.vertices[:, 0]), 0.6) for path in rectangles.get_paths())

    asked = {at: make.stats(at, decoder_norm=1.0, encoder_norm=0.8, encoder_decoder_cosine=0.6) for at in range(3)}
    assert ticks({}) == 0
    assert ticks(asked) == 15


def test_a_dictionary_that_never_fired_says_so():
    nothing = Histogram(edges=(), counts=())
    dictionary = make.dictionary(density=nothing, max_activation=nothing, l0_by_position=(0.0,) * 16)
    page = statistics_page(dictionary, {}, HEADER)
    assert "Nothing to show: no feature was active." in words(page, "Active features by position")
    assert "activations" not in words(summary_page({3: make.dead_stats(3)}, 1, HEADER), "summary head")


@pytest.mark.parametrize("width", [0.0, 1e-12])
def test_a_distribution_of_equal_values_is_drawn(width):
    equal = Histogram(edges=(1.0, 1.0 + width), counts=(4096,))
    page = statistics_page(make.dictionary(decoder_norm=equal, density=equal), {7: make.stats()}, HEADER)
    assert bars(page, "Decoder norms") == [4096]
    assert_legible(page)


def test_an_empty_distribution_says_so():
    nothing = Histogram(edges=(), counts=())
    page = statistics_page(make.dictionary(encoder_decoder_cosine=nothing), {}, HEADER)
    assert "Nothing" in words(page, "Encoder and decoder")
    assert "Encoder and decoder" not in page.plots


def test_bin_position_is_geometric_in_geometric_bins_and_even_in_even_ones():
    assert bin_position((1.0, 2.0, 4.0, 8.0), 2 * math.sqrt(2)) == pytest.approx(1.5)
    assert bin_position((0.0, 1.0, 2.0), 1.5) == pytest.approx(1.5)
    assert bin_position((-4.0, -2.0, -1.0, 1.0, 2.0, 4.0), -2 * math.sqrt(2)) == pytest.approx(0.5)
