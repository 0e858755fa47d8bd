"""From accumulators to records: what was counted, held and read off the weights, put together feature by feature."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache

import numpy as np

from sae_analysis import directions
from sae_analysis.accumulators import HeldExample, ValueSummary
from sae_analysis.feature_stats import Counted, weight_sides
from sae_analysis.real_activations.collected import Collected
from sae_analysis.real_activations.settings import BAND_QUARTERS, RealSettings
from sae_analysis.reconstruction import Site
from sae_analysis.records import ActivationExample, DictionaryStats, ExampleBand, FeatureStats

DENSE_SHARE = 0.1
"""Density above which a feature is called dense."""

DICTIONARY_BINS = 48
"""Bins of the distributions over the dictionary."""

_WINDOWS_SPELLED = 1 << 12
"""Windows whose text is kept for the next feature: most are examples of several, and text is what takes longest."""

_Spelled = Callable[[tuple[int, ...]], tuple[str, tuple[str, ...]]]
"""From the ids of tokens to their text as one, and token by token."""


def dictionary_stats(collected: Collected, norms: directions.Norms) -> DictionaryStats:
    """Return the distributions over every feature of the SAE; ``norms`` are those of all features."""
    counts, maxima, l0 = collected.dictionary.finish()
    alive = counts > 0
    return DictionaryStats(
        d_sae=len(counts),
        dead_count=int((~alive).sum()),
        dense_count=int((counts > DENSE_SHARE * collected.fit.token_count).sum()),
        density=directions.distribution(np.log10(counts[alive] / collected.fit.token_count), DICTIONARY_BINS),
        max_activation=directions.distribution(np.log10(maxima[alive]), DICTIONARY_BINS),
        decoder_norm=directions.distribution(norms.decoder, DICTIONARY_BINS),
        encoder_norm=directions.distribution(norms.encoder, DICTIONARY_BINS),
        encoder_decoder_cosine=directions.distribution(norms.cosine, DICTIONARY_BINS),
        l0_by_position=tuple(l0.tolist()),
        position_edges=tuple(collected.positions.edges.tolist()),
    )


def feature_stats(
    site: Site,
    collected: Collected,
    settings: RealSettings,
    norms: directions.Norms,
    *,
    measured: Sequence[int],
    wanted: Sequence[int],
    in_full: Collection[int],
) -> Iterator[FeatureStats]:
    """Yield the statistics of the ``wanted`` features out of those ``measured``; ``norms`` are those of all features.

    Those ``in_full`` come with all there is. The others have what a row of a table needs: one example, and no
    quantiles, neighbours or histograms of activations and logit effects, which take most of the time and of the memory.
    """
    tokens = site.model.tokens
    place = {feature: index for index, feature in enumerate(measured)}
    counted = Counted(
        values=collected.values,
        tokens=collected.tokens,
        positions=collected.positions,
        token_count=collected.token_count,
        text=tokens,
        list_length=settings.list_length,
        in_full=[place[feature] for feature in in_full],
    )
    held = collected.examples.finish()

    @lru_cache(maxsize=_WINDOWS_SPELLED)
    def spelled(ids: tuple[int, ...]) -> tuple[str, tuple[str, ...]]:
        return tokens.decode(ids), tokens.strings(ids)

    weights = weight_sides(site, wanted, norms, settings.list_length, in_full)
    for feature, weight_side in zip(wanted, weights, strict=True):
        at = place[feature]
        bands: tuple[ExampleBand, ...] = ()
        if feature in in_full:
            strongest, sample = held[at]
            bands = _bands(counted.summaries[at], strongest, sample, spelled, settings.band_examples)
        else:
            strongest = held.strongest(at, 1)
        examples = tuple(_example(one, spelled) for one in strongest)
        yield counted.feature_stats(feature, at, weight_side, examples=examples, example_bands=bands)


def _example(held: HeldExample, spelled: _Spelled) -> ActivationExample:
    ids = tuple(held.token_ids.tolist())
    text, tokens = spelled(ids)
    return ActivationExample(
        text=text,
        tokens=tokens,
        token_ids=ids,
        activations=tuple(held.activations.tolist()),
        max_activation=float(held.activations[held.peak]),
        peak_position=held.peak,
        source=held.document,
        source_position=held.start,
    )


def _bands(
    summary: ValueSummary,
    strongest: Sequence[HeldExample],
    sample: Sequence[HeldExample],
    spelled: _Spelled,
    most: int,
) -> tuple[ExampleBand, ...]:
    """Sort the random sample into quarters of the activation range; what is a top example already is not repeated."""
    shown = {held.sequence for held in strongest}
    fresh = [held for held in sample if held.sequence not in shown]
    quarters = np.searchsorted(summary.magnitude_quartiles, [abs(held.activations[held.peak]) for held in fresh])
    bands = []
    for quarter in reversed(range(BAND_QUARTERS)):
        inside = [held for held, found in zip(fresh, quarters, strict=True) if found == quarter][:most]
        inside.sort(key=lambda held: -abs(held.activations[held.peak]))
        if inside:
            bands.append(
                ExampleBand(
                    lower_quantile=quarter / BAND_QUARTERS,
                    upper_quantile=(quarter + 1) / BAND_QUARTERS,
                    examples=tuple(_example(held, spelled) for held in inside),
                )
            )
    return tuple(bands)
