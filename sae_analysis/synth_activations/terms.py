"""What a search is asked, and what it answers."""

from dataclasses import dataclass

from sae_analysis.synth_activations.operators import OPERATORS
from sae_analysis.synth_activations.starts import SOURCES


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """How hard and how to look."""

    seq_len: int = 12
    """Tokens of a sequence, BOS not counted."""

    budget: int = 20_000
    """Token-evaluations for each feature; what a batch does for several is counted once, and shared. What populations
    begin with is tried in any case."""

    fluency: float = 0.4
    """Share of them spent on sequences that read like text."""

    n_steps: int = 30
    """Steps of the stage in embedding space; 0 leaves it out."""

    learning_rate: float = 0.2
    """Size of its steps: Adam's learning rate, in the unit of the softmax's logits."""

    population: int = 8
    children: int = 16
    """Sequences of a feature that live on, and whole new ones a round; there are more that share a beginning."""

    pool: int = 32
    """Sequences of which a population begins with the best."""

    candidates: int = 64
    """Tokens at each place among which the slope's choice falls."""

    patience: int = 30
    """Rounds without a better sequence after which a population begins anew."""

    last_share: float = 0.3
    """Share of the budget that the last population gets, made of the best of all before."""

    swept_share: float = 0.3
    """Share of the rounds in which a population goes through the most promising swaps of its best one by one."""

    sources: tuple[str, ...] = SOURCES
    operators: tuple[str, ...] = tuple(OPERATORS)
    harvest: bool = True
    """Whether every feature looks at what was tried for the others."""

    caching: bool = True
    """Whether the children of a round share a beginning that is run once."""

    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A sequence that is text, and fires a feature on integer tokens."""

    ids: tuple[int, ...]
    value: float
    """Activation at ``position``, or the margin that it lacks, as in ``Scores``."""

    position: int
    provenance: str
    """What the population began with that it came from: ``random``, ``real text``, ``another feature`` …"""

    evaluations: int
    """Token-evaluations of its feature when it was found."""

    cross_entropy: float | None = None
    """Nats per token, where it was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What a search came to for one feature."""

    found: tuple[Found, ...]
    """Strongest first."""

    token_evaluations: int
    """Of this feature; what several share is divided."""

    beginnings: int
    """Token-evaluations of these before the first round."""

    convergence: tuple[tuple[int, float], ...]
    """(token-evaluations, largest activation so far, below zero what it lacks to fire) at every improvement."""

    relaxation: tuple[float, float] | None
    """Activation at the mixtures in embedding space and at their likeliest tokens, or what it lacks; None where there
    were none."""
