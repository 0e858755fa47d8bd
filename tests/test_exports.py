"""Results in other tools' formats: nothing lost or made up; those tools' own code is asked in ``parity``."""

import json
from dataclasses import replace

import numpy as np
import pytest
import record_factory as make
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from sae_analysis.comparison import compare
from sae_analysis.errors import OutputError
from sae_analysis.exports import FORMATS, export, neuronpedia
from sae_analysis.exports.bins import even, percentiles
from sae_analysis.records import ExampleBand, FeatureResults, TokenSpan

VALUES = st.lists(st.floats(-100, 100, width=32).filter(lambda value: abs(value) > 1e-3), min_size=1, max_size=200)


def described(values):
    histogram = make.histogram(values)
    return make.stats(
        histogram=histogram, active_count=len(values), max_activation=max(0.0, *values, 0.0),
        min_activation=min(0.0, *values, 0.0),
    )  # fmt: skip


@given(VALUES, st.integers(1, 60))
def test_even_bars_hold_every_firing_and_none_is_moved_further_than_its_bin_is_wide(values, number):
    edges, heights = even(described(values), number)
    assert heights.sum() == pytest.approx(len(values))
    assert (heights >= -1e-9).all()
    np.testing.assert_allclose(np.diff(edges), (edges[-1] - edges[0]) / number)
    assert edges[0] == min(0.0, *values, 0.0)
    assert edges[-1] == max(0.0, *values, 0.0)
    for edge, below in zip(edges[1:], heights.cumsum(), strict=True):
        nearest = sorted((edge * 2**0.125, edge / 2**0.125))
        assert sum(value < nearest[0] for value in values) - 1e-6 <= below
        assert below <= sum(value <= nearest[1] for value in values) + 1e-6


@given(VALUES)
def test_percentiles_are_within_a_bin_of_the_true_ones(values):
    found = percentiles(described(values), [0.01, 0.5, 0.99, 1.0])
    assert found == sorted(found)
    assert found[-1] == pytest.approx(max(values), rel=0.1)
    for probability, at in zip((0.01, 0.5, 0.99), found, strict=False):
        nearest = sorted((at * 2**0.125, at / 2**0.125))
        assert np.mean([value < nearest[0] for value in values]) <= probability + 1e-6
        assert np.mean([value <= nearest[1] for value in values]) >= probability - 1e-6


def test_a_feature_that_never_fired_has_no_bars():
    assert even(make.dead_stats(), 50)[1].tolist() == []
    assert percentiles(make.dead_stats(), [0.5]) == []


@pytest.fixture
def real():
    """Return an analysis with a feature that never fired, one that is signed, and bytes that are no character."""
    odd = make.example(make.SCRIPTS["bytes"], peak=6)
    signed = described([-4.0, 2.0, 3.0, 8.0])
    first = make.stats(0, example_count=3)
    return make.result(
        [
            replace(first, examples=(odd, *first.examples)),
            replace(signed, feature_idx=1),
            make.dead_stats(2),
        ],
        provenance=make.provenance(hook="blocks.11.hook_resid_post", options={"seq_len": 128}, corpus="stories"),
    )


def test_what_the_library_function_returns_is_exported_as_the_whole(real, tmp_path):
    (path,) = export(FeatureResults(real), "parquet", tmp_path)
    written = path.read_bytes()
    (path,) = export(real, "parquet", tmp_path)
    assert path.read_bytes() == written


def test_the_folder_may_be_text(real, tmp_path):
    assert export(real, "parquet", str(tmp_path / "new")) == [*(tmp_path / "new").iterdir()]


def test_a_dashboard_says_what_the_result_says(real, tmp_path):
    [path] = export(real, "neuronpedia", tmp_path, sae="res-4k", model="tiny")
    batch = json.loads(path.read_bytes())
    assert {name: batch[name] for name in ("model_id", "layer", "sae_set", "sae_id_suffix")} == {
        "model_id": "tiny", "layer": 11, "sae_set": "res-4k", "sae_id_suffix": None,
    }  # fmt: skip
    for found, stats in zip(batch["features"], real.features, strict=True):
        assert found["feature_index"] == stats.feature_idx
        assert found["frac_nonzero"] == stats.density
        assert list(zip(found["pos_str"], found["pos_values"], strict=True)) == list(stats.top_boosted_tokens)
        assert list(zip(found["neg_str"], found["neg_values"], strict=True)) == list(stats.top_suppressed_tokens)
        assert sum(found["freq_hist_data_bar_heights"]) == pytest.approx(stats.histogram.total)
        assert found["logits_hist_data_bar_heights"] == list(stats.logit_histogram.counts)
        edges = np.asarray(stats.logit_histogram.edges)
        np.testing.assert_allclose(found["logits_hist_data_bar_values"], (edges[1:] + edges[:-1]) / 2)
        values, heights = found["freq_hist_data_bar_values"], found["freq_hist_data_bar_heights"]
        assert len(values) == len(heights) == (0 if stats.is_dead else 50)
        if values:
            wide = (stats.max_activation - stats.min_activation) / 50
            assert values[0] == pytest.approx(min(0.0, stats.min_activation) + wide / 2)
            assert values[-1] == pytest.approx(stats.max_activation - wide / 2)
        assert (found["n_prompts_total"], found["n_tokens_in_prompt"], found["dataset"]) == (7813, 128, "stories")
        shown = [*stats.examples, *(one for band in stats.example_bands for one in band.examples)]
        for activation, example in zip(found["activations"], shown, strict=True):
            assert activation["tokens"] == list(example.tokens)
            assert activation["values"] == list(example.activations)
            assert activation["qualifying_token_index"] == example.peak_position
    best, *_, weak = batch["features"][0]["activations"]
    assert (best["bin_min"], best["bin_max"], best["bin_contains"]) == (-1, real.features[0].max_activation, -1)
    assert 0 <= weak["bin_min"] < weak["bin_max"] < best["bin_max"]
    assert weak["bin_contains"] == pytest.approx(0.1 * real.features[0].density)


def dashboard_examples(values, bands):
    """Return what a dashboard says of examples drawn from bands: (lower quantile, upper quantile, their peaks)."""
    examples = tuple(
        ExampleBand(
            lower_quantile=lower,
            upper_quantile=upper,
            examples=tuple(make.example(["a"], 0, activations=[peak]) for peak in peaks),
        )
        for lower, upper, peaks in bands
    )
    stats = replace(described(values), examples=(), example_bands=examples, density=0.04)
    batch = json.loads(neuronpedia.files(make.result([stats]), sae="", model="")["batch-0.json"])
    return batch["features"][0]["activations"]


@given(VALUES)
def test_examples_lie_in_the_interval_of_their_band_whatever_their_sign(values):
    by_magnitude = sorted(values, key=abs)
    quarters = [by_magnitude[len(values) * at // 4 : len(values) * (at + 1) // 4] for at in range(4)]
    found = dashboard_examples(values, [(at / 4, (at + 1) / 4, quarter) for at, quarter in enumerate(quarters)])
    for peak, example in zip(by_magnitude, found, strict=True):
        least, most = sorted(abs(example[end]) for end in ("bin_min", "bin_max"))
        assert example["bin_min"] <= example["bin_max"]
        assert (example["bin_min"] < 0) == (peak < 0)
        assert least / 2**0.125 - 1e-6 <= abs(peak) <= most * 2**0.125 + 1e-6


@given(VALUES)
def test_intervals_on_both_sides_of_zero_hold_every_firing(values):
    bands = [(at / 4, (at + 1) / 4, (-1.0, 1.0)) for at in range(4)]
    shares = [example["bin_contains"] for example in dashboard_examples(values, bands)]
    assert sum(shares) == pytest.approx(0.04)
    assert sum(shares[::2]) == pytest.approx(0.04 * np.mean(np.array(values) < 0))


def test_the_strongest_band_of_a_signed_feature_is_where_its_examples_are():
    """A band is a range of the magnitude, which of a signed feature is an interval on either side of zero."""
    [found] = dashboard_examples([-8.0, 1.0, 1.5, 2.0], [(0.75, 1.0, [-8.0])])
    assert (found["bin_min"], found["bin_max"]) == (-8.0, pytest.approx(-2.0, rel=0.1))
    assert found["bin_contains"] == pytest.approx(0.01)


def test_a_place_before_the_first_layer_is_layer_zero(tmp_path):
    embedding = make.result([make.dead_stats()], provenance=make.provenance(hook="hook_embed"))
    [path] = export(embedding, "neuronpedia", tmp_path)
    assert json.loads(path.read_bytes())["layer"] == 0


def test_dashboards_come_in_batches_that_neuronpedia_takes(tmp_path):
    many = make.result([make.dead_stats(at) for at in range(300)])
    paths = export(many, "neuronpedia", tmp_path)
    assert [path.name for path in paths] == ["batch-0.json", "batch-1.json", "batch-2.json"]
    sizes = [[one["feature_index"] for one in json.loads(path.read_bytes())["features"]] for path in paths]
    assert list(map(len, sizes)) == [128, 128, 44]
    assert [index for indices in sizes for index in indices] == list(range(300))


def test_a_viewer_feature_says_what_the_result_says(real, tmp_path):
    paths = export(real, "circuit-tracer", tmp_path)
    assert [path.name for path in paths] == ["0.json", "1.json", "2.json"]
    for path, stats in zip(paths, real.features, strict=True):
        found = json.loads(path.read_bytes())
        assert (found["index"], found["transcoder_id"]) == (stats.feature_idx, "sae")
        assert found["activation_frequency"] == stats.density
        assert (found["act_min"], found["act_max"]) == (stats.min_activation, stats.max_activation)
        assert found["quantile_values"] == percentiles(stats, np.arange(1, 101) / 100)
        assert len(found["histogram"]) == (0 if stats.is_dead else 50)
        assert sum(found["histogram"]) == pytest.approx(stats.histogram.total)
        groups = [stats.examples, *(band.examples for band in stats.example_bands)]
        for group, examples in zip(found["examples_quantiles"], groups, strict=True):
            for shown, example in zip(group["examples"], examples, strict=True):
                assert shown["tokens_acts_list"] == list(example.activations)
                assert shown["train_token_ind"] == example.peak_position
                assert shown["is_repeated_datapoint"] is False
        names = [group["quantile_name"] for group in found["examples_quantiles"]]
        between = [(100 * band.lower_quantile, 100 * band.upper_quantile) for band in stats.example_bands]
        assert names == [
            "Top activations",
            *(f"{low:.0f} % to {high:.0f} % of its activations" for low, high in between),
        ]
    [odd, *_] = json.loads(paths[0].read_bytes())["examples_quantiles"][0]["examples"]
    assert odd["tokens"][1:4] == ["\\xc3", "\\xa9", " \\xe4"]  # joined to characters by the viewer


def test_a_table_has_one_type_a_column_whatever_is_in_it(real, tmp_path):
    [path] = export(real, "parquet", tmp_path)
    table = parquet.read_table(path)
    assert path.name == "real.parquet"
    for row, stats in zip(table.to_pylist(), real.features, strict=True):
        assert row["feature_idx"] == stats.feature_idx
        assert row["density"] == stats.density
        assert row["mean_activation"] == stats.mean_activation
        assert row["raises"] == [token for token, _ in stats.top_boosted_tokens]
        assert row["strongest_text"] == (stats.examples[0].text if stats.examples else None)
    dead = export(make.result([make.dead_stats()]), "parquet", tmp_path / "dead")[0]
    assert parquet.read_schema(dead).equals(table.schema, check_metadata=False)
    assert json.loads(parquet.read_metadata(path).metadata[b"real"])["corpus"] == "stories"


@pytest.fixture
def searched():
    """Return a search that began from a text, with a feature that never fired."""
    run = make.provenance(analysis="synthetic", corpus="stories", options={"seq_len": 12})
    found = make.synthetic_stats(0, search=make.search(beginnings=900, ceiling=21.5))
    return make.result([found, make.unfired_stats(1)], provenance=run, fit=None, dictionary=None)


def test_of_a_search_no_viewer_is_told_a_density(searched, tmp_path):
    assert searched.features[0].density > 0, "the share within a few sequences"
    [path] = export(searched, "neuronpedia", tmp_path / "dashboards")
    for found in json.loads(path.read_bytes())["features"]:
        assert (found["frac_nonzero"], found["n_prompts_total"], found["dataset"]) == (0, 0, "")
    for path in export(searched, "circuit-tracer", tmp_path / "viewer"):
        assert "activation_frequency" not in json.loads(path.read_bytes())


def test_a_table_of_a_search_has_what_was_searched_and_one_of_text_does_not(searched, real, tmp_path):
    [path] = export(searched, "parquet", tmp_path)
    table = parquet.read_table(path)
    fired, unfired = table.to_pylist()
    stats = searched.features[0]
    search, best = stats.search, stats.examples[0]
    assert (fired["token_evaluations"], fired["beginnings"], fired["ceiling"]) == (100_000, 900, 21.5)
    assert (fired["single_token"], fired["single_token_activation"]) == search.single_token
    assert fired["gain"] == stats.max_activation / search.single_token[1]
    assert fired["cross_entropy"] == best.synthesis.cross_entropy
    assert (fired["relaxed"], fired["discrete"]) == (search.relaxation.relaxed, search.relaxation.discrete)
    assert fired["shortest_text"] == search.shortest.text
    assert (unfired["gain"], unfired["relaxed"], unfired["shortest_text"], unfired["beginnings"]) == (None,) * 4
    assert table.schema.field("beginnings").type == "int64"
    of_text = parquet.read_schema(export(real, "parquet", tmp_path)[0]).names
    assert set(table.schema.names) - set(of_text) == {
        "token_evaluations", "beginnings", "ceiling", "relaxed", "discrete", "single_token", "single_token_activation",
        "gain", "cross_entropy", "shortest_text",
    }  # fmt: skip


def test_a_table_of_many_features_has_all_of_them_in_order(tmp_path):
    features = [replace(make.stats(index), density=1 / (1 + index)) for index in range(3000)]
    [path] = export(make.result(features), "parquet", tmp_path)
    assert parquet.read_metadata(path).num_row_groups > 1, "else this says nothing"
    table = parquet.read_table(path).to_pylist()
    assert [(row["feature_idx"], row["density"]) for row in table] == [(i, 1 / (1 + i)) for i in range(3000)]
    none = export(make.result([]), "parquet", tmp_path / "none")[0]
    assert parquet.read_table(none).num_rows == 0


def test_a_comparison_is_a_table_and_nothing_else(tmp_path):
    does, could = make.results_of([make.comparison_pair(), make.comparison_pair(real_is_dead=True)])
    found = compare(does, could, [could])
    assert [len(one.other_seeds) for one in found.features] == [1, 1]
    first = replace(found.features[0], tokens_until_fluent=TokenSpan(low=2e3, median=4e3, high=None))
    found = replace(found, features=(first, *found.features[1:]))
    [path] = export(found, "parquet", tmp_path)
    for row, one in zip(parquet.read_table(path).to_pylist(), found.features, strict=True):
        assert (row["feature_idx"], row["verdict"], row["realised"]) == (one.feature_idx, one.verdict, one.realised)
        assert row["residual"] == one.likeness.residual
        assert row["reasons"] == list(one.reasons)
        assert row["is_settled"] is one.is_settled
        assert row["other_seeds"] == list(one.other_seeds)
        for name in ("tokens_until", "tokens_until_fluent"):
            span = getattr(one, name)
            of_span = (span.median, span.low, span.high) if span else (None, None, None)
            assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == of_span
    with pytest.raises(OutputError, match="comparison cannot be exported to neuronpedia"):
        export(found, "neuronpedia", tmp_path)


@pytest.mark.parametrize(
    ("sae", "name"),
    [
        ("saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre", "blocks.8.hook_resid_pre"),
        ("runs/layer.9/ae.pt", "ae"),
        ("runs/v1.5/", "v1.5"),
        ("sae_weights.safetensors", "sae_weights"),
    ],
)
def test_an_sae_is_called_what_its_file_is_without_its_ending(sae, name, tmp_path):
    of_it = make.result([make.dead_stats()], provenance=make.provenance(sae=sae))
    [path] = export(of_it, "neuronpedia", tmp_path)
    assert json.loads(path.read_bytes())["sae_set"] == name


def test_an_unknown_format_is_refused_with_those_that_are_known(real, tmp_path):
    with pytest.raises(OutputError, match="neuronpedia, circuit-tracer, parquet"):
        export(real, "html", tmp_path)
    assert FORMATS == ("neuronpedia", "circuit-tracer", "parquet")
