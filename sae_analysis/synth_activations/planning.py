"""What a run will search: settings, features, text to begin with, and the hash of all that its result depends on."""

from dataclasses import asdict, dataclass

from sae_analysis.errors import FeatureError, ModelError, check_range
from sae_analysis.feature_selection import FeatureSelection
from sae_analysis.provenance import fingerprint
from sae_analysis.reconstruction import BosPolicy, Site
from sae_analysis.records import AnalysisResult, AnyResults
from sae_analysis.synth_activations.evaluation import GRADIENT_COST
from sae_analysis.synth_activations.real_windows import (
    Seeds,
    check_origin,
    check_vocabulary,
    real_windows,
)
from sae_analysis.synth_activations.terms import SearchSettings

EVALUATIONS_PER_TOKEN = 1_600
"""Budget for each token of a sequence, unless one is given: about 20,000 for a sequence of 12."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthSettings:
    """How features are searched; all of it is stored with the result."""

    seq_len: int = 12
    """Tokens of a sequence, BOS not counted."""

    budget: int | None = None
    """Token-evaluations for each feature: a token run through the model is one, run backward too three. None allows
    ``EVALUATIONS_PER_TOKEN`` for each token of a sequence, and what the stage in embedding space costs."""

    n_steps: int = 30
    """Steps of the stage in embedding space; 0 leaves it out."""

    learning_rate: float = 0.2
    """Size of its steps: Adam's learning rate, in the unit of the softmax's logits."""

    fluency: float = 0.4
    """Share of the effort for sequences that read like text, from 0 to 1."""

    max_examples: int = 10
    """Strongest examples of a feature."""

    firings: int | None = None
    """Strongest examples of a feature of which it is measured what goes on where they peak; None is 3 for up to 50
    features, and else none."""

    batch_size: int = 8
    """Features searched side by side; they look at each other's sequences."""

    seed: int = 0
    """Seed of the search, and of random features."""

    bos: BosPolicy = "auto"
    """BOS in front of each sequence; ``auto`` asks the checkpoint, then the model."""

    list_length: int = 10
    """Tokens fired on, promoted and suppressed tokens, nearest features."""

    def __post_init__(self) -> None:
        check_range(
            1,
            seq_len=self.seq_len,
            budget=self.budget,
            max_examples=self.max_examples,
            batch_size=self.batch_size,
            list_length=self.list_length,
        )
        check_range(0, n_steps=self.n_steps, learning_rate=self.learning_rate, firings=self.firings)
        check_range(0, 1, fluency=self.fluency)

    @property
    def search(self) -> SearchSettings:
        """What the search itself is told."""
        return SearchSettings(
            seq_len=self.seq_len,
            budget=self.budget or self.seq_len * (EVALUATIONS_PER_TOKEN + GRADIENT_COST * self.n_steps),
            n_steps=self.n_steps,
            learning_rate=self.learning_rate,
            fluency=self.fluency,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will search, and with what it begins."""

    batches: tuple[tuple[int, ...], ...]
    """Features that are searched side by side, in the order asked for."""

    seeds: Seeds
    """Real text to begin with, by feature."""

    fingerprint: str
    """Hash of all that the result depends on: runs of one fingerprint come to one result."""

    @property
    def features(self) -> tuple[int, ...]:
        """All features, in order."""
        return tuple(feature for batch in self.batches for feature in batch)


def plan(site: Site, selection: FeatureSelection, settings: SynthSettings, real: AnyResults | None = None) -> Plan:
    """Return what is to be done.

    Raises:
        FeatureError: features that do not exist, or that only text can tell and ``real`` does not.
        ModelError: sequences that the model cannot read.
        OutputError: ``real`` belongs to something else.
    """
    if isinstance(real, AnalysisResult):
        check_origin(real, site)
    _check_sequences(site, settings.seq_len)
    features = _features(site, selection, settings.seed, real)
    special = site.model.tokens.special_token_ids
    seeds = real_windows(real, features, settings.seq_len, special) if real else {}
    check_vocabulary(seeds, site)
    starts = range(0, len(features), settings.batch_size)
    return Plan(
        batches=tuple(features[begin : begin + settings.batch_size] for begin in starts),
        seeds=seeds,
        fingerprint=fingerprint(site, "synthetic", asdict(settings), features=features, seeds=sorted(seeds.items())),
    )


def _check_sequences(site: Site, seq_len: int) -> None:
    model = site.model
    if site.prepend_bos and model.tokens.bos_token_id is None:
        raise ModelError("BOS is to stand in front of each sequence, but this tokenizer has none: use bos never.")
    most = None if model.context_length is None else model.context_length - site.prepend_bos
    if most is not None and seq_len > most:
        beside = " beside BOS" if site.prepend_bos else ""
        raise ModelError(f"seq_len {seq_len} is more than {model.name} was made for{beside}: give at most {most}.")


def _features(site: Site, selection: FeatureSelection, seed: int, real: AnyResults | None) -> tuple[int, ...]:
    """Return the features meant; what text decides is read off a real analysis of the whole dictionary."""
    everything = selection.before_data(site.sae.dict_size, seed)
    if not selection.needs_data:
        return everything
    known = real.by_feature() if isinstance(real, AnalysisResult) else real or {}
    if set(known) != set(everything):
        found = f"the real result describes {len(known)} of {len(everything)} features" if known else "no text was read"
        raise FeatureError(
            f"features top:N, top:N:max and dead:N ask what features do on text, and {found}: give a `corpus` to "
            "scan, or a `real` result of all features."
        )
    stats = [known[feature] for feature in everything]
    return selection.after_data([one.active_count for one in stats], [abs(one.largest_activation) for one in stats])
