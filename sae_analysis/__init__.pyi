# The public surface, all of it: what is not here may change without notice.

from .artifacts import read_any, read_result, write_result
from .corpus import Corpus, Document, Windowing
from .errors import SAEAnalysisError
from .exports import export
from .inspection import inspect_sae
from .language_model import LanguageModel, load_model
from .real_activations import RealSettings, analyze_real_activations
from .records import (
    ActivationExample,
    AnalysisResult,
    Comparison,
    ComparisonResult,
    FeatureResults,
    FeatureStats,
)
from .reports import compare_real_vs_synthetic
from .sae_formats import load_sae
from .sae_interface import SAEOutput, UnifiedSAEInterface
from .synth_activations import generate_synthetic_maximizers
from .visualizer import (
    Drawing,
    comparison_page,
    feature_comparison_page,
    feature_page,
    search_page,
    statistics_page,
    summary_page,
    visualize_comparison,
    visualize_features,
    write_page,
)

__all__ = [
    "ActivationExample",
    "AnalysisResult",
    "Comparison",
    "ComparisonResult",
    "Corpus",
    "Document",
    "Drawing",
    "FeatureResults",
    "FeatureStats",
    "LanguageModel",
    "RealSettings",
    "SAEAnalysisError",
    "SAEOutput",
    "UnifiedSAEInterface",
    "Windowing",
    "analyze_real_activations",
    "compare_real_vs_synthetic",
    "comparison_page",
    "export",
    "feature_comparison_page",
    "feature_page",
    "generate_synthetic_maximizers",
    "inspect_sae",
    "load_model",
    "load_sae",
    "read_any",
    "read_result",
    "search_page",
    "statistics_page",
    "summary_page",
    "visualize_comparison",
    "visualize_features",
    "write_page",
    "write_result",
]
