"""The search for the place an SAE belongs to: it is where it reconstructs best, if it does so clearly."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_analysis.accumulators import FitStatistics
from sae_analysis.corpus import Document, TokenBatch, TokenStream, Windowing
from sae_analysis.errors import CorpusError
from sae_analysis.language_model import LanguageModel
from sae_analysis.reconstruction.fit import update_fit
from sae_analysis.reconstruction.site import Site
from sae_analysis.records import HookScore
from sae_analysis.sae_interface import UnifiedSAEInterface

SEARCH_TOKENS = 512
"""Tokens that every place is tried on."""

LEAST_EXPLAINED = 0.3
"""Explained variance that the best place must reach: an SAE of another model stays below it everywhere."""

CLEARLY = 1.1
"""How many times more variance the next place must leave unexplained."""

SAME_READING = 1.02
"""Times more unexplained variance up to which a plainer reading at the same place is preferred."""

_OUTLIER_MULTIPLE = 3.0
"""Attention sinks are left out: their norm alone would decide."""

_AS_GOOD_AS_ALL = 1e-3
"""Share of variance left unexplained below which places do not differ."""

_WINDOW = 64

SAMPLE_TEXT = (
    "The harbour was quiet when the ferry came in, and the only people on the quay were a woman with a bicycle and "
    'two boys who had been told to wait. "Is this the one from the north?" she asked. Nobody answered her. Behind '
    "the customs house the light had begun to fail, and the gulls had settled in a long row on the roof.",
    "Heat flows from a warm body to a cold one until both have the same temperature. How fast it flows depends on the "
    "difference between them, on the area where they touch, and on what lies between: copper conducts about 400 watts "
    "per metre and kelvin, dry air no more than 0.026. This is why a thin layer of wool is warmer than a thick coin.",
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return total / len(values)"
    '\n\n\nif __name__ == "__main__":\n    print(mean([1, 2, 3]))\n',
    "In 1897 the town had 3,214 inhabitants, a railway station, two schools and a brewery; by 1930 the brewery was "
    "gone and the number of inhabitants had doubled. The council met every Tuesday. Its minutes, which fill eleven "
    "volumes, are kept in the library on Bridge Street and can be read on request.",
    "Once upon a time there was a little girl named Lily. She had a red ball and she loved to play with it in the "
    "park. One day the ball rolled into the pond. Lily was sad. A big dog saw her and jumped into the water. He "
    "brought the ball back to her, and they became friends.",
    "Dear Mr. Alvarez, thank you for your letter of 12 May. We are sorry that the chairs arrived damaged. Please send "
    "us a photograph of each, together with your order number, and we will replace them at no cost. Kind regards, "
    "Customer Service",
)
"""What a place is looked for with where no corpus is at hand: prose, science, code, history, a tale, a letter."""


Progress = Callable[[int, int], None]
"""Called with the number of hooks tried since the last call, and how many a batch of text is tried at."""

Fits = Mapping[tuple[tuple[str, str], str], FitStatistics]
"""How well each pair of hooks is reconstructed, by name of reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookSearch:
    """What a search found."""

    scores: tuple[HookScore, ...]
    """Every place and reading tried, best first."""

    readings: Mapping[str, UnifiedSAEInterface]
    """The SAE by name of reading."""

    batches: tuple[TokenBatch, ...]
    """What it was tried on."""

    @property
    def tokens(self) -> int:
        """Tokens tried on."""
        return sum(batch.token_count for batch in self.batches)

    @property
    def winner(self) -> HookScore | None:
        """The place that is clearly best, or None: two places explain about as much, or none explains anything.

        At that place a plainer reading is preferred to one that explains hardly more.
        """
        if not self.scores:
            return None
        best = self.scores[0]
        elsewhere = [score for score in self.scores if score.place != best.place]
        unexplained = max(1 - best.explained_variance, _AS_GOOD_AS_ALL)
        if best.explained_variance < LEAST_EXPLAINED:
            return None
        if elsewhere and 1 - elsewhere[0].explained_variance < CLEARLY * unexplained:
            return None
        here = {score.reading: score for score in self.scores if score.place == best.place}
        equal = [name for name, score in here.items() if 1 - score.explained_variance <= SAME_READING * unexplained]
        return here[min(equal, key=list(self.readings).index)]


def least_bad(scores: Sequence[HookScore]) -> str:
    """Return in words the best of scores, if even there nothing more is explained than by the mean; else nothing."""
    if not scores or scores[0].explained_variance > 0:
        return ""
    return f"best explained variance {scores[0].explained_variance:.3g} at {scores[0].place}"


def search_hook(
    sae: UnifiedSAEInterface,
    model: LanguageModel,
    documents: Iterable[Document] | None,
    *,
    prepend_bos: bool,
    pairs: Sequence[tuple[str, str]] | None = None,
    centre: bool = True,
    progress: Progress | None = None,
) -> HookSearch:
    """Try an SAE at every place of its width, or at the given ``pairs`` of hooks, and in every reading left open.

    Readings are those of ``Origin.other_rules``, and with ``centre`` also on activations less their mean, where the
    model's own norms take it off.

    Raises:
        CorpusError: the documents hold no token.
    """
    readings = _readings(sae, centre=centre and model.centres and not model.is_centred)
    pairs = list(pairs if pairs is not None else places(sae, model))
    if not pairs:
        return HookSearch(scores=(), readings=readings, batches=())
    fits: Fits = {(pair, name): FitStatistics(sae.output_dim) for pair in pairs for name in readings}
    sums: dict[str, float] = {}
    batches = tuple(_sample(model, documents, prepend_bos=prepend_bos))
    with torch.inference_mode():
        for batch in batches:
            _try(readings, model, batch, fits, sums, progress=progress)
    if not any(batch.token_count for batch in batches):
        raise CorpusError("The corpus has no text to look for the SAE's place on: give more, or name the hook.")
    fits = _without_twins(fits, sums)
    scores = [
        HookScore(hook=hook, hook_out=hook_out, reading=name, explained_variance=found[0], cosine=found[1], l0=found[2])
        for ((hook, hook_out), name), fit in fits.items()
        if fit.token_count and (found := fit.finish())[0] == found[0]
    ]
    scores.sort(key=lambda score: -score.explained_variance)
    return HookSearch(scores=tuple(scores), readings=readings, batches=batches)


def fit_on_sample(site: Site) -> tuple[HookScore, int]:
    """Return how well an SAE fits its place on a short text of our own, and on how many tokens; sinks are left out.

    Where the tokenizer makes no token of that text, nothing is a number.

    Source: as ``update_fit``.
    """
    fit = FitStatistics(site.sae.output_dim)
    fits = {((site.hook, site.hook_out), ""): fit}
    with torch.inference_mode():
        for batch in _sample(site.model, None, prepend_bos=site.prepend_bos):
            _try({"": site.sae}, site.model, batch, fits, {}, progress=None)
    explained, cosine, l0 = fit.finish() if fit.token_count else (float("nan"),) * 3
    score = HookScore(
        hook=site.hook, hook_out=site.hook_out, reading="", explained_variance=explained, cosine=cosine, l0=l0
    )
    return score, fit.token_count


def _readings(sae: UnifiedSAEInterface, *, centre: bool) -> dict[str, UnifiedSAEInterface]:
    """Return the SAE by name of reading, the plainest first, which has no name."""
    rules = {name: sae.reread(rule=rule) for name, rule in sae.origin.other_rules.items()} or {"": sae}
    if not centre or not sae.can_be_centred:
        return rules
    centred = {f"{name}, centred".removeprefix(", "): reading.reread(centred=True) for name, reading in rules.items()}
    return rules | centred


def places(sae: UnifiedSAEInterface, model: LanguageModel) -> Iterator[tuple[str, str]]:
    """Yield the hooks an SAE may belong to, each tensor once; for a transcoder, pairs in one block, reading first."""
    widths = {name: tap.width for name, tap in model.distinct_hooks().items()}
    reads = [name for name, width in widths.items() if width == sae.activation_dim]
    if not sae.is_transcoder:
        yield from ((name, name) for name in reads)
        return
    order = list(widths)
    for hook in reads:
        for hook_out in (name for name, width in widths.items() if width == sae.output_dim):
            is_later = order.index(hook_out) > order.index(hook)
            if is_later and hook.split(".")[:2] == hook_out.split(".")[:2]:
                yield hook, hook_out


def no_place(sae: UnifiedSAEInterface, model: LanguageModel) -> str:
    """Return in words, as what is said of the SAE, that ``places`` has none for it, and what widths there are."""
    widths = " or ".join(map(str, sorted({tap.width for tap in model.hooks().values()})))
    if not sae.is_transcoder:
        found = f"reads {sae.activation_dim}-wide activations, and the hooks of {model.name} are {widths} wide"
    else:
        found = (
            f"reads {sae.activation_dim}-wide activations and writes {sae.output_dim}-wide ones, and no layer of "
            f"{model.name} has such hooks in this order, but some {widths} wide"
        )
    return f"{found}: it belongs to another model."


def _sample(model: LanguageModel, documents: Iterable[Document] | None, *, prepend_bos: bool) -> Iterator[TokenBatch]:
    if documents is None:
        documents = [Document(name=f"sample {number}", text=text) for number, text in enumerate(SAMPLE_TEXT)]
    windowing = Windowing(seq_len=min(_WINDOW, model.context_length or _WINDOW), max_tokens=SEARCH_TOKENS)
    return iter(TokenStream(documents, model.tokens, windowing, prepend_bos=prepend_bos))


def _without_twins(fits: Fits, sums: Mapping[str, float]) -> Fits:
    """Drop places that hold the same numbers as an earlier one, such as what a norm gives and what the MLP reads."""
    first: dict[tuple[float, float, str], tuple[str, str]] = {}
    for (hook, hook_out), name in fits:
        first.setdefault((sums[hook], sums[hook_out], name), (hook, hook_out))
    kept = set(first.values())
    return {place: fit for place, fit in fits.items() if place[0] in kept}


def _try(
    readings: Mapping[str, UnifiedSAEInterface],
    model: LanguageModel,
    batch: TokenBatch,
    fits: Fits,
    sums: dict[str, float],
    *,
    progress: Progress | None,
) -> None:
    """Run a batch once, and encode and decode at each place as the forward pass comes to it; ``sums`` tell twins."""
    read: dict[str, Tensor] = {}
    ends: dict[str, list[str]] = {}
    for (hook, hook_out), _ in fits:
        ends.setdefault(hook_out, [])
        if hook not in ends[hook_out]:
            ends[hook_out].append(hook)
    begins = {hook for (hook, _), _ in fits}
    keep = torch.from_numpy(batch.windows.keep).to(model.device)

    def visit(hook: str, activation: Tensor) -> None:
        x = activation[:, batch.bos_columns :].float()
        sums[hook] = sums.get(hook, 0.0) + float(x.double().sum())
        if hook in begins:
            read[hook] = x
        for begin in ends.get(hook, ()):
            source = read[begin]
            usual = keep & _is_usual(x, keep) & _is_usual(source, keep)
            for name, sae in readings.items():
                inputs = source[usual]
                code = sae.encode_sparse(inputs)
                update_fit(fits[(begin, hook), name], x[usual], sae.decode_sparse(code, inputs), code)
        if ends.get(hook) == [hook]:
            del read[hook]  # an autoencoder needs it no more
        if progress:
            progress(1, len(begins | ends.keys()))

    model.visit_activations(batch.ids, sorted(begins | ends.keys()), visit)


def _is_usual(x: Tensor, keep: Tensor) -> Tensor:
    """Return which tokens' norms are no outliers; of the whole batch, since a window may hold little but a sink."""
    norms = x.norm(dim=-1)
    return norms <= _OUTLIER_MULTIPLE * norms[keep].median()
