"""The streaming loop: batch by batch from text to accumulators."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sae_analysis.accumulators import (
    DictionaryStatistics,
    ExampleStatistics,
    FitStatistics,
    PositionStatistics,
    SparseActs,
    TokenStatistics,
    ValueStatistics,
)
from sae_analysis.corpus import TokenBatch, TokenStream, Windowing, norm_outliers
from sae_analysis.errors import ModelError, SAEFormatError
from sae_analysis.reconstruction import BosPolicy, Site, check_fit, update_fit
from sae_analysis.sae_interface import Encoder, Screen, SparseCode

Progress = Callable[[int, int | None], None]
"""Called with the number of tokens analysed since the last call, and about how many there will be in all, if known."""

EARLY_CHECK_TOKENS = 4096
"""Kept tokens after which a hopeless fit ends the run."""

BAND_QUARTERS = 4
"""Bands of examples over the activation range."""

_TIMED_TOKENS = 256
"""Tokens of the first batch on which ways to encode are timed."""

_SAMPLES_PER_BAND_EXAMPLE = 4
"""Random windows held for each example of a band: the bands fill by chance, and some are top examples already."""


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
    """Tokens on which all features are encoded, for the fit and the statistics of the dictionary; after these only
    the features asked for."""

    encoder: Literal["auto", "dense", "screened"] = "auto"
    """How the encoder's product is computed: whole; or only where something may fire, which gives the same; ``auto``
    measures at the start which is faster."""

    allow_poor_fit: bool = False
    """Whether to go on where the SAE explains less than the mean would."""


@dataclass(slots=True, kw_only=True)
class Collected:
    """All that one pass fills."""

    values: ValueStatistics
    tokens: TokenStatistics
    positions: PositionStatistics
    examples: ExampleStatistics
    dictionary: DictionaryStatistics
    fit: FitStatistics

    encoder: str = "dense"
    """How the encoder's product was computed."""

    token_count: int = 0
    """Kept tokens; those of ``fit`` and ``dictionary`` may be fewer."""

    def update(self, acts: SparseActs, local_index: np.ndarray) -> None:
        """Count a batch for the features asked for; ``local_index [d_sae]`` numbers them and is -1 elsewhere."""
        self.token_count += int(acts.windows.keep.sum())
        asked_for = acts.only(local_index)
        for accumulator in (self.values, self.tokens, self.positions, self.examples):
            accumulator.update(asked_for)


def accumulate(
    site: Site, features: Sequence[int], stream: TokenStream, settings: RealSettings, progress: Progress | None
) -> Collected:
    """Stream a corpus through model and SAE into fresh accumulators.

    Raises:
        FitError: after EARLY_CHECK_TOKENS tokens the SAE explains less than the mean, and that is not allowed.
        ModelError: activations that are not finite.
    """
    collected = Collected(
        values=ValueStatistics(len(features)),
        tokens=TokenStatistics(len(features), site.model.d_vocab),
        positions=PositionStatistics(len(features), stream.window_length),
        examples=ExampleStatistics(
            len(features),
            top=settings.max_examples,
            sampled=settings.band_examples * BAND_QUARTERS * _SAMPLES_PER_BAND_EXAMPLE,
            seed=settings.seed,
        ),
        dictionary=DictionaryStatistics(site.sae.dict_size, stream.window_length),
        fit=FitStatistics(site.sae.decoder_weights.shape[1]),
    )
    local_index = np.full(site.sae.dict_size, -1)
    local_index[list(features)] = np.arange(len(features))
    checked = settings.allow_poor_fit
    with torch.inference_mode():
        encoding = _Encoding(site, features, settings, collected)
        for batch in stream:
            x, target, batch = _activations(site, batch, stream, settings.norm_outliers)  # noqa: PLW2901 - masked further
            code = encoding.encode(x)
            acts = _placed(code, batch)
            if encoding.is_whole:
                update_fit(collected.fit, target, site.sae.decode_sparse(code, x), code)
                collected.dictionary.update(acts)
            collected.update(acts, local_index)
            if not checked and collected.fit.token_count >= EARLY_CHECK_TOKENS:
                check_fit(collected.fit.finish()[0], site.name)
                checked = True
            if progress:
                progress(batch.token_count, stream.expected_tokens)
    return collected


class _Encoding:
    """How batches are encoded: every feature at first, and after ``dictionary_tokens`` those asked for alone."""

    def __init__(self, site: Site, features: Sequence[int], settings: RealSettings, collected: Collected) -> None:
        self._sae, self._features, self._settings, self._collected = site.sae, features, settings, collected
        self._encode: Encoder | None = None
        self.is_whole = True

    def encode(self, x: Tensor) -> SparseCode:
        """Encode a batch; the first decides on the way."""
        seen = self._collected.fit.token_count
        if self._encode is None:
            self._screen = self._screen_for(x[:_TIMED_TOKENS])
            self._collected.encoder = "screened" if self._screen else "dense"
            self._encode = partial(self._sae.encode_sparse, screen=self._screen)
        elif self.is_whole and seen >= self._settings.dictionary_tokens and len(self._features) < self._sae.dict_size:
            density = torch.from_numpy(self._collected.dictionary.active_counts / seen)
            self._encode, self.is_whole = self._sae.encoder_of(self._features, self._screen, density), False
        return self._encode(x)

    def _screen_for(self, x: Tensor) -> Screen | None:
        """Return what saves work in encoding, as it was asked for or as it is faster on ``x``."""
        if self._settings.encoder == "dense":
            return None
        if self._settings.encoder == "auto":
            return self._sae.faster_screen(x)
        screen = self._sae.new_screen()
        if screen is None:
            raise SAEFormatError(
                f"--encoder screened knows TopK, ReLU, JumpReLU and gated SAEs on a CPU, and this is "
                f"{self._sae.rule_name} on {x.device}: leave the option out."
            )
        return screen


def _activations(
    site: Site, batch: TokenBatch, stream: TokenStream, outlier_multiple: float | None
) -> tuple[Tensor, Tensor, TokenBatch]:
    """Return what the SAE reads and is to reproduce on a batch's kept tokens, and the batch with outliers masked."""
    x, target = (found[:, batch.bos_columns :].float() for found in site.activations(batch.ids))
    keep = torch.from_numpy(batch.windows.keep).to(x.device)
    if outlier_multiple is not None:
        outliers = norm_outliers(x.norm(dim=-1), keep, outlier_multiple)
        stream.excluded["norm outlier"] += int(outliers.sum())
        keep &= ~outliers
        batch = replace(batch, windows=replace(batch.windows, keep=keep.cpu().numpy()))
    x, target = x[keep], target[keep]
    if not torch.isfinite(x).all():
        raise ModelError(f"{site.name} gives values that are not finite in {site.model.dtype}: use --dtype float32.")
    return x, target, batch


def _placed(code: SparseCode, batch: TokenBatch) -> SparseActs:
    """Place what fired on kept tokens in the batch's windows."""
    token = code.token.cpu().numpy()
    row, position = np.nonzero(batch.windows.keep)
    return SparseActs(
        feature=code.feature.cpu().numpy(),
        row=row[token],
        position=position[token],
        value=code.value.cpu().numpy(),
        windows=batch.windows,
    )
