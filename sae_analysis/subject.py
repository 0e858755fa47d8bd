"""What is analysed, as the library's functions take it: objects, or what loads them."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from sae_analysis.demo import DEMO, default_model_folder, default_sae_path
from sae_analysis.feature_selection import FeatureSelection, parse_features
from sae_analysis.language_model import LanguageModel, load_model
from sae_analysis.sae_formats import load_sae
from sae_analysis.sae_interface import UnifiedSAEInterface

AnySAE = UnifiedSAEInterface | nn.Module | str | Path
"""An SAE, a module to be wrapped, what ``load_sae`` takes, or ``"demo"``."""

AnyModel = LanguageModel | str | Path
"""A model, what ``load_model`` takes, or ``"demo"``."""


def open_subject(
    sae_model: AnySAE, transformer_model: AnyModel, feature_indices: Sequence[int] | str
) -> tuple[UnifiedSAEInterface, LanguageModel, FeatureSelection]:
    """Return SAE, model and features; features are numbers or a specification such as ``"0-10,50-60"``.

    Raises:
        SAEAnalysisError: one of them cannot be loaded or read.
    """
    if isinstance(sae_model, (str, Path)):
        sae_model = load_sae(default_sae_path() if sae_model == DEMO else sae_model)
    elif not isinstance(sae_model, UnifiedSAEInterface):
        sae_model = UnifiedSAEInterface(sae_model)
    if isinstance(transformer_model, (str, Path)):
        transformer_model = load_model(default_model_folder() if transformer_model == DEMO else transformer_model)
    if isinstance(feature_indices, str):
        return sae_model, transformer_model, parse_features(feature_indices)
    ranges = tuple(range(index, index + 1) for index in feature_indices)
    return sae_model, transformer_model, FeatureSelection(kind="indices", ranges=ranges)
