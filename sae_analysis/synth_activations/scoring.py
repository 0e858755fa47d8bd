"""What a finished sequence does to a feature, measured anew: nothing here trusts what the search saw on its way."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_analysis.reconstruction import Site
from sae_analysis.synth_activations.evaluation import check_finite
from sae_analysis.synth_activations.vocabulary import Vocabulary

SINK_MULTIPLE = 4.0
"""Multiple of the usual norm above which a token is an attention sink. Of random sequences of SmolLM2-135M the first
tokens have 6 to 12 times the usual norm at block 2 and 80 to 120 times at block 20; at block 9, where there are no
sinks, nothing exceeds 3.1 times, nor 2.4 times in a model of 260 thousand parameters."""

_REFERENCE_SEQUENCES, _REFERENCE_LENGTH = 32, 32
"""Random sequences whose second halves say what norm is usual."""

_NUMBERS_AT_ONCE = 1 << 24
"""Logits or pre-activations held at a time: 64 MB."""

Ids = tuple[int, ...]


def without(ids: Ids, place: int) -> Ids:
    """Return a sequence without one of its tokens."""
    return (*ids[:place], *ids[place + 1 :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one sequence does to one feature, read whole and alone in its batch."""

    ids: Ids
    activations: tuple[float, ...]
    """Activation at each token."""

    peak: int
    """Where the activation is largest; where nothing fires, the pre-activation. The first place among equals."""

    pre_activation: float
    """Pre-activation at the peak."""

    cross_entropy: float | None
    """Nats per token, the first one given BOS where there is BOS; None for a single token without one."""

    is_sink: bool
    """Whether the norm at the peak is an attention sink's."""

    @property
    def value(self) -> float:
        """Activation at the peak."""
        return self.activations[self.peak]


class Reader:
    """Reads sequences through the whole model, the SAE in float32. The caller holds the grad mode."""

    def __init__(self, site: Site, vocabulary: Vocabulary) -> None:
        """Measure what norm is usual at the hook, for which no text is needed."""
        self._site = site
        bos = site.model.tokens.bos_token_id
        self._prefix = [bos] if site.prepend_bos and bos is not None else []
        self.usual_norm = self._usual_norm(vocabulary)
        """Median norm of the activations of tokens that have many before them."""

    def ceiling_of(self, feature: int) -> float | None:
        """Return the largest pre-activation that any input of the SAE gives; None where nothing bounds it."""
        return self._site.sae.ceiling_of(feature)

    def read(self, ids: Sequence[int], feature: int) -> Reading:
        """Read one sequence, alone in its batch.

        Raises:
            ModelError: activations that are not finite.
        """
        x, cross_entropy = self._run(torch.tensor([ids]))
        check_finite(self._site, x)
        activations, pre_activations = self._encode(x, feature)
        deciding = activations if float(activations.max()) > 0 else pre_activations
        peak = int(deciding[0].argmax())
        return Reading(
            ids=tuple(ids),
            activations=tuple(activations[0].tolist()),
            peak=peak,
            pre_activation=float(pre_activations[0, peak]),
            cross_entropy=None if cross_entropy is None else float(cross_entropy[0]),
            is_sink=float(x[0, peak].norm()) > SINK_MULTIPLE * self.usual_norm,
        )

    def attribution(self, reading: Reading, feature: int) -> tuple[float, ...]:
        """Return by how much the largest activation falls when each token alone is deleted.

        Without its only token a sequence has no activation left.

        Source: the erasure of Li, Monroe and Jurafsky 2016, "Understanding neural networks through representation
        erasure".
        """
        ids = reading.ids
        if len(ids) == 1:
            return (reading.value,)
        shorter = [without(ids, place) for place in range(len(ids))]
        return tuple(reading.value - max(values) for values in self.activations(shorter, feature))

    def activations(self, sequences: Sequence[Ids], feature: int) -> list[list[float]]:
        """Return the activation at each token of each sequence, read in batches and no further than the hook."""
        found: dict[int, list[float]] = {}
        for places, ids in self._by_length(sequences):
            activations, _ = self._encode(self._activations(ids), feature)
            found |= zip(places, activations.tolist(), strict=True)
        return [found[place] for place in range(len(sequences))]

    def screen(self, sequences: Sequence[Ids], feature: int) -> list[tuple[float, float, float | None]]:
        """Return activation and pre-activation at the peak and cross-entropy of each sequence, read in batches.

        Good enough to choose by; what is reported is read alone.
        """
        found: dict[int, tuple[float, float, float | None]] = {}
        for places, ids in self._by_length(sequences):
            x, cross_entropy = self._run(ids)
            activations, pre_activations = self._encode(x, feature)
            surprise = [None] * len(ids) if cross_entropy is None else cross_entropy.tolist()
            value, pre_activation = activations.max(dim=1).values.tolist(), pre_activations.max(dim=1).values.tolist()
            found |= zip(places, zip(value, pre_activation, surprise, strict=True), strict=True)
        return [found[place] for place in range(len(sequences))]

    def _by_length(self, sequences: Sequence[Ids]) -> Iterator[tuple[list[int], Int64[Tensor, "batch seq"]]]:
        """Yield places and ids of sequences of one length, as many as can be read at once."""
        for length in sorted({len(ids) for ids in sequences}):
            places = [place for place, ids in enumerate(sequences) if len(ids) == length]
            count = self._rows_at_once(length, max(self._site.sae.dict_size, self._site.model.d_vocab))
            for begin in range(0, len(places), count):
                part = places[begin : begin + count]
                yield part, torch.tensor([sequences[place] for place in part])

    def _rows_at_once(self, length: int, width: int) -> int:
        return max(1, _NUMBERS_AT_ONCE // (length * width))

    def _run(
        self, ids: Int64[Tensor, "batch seq"]
    ) -> tuple[Float[Tensor, "batch seq d_in"], Float[Tensor, " batch"] | None]:
        """Return the activations and the cross-entropy of one whole forward pass."""
        seen: list[Tensor] = []

        def look(x: Tensor) -> Tensor:
            seen.append(x.clone())  # what comes after might write into it
            return x

        prefixed = self._prefixed(ids)
        logits = self._site.model.logits(prefixed, self._site.hook, look)
        x = seen[0][:, len(self._prefix) :].float()
        targets = prefixed[:, 1:].to(logits.device)
        if not targets.shape[1]:
            return x, None
        surprise = torch.nn.functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), targets, reduction="none")
        return x, surprise.double().mean(dim=1)

    def _activations(self, ids: Int64[Tensor, "batch seq"]) -> Float[Tensor, "batch seq d_in"]:
        return self._site.model.activations(self._prefixed(ids), self._site.hook)[:, len(self._prefix) :].float()

    def _encode(
        self, x: Float[Tensor, "batch seq d_in"], feature: int
    ) -> tuple[Float[Tensor, "batch seq"], Float[Tensor, "batch seq"]]:
        """Return the feature's activations and pre-activations."""
        output = self._site.sae.encode(x)
        return output.sparse_features[..., feature], output.pre_activation[..., feature]

    def _prefixed(self, ids: Int64[Tensor, "batch seq"]) -> Int64[Tensor, "batch with_bos"]:
        return torch.cat((torch.tensor([self._prefix] * len(ids), dtype=torch.int64), ids), dim=1)

    def _usual_norm(self, vocabulary: Vocabulary) -> float:
        """Return the median norm over the second halves of random sequences of allowed tokens.

        Sinks stand in front (BOS or whatever comes first, in some layers two or three tokens), and the few further back
        do not move a median. Random tokens have about the norms of text: 141 against 127 at block 9 of SmolLM2-135M.
        """
        context = self._site.model.context_length or _REFERENCE_LENGTH
        length = max(1, min(_REFERENCE_LENGTH, context - len(self._prefix)))
        generator = torch.Generator().manual_seed(0)  # the same for every seed of a search
        picks = torch.randint(len(vocabulary), (_REFERENCE_SEQUENCES, length), generator=generator)
        norms = self._activations(vocabulary.ids[picks]).norm(dim=-1)
        return float(norms[:, length // 2 :].median())
