"""Batches of SAEDashboard, which are what Neuronpedia's own converter turns into an upload.

Source: ``sae_dashboard/neuronpedia/neuronpedia_dashboard.py`` of SAEDashboard 0.8.0. Its tables of aligned neurons and
correlated features stay empty, as in a run of theirs without them.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sae_analysis.exports.bins import even, interval
from sae_analysis.records import ActivationExample, AnalysisResult, FeatureStats

_BATCH = 128
"""Features in a file: the most that Neuronpedia takes at once."""

_BARS = 50

_WHOLE = -1
"""What their dashboards write for the ends of a group that is no interval."""


def files(result: AnalysisResult, *, sae: str, model: str) -> Mapping[str, bytes]:
    """Return ``batch-0.json`` and so on."""
    run = result.provenance
    layer = re.search(r"\.(\d+)\.", run.hook)
    head = {"model_id": model, "layer": int(layer[1]) if layer else 0, "sae_set": sae, "sae_id_suffix": None}
    text = {
        "n_prompts_total": result.fit.window_count if result.fit else 0,
        "n_tokens_in_prompt": run.options.get("seq_len", 0),
        "dataset": run.corpus if result.fit else "",
    }
    parts = [result.features[start : start + _BATCH] for start in range(0, len(result.features), _BATCH)]
    return {
        f"batch-{number}.json": json.dumps(
            head | {"features": [_feature(stats) | text for stats in part]}, allow_nan=False
        ).encode()
        for number, part in enumerate(parts)
    }


def _feature(stats: FeatureStats) -> dict[str, Any]:
    edges, heights = even(stats, _BARS)
    return {
        "feature_index": stats.feature_idx,
        "neuron_alignment_indices": [],
        "neuron_alignment_values": [],
        "neuron_alignment_l1": [],
        "correlated_neurons_indices": [],
        "correlated_neurons_l1": [],
        "correlated_neurons_pearson": [],
        "correlated_features_indices": [],
        "correlated_features_l1": [],
        "correlated_features_pearson": [],
        "neg_str": [token for token, _ in stats.top_suppressed_tokens],
        "neg_values": [effect for _, effect in stats.top_suppressed_tokens],
        "pos_str": [token for token, _ in stats.top_boosted_tokens],
        "pos_values": [effect for _, effect in stats.top_boosted_tokens],
        "frac_nonzero": 0 if stats.search else stats.density,  # of text, and 0 is what they have where none was read
        "freq_hist_data_bar_values": _middles(edges.tolist()),
        "freq_hist_data_bar_heights": heights.tolist(),
        "logits_hist_data_bar_heights": list(stats.logit_histogram.counts),
        "logits_hist_data_bar_values": _middles(stats.logit_histogram.edges),
        "decoder_weights_dist": [],
        "vector": [],
        "activations": list(_activations(stats)),
    }


def _middles(edges: Sequence[float]) -> list[float]:
    return [(left + right) / 2 for left, right in pairwise(edges)]


def _activations(stats: FeatureStats) -> Iterator[dict[str, Any]]:
    for example in stats.examples:
        yield _activation(example, bin_min=_WHOLE, bin_max=stats.max_activation, bin_contains=_WHOLE)
    for band in stats.example_bands:
        for example in band.examples:
            least, most, share = interval(
                stats, band.lower_quantile, band.upper_quantile, is_negative=example.max_activation < 0
            )
            yield _activation(example, bin_min=least, bin_max=most, bin_contains=share * stats.density)


def _activation(example: ActivationExample, **interval: float) -> dict[str, Any]:
    return interval | {
        "tokens": list(example.tokens),
        "values": list(example.activations),
        "qualifying_token_index": example.peak_position,
    }
