"""The input that would fire a feature hardest: what a search for it stands on, so far.

Vocabulary (which sequences are text), evaluation (what they do to features, and the slope towards more).
"""

from sae_analysis.synth_activations.evaluation import GRADIENT_COST, Evaluator, Scores
from sae_analysis.synth_activations.vocabulary import Vocabulary

__all__ = ["GRADIENT_COST", "Evaluator", "Scores", "Vocabulary"]
