"""What every method of the comparison is given, counted by and judged with: the same for all of them."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sae_analysis.errors import ModelError
from sae_analysis.reconstruction import Site
from sae_analysis.synth_activations import Vocabulary

BACKWARD_FACTOR = 3
"""A token that is run forward and backward costs as much as this many that are run forward."""

CE_LIMITS = (4.0, 6.0, 9.0)
"""Nats per token below which a sequence counts as fluent, at three strictnesses."""

_CURVE_POINTS = 60
_SCAN_BATCH = 512


class Meter:
    """Counts, at the blocks themselves, what goes through a model while it is entered; whoever sends it.

    BOS is not counted as a token, since every method has it in front. Multiply-adds count everything.
    """

    def __init__(self, site: Site) -> None:
        """Prepare."""
        self._site = site
        self.tokens = 0
        self.flops = 0.0
        self.stamps: list[tuple[int, float]] = [(0, 0.0)]
        """Tokens counted and seconds passed, after every call of the model."""
        self._goes_on = False
        self._handles: list[Any] = []

    def __enter__(self) -> "Meter":
        """Begin to count."""
        model = self._site.model
        self._begin = time.perf_counter()
        self._handles.append(model.module.register_forward_pre_hook(self._entered, with_kwargs=True))
        for index, block in enumerate(_blocks(self._site)):
            weights = sum(parameter.numel() for parameter in block.parameters())
            self._handles.append(block.register_forward_hook(self._counter(weights, is_first=index == 0)))
        logits = self._counter(model.d_model * model.d_vocab, is_first=False)
        self._handles.append(model.module.get_output_embeddings().register_forward_hook(logits))
        return self

    def __exit__(self, *_: object) -> None:
        """Stop counting, come what may."""
        for handle in self._handles:
            handle.remove()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._begin

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock for what the comparison does for itself."""
        begin = time.perf_counter()
        yield
        self._begin += time.perf_counter() - begin

    def _entered(self, _module: nn.Module, _args: tuple, kwargs: dict) -> None:
        memory = kwargs.get("past_key_values")
        self._goes_on = memory is not None and memory.get_seq_length() > 0

    def _counter(self, weights: int, *, is_first: bool) -> Callable[[nn.Module, tuple, Any], None]:
        def count(_module: nn.Module, _args: tuple, output: Any) -> None:  # noqa: ANN401 - tensor or tuple
            found = output[0] if isinstance(output, tuple) else output
            rows, columns = found.shape[:2]
            factor = BACKWARD_FACTOR if found.requires_grad else 1
            self.flops += 2.0 * weights * factor * rows * columns
            if is_first:
                # What goes on from remembered keys and values has no BOS in front of it.
                self.tokens += factor * rows * (columns - (not self._goes_on) * int(self._site.prepend_bos))
                self.stamps.append((self.tokens, self.seconds))

        return count


def _blocks(site: Site) -> list[nn.Module]:
    blocks = []
    with suppress(ModelError):
        while True:
            blocks.append(site.model.tap(f"blocks.{len(blocks)}.hook_resid_post").module)
    return blocks


# --- running -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class History:
    """All sequences that a method ran, in their order, with what they gave and what had been spent by then."""

    ids: list[np.ndarray] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    tokens: list[np.ndarray] = field(default_factory=list)
    seconds: list[np.ndarray] = field(default_factory=list)
    flops: list[np.ndarray] = field(default_factory=list)
    surprise: list[np.ndarray] = field(default_factory=list)

    def add(
        self,
        ids: np.ndarray,
        values: np.ndarray,
        *,
        tokens: tuple[int, int],
        seconds: float,
        flops: float,
        surprise: np.ndarray | None = None,
    ) -> None:
        """Append a batch; its tokens were spent evenly, from the first number to the second."""
        count = len(ids)
        self.ids.append(ids)
        self.values.append(values)
        self.surprise.append(np.full(count, np.nan) if surprise is None else surprise)
        self.tokens.append(tokens[0] + (tokens[1] - tokens[0]) * np.arange(1, count + 1) / count)
        self.seconds.append(np.full(count, seconds))
        self.flops.append(np.full(count, flops))

    def until(self, budget: float) -> "Trace":
        """Return the part that a budget would have paid for."""
        tokens = np.concatenate(self.tokens)
        stop = int(np.searchsorted(tokens, budget, side="right"))
        every = (self.ids, self.values, self.seconds, self.flops, self.surprise)
        ids, values, seconds, flops, surprise = (np.concatenate(part)[:stop] for part in every)
        return Trace(ids=ids, values=values, tokens=tokens[:stop], seconds=seconds, flops=flops, surprise=surprise)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A history as arrays, one row a sequence."""

    ids: np.ndarray
    values: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray
    flops: np.ndarray
    surprise: np.ndarray | None = None
    """Cross-entropy, where the method ran the whole model anyway; NaN elsewhere."""


class Scorer:
    """The one number that all methods are measured by: a feature's activation at its best position.

    Where it does not fire, the margin that it lacks, which is not above 0 and has a slope.
    """

    def __init__(self, site: Site, features: Sequence[int]) -> None:
        """Prepare for these features, in this order."""
        self.site = site
        self._probe = site.sae.probe_of(features)
        bos = site.model.tokens.bos_token_id
        self.prefix = torch.tensor([[bos]] if site.prepend_bos and bos is not None else [[]], dtype=torch.int64)

    @property
    def bos_columns(self) -> int:
        """Columns in front of every sequence."""
        return self.prefix.shape[1]

    def with_bos(self, ids: Tensor) -> Tensor:
        """Return sequences as the model sees them."""
        return torch.cat((self.prefix.expand(len(ids), -1), ids), dim=1)

    def of_ids(self, ids: Tensor) -> Tensor:
        """Return the value of each sequence ``[sequences, features]``."""
        with torch.no_grad():
            return self.of_activations(self.site.model.activations(self.with_bos(ids), self.site.hook))

    def of_activations(self, x: Tensor) -> Tensor:
        """Return the same from activations with BOS's."""
        return self._probe(x[:, self.bos_columns :].float()).amax(dim=1)


class Run:
    """One method on one feature: the model as it may be used, and all that was done with it."""

    def __init__(self, site: Site, vocabulary: Vocabulary, feature: int, budget: int) -> None:
        """Prepare; nothing is charged before ``meter`` is entered."""
        self.site, self.vocabulary, self.budget = site, vocabulary, budget
        self.scorer = Scorer(site, [feature])
        self.meter, self.history = Meter(site), History()
        self.allowed = site.model.embed(vocabulary.ids).detach().float()
        self._spent = 0

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent."""
        return self.meter.tokens >= self.budget

    def _note(self, ids: Tensor, values: Tensor, surprise: Tensor | None = None) -> None:
        """Put sequences that have just been run into the history."""
        spent, self._spent = self._spent, self.meter.tokens
        self.history.add(
            ids.numpy().astype(np.int32),
            values.detach().numpy(),
            tokens=(spent, self._spent),
            seconds=self.meter.seconds,
            flops=self.meter.flops,
            surprise=None if surprise is None else surprise.detach().numpy(),
        )

    def values(self, ids: Tensor) -> Tensor:
        """Return what each sequence gives; the model is run no further than the SAE reads."""
        values = self.scorer.of_ids(ids)[:, 0]
        self._note(ids, values)
        return values

    def slopes(self, ids: Tensor) -> Tensor:
        """Return the gradient of each value by the choice of an allowed token at each place."""
        model = self.site.model
        with torch.enable_grad():
            embeddings = model.embed(self.scorer.with_bos(ids)).detach().requires_grad_()
            values = self.scorer.of_activations(model.activations_of_embeddings(embeddings, self.site.hook))[:, 0]
            [slope] = torch.autograd.grad(values.sum(), embeddings)
        self._note(ids, values)
        return slope[:, self.scorer.bos_columns :].float() @ self.allowed.T

    def whole(self, embeddings: Tensor, ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return values and logits for embeddings in the place of tokens, from a whole forward pass.

        With ``ids``, the tokens whose embeddings they are, it goes into the history.
        """
        model, bos = self.site.model, self.scorer.bos_columns
        front = model.embed(self.scorer.prefix.expand(len(embeddings), -1))
        with _read(self.site) as found:
            logits = model.module(inputs_embeds=torch.cat((front, embeddings), dim=1), use_cache=False).logits
        values = self.scorer.of_activations(found[0])[:, 0]
        if ids is not None:
            with self.meter.paused():
                surprise = mean_surprise(logits, self.scorer.with_bos(ids))
            self._note(ids, values, surprise)
        return values, logits[:, bos:]


def mean_surprise(logits: Tensor, ids: Tensor) -> Tensor:
    """Return nats per token of all tokens that stand behind another, BOS among those."""
    losses = nn.functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")
    return losses.mean(dim=1) if losses.shape[1] else torch.full((len(ids),), torch.inf)


@contextmanager
def _read(site: Site) -> Iterator[list[Tensor]]:
    """Collect what passes the SAE's hook."""
    tap, found = site.model.tap(site.hook), []

    def before(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])

    def after(_module: nn.Module, _args: tuple, output: Any) -> None:  # noqa: ANN401 - tensor or tuple
        found.append(output[0] if isinstance(output, tuple) else output)

    if tap.side == "input":
        handle = tap.module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = tap.module.register_forward_hook(after)
    try:
        yield found
    finally:
        handle.remove()


# --- judging -------------------------------------------------------------------------------------------------------


class Judge:
    """Says which of the sequences that a method came to count, and for how much. Nothing here is charged."""

    def __init__(self, site: Site, vocabulary: Vocabulary, scan: int) -> None:
        """Prepare; ``scan`` is how many of a history's best sequences are run for their fluency if it is not known."""
        self._site, self._vocabulary, self._scan = site, vocabulary, scan
        self._is_text: dict[tuple[int, ...], bool] = {}

    def are_text(self, sequences: np.ndarray) -> np.ndarray:
        """Return for each sequence whether some text is cut into exactly these tokens."""
        keys = [tuple(ids) for ids in sequences.tolist()]
        unknown = list(dict.fromkeys(key for key in keys if key not in self._is_text))
        for key, text in zip(unknown, self._vocabulary.texts(unknown), strict=True):
            self._is_text[key] = text is not None
        return np.array([self._is_text[key] for key in keys], bool)

    def cross_entropy(self, sequences: np.ndarray) -> np.ndarray:
        """Return nats per token under the whole model; the first token counts too where BOS stands before it."""
        ids = Scorer(self._site, [0]).with_bos(torch.from_numpy(sequences.astype(np.int64)))
        with torch.no_grad():
            return mean_surprise(self._site.model.forward(ids), ids).numpy()

    def verdict(self, feature: int, trace: Trace, *, curve: bool = True) -> dict[str, Any]:
        """Return the best sequences of a trace, each scored again in a batch of its own, and the way to them."""
        order = np.argsort(-trace.values, kind="stable")
        _, first = np.unique(trace.ids[order], axis=0, return_index=True)
        ranked = order[np.sort(first)]
        best = self._first_text(trace, ranked)
        raw = int(ranked[0])
        found: dict[str, Any] = {
            "evaluated": len(trace.ids),
            "unique": len(ranked),
            "raw": self._scored(feature, trace.ids[raw]) | {"valid": bool(self.are_text(trace.ids[[raw]])[0])},
            "best": None if best is None else self._scored(feature, trace.ids[best]),
            "fluent": self._fluent(feature, trace, ranked),
        }
        return found | ({"curve": self.curve(trace)} if curve else {})

    def _first_text(self, trace: Trace, ranked: np.ndarray) -> int | None:
        for part in np.split(ranked, range(32, len(ranked), _SCAN_BATCH)):
            if (good := self.are_text(trace.ids[part])).any():
                return int(part[int(good.argmax())])
        return None

    def _fluent(self, feature: int, trace: Trace, ranked: np.ndarray) -> dict[str, Any]:
        """Return the best text below each limit of cross-entropy, looking from the best downwards."""
        found: dict[str, Any] = {}
        known = trace.surprise is not None and not np.isnan(trace.surprise).any()
        if not known:
            ranked = ranked[: self._scan]
        for part in np.split(ranked, range(_SCAN_BATCH, len(ranked), _SCAN_BATCH)):
            ce = trace.surprise[part] if known and trace.surprise is not None else self.cross_entropy(trace.ids[part])
            hopeful = np.flatnonzero(ce <= max(CE_LIMITS))
            text = np.zeros(len(part), bool)
            text[hopeful] = self.are_text(trace.ids[part[hopeful]])
            for limit in CE_LIMITS:
                good = text & (ce <= limit)
                if f"{limit:g}" not in found and good.any():
                    found[f"{limit:g}"] = self._scored(feature, trace.ids[part[int(good.argmax())]])
            if len(found) == len(CE_LIMITS):
                break
        return found

    def _scored(self, feature: int, ids: np.ndarray) -> dict[str, Any]:
        """Return a sequence with its value, alone in its batch, and its cross-entropy."""
        value = float(Scorer(self._site, [feature]).of_ids(torch.from_numpy(ids[None].astype(np.int64)))[0, 0])
        ce = float(self.cross_entropy(ids[None])[0])
        return {"value": value, "ce": ce, "ids": ids.tolist(), "text": self._vocabulary.texts([ids.tolist()])[0]}

    def curve(self, trace: Trace) -> list[tuple[int, float, float]]:
        """Return (tokens, seconds, best valid so far) wherever it rose, thinned to a few dozen points."""
        points: list[tuple[int, float, float]] = []
        best, place = 0.0, 0
        while place < len(trace.values):
            ahead = trace.values[place:] > best
            place += int(ahead.argmax())
            if not ahead.any():
                break
            if self.are_text(trace.ids[[place]])[0]:
                best = float(trace.values[place])
                points.append((int(trace.tokens[place]), round(float(trace.seconds[place]), 4), best))
            place += 1
        if len(points) <= _CURVE_POINTS:
            return points
        return [points[index] for index in np.linspace(0, len(points) - 1, _CURVE_POINTS).round().astype(int)]
