"""The streaming loop: chunk by chunk, batch by batch, from text to accumulators."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sae_analysis.accumulators import SparseActs
from sae_analysis.corpus import Chunk, TokenBatch, TokenStream, norm_outliers
from sae_analysis.errors import ModelError, SAEFormatError
from sae_analysis.machine import return_freed_memory
from sae_analysis.real_activations.collected import Collected
from sae_analysis.real_activations.settings import RealSettings
from sae_analysis.reconstruction import Site, check_fit, update_fit
from sae_analysis.sae_interface import Encoder, Screen, SparseCode

EARLY_CHECK_TOKENS = 4096
"""Kept tokens after which a hopeless fit ends the run."""

_TIMED_TOKENS = 512
"""Tokens of the first batch on which ways to encode are timed."""


class Reader:
    """Reads chunks into ``collected``, in any order: what becomes of a chunk does not depend on what was read before.

    Every feature is encoded on the first ``dictionary_tokens`` of the corpus, and after these those asked for alone.
    How that is fastest depends on how often each feature fires, which the first chunk tells: who has not read it looks
    at it when the time comes, without counting.
    """

    def __init__(
        self, site: Site, features: Sequence[int], settings: RealSettings, stream: TokenStream, collected: Collected
    ) -> None:
        """Prepare to read chunks of ``stream`` for some features of the SAE."""
        self.collected = collected
        self._site, self._features, self._settings, self._stream = site, features, settings, stream
        self._local_index = np.full(site.sae.dict_size, -1)
        self._local_index[list(features)] = np.arange(len(features))
        self._screen: Screen | None = None
        self._encoder = ""
        self._narrow: Encoder | None = None
        self._fired, self._first_tokens = torch.zeros(site.sae.dict_size), 0
        self._is_checked = settings.allow_poor_fit

    def read(self, chunk: Chunk, told: Callable[[int], None] | None = None) -> None:
        """Count a chunk; ``told`` hears of the tokens of each batch.

        Raises:
            FitError: after EARLY_CHECK_TOKENS tokens the SAE explains less than the mean, and that is not allowed.
            ModelError: activations that are not finite.
        """
        with torch.inference_mode():
            for batch, is_whole in self._batches(chunk):
                x, target, kept = self._activations(batch)
                code = self._encode(x) if is_whole else self._encoder_of_the_asked()(x)
                acts = _placed(code, kept)
                if is_whole:
                    update_fit(self.collected.fit, target, self._site.sae.decode_sparse(code, x), code)
                    self.collected.dictionary.update(acts)
                    self._remember(chunk, x, code)
                self.collected.update(batch, acts.only(self._local_index))
                self._check()
                if told:
                    told(batch.token_count)
        self.collected.encoders |= {self._encoder} - {""}
        self.collected.threads |= {torch.get_num_threads()}
        self.collected.end(chunk)
        return_freed_memory()

    def _batches(self, chunk: Chunk) -> Iterator[tuple[TokenBatch, bool]]:
        """Yield the batches of a chunk, and whether every feature is to be encoded on them."""
        tokens, always = chunk.tokens_before, len(self._features) == self._site.sae.dict_size
        for batch in self._stream.batches(chunk):
            yield batch, always or tokens < self._settings.dictionary_tokens
            tokens += batch.token_count

    def _check(self) -> None:
        if not self._is_checked and self.collected.fit.token_count >= EARLY_CHECK_TOKENS:
            check_fit(self.collected.fit.finish()[0], self._site.name)
            self._is_checked = True

    def _encode(self, x: Tensor) -> SparseCode:
        """Encode every feature; the first call decides on the way."""
        if not self._encoder:
            self._screen = self._screen_for(x[:_TIMED_TOKENS])
            self._encoder = "screened" if self._screen else "dense"
        return self._site.sae.encode_sparse(x, screen=self._screen)

    def _screen_for(self, x: Tensor) -> Screen | None:
        """Return what saves work in encoding, as it was asked for or as it is faster on ``x``."""
        asked_for = self._settings.encoder
        if asked_for == "auto" and len(self.collected.encoders) == 1:
            [asked_for] = self.collected.encoders  # as it was begun: the last bits may depend on it
        if asked_for == "dense":
            return None
        if asked_for == "auto":
            return self._site.sae.faster_screen(x)
        screen = self._site.sae.new_screen()
        if screen is None:
            raise SAEFormatError(
                f"encoder screened knows TopK, ReLU, JumpReLU and gated SAEs on a CPU, and this is "
                f"{self._site.sae.rule_name} on {x.device}: leave the option out."
            )
        return screen

    def _encoder_of_the_asked(self) -> Encoder:
        """Return what encodes the features asked for alone."""
        if self._narrow is None:
            first = self._stream.first
            assert first is not None, "seen by whoever reads a stream"
            if not self._first_tokens:
                for batch, is_whole in self._batches(first):
                    if not is_whole:
                        break
                    x, *_ = self._activations(batch)
                    self._remember(first, x, self._encode(x))
            density = self._fired / self._first_tokens if self._first_tokens else None
            self._narrow = self._site.sae.encoder_of(self._features, self._screen, density)
        return self._narrow

    def _remember(self, chunk: Chunk, x: Tensor, code: SparseCode) -> None:
        """Count how often each feature fires in the first chunk."""
        if chunk.number == 0:
            self._fired += torch.bincount(code.feature.cpu(), minlength=len(self._fired))
            self._first_tokens += len(x)

    def _activations(self, batch: TokenBatch) -> tuple[Tensor, Tensor, TokenBatch]:
        """Return what the SAE reads and is to reproduce on kept tokens, and the batch with outliers masked."""
        x, target = (found[:, batch.bos_columns :].float() for found in self._site.activations(batch.ids))
        keep = torch.from_numpy(batch.windows.keep).to(x.device)
        if self._settings.norm_outliers is not None:
            outliers = norm_outliers(x.norm(dim=-1), keep, self._settings.norm_outliers)
            keep = keep & ~outliers  # the batch's own stay as they are
            batch = replace(batch, windows=replace(batch.windows, keep=keep.cpu().numpy()))
        x, target = x[keep], target[keep]
        if not torch.isfinite(x).all():
            site = self._site
            raise ModelError(f"{site.name} gives values that are not finite in {site.model.dtype}: use dtype float32.")
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
