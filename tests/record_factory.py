"""Records with believable numbers, for tests of what reads records: small factories, every field overridable."""

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sae_analysis.records import (
    Ablation,
    ActivationExample,
    AnalysisResult,
    DictionaryStats,
    ExampleBand,
    FeatureSearch,
    FeatureStats,
    Firing,
    Fit,
    Histogram,
    Provenance,
    Relaxation,
    Synthesis,
    TokenActivity,
    TokenValues,
)

SCRIPTS: Mapping[str, tuple[str, ...]] = {
    name: tuple(run.split("|"))
    for name, run in {
        "english": "The| old| ship|yard| stood| at| the| edge| of| town|,| where| the| vessel| once| was| built|.",
        "greek": "Η| θάλασσα| είναι| βαθιά| και| το| πλοίο| φεύγει|.",
        "cyrillic": "Старый| кораб|ль| стоял| у| прич|ала| и| ждал| весны|.",
        "chinese": "这|艘|旧|船|停|在|港口|，|没有|人|记得|它|的|名字|。",
        "japanese": "古い|船|は|港|に|停|まっていて|、|誰も|名前|を|覚えて|いない|。",
        "korean": "오래된| 배|가| 항구|에| 서| 있었다|.",
        "arabic": "كانت| الس|في|نة| القديمة| في| المي|ناء|،| عام| 1|9|2|4|.",
        "hebrew": "הספי|נה| הישנה| (|בת| 90|)| עמדה| בנמל|.",
        "hindi": "पुरा|ना| जहा|ज| बंदर|गा|ह| पर| खड़ा| था|।| क्षत|्रिय",
        "thai": "เรือ|เก่า|จอด|อยู่|ที่|ท่าเรือ|และ|ไม่มี|ใคร|จำ|ชื่อ|ได้",
        "emoji": "Nice| work| |👩|🏽|\u200d|💻| and| 👍🏿| flags| 🇯|🇵| family| 👨‍👩‍👧‍👦| ❤️|!",
        "bytes": "caf|<0xC3>|<0xA9>| <0xE4>|<0xBD>|<0xA0>| broken| <0xF0><0x9F>|<0xFF>| end|<0x0A>",
        "code": "def f|(|x|):|\n|\t|if| x| ==| '|a|\t|b|':|\r\n|        |return| {|} #| <|b|>|&amp;|\n|  |\x00|\x1b|[0",
        "math": " let| $\\frac{|1|}{|2|}$| and| $$| \\alpha|_|{|i|^2|}| 100|%| ∑|√|𝕏",
        "hidden": "a|\u200b|b|\u202e|c|\xa0|d|\u3000|e|\ufeff|\ue000|\U000e0001|\u0301|x",
    }.items()
}
"""Token runs in many scripts, with token boundaries where they hurt."""


def histogram(values: Sequence[float], *, per_octave: int = 8) -> Histogram:
    """Return counts of non-zero values over geometric edges, mirrored below zero if there is a negative one."""
    if not values:
        return Histogram(edges=(), counts=())
    exponents = [math.floor(math.log2(abs(value)) * per_octave) for value in values]
    span = range(min(exponents), max(exponents) + 2)
    edges = [2 ** (exponent / per_octave) for exponent in span]
    if any(value < 0 for value in values):
        edges = [-edge for edge in reversed(edges)] + edges
    counts = [0] * (len(edges) - 1)
    for value in values:
        beyond = bisect_right(edges, value) if value > 0 else bisect_left(edges, value)  # bins begin towards zero
        counts[min(max(beyond - 1, 0), len(counts) - 1)] += 1
    return Histogram(edges=tuple(edges), counts=tuple(counts))


def even_histogram(values: Sequence[float], bins: int = 40) -> Histogram:
    """Return counts over bins of one width."""
    low, high = min(values), max(values)
    high = high if high > low else low + 1
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, int((value - low) / (high - low) * bins))] += 1
    edges = (*(low + (high - low) * index / bins for index in range(bins)), high)
    return Histogram(edges=edges, counts=tuple(counts))


def example(
    tokens: Sequence[str], peak: int = 2, top: float = 10.0, activations: Sequence[float] | None = None, **fields: Any
) -> ActivationExample:
    """Return one window; activations fall off around the peak unless given."""
    values = activations or [
        top if at == peak else round(top * 0.6 / (1 + abs(at - peak)), 3) if at % 3 == peak % 3 else 0.0
        for at in range(len(tokens))
    ]
    base: dict[str, Any] = {
        "text": "".join(tokens),
        "tokens": tuple(tokens),
        "token_ids": tuple(range(len(tokens))),
        "activations": tuple(values),
        "max_activation": values[peak],
        "peak_position": peak,
        "source": "document 12",
        "source_position": 340,
    }
    return ActivationExample(**base | fields)


def window(length: int, seed: int = 0) -> tuple[str, ...]:
    """Return a run of English tokens of any length."""
    chooser = random.Random(seed)
    words = [token for token in SCRIPTS["english"] if token.startswith(" ")]
    return tuple(chooser.choice(words) for _ in range(length))


def _effects(tokens: str, strongest: float) -> TokenValues:
    return tuple((token, strongest / (1 + at / 4)) for at, token in enumerate(tokens.split("|")))


def stats(
    feature: int = 7, *, example_count: int = 5, scale: float = 10.0, seed: int = 0, **fields: Any
) -> FeatureStats:
    """Return a feature that fires on 0.3 % of a million tokens."""
    chooser = random.Random(seed)
    fired = [scale * min(1.0, chooser.lognormvariate(-1.6, 0.7)) for _ in range(3120)] + [scale]
    effects = [chooser.gauss(0, 0.05) for _ in range(5000)] + [0.42, 0.37, -0.31]
    positions = even_histogram(range(128), 16)
    tokens = [" ship", " vessel", " Ship", " fleet", "ship", "yard", " boat", " harbour", " the", "\n"]
    items = [
        example(
            window(chooser.randrange(8, 70), seed + at), chooser.randrange(2, 7), scale * (1 - at / (2 * example_count))
        )
        for at in range(example_count)
    ]
    weak = [replace(item, source=f"document {at}") for at, item in enumerate(items[:2])]
    base: dict[str, Any] = {
        "feature_idx": feature,
        "token_count": 1_000_000,
        "active_count": 3121,
        "density": 0.003121,
        "sparsity": 0.996879,
        "mean_activation": 0.256 * scale,
        "std_activation": 0.162 * scale,
        "max_activation": scale,
        "quantiles": ((0.25, 0.12 * scale), (0.5, 0.2 * scale), (0.95, 0.48 * scale), (0.99, 0.9 * scale)),
        "histogram": histogram(fired),
        "position_histogram": replace(positions, counts=tuple(100 + 20 * at for at in range(16))),
        "position_token_counts": (62_500,) * 16,
        "examples": tuple(items),
        "example_bands": tuple(
            ExampleBand(lower_quantile=low, upper_quantile=high, examples=tuple(
                replace(item, activations=tuple(value * factor for value in item.activations),
                        max_activation=item.max_activation * factor) for item in weak))
            for low, high, factor in ((0.9, 1.0, 0.9), (0.45, 0.55, 0.3), (0.0, 0.1, 0.08))
        ),
        "top_tokens": tuple(
            TokenActivity(token=token, token_id=at, active_count=900 // (at + 1), share=0.29 / (at + 1),
                          firing_rate=0.8 / (at + 1), mean_activation=scale * 0.5 / (at + 1))
            for at, token in enumerate(tokens)
        ),
        "decoder_norm": 1.0,
        "encoder_norm": 0.8123,
        "encoder_decoder_cosine": 0.7131,
        "nearest_features": ((412, 0.83), (77, 0.62), (3001, 0.44)),
        "top_boosted_tokens": _effects(" yard| board|ment| wreck|shape| owner| building| crew| sail|s", 0.42),
        "top_suppressed_tokens": _effects(" the| and|\n|</s>| $\\frac{|港口| of| السفينة| a| is", -0.31),
        "logit_histogram": even_histogram(effects, 48),
        "logit_skew": 1.21,
        "logit_kurtosis": 8.02,
    }  # fmt: skip
    return FeatureStats(**base | fields)


def dead_stats(feature: int = 3, **fields: Any) -> FeatureStats:
    """Return a feature that never fired."""
    nothing: dict[str, Any] = {
        "active_count": 0, "density": 0.0, "sparsity": 1.0, "mean_activation": None, "std_activation": None,
        "max_activation": 0.0, "quantiles": (), "histogram": Histogram(edges=(), counts=()),
        "position_histogram": Histogram(edges=(), counts=()), "position_token_counts": (), "examples": (),
        "example_bands": (), "top_tokens": (),
    }  # fmt: skip
    return stats(feature, **nothing | fields)


PROVENANCES = ("random", "single token", "real text", "another feature", "relaxed")


def synthesis(length: int = 12, *, top: float = 10.0, seed: int = 0, **fields: Any) -> Synthesis:
    """Return how a synthetic example was come by; a few of its tokens carry it."""
    chooser = random.Random(seed)
    lost = [chooser.choice((0.0, 0.02, 0.1, 0.35, 0.8)) * top for _ in range(length)]
    base: dict[str, Any] = {
        "pre_activation": 1.04 * top, "cross_entropy": 8.2 + 2 * chooser.random(), "attribution": tuple(lost),
        "is_text": True, "is_sink": False, "provenance": chooser.choice(PROVENANCES), "seed": seed,
        "token_evaluations": int(10 ** chooser.uniform(3, 5)),
    }  # fmt: skip
    return Synthesis(**base | fields)


def synthetic_example(
    tokens: Sequence[str], peak: int = 2, top: float = 10.0, *, seed: int = 0, **fields: Any
) -> ActivationExample:
    """Return a sequence that was searched for; fields of its synthesis and of the example may be given together."""
    own = {name: fields.pop(name) for name in list(fields) if name in Synthesis.__slots__}
    origin = synthesis(len(tokens), top=top, seed=seed, **own)
    return example(
        tokens, peak, top, **{"source": origin.provenance, "source_position": 0, "synthesis": origin} | fields
    )


def search(*, scale: float = 10.0, seed: int = 0, **fields: Any) -> FeatureSearch:
    """Return a search of a hundred thousand token-evaluations that ended at ``scale``."""
    chooser = random.Random(seed)
    spent = sorted({int(10 ** chooser.uniform(1.5, 4.9)) for _ in range(24)})
    values = sorted(scale * chooser.uniform(0.3, 1.0) ** 0.5 for _ in spent[1:])
    first = chooser.uniform(2.6, 4.0)
    shares = sorted(chooser.uniform(0.2, 0.9) for _ in range(5))
    frontier = tuple(
        synthetic_example(window(12, seed + 40 + at), 7, scale * part, cross_entropy=first + 1.02 * at, seed=seed + at,
                          token_ids=(-1 - at,) * 12)
        for at, part in enumerate(shares)
    )  # fmt: skip
    relaxed, discrete = chooser.uniform(1.0, 1.6) * scale, chooser.uniform(0.4, 0.8) * scale
    base: dict[str, Any] = {
        "token_evaluations": 100_000, "convergence": tuple(zip(spent, [*values, scale], strict=True)),
        "single_token": (" vessel", scale * chooser.uniform(0.5, 0.9)), "frontier": frontier,
        "relaxation": Relaxation(relaxed=relaxed, discrete=discrete),
        "shortest": synthetic_example(window(3, seed + 90), 2, 0.96 * scale, seed=seed + 90, token_ids=(-99,) * 3),
    }  # fmt: skip
    return FeatureSearch(**base | fields)


def synthetic_stats(
    feature: int = 7, *, example_count: int = 5, length: int = 12, scale: float = 10.0, seed: int = 0, **fields: Any
) -> FeatureStats:
    """Return a feature that was searched for; its counts are those of its examples' tokens."""
    items = tuple(
        synthetic_example(window(length, seed + at), length // 2 + at % 3, scale * (1 - at / (3 * example_count)),
                          seed=seed + at, token_ids=(at, *range(length - 1)))
        for at in range(example_count)
    )  # fmt: skip
    found = search(scale=scale, seed=seed)
    best = replace(items[0], synthesis=replace(items[0].synthesis, token_evaluations=found.convergence[-1][0]))
    items, found = (best, *items[1:]), replace(found, frontier=(*found.frontier, best))
    values = [value for item in items for value in item.activations]
    fired = [value for value in values if value]
    base: dict[str, Any] = {
        "example_count": example_count, "scale": scale, "seed": seed, "examples": items, "example_bands": (),
        "token_count": len(values), "active_count": len(fired), "density": len(fired) / len(values),
        "sparsity": 1 - len(fired) / len(values), "position_token_counts": (),
        "position_histogram": Histogram(edges=(), counts=()),
        "search": found,
    }  # fmt: skip
    return stats(feature, **base | fields)


def unfired_stats(feature: int = 3, **fields: Any) -> FeatureStats:
    """Return a feature that no sequence fired: the closest ones stay below the SAE's threshold."""
    closest = tuple(
        synthetic_example(window(8, at), 5, activations=[0.0] * 8, pre_activation=-0.31 - at / 10, seed=at,
                          attribution=(0.0,) * 8, token_ids=(at,) * 8)
        for at in range(3)
    )  # fmt: skip
    nothing = search(convergence=(), single_token=(" vessel", 0.0), frontier=(), relaxation=None, shortest=None)
    return dead_stats(feature, **{"token_count": 24, "examples": closest, "search": nothing} | fields)


def fit(**fields: Any) -> Fit:
    """Return a good fit."""
    base: dict[str, Any] = {
        "explained_variance": 0.8214, "cosine": 0.931, "l0": 31.84, "token_count": 1_000_000,
        "measured_tokens": 1_000_000, "excluded": {"BOS": 7813}, "document_count": 4000, "window_count": 7813,
    }  # fmt: skip
    return Fit(**base | fields)


def dictionary(size: int = 4096, seed: int = 1, **fields: Any) -> DictionaryStats:
    """Return distributions over a dictionary."""
    chooser = random.Random(seed)

    def gauss(mean: float, spread: float) -> Histogram:
        return even_histogram([min(2.0, chooser.gauss(mean, spread)) for _ in range(size)])

    base: dict[str, Any] = {
        "d_sae": size, "dead_count": 203, "dense_count": 12,
        "density": gauss(-3, 0.7), "max_activation": gauss(0.8, 0.25),
        "decoder_norm": gauss(1.0, 0.01), "encoder_norm": gauss(0.8, 0.1), "encoder_decoder_cosine": gauss(0.6, 0.08),
        "l0_by_position": tuple(28 + 8 * (1 - 2.7 ** (-at / 3)) for at in range(16)),
        "position_edges": tuple(float(8 * at) for at in range(17)),
    }  # fmt: skip
    return DictionaryStats(**base | fields)


def provenance(**fields: Any) -> Provenance:
    """Return where the made-up results come from."""
    base: dict[str, Any] = {
        "analysis": "real", "model": "gelu-1l", "model_sha256": "0" * 64, "hook": "blocks.0.hook_mlp_out",
        "hook_out": "blocks.0.hook_mlp_out", "hook_reason": "as asked for", "hook_search": (),
        "sae": "demo/sae.safetensors", "sae_sha256": "1" * 64, "sae_format": "dictionary_learning",
        "activation_rule": "TopK(k=32)", "corpus": "tiny-stories", "corpus_sha256": "2" * 64, "bos": "added",
        "logit_convention": "decoder @ unembed", "dtype": "float32", "device": "cpu", "options": {}, "versions": {},
        "created": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    return Provenance(**base | fields)


def result(features: Sequence[FeatureStats] = (), **fields: Any) -> AnalysisResult:
    """Return a finished analysis."""
    base: dict[str, Any] = {
        "provenance": provenance(), "fit": fit(), "dictionary": dictionary(), "features": tuple(features),
    }  # fmt: skip
    return AnalysisResult(**base | fields)


def firing(residual: Sequence[float] = (1.0, 0.2, 0.0), raised: str = " yard| board|ment", **fields: Any) -> Firing:
    """Return what goes on at a peak."""
    lowered = tuple((token, -value) for token, value in _effects(" the| and|\n", 1.1))
    base: dict[str, Any] = {
        "coactive": ((4, 3.0), (9, 1.0)), "residual": tuple(residual),
        "ablation": Ablation(divergence=0.31, raised=_effects(raised, 1.4), lowered=lowered),
    }  # fmt: skip
    return Firing(**base | fields)


def comparison_pair(
    feature: int = 7,
    *,
    potential: float = 12.0,
    token: str = " Ship",
    residual: Sequence[float] = (1.0, 0.1, 0.1),
    coactive: tuple[tuple[int, float], ...] = ((4, 2.0), (9, 1.0)),
    raised: str = " yard| board|ment",
    behind_text: tuple[float, ...] = (0.9, 0.7, 1.0),
    is_sink: bool = False,
    real_is_dead: bool = False,
    synthetic_is_dead: bool = False,
) -> tuple[FeatureStats, FeatureStats]:
    """Return what one feature does on text and what a search made it do: the same thing, unless told otherwise."""
    real = dead_stats(feature) if real_is_dead else stats(feature)
    at_peaks = (firing(), firing(residual=(1.0, 0.0, 0.1), coactive=((4, 2.0), (9, 1.0), (5, 0.5))))
    looked_at = [replace(item, firing=found) for item, found in zip(real.examples, at_peaks, strict=False)]
    real = replace(real, examples=(*looked_at, *real.examples[len(looked_at) :]))
    if synthetic_is_dead:
        return real, unfired_stats(feature)
    synthetic = synthetic_stats(feature, example_count=2, scale=potential)
    there = firing(residual=residual, coactive=coactive, raised=raised)
    peaks = (token, token if token == "zebra" else " floe")

    def looked_closer(item: ActivationExample, peak: str) -> ActivationExample:
        tokens = tuple(peak if at == item.peak_position else one for at, one in enumerate(item.tokens))
        return replace(item, tokens=tokens, firing=there, synthesis=replace(item.synthesis, is_sink=is_sink))

    items = map(looked_closer, synthetic.examples, peaks)
    excerpts = tuple(
        synthetic_example(window(12, 70 + at), 11, 9.0 - at, cross_entropy=4.0 + at, provenance="real text",
                          token_evaluations=0)
        for at in range(3)
    )  # fmt: skip
    found = replace(synthetic.search, excerpts=excerpts, behind_text=behind_text)
    return real, replace(synthetic, examples=tuple(items), search=found)


def with_values(real: FeatureStats, values: Sequence[float], token_count: int) -> FeatureStats:
    """Return statistics of these activations, in bins like those of an analysis."""
    edges = 2.0 ** (np.arange(-80, 81) / 8)
    counts, _ = np.histogram(values, edges)
    first, last = np.flatnonzero(counts)[[0, -1]] if counts.any() else (0, 0)
    histogram = Histogram(edges=tuple(edges[first : last + 2]), counts=tuple(counts[first : last + 1].tolist()))
    if not counts.any():
        histogram = Histogram(edges=(), counts=())
    return replace(
        real,
        histogram=histogram,
        max_activation=float(max(values, default=0.0)),
        token_count=token_count,
        active_count=len(values),
    )


def results_of(pairs: Sequence[tuple[FeatureStats, FeatureStats]]) -> tuple[AnalysisResult, AnalysisResult]:
    """Return a real and a synthetic analysis of features, numbered from 0."""
    numbered = [[replace(one, feature_idx=at) for one in pair] for at, pair in enumerate(pairs)]
    could = provenance(analysis="synthetic", corpus="")
    synthetic = result([pair[1] for pair in numbered], provenance=could, fit=None, dictionary=None)
    return result([pair[0] for pair in numbered]), synthetic
