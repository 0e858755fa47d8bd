"""All that reading fills, as one accumulator whose unit is the chunk."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sae_analysis.accumulators import (
    DictionaryStatistics,
    ExampleStatistics,
    FitStatistics,
    PositionStatistics,
    SparseActs,
    TokenStatistics,
    ValueStatistics,
)
from sae_analysis.corpus import Chunk, TokenBatch
from sae_analysis.real_activations.settings import BAND_QUARTERS, RealSettings
from sae_analysis.reconstruction import Site

State = dict[str, npt.NDArray]

_SAMPLES_PER_BAND_EXAMPLE = 4
"""Random windows held for each example of a band: the bands fill by chance, and some are top examples already."""

_DIGEST_BYTES = 32


@dataclass(slots=True, kw_only=True)
class Collected:
    """What was counted and kept of the chunks read so far: it merges, stops and goes on as the accumulators in it do.

    Whoever has read which chunks, in whatever order: what all of them collected, merged, is the same to the last bit.
    """

    values: ValueStatistics
    tokens: TokenStatistics
    positions: PositionStatistics
    examples: ExampleStatistics
    dictionary: DictionaryStatistics
    fit: FitStatistics

    counts: Counter[str] = field(default_factory=Counter)
    """Documents, windows, tokens read, and kept tokens."""

    excluded: Counter[str] = field(default_factory=Counter)
    """Positions run through the model and not counted, by reason."""

    chunks: dict[int, bytes] = field(default_factory=dict)
    """Hash of the text of each chunk that was read, by its number."""

    encoders: frozenset[str] = frozenset()
    """How the encoder's product was computed: ``dense``, ``screened``, or here so and there so."""

    threads: frozenset[int] = frozenset()
    """Processor threads it was computed with, which decide about the last bits of activations."""

    @classmethod
    def empty(cls, site: Site, features: Sequence[int], settings: RealSettings) -> Self:
        """Begin with nothing read."""
        window_length = settings.windowing.seq_len - site.prepend_bos
        return cls(
            values=ValueStatistics(len(features)),
            tokens=TokenStatistics(len(features), site.model.d_vocab),
            positions=PositionStatistics(len(features), window_length),
            examples=ExampleStatistics(
                len(features),
                top=settings.max_examples,
                sampled=settings.band_examples * BAND_QUARTERS * _SAMPLES_PER_BAND_EXAMPLE,
                seed=settings.seed,
            ),
            dictionary=DictionaryStatistics(site.sae.dict_size, window_length),
            fit=FitStatistics(site.sae.decoder_weights.shape[1]),
        )

    @property
    def token_count(self) -> int:
        """Kept tokens; those of ``fit`` and ``dictionary`` may be fewer."""
        return self.counts["kept"]

    def update(self, batch: TokenBatch, acts: SparseActs) -> None:
        """Count a batch and what fired on it, features numbered as the accumulators have them.

        The activations' windows may keep fewer tokens than the batch's: the others are outliers.
        """
        kept = int(acts.windows.keep.sum())
        self.counts.update(kept=kept, tokens=batch.token_count, windows=len(batch.ids))
        self.excluded.update(batch.excluded)
        self.excluded["norm outlier"] += int(batch.windows.keep.sum()) - kept
        for accumulator in (self.values, self.tokens, self.positions, self.examples):
            accumulator.update(acts)

    def end(self, chunk: Chunk) -> None:
        """Count a chunk, all of whose batches were."""
        self.counts["documents"] += len(chunk.documents)
        self.chunks[chunk.number] = chunk.sha256

    def merge(self, other: Self) -> None:
        """Add what ``other`` read, no chunk of which was read here; ``other`` stays as it is."""
        if self.chunks.keys() & other.chunks.keys():
            raise ValueError("the same chunk was read twice")
        for name in _ACCUMULATORS:
            getattr(self, name).merge(getattr(other, name))
        self.counts.update(other.counts)
        self.excluded.update(other.excluded)
        self.chunks |= other.chunks
        self.encoders |= other.encoders
        self.threads |= other.threads

    def state(self) -> State:
        """Return everything needed to go on, as arrays."""
        arrays = {
            f"{name}.{key}": array for name in _ACCUMULATORS for key, array in getattr(self, name).state().items()
        }
        numbers = sorted(self.chunks)
        hashes = b"".join(self.chunks[number] for number in numbers)
        for name, counter in (("counts", self.counts), ("excluded", self.excluded)):
            arrays[name] = np.array(list(counter.values()), np.int64)
            arrays[f"{name}.names"] = np.array(list(counter), np.str_)
        return arrays | {
            "chunks": np.array(numbers, np.int64),
            "hashes": np.frombuffer(hashes, np.uint8).reshape(-1, _DIGEST_BYTES),
            "encoders": np.array(sorted(self.encoders), np.str_),
            "threads": np.array(sorted(self.threads), np.int64),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray]) -> Self:
        """Restore what ``state`` returned."""
        parts: dict[str, Any] = {}
        for name, kind in _ACCUMULATORS.items():
            prefix = f"{name}."
            inner = {key.removeprefix(prefix): array for key, array in state.items() if key.startswith(prefix)}
            parts[name] = kind.from_state(inner)
        counters = (
            Counter(dict(zip(state[f"{name}.names"].tolist(), state[name].tolist(), strict=True)))
            for name in ("counts", "excluded")
        )
        counts, excluded = counters
        hashes = (row.tobytes() for row in state["hashes"])
        return cls(
            **parts,
            counts=counts,
            excluded=excluded,
            chunks=dict(zip(state["chunks"].tolist(), hashes, strict=True)),
            encoders=frozenset(state["encoders"].tolist()),
            threads=frozenset(state["threads"].tolist()),
        )


_ACCUMULATORS: Mapping[str, type] = {
    "values": ValueStatistics,
    "tokens": TokenStatistics,
    "positions": PositionStatistics,
    "examples": ExampleStatistics,
    "dictionary": DictionaryStatistics,
    "fit": FitStatistics,
}
