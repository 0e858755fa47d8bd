"""What a feature does on one text, and in one piece of its range."""

from dataclasses import dataclass
from itertools import pairwise

TokenValues = tuple[tuple[str, float], ...]
"""Token text with a number, in the order of the list it belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts between edges: ``counts[i]`` values lie in ``[edges[i], edges[i + 1])``."""

    edges: tuple[float, ...]
    """Ascending bin edges in the unit of what was counted, one more than counts; empty when nothing was."""

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
    """Pre-activation at the peak: the value before the SAE's activation rule."""

    cross_entropy: float | None
    """Mean surprise of the model over the example's tokens, in nats per token, the first one given BOS where there is
    BOS; None for a single token without one."""

    attribution: tuple[float, ...]
    """For each token, by how much the example's largest activation falls when that token alone is deleted; below zero
    where it rises."""

    is_text: bool
    """Whether ``text`` is cut into exactly ``token_ids`` again."""

    is_sink: bool
    """Whether the residual vector at the peak is an attention sink by its norm: such a firing says little."""

    provenance: str
    """What the population that it came from began with: ``random``, ``real text``, ``relaxed`` … A search changes it
    since, and real text is real no more; what was read as it is has 0 ``token_evaluations``."""

    seed: int
    """Seed of the search."""

    token_evaluations: int
    """Token-evaluations spent on the feature when it was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """What the model's next-token prediction at a peak owes to the feature: with it, less without it.

    Source: Bricken et al. 2023, "Towards Monosemanticity", for the ablation; Kullback and Leibler 1951, "On information
    and sufficiency", for the divergence.
    """

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
    """Activations of the model that the SAE reads there, less its decoder's bias, to four digits."""

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
    """Where the window comes from, for people: name of the document that it begins in for real text, provenance for
    synthetic."""

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
    """Upper end of the band, as such a quantile."""

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
