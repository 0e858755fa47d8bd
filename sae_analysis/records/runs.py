"""An analysis: what was run on what, how well the SAE fits, the dictionary, the features."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sae_analysis.records.examples import Histogram
from sae_analysis.records.features import FeatureStats

SCHEMA_VERSION = 1
"""Version of the JSON written from these records; raised when a field changes its meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How well the SAE fits the hook on the analysed text: the header that would expose a mistake."""

    explained_variance: float
    """Share of the variance: 1 - sum |x - x_hat|^2 / sum |x - mean(x)|^2 over kept tokens; below 0 is worse than
    predicting the mean."""

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
    """True if ``max_tokens`` ended the reading before the corpus did."""

    @property
    def is_poor(self) -> bool:
        """Whether the mean activation would explain more than the SAE does."""
        return not self.explained_variance >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DictionaryStats:
    """Distributions over every feature of the SAE, asked for or not, from the same pass, as far as all were encoded."""

    d_sae: int
    """Number of features."""

    dead_count: int
    """Features that never fired on the tokens on which every feature was encoded (``Fit.measured_tokens``)."""

    dense_count: int
    """Features that fired on more than a tenth of these."""

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
    """Share of the variance, as in ``Fit``."""

    cosine: float
    """Mean cosine between what it is to reproduce and what it does."""

    l0: float
    """Mean number of active features per token."""

    @property
    def place(self) -> str:
        """Hooks in words."""
        return _arrow(self.hook, self.hook_out)


Asked = Mapping[str, str | int | float | bool | tuple[str, ...] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What was run on what: enough to repeat a run, and to refuse comparing what does not belong together."""

    analysis: str
    """``real`` or ``synthetic``."""

    model: str
    """Model name or folder, as asked for."""

    model_sha256: str
    """Hash of the model's configuration and of samples of all its parameters."""

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

    asked: Asked = field(default_factory=dict)
    """Mode and options of the command, by their names without dashes; empty if there was none. Those that do not shape
    the result are left out."""

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


class FeatureResults(dict[int, FeatureStats]):
    """Statistics by feature index, as the library's functions return them, that know which analysis they are of."""

    def __init__(self, result: AnalysisResult) -> None:
        """Take the features of an analysis, in the order they were asked for."""
        super().__init__(result.by_feature())
        self.result = result
        """The analysis as a whole: what was run on what, and for real text fit and dictionary."""


AnyResults = AnalysisResult | Mapping[int, FeatureStats]
"""Results as the library's functions take them: a whole analysis, what one of them returned, or features in a
dictionary of one's own, of which nothing says where they come from."""


def whole(results: AnyResults) -> AnyResults:
    """Return the analysis as a whole, where results know it, and else what is given."""
    return results.result if isinstance(results, FeatureResults) else results
