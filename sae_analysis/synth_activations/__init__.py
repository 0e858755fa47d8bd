"""The input that would fire a feature hardest: the search for it, so far without a command.

Vocabulary (which sequences are text), evaluation (what they do to features, and the slope towards more), search.
"""

from sae_analysis.synth_activations.evaluation import GRADIENT_COST, Evaluator, Scores
from sae_analysis.synth_activations.search import Found, Search, SearchSettings
from sae_analysis.synth_activations.vocabulary import Vocabulary

__all__ = ["GRADIENT_COST", "Evaluator", "Found", "Scores", "Search", "SearchSettings", "Vocabulary"]
