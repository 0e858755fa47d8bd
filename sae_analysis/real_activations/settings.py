"""How a corpus is analysed."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from sae_analysis.corpus import Windowing
from sae_analysis.errors import check_choice, check_range
from sae_analysis.reconstruction import BosPolicy

BAND_QUARTERS = 4
"""Bands of examples over the activation range."""

Way = Literal["auto", "dense", "screened"]
"""Ways to encode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealSettings:
    """How a corpus is analysed; all of it is stored with the result."""

    windowing: Windowing = field(default_factory=Windowing)
    """Windows and batches."""

    bos: BosPolicy = "auto"
    """BOS in front of each window; ``auto`` asks the checkpoint, then the model."""

    max_examples: int = 20
    """Strongest examples of a feature."""

    band_examples: int = 3
    """Examples from each quarter of the activation range."""

    list_length: int = 10
    """Tokens fired on, promoted and suppressed tokens, nearest features."""

    firings: int | None = None
    """Strongest examples of a feature of which it is measured what goes on where they peak; None is 3 for up to 50
    features, and else none."""

    norm_outliers: float | None = None
    """Leave out tokens whose activation norm exceeds this multiple of their window's median; None keeps all."""

    seed: int = 0
    """Seed of the random features and examples."""

    dictionary_tokens: int = 1_000_000
    """Tokens (the first of the corpus, up to the end of a batch) on which all features are encoded, for the fit and the
    statistics of the dictionary; after these only the features asked for."""

    encoder: Way = "auto"
    """How the encoder's product is computed: whole; or only where something may fire, which gives the same; ``auto``
    measures at the start which is faster."""

    allow_poor_fit: bool = False
    """Whether to go on where the SAE explains less than the mean would."""

    def __post_init__(self) -> None:
        check_range(
            1,
            max_examples=self.max_examples,
            list_length=self.list_length,
            norm_outliers=self.norm_outliers,
            dictionary_tokens=self.dictionary_tokens,
        )
        check_range(0, band_examples=self.band_examples, firings=self.firings)
        check_choice(get_args(Way), encoder=self.encoder)
