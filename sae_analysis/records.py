"""The frozen nouns that every part of the tool speaks: what was measured, on what, and where it came from.

Standard library only, so that results can be read, compared and drawn where no model is at hand. Real and
synthetic analyses fill the same records. Nothing here computes more than a property of its own fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

SCHEMA_VERSION = 1
"""Version of the JSON written from these records; raised when a field changes its meaning."""

TokenValues = tuple[tuple[str, float], ...]
"""Token text with a number, in the order of the list it belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts between edges: ``counts[i]`` values lie in ``[edges[i], edges[i + 1])``."""

    edges: tuple[float, ...]
    """Ascending bin edges, one more than counts; empty when nothing was counted."""

    counts: tuple[int, ...]
    """Number of values in each bin."""

    def __post_init__(self) -> None:
        if self.counts and len(self.edges) != len(self.counts) + 1:
            raise ValueError(f"{len(self.counts)} counts need {len(self.counts) + 1} edges, got {len(self.edges)}")
        if any(right < left for left, right in pairwise(self.edges)) or min(self.counts, default=0) < 0:
            raise ValueError("edges ascend and counts are not below zero")

    @property
    def total(self) -> int:
        """Number of values counted."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesis:
    """How a synthetic example was come by, and how it holds up when its text is read again."""

    pre_activation: float
    """Value at the peak before the SAE's activation rule."""

    cross_entropy: float | None
    """Mean surprise of the model over the example's tokens, in nats per token, the first one given BOS where there is
    BOS; None for a single token without one."""

    attribution: tuple[float, ...]
    """For each token, by how much the example's largest activation falls when that token alone is deleted; in
    magnitude, for an activation below zero."""

    is_text: bool
    """Whether ``text`` is cut into exactly ``token_ids`` again."""

    is_sink: bool
    """Whether the residual vector at the peak is an attention sink by its norm: such a firing says little."""

    provenance: str
    """What the population that it came from began with: ``random``, ``real text``, ``relaxed`` …"""

    seed: int
    """Seed of the search."""

    token_evaluations: int
    """Token-evaluations spent on the feature when it was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """What the model's next-token prediction at a peak owes to the feature: with it, less without it."""

    divergence: float
    """Kullback-Leibler divergence of the prediction without the feature from the one with it, in nats."""

    raised: TokenValues
    """Tokens whose logit the feature raises most there, with the difference, after all that later layers make of it."""

    lowered: TokenValues
    """Tokens whose logit it lowers most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """What is going on in the model where an example peaks."""

    coactive: tuple[tuple[int, float], ...]
    """(feature, activation) of the others that fire there, strongest first."""

    residual: tuple[float, ...]
    """What the SAE reads there, less its decoder's bias, to four digits."""

    ablation: Ablation
    """What the feature does to the prediction there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationExample:
    """One context window and the activation of one feature at each of its tokens."""

    text: str
    """The window decoded as one string."""

    tokens: tuple[str, ...]
    """Each token as text of its own; a fragment of a multi-byte character reads ``<0xE4>`` (or ``<0xE4><0xBD>``)."""

    token_ids: tuple[int, ...]
    """Vocabulary ids of the tokens; BOS and padding are not part of the window."""

    activations: tuple[float, ...]
    """Activation at each token, in the SAE's own units; 0.0 where the feature is silent or the token not counted."""

    max_activation: float
    """Activation at the peak: the largest in magnitude, with its sign."""

    peak_position: int
    """Index of the peak in ``tokens``; the first one among equals."""

    source: str = ""
    """Where the window comes from, for people: document name for real text, provenance for synthetic."""

    source_position: int = 0
    """Token of the document at which the window begins, from 0."""

    synthesis: Synthesis | None = None
    """How it was found; None for real text."""

    firing: Firing | None = None
    """What is going on at its peak; None where it was not looked at."""

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.token_ids) == len(self.activations):
            raise ValueError(
                f"{len(self.tokens)} tokens with {len(self.token_ids)} ids and {len(self.activations)} activations"
            )
        if not 0 <= self.peak_position < len(self.tokens):
            raise ValueError(f"{len(self.tokens)} tokens and the peak at {self.peak_position}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleBand:
    """Examples from one range of the feature's activation, drawn uniformly from the tokens it fired on."""

    lower_quantile: float
    """Lower end of the band as a quantile of the activation's magnitude over active tokens, in [0, 1]."""

    upper_quantile: float
    """Upper end of the band."""

    examples: tuple[ActivationExample, ...]
    """Strongest first; the marked peak is the sampled token, which need not be the window's maximum."""

    def __post_init__(self) -> None:
        if not 0 <= self.lower_quantile <= self.upper_quantile <= 1:
            raise ValueError(f"a band from {self.lower_quantile} to {self.upper_quantile}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenActivity:
    """How one feature behaves on one vocabulary token, over all kept occurrences of that token."""

    token: str
    """The token's text."""

    token_id: int
    """The token's vocabulary id."""

    active_count: int
    """Occurrences on which the feature fired."""

    share: float
    """Share of the feature's firings that fall on this token, in [0, 1]."""

    firing_rate: float
    """Share of the token's kept occurrences on which the feature fired, in [0, 1]."""

    mean_activation: float
    """Mean activation over the occurrences on which it fired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """What the search in embedding space promised, and what its tokens kept of it."""

    relaxed: float
    """Activation at the mixtures of embeddings that it ended with."""

    discrete: float
    """Activation at the likeliest token of each mixture: the rest is the discretisation gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSearch:
    """The search for one feature's hardest input. Every activation is that of integer tokens that are text."""

    token_evaluations: int
    """Tokens run through the model for this feature, three for one that is run backward too; what several features
    share is divided among them."""

    convergence: tuple[tuple[int, float], ...]
    """(token-evaluations, largest activation so far) at every improvement, ascending in both."""

    single_token: tuple[str, float]
    """The one token that fires it most, and how much: what no search at all would give. Without BOS it stands behind a
    common token, which is shown too: what stands first in a sequence is to the model like nothing else."""

    frontier: tuple[ActivationExample, ...] = ()
    """The strongest example at each level of fluency: ascending in cross-entropy and in activation."""

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
    """Mean over active tokens; None for a feature that never fired."""

    std_activation: float | None
    """Standard deviation over active tokens (divisor: their number); None for a feature that never fired."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How well the SAE fits the hook on the analysed text: the header that would expose a mistake."""

    explained_variance: float
    """1 - sum |x - x_hat|^2 / sum |x - mean(x)|^2 over kept tokens; below 0 is worse than predicting the mean."""

    cosine: float
    """Mean cosine between x and x_hat over kept tokens."""

    l0: float
    """Mean number of active features per kept token."""

    token_count: int
    """Kept tokens, over which the features were analysed."""

    measured_tokens: int
    """Kept tokens on which every feature was encoded: those of explained variance, cosine, L0 and the dictionary."""

    excluded: Mapping[str, int]
    """Tokens that went through the model and were not counted, by reason."""

    document_count: int
    """Documents read."""

    window_count: int
    """Context windows run through the model."""

    truncated: bool = False
    """True if ``--max-tokens`` ended the reading before the corpus did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DictionaryStats:
    """Distributions over every feature of the SAE, asked for or not, from the same pass."""

    d_sae: int
    """Number of features."""

    dead_count: int
    """Features that never fired on the kept tokens."""

    dense_count: int
    """Features that fired on more than a tenth of them."""

    density: Histogram
    """log10 of the density of the features that fired."""

    max_activation: Histogram
    """log10 of the largest magnitude reached by the features that fired."""

    decoder_norm: Histogram
    """L2 norms of the decoder rows."""

    encoder_norm: Histogram
    """L2 norms of the encoder columns."""

    encoder_decoder_cosine: Histogram
    """Cosines between encoder and decoder directions; empty where their widths differ."""

    l0_by_position: tuple[float, ...]
    """Mean active features per kept token in each position bin; 0.0 for a bin without kept tokens."""

    position_edges: tuple[float, ...]
    """Edges of the position bins, in tokens from the start of the window."""


def _arrow(hook: str, hook_out: str) -> str:
    return hook if hook == hook_out else f"{hook} -> {hook_out}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HookScore:
    """How well an SAE reconstructs one place of a model, measured on a few hundred tokens."""

    hook: str
    """Where it reads."""

    hook_out: str
    """Where it writes; the same place unless it is a transcoder."""

    reading: str
    """Which reading of its file, where that leaves several open: ``signed``, ``centred``; else empty."""

    explained_variance: float
    cosine: float
    l0: float

    @property
    def place(self) -> str:
        """Hooks in words."""
        return _arrow(self.hook, self.hook_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What was run on what: enough to repeat a run, and to refuse comparing what does not belong together."""

    analysis: str
    """``real`` or ``synthetic``."""

    model: str
    """Model name or folder, as asked for."""

    model_sha256: str
    """Hash of the model's configuration and of its parameters up to the hook."""

    hook: str
    """Where the SAE reads, in TransformerLens names, for instance ``blocks.9.hook_resid_post``."""

    hook_out: str
    """Where it writes; the same unless it is a transcoder."""

    hook_reason: str
    """What the hooks were chosen by."""

    hook_search: tuple[HookScore, ...]
    """The places tried, best first, if the hook was looked for."""

    sae: str
    """SAE file or folder, as asked for."""

    sae_sha256: str
    """Hash of the checkpoint's weight file."""

    sae_format: str
    """Format recognised, with the reason."""

    activation_rule: str
    """Activation rule of the SAE, for instance ``TopK(k=32)``."""

    corpus: str
    """Corpus, as asked for."""

    corpus_sha256: str
    """Hash of the documents read, in order."""

    bos: str
    """BOS policy and where it comes from."""

    logit_convention: str
    """How logit effects were computed."""

    dtype: str
    """Number format of the model's forward pass; the SAE and all statistics are float32 or exact."""

    device: str
    """Device of the forward pass."""

    options: Mapping[str, str | int | float | bool | None]
    """Every other option that shapes the result, by its command-line name without dashes."""

    versions: Mapping[str, str]
    """Versions of this tool, Python and the libraries that compute."""

    created: str
    """UTC time of the run, ISO 8601."""

    def __post_init__(self) -> None:
        if self.analysis not in ("real", "synthetic"):
            raise ValueError(f"an analysis of the kind {self.analysis!r}")

    @property
    def place(self) -> str:
        """Hooks in words."""
        return _arrow(self.hook, self.hook_out)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisResult:
    """One finished analysis: what goes into ``real.json`` or ``synthetic.json``, and all that the pictures need."""

    provenance: Provenance
    fit: Fit | None
    """How well the SAE fits its hook; None for a synthetic analysis, which reads no text."""

    dictionary: DictionaryStats | None
    """The whole dictionary; None for a synthetic analysis, which looks at the features asked for alone."""

    features: tuple[FeatureStats, ...]
    schema_version: int = field(default=SCHEMA_VERSION)

    def by_feature(self) -> dict[int, FeatureStats]:
        """Return the features' statistics by feature index, in the order they were asked for."""
        return {stats.feature_idx: stats for stats in self.features}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSpan:
    """How many tokens of text it takes on average to meet an activation.

    The middle and the ends of nine tenths of what the fitted tail allows. None is never, or more than a trillion.
    """

    low: float | None
    median: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How alike a feature's strongest real and synthetic examples are where they peak; None where it was not measured.

    Each is a mean over pairs; ``…_among_real`` is the same among the real examples, which is what could be expected.
    """

    same_token: float | None
    """Share of the strong synthetic examples, of at least half the largest activation, that peak on a token which the
    feature fires on in text, but for case and spaces."""

    residual: float | None
    """Cosine of the residual vectors."""

    residual_among_real: float | None

    length_real: float | None
    """Mean norm of the residual vectors."""

    length_synthetic: float | None

    coactive: float | None
    """Weighted Jaccard index of the other features that are active."""

    coactive_among_real: float | None

    raised: float | None
    """Share of the tokens that the feature raises most which both have in common."""

    raised_among_real: float | None

    divergence_real: float | None
    """What ablating the feature changes of the prediction, in nats."""

    divergence_synthetic: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What one feature does on text beside what it could do."""

    feature_idx: int
    """Index of the feature in the SAE, from 0."""

    verdict: str
    """``same trigger``, ``same meaning in new words``, ``superstimulus``, ``second sense``, ``artefact``, ``never fires
    in text but can``, ``search failed`` or ``dead``."""

    reasons: tuple[str, ...]
    """What the verdict rests on, the decisive reason first."""

    real_max: float
    """Largest activation on the text."""

    synthetic_max: float
    """Largest activation that the search found."""

    other_seeds: tuple[float, ...]
    """What searches with other seeds found, where they were given."""

    fluent_max: float | None
    """The same among sequences of at most 6 nats per token."""

    excerpt_max: float | None
    """Largest activation of real text cut to the search's length; None if the search was given none."""

    as_fluent_max: float | None
    """Largest synthetic activation among sequences that surprise the model no more than that excerpt."""

    realised: float | None
    """``real_max`` / ``synthetic_max``; None if the search found nothing that fires it."""

    realised_low: float | None
    """Ends of the interval that holds nine tenths of what another text of the same length would give; None where too
    few activations are known to say."""

    realised_high: float | None

    tokens_until: TokenSpan | None
    """Text to read until an activation like ``synthetic_max`` is met."""

    tokens_until_fluent: TokenSpan | None
    """Until one like ``fluent_max``."""

    single_token_max: float | None
    """What the best single token gives."""

    ceiling: float | None
    """Largest pre-activation that any input of the SAE could give; None where the SAE does not norm its input."""

    behind_text: float | None
    """Share of its activation that the shortest sequence keeps behind other text, median."""

    likeness: Likeness


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonResult:
    """A real and a synthetic analysis side by side: what goes into ``comparison.json``."""

    real: Provenance
    synthetic: Provenance

    token_count: int
    """Tokens of text."""

    features: tuple[Comparison, ...]
    """The least realised first; those without a realised fraction last."""

    schema_version: int = field(default=SCHEMA_VERSION)
