"""All that is known of one feature."""

import math
from dataclasses import dataclass

from sae_analysis.records.examples import ActivationExample, ExampleBand, Histogram, TokenActivity, TokenValues


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """What the search in embedding space promised, and what its tokens kept of it."""

    relaxed: float
    """Activation at the mixtures of embeddings that it ended with; below zero, what it lacks to fire."""

    discrete: float
    """Activation at the likeliest token of each mixture, or what it lacks: the rest is the discretisation gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSearch:
    """The search for one feature's hardest input. Every activation is that of integer tokens that are text."""

    token_evaluations: int
    """Tokens run through the model for this feature, three for one that is run backward too; what several features
    share is divided among them."""

    beginnings: int | None = None
    """How many of these token-evaluations went before the first step of the search: into single tokens, sequences to
    begin with, and the stage in embedding space. All of them, where the budget left nothing to search with; None in
    results that do not say."""

    convergence: tuple[tuple[int, float], ...]
    """(token-evaluations, largest activation so far) at every improvement, ascending in both."""

    single_token: tuple[str, float]
    """The one token that fires it most, and its activation: what no search at all would give. Without BOS it stands
    behind a common token, which is shown too: what stands first in a sequence is to the model like nothing else."""

    frontier: tuple[ActivationExample, ...] = ()
    """The strongest example at each level of fluency, real text that it began with among them: ascending in
    cross-entropy and in activation."""

    shortest: ActivationExample | None = None
    """The strongest example without the tokens that can go while 95 % of its activation and a text are left; None if
    the feature never fired."""

    relaxation: Relaxation | None = None
    """The stage in embedding space; None if it was not run."""

    excerpts: tuple[ActivationExample, ...] = ()
    """The real text that it began with: ends of real examples up to their peaks, as long as the search's sequences at
    most, and read as these are, without what was in front of them. Strongest first."""

    behind_text: tuple[float, ...] = ()
    """Activation of ``shortest`` behind each of some texts that the model wrote, as a share of its own."""

    ceiling: float | None = None
    """Largest pre-activation that any input of the SAE could give; None where the SAE does not norm its input."""

    @property
    def is_searched(self) -> bool:
        """Whether a step of the search followed the beginnings; where that is not known, it is taken to be so."""
        return self.beginnings is None or self.token_evaluations > self.beginnings


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureStats:
    """All that one analysis says about one feature.

    Every statistic speaks of the same population, the kept tokens: no BOS, special or padding token and none that an
    option excluded; for a synthetic analysis, the tokens of the feature's own examples. *Active* means an activation
    that is not zero, so signed features count both sides.
    """

    feature_idx: int
    """Index of the feature in the SAE, from 0."""

    token_count: int
    """Kept tokens the feature was measured on."""

    active_count: int
    """Kept tokens on which the activation is not zero."""

    negative_count: int = 0
    """Kept tokens on which the activation is below zero; only signed SAEs have any."""

    density: float
    """active_count / token_count, in [0, 1]."""

    sparsity: float
    """1 - density, in [0, 1]."""

    mean_activation: float | None
    """Mean activation over active tokens; None for a feature that never fired."""

    std_activation: float | None
    """Standard deviation of the activation over active tokens (divisor: their number); None for a feature that never
    fired."""

    max_activation: float
    """Largest activation over kept tokens; 0.0 if it was never above zero."""

    min_activation: float = 0.0
    """Most negative activation over kept tokens; 0.0 if it was never below zero."""

    quantiles: tuple[tuple[float, float], ...] = ()
    """(probability, activation) over active tokens, each the mean of a histogram bucket (within 1.6 % of the value)."""

    histogram: Histogram
    """Counts of all non-zero activations; edges grow geometrically (8 to an octave), mirrored below zero if signed."""

    position_histogram: Histogram
    """Firings by position in the context window."""

    position_token_counts: tuple[int, ...] = ()
    """Kept tokens in each bin of ``position_histogram``: what its counts are a share of."""

    examples: tuple[ActivationExample, ...]
    """Strongest first (by magnitude), at most one per window, identical windows merged; ties by place in the corpus."""

    example_bands: tuple[ExampleBand, ...] = ()
    """Examples over the range of the activation, strongest band first."""

    top_tokens: tuple[TokenActivity, ...] = ()
    """Tokens the feature fires on most often, most frequent first."""

    decoder_norm: float
    """L2 norm of the feature's decoder row, as the checkpoint stores it."""

    encoder_norm: float
    """L2 norm of the feature's encoder column."""

    encoder_decoder_cosine: float | None
    """Cosine between encoder and decoder direction; None where their widths differ or one is zero."""

    nearest_features: tuple[tuple[int, float], ...] = ()
    """(feature, cosine) of the decoder directions nearest to this one."""

    top_boosted_tokens: TokenValues
    """Tokens whose logit the decoder direction raises most, with the effect of one unit of activation."""

    top_suppressed_tokens: TokenValues
    """Tokens whose logit it lowers most, most lowered first."""

    logit_histogram: Histogram
    """Distribution of the logit effect over the whole vocabulary."""

    logit_skew: float | None
    """Skewness of the logit effects over the vocabulary; None where the hook has no linear path to the logits."""

    logit_kurtosis: float | None
    """Excess kurtosis of the logit effects over the vocabulary (0 for a normal distribution); None as for the skew."""

    search: FeatureSearch | None = None
    """How its examples were searched for; None for real text."""

    @property
    def is_dead(self) -> bool:
        """True if the feature fired on no kept token."""
        return self.active_count == 0

    @property
    def largest_activation(self) -> float:
        """The largest activation in magnitude, with its sign; 0.0 for a feature that never fired."""
        return max(self.max_activation, self.min_activation, key=abs)

    @property
    def gain(self) -> float | None:
        """How many times the best single token's activation a search reached; None if nothing or no token fires it."""
        alone = self.search.single_token[1] if self.search else 0.0
        times = abs(self.largest_activation / alone) if alone else 0.0
        return times if times and math.isfinite(times) else None
