"""The methods that are compared: ours, EPO and GCG as their authors wrote them, and what is free."""

import contextlib
import functools
import importlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from synthetic_subject import Run
from torch import Tensor

_POPULATION, _CHILDREN = 8, 32
"""Of the random mutation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a method may know of the feature and of where other people's code lies."""

    seed: int
    seq_len: int
    scale: float
    """Dataset maximum of the feature, or the median over features where it never fired."""

    windows: Sequence[Sequence[int]] = ()
    """The ends of the strongest real examples, up to where they fire, for methods that begin with real text."""

    dreamy: Path | None = None
    nanogcg: Path | None = None


Method = Callable[[Run, Circumstances], None]


def _drawn(run: Run, rng: np.random.Generator, count: int, seq_len: int) -> Tensor:
    return torch.from_numpy(rng.choice(run.vocabulary.ids.numpy(), size=(count, seq_len)))


def _real(run: Run, given: Circumstances) -> Tensor:
    """Return the real windows that are of full length and of allowed tokens, those that are text in front."""
    allowed = set(run.vocabulary.ids.tolist())
    windows = [list(ids) for ids in given.windows if len(ids) == given.seq_len and allowed.issuperset(ids)]
    texts = run.vocabulary.texts(windows)
    order = sorted(range(len(windows)), key=lambda place: texts[place] is None)
    return torch.tensor([windows[place] for place in order], dtype=torch.int64).reshape(-1, given.seq_len)


# --- floors --------------------------------------------------------------------------------------------------------


def unigrams(run: Run, _given: Circumstances) -> None:
    """Try every allowed token alone."""
    for part in run.vocabulary.ids[:, None].split(512):
        run.values(part)


def uniform(run: Run, given: Circumstances) -> None:
    """Draw sequences of allowed tokens."""
    rng = np.random.default_rng(given.seed)
    while not run.is_over:
        run.values(_drawn(run, rng, 256, given.seq_len))


def mutation(run: Run, given: Circumstances) -> None:
    """Change one random token of a good sequence; the best that are text live on. No gradient."""
    rng = np.random.default_rng(given.seed)
    pool: dict[tuple[int, ...], float] = {}
    children = _drawn(run, rng, _CHILDREN, given.seq_len)
    while True:
        values = run.values(children).tolist()
        worst = min(pool.values()) if len(pool) >= _POPULATION else -np.inf
        hopeful = [(tuple(ids), v) for ids, v in zip(children.tolist(), values, strict=True) if v > worst]
        texts = run.vocabulary.texts([ids for ids, _ in hopeful])
        pool |= {ids: value for (ids, value), text in zip(hopeful, texts, strict=True) if text is not None}
        pool = dict(sorted(pool.items(), key=lambda item: -item[1])[:_POPULATION])
        if run.is_over:
            return
        if len(pool) < _POPULATION:
            children = _drawn(run, rng, _CHILDREN, given.seq_len)
            continue
        parents = torch.tensor(list(pool))
        children = parents[torch.from_numpy(rng.integers(_POPULATION, size=(2, _CHILDREN)).min(axis=0))]
        places = torch.from_numpy(rng.integers(given.seq_len, size=_CHILDREN))
        children[torch.arange(_CHILDREN), places] = _drawn(run, rng, 1, _CHILDREN)[0]


# --- EPO -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EPOSettings:
    """Arguments of ``dreamy.epo.epo``; the defaults are the released code's, which are the paper's."""

    population: int = 8
    children: int = 32
    topk: int = 512
    penalties: tuple[float, float] | None = (0.1, 10.0)
    restart_every: int = 50
    target_scale: float | None = None
    """What the feature's dataset maximum is rescaled to; None leaves activations as they are."""

    from_text: bool = False
    """Whether the first population holds real windows."""


class _Embeddings:
    """The rows of the allowed tokens, numbered anew, so that EPO can choose no others."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.num_embeddings = weight, len(weight)


class _Subject:
    """What EPO asks of a model, and of a tokenizer."""

    device = torch.device("cpu")

    def __init__(self, embeddings: _Embeddings) -> None:
        self._embeddings, self.vocab_size = embeddings, embeddings.num_embeddings

    def get_input_embeddings(self) -> _Embeddings:
        return self._embeddings

    def zero_grad(self) -> None:
        """There is nothing to clear: parameters hold no gradients."""


def epo(run: Run, given: Circumstances, settings: EPOSettings) -> None:
    """Run the authors' loop until the budget is spent.

    EPO knows neither BOS nor which tokens are allowed: BOS is put in front of what it sends, and it is given a
    vocabulary of the allowed tokens alone. Its cross-entropy is then over these; ours, by which it is judged, is not.
    """
    dreamy = _module("dreamy.epo", given.dreamy)
    allowed, vocabulary = run.allowed, run.vocabulary.ids
    scale = 1.0 if settings.target_scale is None else settings.target_scale / given.scale
    subject = _Subject(_Embeddings(allowed))
    generator = torch.Generator().manual_seed(given.seed)
    start = torch.randint(len(allowed), (settings.population, given.seq_len), generator=generator)
    if settings.from_text:
        windows = torch.searchsorted(vocabulary, _real(run, given)[: len(start)])
        start[: len(windows)] = windows

    def cache_run(input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None) -> dict[str, Tensor]:
        if input_ids is not None:
            inputs_embeds = allowed[input_ids]
        elif not run.history.ids:
            input_ids = start  # the first gradients are the only ones of sequences that were not run before
        assert inputs_embeds is not None
        values, logits = run.whole(inputs_embeds, None if input_ids is None else vocabulary[input_ids])
        return {"target": values * scale, "logits": logits[..., vocabulary]}

    low, high = settings.penalties or (None, None)
    with contextlib.redirect_stdout(io.StringIO()):
        dreamy.epo(
            cache_run,
            subject,
            subject,
            seq_len=given.seq_len,
            population_size=settings.population,
            explore_per_pop=settings.children,
            iters=sys.maxsize,
            topk=min(settings.topk, len(allowed)),
            x_penalty_min=low,
            x_penalty_max=high,
            restart_frequency=settings.restart_every,
            seed=given.seed,
            initial_ids=start,
            callback=lambda *_, **__: run.is_over or None,
        )


# --- GCG -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GCGSettings:
    """Fields of ``nanogcg.GCGConfig``; the defaults are the package's."""

    width: int = 512
    topk: int = 256
    replaced: int = 1
    buffer: int = 0
    random_start: bool = False
    """Whether it begins with a random text in the place of a row of the letter x."""

    from_text: bool = False
    """Whether it begins with a real window, if there is one that it can."""


class _Carrier:
    """In the place of embeddings: hands ids on as numbers, since all that reads embeddings is ours."""

    def __init__(self, num_embeddings: int) -> None:
        self.num_embeddings = num_embeddings

    def __call__(self, ids: Tensor) -> Tensor:
        return ids[..., None].float()


class _Model:
    """What GCG asks of a model."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, num_embeddings: int) -> None:
        self._carrier = _Carrier(num_embeddings)

    def get_input_embeddings(self) -> _Carrier:
        return self._carrier


class _Tokenizer:
    """What GCG asks of a tokenizer: the validity rule of all methods in the place of its own."""

    chat_template, bos_token = "plain", None

    def __init__(self, run: Run, start: Tensor) -> None:
        self._run, self._start = run, start
        self._known: dict[str, list[int]] = {}

    def apply_chat_template(self, messages: list[dict[str, str]], **_: object) -> str:
        return messages[-1]["content"]

    def batch_decode(self, ids: Tensor) -> list[str]:
        sequences = ids.tolist()
        texts = self._run.vocabulary.texts(sequences)
        self._known = {text: sequence for text, sequence in zip(texts, sequences, strict=True) if text is not None}
        return ["" if text is None else text for text in texts]

    def __call__(self, text: str | list[str], **options: object) -> Any:  # noqa: ANN401 - a library's class
        from transformers import BatchEncoding

        if text == _START:
            ids = self._start
        elif text == [_TARGET]:
            ids = torch.zeros(1, 1, dtype=torch.int64)
        elif isinstance(text, list) and len(text) > 1:  # the letters that a buffer is filled with
            allowed = set(self._run.vocabulary.ids.tolist())
            lasts = [ids[-1] for ids in self._run.site.model.tokens.tokenize(text)]
            ids = torch.tensor([[last] for last in lasts if last in allowed])
        elif isinstance(text, list):  # what stands before and after the sequence: nothing, or BOS
            is_front = "add_special_tokens" not in options
            ids = self._run.scorer.prefix if is_front else torch.zeros(1, 0, dtype=torch.int64)
        else:
            ids = torch.tensor([self._known.get(text, [])], dtype=torch.int64)
        return BatchEncoding({"input_ids": ids})


_START, _TARGET = "start", "target"


def _start(run: Run, given: Circumstances, settings: GCGSettings) -> Tensor:
    """Return what GCG begins with: of the wanted kind if any of it is text, else at random."""
    rng = np.random.default_rng(given.seed)
    wanted = torch.zeros(0, given.seq_len, dtype=torch.int64)
    if settings.from_text:
        wanted = _real(run, given)
    elif not settings.random_start:
        last = [ids[-1] for ids in run.site.model.tokens.tokenize(["x", " x"])]
        wanted = torch.tensor(last)[:, None].repeat(1, given.seq_len)
    while True:
        for ids, text in zip(wanted, run.vocabulary.texts(wanted.tolist()), strict=True):
            if text is not None:
                return ids[None]
        wanted = _drawn(run, rng, 64, given.seq_len)


def gcg(run: Run, given: Circumstances, settings: GCGSettings) -> None:
    """Run the package's loop until the budget is spent, with a feature's value in the place of its loss.

    Other than the package alone it is stopped at the SAE's hook, which changes nothing but its cost.
    """
    module = _module("nanogcg.gcg", given.nanogcg)
    module.tqdm = lambda steps: steps
    module.logger.setLevel("ERROR")
    start = _start(run, given, settings)
    count = run.site.model.d_vocab
    front = run.scorer.bos_columns

    class FeatureGCG(module.GCG):
        def compute_token_gradient(self, optim_ids: Tensor) -> Tensor:
            gradient = torch.full((1, optim_ids.shape[1], count), torch.inf)
            gradient[..., run.vocabulary.ids] = -run.slopes(optim_ids)
            return gradient

        def _compute_candidates_loss_original(self, _batch: int, input_embeds: Tensor) -> Tensor:
            values = run.values(input_embeds[:, front:-1, 0].long())
            self.stop_flag = run.is_over
            return -values

    config = module.GCGConfig(
        num_steps=10**9,
        optim_str_init=_START,
        search_width=settings.width,
        topk=min(settings.topk, len(run.vocabulary)),
        n_replace=settings.replaced,
        buffer_size=settings.buffer,
        use_prefix_cache=False,
        allow_non_ascii=True,  # which tokens are allowed is the same for all methods
    )
    torch.manual_seed(given.seed)
    try:
        FeatureGCG(_Model(count), _Tokenizer(run, start), config).run("{optim_str}", _TARGET)
    except RuntimeError as error:
        if "after decoding and re-encoding" not in str(error):
            raise
        # No candidate was text, and the package gives up: what it found until then counts.


# --- all -----------------------------------------------------------------------------------------------------------


@functools.cache
def _module(name: str, path: Path | None) -> Any:  # noqa: ANN401 - a module
    if path is None:
        raise SystemExit(f"{name} is needed: say where it lies (--dreamy, --nanogcg).")
    sys.path.insert(0, str(path))
    return importlib.import_module(name)


FLOORS: Mapping[str, Method] = {"unigram sweep": unigrams, "uniform random": uniform, "random mutation": mutation}

_EPO = EPOSettings(population=4, children=16, topk=64, target_scale=30.0)
_GCG = GCGSettings(width=64, topk=128, buffer=1, random_start=True)

OPPONENTS: Mapping[str, Method] = {
    "EPO": functools.partial(epo, settings=EPOSettings()),
    "EPO, tuned": functools.partial(epo, settings=_EPO),
    "EPO, tuned, begun with real text": functools.partial(epo, settings=replace(_EPO, from_text=True)),
    "GCG": functools.partial(gcg, settings=GCGSettings()),
    "GCG, tuned": functools.partial(gcg, settings=_GCG),
    "GCG, tuned, begun with real text": functools.partial(gcg, settings=replace(_GCG, from_text=True)),
}
"""Each at its paper's settings, and at those that were best for other features than the benchmark's."""


_EPO_TRIED: Sequence[dict[str, Any]] = (
    {},
    *({"population": size} for size in (4, 16)),
    {"population": 32, "children": 2},
    *({"children": count} for count in (2, 4, 16, 32)),
    *({"topk": count} for count in (16, 32, 128, 512)),
    *({"restart_every": count} for count in (20, 10**9)),
    {"penalties": None},
    *({"target_scale": scale} for scale in (None, 10.0, 100.0, 300.0)),
    *({"children": 16, "topk": count} for count in (128, 512)),
    *({"population": 4, "children": 16, "topk": count} for count in (64, 512)),
    *({"population": 16, "children": count, "topk": 512} for count in (4, 8)),
    {"children": 16, "target_scale": 10.0},
    {"children": 2, "topk": 512},
)
_GCG_TRIED: Sequence[dict[str, Any]] = (
    {},
    *({"width": width} for width in (16, 32, 128, 256)),
    *({"topk": count} for count in (16, 32, 128, 256)),
    {"replaced": 2},
    *({"buffer": size} for size in (0, 8)),
    {"random_start": False},
    *({"topk": count, "buffer": 0} for count in (128, 256)),
    {"topk": 128, "replaced": 2},
    *({"width": width, "topk": 128, "buffer": 0, "replaced": 2} for width in (16, 64, 128)),
)


def tuning_grid() -> dict[str, Method]:
    """Return the settings that were tried: one thing changed at a time from a middle, then what helped together."""
    grid: dict[str, Method] = {}
    for change in _EPO_TRIED:
        middle: dict[str, Any] = {"population": 8, "children": 8, "topk": 64, "target_scale": 30.0}
        grid[f"EPO {_said(change)}"] = functools.partial(epo, settings=EPOSettings(**middle | change))
    for change in _GCG_TRIED:
        middle = {"width": 64, "topk": 64, "buffer": 1, "random_start": True}
        grid[f"GCG {_said(change)}"] = functools.partial(gcg, settings=GCGSettings(**middle | change))
    return grid


def _said(change: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in change.items()) or "middle"
