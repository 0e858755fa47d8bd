"""The frozen nouns that every part of the tool speaks: what was measured, on what, and where it came from.

Standard library only, so that results can be read, compared and drawn where no model is at hand. Real and
synthetic analyses fill the same records. Nothing here computes more than a property of its own fields.
"""

from sae_analysis.records.comparisons import Comparison, ComparisonResult, Likeness, TokenSpan
from sae_analysis.records.examples import (
    Ablation,
    ActivationExample,
    ExampleBand,
    Firing,
    Histogram,
    Synthesis,
    TokenActivity,
    TokenValues,
)
from sae_analysis.records.features import FeatureSearch, FeatureStats, Relaxation
from sae_analysis.records.runs import (
    SCHEMA_VERSION,
    AnalysisResult,
    AnyResults,
    Asked,
    DictionaryStats,
    FeatureResults,
    Fit,
    HookScore,
    Provenance,
    whole,
)

__all__ = [
    "SCHEMA_VERSION",
    "Ablation",
    "ActivationExample",
    "AnalysisResult",
    "AnyResults",
    "Asked",
    "Comparison",
    "ComparisonResult",
    "DictionaryStats",
    "ExampleBand",
    "FeatureResults",
    "FeatureSearch",
    "FeatureStats",
    "Firing",
    "Fit",
    "Histogram",
    "HookScore",
    "Likeness",
    "Provenance",
    "Relaxation",
    "Synthesis",
    "TokenActivity",
    "TokenSpan",
    "TokenValues",
    "whole",
]
