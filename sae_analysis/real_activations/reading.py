"""What a run will read, and the reading of it: whole, a shard of it, or what an interrupted run has left."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sae_analysis.corpus import Chunk, Document, TokenStream
from sae_analysis.errors import CorpusError, ModelError
from sae_analysis.feature_selection import FeatureSelection
from sae_analysis.provenance import fingerprint
from sae_analysis.real_activations.collected import Collected
from sae_analysis.real_activations.settings import RealSettings
from sae_analysis.real_activations.stream import Reader
from sae_analysis.reconstruction import Site
from sae_analysis.wording import counted

Progress = Callable[[int, int | None], None]
"""Called with the number of tokens analysed since the last call, and about how many there will be in all, if known."""

Keep = Callable[[Collected], None]
"""Called after each chunk with all that was collected so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One of several parts of a corpus: every ``count``-th chunk."""

    number: int
    """From 1 to ``count``."""

    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, chunk: Chunk) -> bool:
        """Return whether a chunk is of this shard."""
        return chunk.number % self.count == self.number - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRead:
    """What is known of a corpus as a whole once its end was seen, whoever analysed it."""

    sha256: str
    """Hash of its texts, in order."""

    truncated: bool
    """Whether ``max_tokens`` ended the reading before the corpus did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be read, for which features."""

    site: Site
    settings: RealSettings
    selection: FeatureSelection

    asked_for: tuple[int, ...]
    """Features to report; all, if the text is to decide."""

    features: Sequence[int]
    """Features measured: those, or with a survey all."""

    shard: Shard | None = None
    """The part of the chunks to read; None is all."""

    @property
    def options(self) -> dict[str, Any]:
        """The settings as a result stores them."""
        options = asdict(self.settings)
        return options | options.pop("windowing")

    @property
    def fingerprint(self) -> str:
        """Hash of all but the text that what is collected depends on: shards of the same can be merged."""
        features = str(self.features) if isinstance(self.features, range) else self.features
        return fingerprint(self.site, "real", self.options, features=features, selection=str(self.selection))

    @property
    def run_fingerprint(self) -> str:
        """Hash of that and the shard: what has the same is the same run, interrupted."""
        return hashlib.sha256(f"{self.fingerprint} {self.shard}".encode()).hexdigest()

    @property
    def counted_tokens(self) -> int:
        """Tokens of the corpus up to which it must be known of a chunk how many stand before it."""
        return 0 if len(self.features) == self.site.sae.dict_size else self.settings.dictionary_tokens

    def stream(self, documents: Iterable[Document]) -> TokenStream:
        """Return the text as it is read."""
        site = self.site
        return TokenStream(documents, site.model.tokens, self.settings.windowing, prepend_bos=site.prepend_bos)


def plan(
    site: Site,
    selection: FeatureSelection,
    settings: RealSettings,
    *,
    everything: bool = False,
    shard: Shard | None = None,
) -> Plan:
    """Return what is to be read; with ``everything`` all features of the SAE are measured.

    Raises:
        FeatureError: features that do not exist.
        ModelError: windows that the model cannot read.
    """
    asked_for = selection.before_data(site.sae.dict_size, settings.seed)
    longest, seq_len = site.model.context_length, settings.windowing.seq_len
    if longest is not None and seq_len > longest:
        raise ModelError(f"seq_len {seq_len} is more than {site.model.name} was made for: give at most {longest}.")
    features = range(site.sae.dict_size) if everything else asked_for
    return Plan(site=site, settings=settings, selection=selection, asked_for=asked_for, features=features, shard=shard)


def collect(
    planned: Plan,
    stream: TokenStream,
    *,
    collected: Collected | None = None,
    progress: Progress | None = None,
    keep: Keep | None = None,
) -> Collected:
    """Read a corpus, or the shard of the plan, to its end, and return what was counted and kept.

    Args:
        planned: What to read.
        stream: The text, not yet begun with.
        collected: What was collected before of the same plan and text, to go on with.
        progress: Told of the tokens read.
        keep: Given all that was collected so far after each chunk.

    Raises:
        CorpusError: unreadable text, or not the text that was read before.
        FitError: after some thousand tokens the SAE explains less than the mean, and that is not allowed.
        ModelError: activations that are not finite.
    """
    collected = collected or Collected.empty(planned.site, planned.features, planned.settings)
    reader = Reader(planned.site, planned.features, planned.settings, stream, collected)
    for chunk in unread(planned, stream, collected):
        reader.read(chunk, lambda tokens: progress(tokens, expected_tokens(planned, stream)) if progress else None)
        if keep:
            keep(collected)
    return collected


def expected_tokens(planned: Plan, stream: TokenStream) -> int | None:
    """Return about how many tokens there will be in all, if anything says so."""
    expected, shards = stream.expected_tokens, planned.shard.count if planned.shard else 1
    return None if expected is None else expected // shards


def unread(planned: Plan, stream: TokenStream, collected: Collected) -> Iterator[Chunk]:
    """Yield the chunks that are still to be read; those that were read before are held against what they were then.

    Raises:
        CorpusError: unreadable text, or not the text that was read before.
    """
    before = dict(collected.chunks)
    for chunk in stream.chunks(planned.counted_tokens):
        if chunk.number not in before:
            if planned.shard is None or planned.shard.has(chunk):
                yield chunk
        elif before.pop(chunk.number) != chunk.sha256:
            names = f"{chunk.documents[0].name} to {chunk.documents[-1].name}"
            raise CorpusError(
                f"The corpus has changed since an interrupted run read it, at documents {names}: bring the old text "
                "back, or begin anew in another output folder or storage."
            )
    if before:
        raise CorpusError(
            f"The corpus has become shorter since an interrupted run read it, by {counted(len(before), 'chunk')} or "
            "more: bring the old text back, or begin anew in another output folder or storage."
        )
