"""What a feature does beside what it could do."""

from dataclasses import dataclass, field

from sae_analysis.records.runs import SCHEMA_VERSION, Asked, Provenance


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
    """The same cosine among the real examples."""

    length_real: float | None
    """Mean norm of the residual vectors of the real examples."""

    length_synthetic: float | None
    """Mean norm of those of the synthetic ones."""

    coactive: float | None
    """Weighted Jaccard index of the other features that are active, in [0, 1]."""

    coactive_among_real: float | None
    """The same index among the real examples, in [0, 1]."""

    raised: float | None
    """Share of the tokens that the feature raises most which both have in common."""

    raised_among_real: float | None
    """The same share among the real examples."""

    divergence_real: float | None
    """What ablating the feature changes of the prediction where real examples peak, in nats: a mean over peaks."""

    divergence_synthetic: float | None
    """The same where synthetic examples peak, in nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What one feature does on text beside what it could do."""

    feature_idx: int
    """Index of the feature in the SAE, from 0."""

    verdict: str
    """``same trigger``, ``same meaning in new words``, ``superstimulus``, ``second sense``, ``artefact``, ``never fires
    in text but can``, ``search failed`` or ``dead``."""

    reasons: tuple[str, ...]
    """What the verdict rests on, the decisive reason first, then what leaves it unsettled."""

    is_settled: bool | None = None
    """Whether nine of ten other texts of the same length would give the same verdict, and the search had budget for a
    step of its own and did not fall short of the text; None where too few activations are known to say."""

    real_max: float
    """Largest activation on the text."""

    synthetic_max: float
    """Largest activation that the search found."""

    other_seeds: tuple[float, ...]
    """Largest activations that searches with other seeds found, where they were given."""

    fluent_max: float | None
    """Largest activation that the search found in a sequence of at most 6 nats per token."""

    excerpt_max: float | None
    """Largest activation of real text cut to the search's length; None if the search was given none."""

    as_fluent_max: float | None
    """Largest synthetic activation among sequences that surprise the model no more than that excerpt."""

    realised: float | None
    """``real_max`` as a share of ``synthetic_max``, above 1 where the search fell short of the text; None if the search
    found nothing that fires it."""

    realised_low: float | None
    """Lower end, as such a share, of the interval that holds nine tenths of what another text of the same length would
    give; None where too few activations are known to say."""

    realised_high: float | None
    """Its upper end, as such a share."""

    tokens_until: TokenSpan | None
    """Text to read until an activation like ``synthetic_max`` is met."""

    tokens_until_fluent: TokenSpan | None
    """Until one like ``fluent_max``."""

    single_token_max: float | None
    """Activation that the best single token gives."""

    ceiling: float | None
    """Largest pre-activation that any input of the SAE could give; None where the SAE does not norm its input."""

    behind_text: float | None
    """Share of its activation that the shortest sequence keeps behind other text, median."""

    likeness: Likeness

    @property
    def verdict_in_words(self) -> str:
        """The verdict, and whether more text or a longer search may give another."""
        return f"{self.verdict}, unsettled" if self.is_settled is False else self.verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonResult:
    """A real and a synthetic analysis side by side: what goes into ``comparison.json``."""

    real: Provenance
    synthetic: Provenance

    token_count: int
    """Tokens of text."""

    features: tuple[Comparison, ...]
    """The least realised first; those without a realised fraction last."""

    asked: Asked = field(default_factory=dict)
    """As in ``Provenance``."""

    schema_version: int = field(default=SCHEMA_VERSION)
