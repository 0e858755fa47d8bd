"""Draws every hostile page of the stress sheet into a folder, to be looked at: python tests/figure_stress.py FOLDER."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import record_factory as make
from PIL import Image

from sae_analysis.comparison import compare_all, compare_features
from sae_analysis.records import FeatureStats, Histogram, Relaxation
from sae_analysis.visualizer import (
    Header,
    Page,
    comparison_page,
    feature_comparison_page,
    feature_page,
    search_page,
    statistics_page,
    summary_page,
    write_page,
)

LONG_NAME = "a-company/" + "a-model-with-a-very-long-name-" * 4

# Colour vision without one cone type, on linear RGB. Source: Machado, Oliveira and Fernandes (2009), severity 1.
COLOUR_VISION = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def hostile_features() -> dict[str, FeatureStats]:
    """Return every feature of the stress sheet by name."""
    one = make.example(make.window(30), 12, 3.2)
    signed = [(-1) ** at * (0.2 + at % 37 / 6) for at in range(900)]
    below = make.example(make.window(40), 5, activations=[-7.0 if at == 5 else -at % 4 for at in range(40)])
    both = make.example(make.window(40), 38, activations=[(-1) ** at * at / 6 for at in range(39)] + [0])
    scripts = [
        make.example(tokens, 3, 10 - at / 3, source=name) for at, (name, tokens) in enumerate(make.SCRIPTS.items())
    ]
    odd = [
        make.example((" a", "x" * 80, " b"), 1, source="80 characters"),
        make.example((" $\\frac{",), 0, source="$\\frac{"),
        make.example(("\n",), 0, source="only a newline"),
        make.example((" ",), 0, source="only a space"),
        make.example(("",), 0, source="empty"),
        make.example(("W" * 600,), 0, source="600 letters in one token"),
        make.example(tuple("abcdefgh" * 64), 300, source="512 tokens without a space"),
        make.example(tuple("水" for _ in range(512)), 511, source="512, peak at the end"),
        make.example(make.SCRIPTS["arabic"] * 12, 100, source="long Arabic"),
        make.example(make.SCRIPTS["thai"] * 12, 100, source="long Thai"),
    ]
    return {
        "usual": make.stats(),
        "one-example": make.stats(example_count=1, example_bands=()),
        "thirty-examples": make.stats(example_count=30),
        "fifty-examples": make.stats(example_count=50),
        "five-token-windows": make.stats(examples=tuple(make.example(make.window(5, at), at) for at in range(5))),
        "long-windows": make.stats(
            examples=tuple(make.example(make.window(512, at), peak) for at, peak in enumerate((0, 100, 256, 505, 511)))
        ),
        "dead": make.dead_stats(),
        "dead-without-logits": make.dead_stats(
            top_boosted_tokens=(), top_suppressed_tokens=(), logit_histogram=Histogram(edges=(), counts=()),
            logit_skew=None, logit_kurtosis=None, encoder_decoder_cosine=None, nearest_features=(),
        ),
        "dense": make.stats(density=0.99, sparsity=0.01, active_count=990_000),
        "almost-always": make.stats(density=0.999999, sparsity=1e-6, active_count=999_999),
        "once": make.stats(
            active_count=1, density=1e-6, sparsity=0.999999, mean_activation=3.2, std_activation=0.0,
            max_activation=3.2, quantiles=((0.5, 3.2), (0.9, 3.2)), histogram=make.histogram([3.2]), examples=(one,),
            example_bands=(), top_tokens=make.stats().top_tokens[:1], position_token_counts=(62_500,) * 16,
            position_histogram=replace(make.stats().position_histogram, counts=(0,) * 9 + (1,) + (0,) * 6),
        ),
        "below-zero": make.stats(
            negative_count=3121, min_activation=-7.0, max_activation=0.0, mean_activation=-2.5, examples=(below,),
            example_bands=(), histogram=make.histogram([-abs(value) for value in signed]),
        ),
        "both-signs": make.stats(
            negative_count=1500, min_activation=-4.9, max_activation=6.2, examples=(both,), example_bands=(),
            histogram=make.histogram(signed),
        ),
        "tiny": make.stats(scale=1e-6, density=3.1e-9, top_boosted_tokens=tuple((t, 4.2e-7) for t in "abc")),
        "huge": make.stats(scale=1e6, decoder_norm=123456.7, encoder_norm=9.9e9),
        "scripts": make.stats(examples=tuple(scripts)),
        "odd-tokens": make.stats(examples=tuple(odd), top_tokens=tuple(
            replace(item, token=token) for item, token in zip(
                make.stats().top_tokens, ("x" * 80, "\n\n\n", " " * 40, "<0xE4>", "<0xE4><0xBD><0xA0>", "👨‍👩‍👧‍👦",
                " السفينة القديمة جدا", "", "\u202e", "\t"), strict=True))),
    }  # fmt: skip


def hostile_searches() -> dict[str, FeatureStats]:
    """Return what may come out of a search, by name."""

    def given(*tokens: str, **fields: object) -> FeatureStats:
        return make.synthetic_stats(examples=(make.synthetic_example(tokens, **fields),))

    def found(**fields: object) -> FeatureStats:
        return make.synthetic_stats(search=make.search(**fields))

    words = make.window(12)
    doubtful = tuple(
        make.synthetic_example(words, 4, 9.0 - at, is_sink=at % 2 == 0, is_text=at < 1, seed=at, token_ids=(at,) * 12,
                               attribution=tuple(lost * (9.0 - at) for lost in (0, -0.1, 0.5, 1, 1.7, -2) * 2))
        for at in range(3)
    )  # fmt: skip
    scripts = tuple(
        make.synthetic_example(tokens, 3, 10 - at / 3, seed=at, provenance=name, token_ids=(at,) * len(tokens))
        for at, (name, tokens) in enumerate(make.SCRIPTS.items())
    )
    below = make.synthetic_example(words, 5, activations=[-7.0 if at == 5 else -at % 4 / 2 for at in range(12)])
    unread = {"cross_entropy": None, "attribution": ()}
    steps = tuple(
        make.synthetic_example(words, 5, at / 3, cross_entropy=at / 4, token_ids=(at,) * len(words))
        for at in range(1, 31)
    )
    return {
        "usual": make.synthetic_stats(),
        "one-example": make.synthetic_stats(example_count=1),
        "fifty-examples": make.synthetic_stats(example_count=50),
        "five-tokens": make.synthetic_stats(length=5),
        "long": make.synthetic_stats(length=512),
        "one-token": given(" ship", peak=0, **unread),
        "unfired": make.unfired_stats(),
        "unfired-without-examples": make.unfired_stats(examples=(), token_count=0),
        "doubtful": make.synthetic_stats(examples=doubtful),
        "scripts": make.synthetic_stats(examples=scripts),
        "odd-tokens": given("x" * 80, "\n", " ", "", "\u202e", "<0xE4>", "$\\frac{", peak=0, provenance="y" * 60),
        "long-provenance": given(*words, provenance="continuations of real text by the language model itself"),
        "below-zero": make.synthetic_stats(
            examples=(below,), max_activation=0.0, min_activation=-7.0, negative_count=9, active_count=9,
            search=make.search(scale=-7.0, convergence=((10, -1.0), (900, -7.0)), relaxation=None,
                               frontier=(replace(below, token_ids=(1,) * len(below.tokens)),)),
        ),
        "tiny": make.synthetic_stats(scale=1e-6),
        "huge": make.synthetic_stats(scale=1e6),
        "no-frontier": make.synthetic_stats(examples=(make.synthetic_example(words, **unread),),
                                            search=make.search(frontier=())),
        "frontier-of-one": found(frontier=(make.synthetic_example(words, 5, 10.0, cross_entropy=0.0),)),
        "frontier-of-thirty": found(frontier=steps),
        "no-single-token": found(single_token=(" a", 0.0)),
        "single-token-is-best": found(convergence=((1, 10.0),), single_token=("\n", 10.0), token_evaluations=1),
        "nothing-recorded": found(convergence=(), frontier=(), relaxation=None, token_evaluations=0),
        "free-of-charge": found(convergence=((0, 3.0), (10**12, 10.0)), token_evaluations=10**12),
        "relaxed-to-nothing": found(relaxation=Relaxation(relaxed=-0.4, discrete=-2.0)),
        "relaxed-without-activation": found(relaxation=Relaxation(relaxed=0.0, discrete=0.0)),
    }  # fmt: skip


def _search_pages(header: Header) -> Iterator[tuple[str, Callable[[], Page]]]:
    hostile = {at: replace(stats, feature_idx=at) for at, stats in enumerate(hostile_searches().values())}
    many = {at * 997: make.synthetic_stats(at * 997, seed=at, example_count=1, scale=1 + at) for at in range(200)}
    unfired = {at: make.unfired_stats(at) for at in range(3)}
    for name, stats in hostile_searches().items():
        yield f"feature-searched-{name}", lambda stats=stats: feature_page(stats, header, "synthetic")
    for page in (1, 2):
        yield f"summary-searched-{page}", lambda page=page: summary_page(hostile, page, header, "synthetic")
    yield "summary-searched-many", lambda: summary_page(many, 17, header, "synthetic")
    yield "search", lambda: search_page(dict(list(many.items())[:40]), header)
    yield "search-many", lambda: search_page(many, header)
    yield "search-hostile", lambda: search_page(hostile, header)
    yield "search-one", lambda: search_page({7: make.synthetic_stats()}, header)
    yield "search-unfired", lambda: search_page(unfired, header)
    yield "search-nothing", lambda: search_page({7: hostile_searches()["nothing-recorded"]}, header)


def hostile_comparisons() -> dict[str, tuple[FeatureStats, FeatureStats]]:
    """Return features on text and as searched for, by name: each hostile side beside a usual one, and both together."""

    def fires(stats: FeatureStats) -> FeatureStats:
        looked_at = [replace(example, firing=make.firing()) for example in stats.examples[:3]]
        return replace(stats, examples=(*looked_at, *stats.examples[3:]))

    real, synthetic = make.comparison_pair()
    found = {
        "usual": {}, "superstimulus": {"potential": 20.0}, "falls-short": {"potential": 4.0}, "sink": {"is_sink": True},
        "never-in-text": {"real_is_dead": True}, "failed": {"synthetic_is_dead": True}, "hugely": {"potential": 3e7},
        "dead": {"real_is_dead": True, "synthetic_is_dead": True}, "elsewhere": {"token": "zebra"},
        "second-sense": {"token": "zebra", "residual": (-1.0, 0.0, 0.0), "coactive": ((9, 1.0),), "raised": "水|ال"},
        "narrow": {"behind_text": (0.1, 0.0, 0.2)},
    }  # fmt: skip
    named = {name: make.comparison_pair(**change) for name, change in found.items()}
    named |= {f"text-{name}": (fires(stats), synthetic) for name, stats in hostile_features().items()}
    named |= {f"search-{name}": (real, fires(stats)) for name, stats in hostile_searches().items()}
    for name in ("scripts", "odd-tokens", "fifty-examples", "tiny", "below-zero"):
        named[f"both-{name}"] = (fires(hostile_features()[name]), fires(hostile_searches()[name]))
    close = replace(real, max_activation=11.9)
    return named | {"marks-close-together": (close, make.comparison_pair(potential=12.0)[1])}


def _comparison_pages(header: Header) -> Iterator[tuple[str, Callable[[], Page]]]:
    for name, (real, synthetic) in hostile_comparisons().items():
        one = compare_features(real, synthetic)
        yield f"comparison-{name}", lambda one=one, pair=(real, synthetic): feature_comparison_page(one, *pair, header)
    pairs = [*hostile_comparisons().values()] * 3
    many = compare_all(*({at: replace(pair[side], feature_idx=at) for at, pair in enumerate(pairs)} for side in (0, 1)))
    for number in (1, 2, 8, len(pairs)):
        yield f"overview-{number}", lambda number=number: comparison_page(many[:number], 1_000_000, header)


def pages() -> Iterator[tuple[str, Callable[[], Page]]]:
    """Yield the name of each page and what draws it."""
    header = Header.of(make.result())
    for name, stats in hostile_features().items():
        yield f"feature-{name}", lambda stats=stats: feature_page(stats, header)
    long = replace(header, model=LONG_NAME, sae="/" + "deep-folder/" * 20 + "sae.safetensors", hook="h" * 60)
    yield "feature-long-names", lambda: feature_page(make.stats(), long)
    yield "feature-no-header", lambda: feature_page(make.stats())
    yield "feature-synthetic", lambda: feature_page(make.stats(), header, "synthetic")
    hostile = {at: replace(stats, feature_idx=at) for at, stats in enumerate(hostile_features().values())}
    many = {at: make.stats(at * 997, seed=at, example_count=1, scale=1 + at, density=10 ** -(1 + at / 60))
            for at in range(200)}  # fmt: skip
    yield "summary-one", lambda: summary_page({7: make.stats()}, 1, header)
    yield "summary-dead", lambda: summary_page({7: make.dead_stats()}, 1, header)
    yield "summary-hostile-1", lambda: summary_page(hostile, 1, header)
    yield "summary-hostile-2", lambda: summary_page(hostile, 2, header)
    yield "summary-many-17", lambda: summary_page(many, 17, long)
    yield "statistics-many", lambda: statistics_page(make.dictionary(), many, header)
    yield "statistics-one", lambda: statistics_page(make.dictionary(), {7: make.dead_stats()}, long)
    nothing = Histogram(edges=(), counts=())
    narrow = make.histogram([1.0])
    dead = make.dictionary(density=nothing, max_activation=nothing, encoder_decoder_cosine=nothing, dead_count=4096,
                           dense_count=0, decoder_norm=narrow, l0_by_position=(0.0,) * 16)  # fmt: skip
    yield "statistics-all-dead", lambda: statistics_page(dead, {}, header)
    yield from _search_pages(replace(header, corpus="", fit=None))
    yield from _comparison_pages(header)


def as_seen(picture: Image.Image, eye: str) -> Image.Image:
    """Return the picture in grey, at half its size, or as an eye without one cone type sees it."""
    if eye == "grey":
        return picture.convert("L")
    if eye == "half":
        return picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
    linear = (np.asarray(picture.convert("RGB")) / 255) ** 2.2
    seen = np.clip(linear @ np.array(COLOUR_VISION[eye]).T, 0, 1) ** (1 / 2.2)
    return Image.fromarray((seen * 255).round().astype(np.uint8))


def main(folder: Path) -> None:
    """Draw all pages, and the usual one as others see it."""
    for name, draw in pages():
        write_page(draw(), folder / f"{name}.png")
    for name in (
        "feature-both-signs",
        "summary-hostile-1",
        "feature-searched-doubtful",
        "search",
        "comparison-usual",
        "overview-8",
    ):
        with Image.open(folder / f"{name}.png") as picture:
            for eye in ("grey", "half", *COLOUR_VISION):
                as_seen(picture, eye).save(folder / f"{name}-{eye}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
