r"""Features as circuit-tracer's viewer shows them beside an attribution graph: one JSON file each.

Source: ``circuit_tracer/frontend/feature_models.py`` of circuit-tracer 0.5.0 and the scripts in its ``assets``, for
which a fragment of a character is ``\xe4``, and ``quantile_values[i]`` the percentile ``i + 1``.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sae_analysis.exports.bins import even, percentiles, span
from sae_analysis.records import ActivationExample, AnalysisResult, FeatureStats

_BARS = 50
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def files(result: AnalysisResult, *, sae: str, model: str) -> Mapping[str, bytes]:  # noqa: ARG001 - as all formats are
    """Return ``FEATURE.json`` for each feature."""
    return {
        f"{stats.feature_idx}.json": json.dumps(_feature(stats, sae), allow_nan=False).encode()
        for stats in result.features
    }


def _feature(stats: FeatureStats, sae: str) -> dict[str, Any]:
    least, most = span(stats)
    groups = [_group("Top activations", stats.examples)]
    for band in stats.example_bands:
        name = f"{100 * band.lower_quantile:.0f} % to {100 * band.upper_quantile:.0f} % of its activations"
        groups.append(_group(name, band.examples))
    return {
        "transcoder_id": sae,
        "index": stats.feature_idx,
        "examples_quantiles": groups,
        "top_logits": [_spelled(token) for token, _ in stats.top_boosted_tokens],
        "bottom_logits": [_spelled(token) for token, _ in stats.top_suppressed_tokens],
        "act_min": least,
        "act_max": most,
        "quantile_values": percentiles(stats, [percent / 100 for percent in range(1, 101)]),
        "histogram": even(stats, _BARS)[1].tolist(),
    } | ({} if stats.search else {"activation_frequency": stats.density})  # of text; left out, the viewer shows none


def _group(name: str, examples: Iterable[ActivationExample]) -> dict[str, Any]:
    return {
        "quantile_name": name,
        "examples": [
            {
                "tokens_acts_list": list(example.activations),
                "train_token_ind": example.peak_position,
                "is_repeated_datapoint": False,
                "tokens": [_spelled(token) for token in example.tokens],
            }
            for example in examples
        ],
    }


def _spelled(token: str) -> str:
    return _BYTE.sub(lambda byte: f"\\x{byte[1].lower()}", token)
