"""SAEDashboard, whose batches Neuronpedia takes, and circuit-tracer: our exports read by their own classes."""

import json

import pytest
import record_factory as make

from sae_analysis.exports import export

dashboards = pytest.importorskip("sae_dashboard.neuronpedia.neuronpedia_dashboard")
viewer = pytest.importorskip("circuit_tracer.frontend.feature_models")

RESULT = make.result(
    [make.stats(0), make.synthetic_stats(1), make.dead_stats(2)],
    provenance=make.provenance(options={"seq_len": 128}),
)


def test_dashboards_of_saedashboard_take_a_batch_whole(tmp_path):
    [path] = export(RESULT, "neuronpedia", tmp_path)
    content = json.loads(path.read_bytes())
    assert dashboards.NeuronpediaDashboardBatch(**content).to_dict() == content  # no field is missing or unknown


def test_features_of_circuit_tracer_are_valid(tmp_path):
    for path in export(RESULT, "circuit-tracer", tmp_path):
        content = json.loads(path.read_bytes())
        content.setdefault(
            "activation_frequency", 0.0
        )  # a search has none, which its viewer takes; nothing reads these
        assert viewer.Model.model_validate(content, strict=True).model_dump() == content
