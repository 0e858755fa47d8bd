"""From accumulators to records: what was counted, held and read off the weights, put together feature by feature."""

from collections.abc import Iterable, Sequence

import numpy as np

from sae_analysis import directions
from sae_analysis.accumulators import HeldExample, ValueSummary
from sae_analysis.language_model import TokenText
from sae_analysis.real_activations.stream import BAND_QUARTERS, Collected, RealSettings
from sae_analysis.reconstruction import Site
from sae_analysis.records import (
    ActivationExample,
    DictionaryStats,
    ExampleBand,
    FeatureStats,
    Histogram,
    TokenActivity,
)

DENSE_SHARE = 0.1
"""Density above which a feature is called dense."""

DICTIONARY_BINS = 48
"""Bins of the distributions over the dictionary."""


def dictionary_stats(site: Site, collected: Collected) -> DictionaryStats:
    """Return the distributions over every feature of the SAE."""
    norms = directions.norms(site.sae)
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
    site: Site, measured: Sequence[int], chosen: Sequence[int], collected: Collected, settings: RealSettings
) -> tuple[FeatureStats, ...]:
    """Return the statistics of the ``chosen`` features out of those ``measured``, in the order chosen."""
    tokens = site.model.tokens
    values, examples = collected.values.finish(), collected.examples.finish()
    frequent = collected.tokens.finish(settings.list_length)
    positions = collected.positions.finish()
    edges = tuple(collected.positions.edges.astype(float).tolist())
    token_count = collected.token_count
    norms = directions.norms(site.sae)
    place = {feature: index for index, feature in enumerate(measured)}
    neighbours = directions.nearest_features(site.sae, chosen, settings.list_length)
    effects = directions.logit_effects(site, chosen, settings.list_length)
    stats = []
    for feature, near, effect in zip(chosen, neighbours, effects, strict=True):
        at = place[feature]
        summary, (strongest, sample) = values[at], examples[at]
        cosine = float(norms.cosine[feature])
        stats.append(
            FeatureStats(
                feature_idx=feature,
                token_count=token_count,
                active_count=summary.active_count,
                negative_count=summary.negative_count,
                density=summary.active_count / token_count,
                sparsity=1 - summary.active_count / token_count,
                mean_activation=summary.mean,
                std_activation=summary.std,
                max_activation=float(collected.values.maximum[at]),
                min_activation=float(collected.values.minimum[at]),
                quantiles=summary.quantiles,
                histogram=Histogram(edges=summary.histogram_edges, counts=summary.histogram_counts),
                position_histogram=Histogram(edges=edges, counts=tuple(positions[at].tolist())),
                position_token_counts=tuple(collected.positions.token_counts.tolist()),
                examples=tuple(_example(held, tokens) for held in strongest),
                example_bands=_bands(summary, strongest, sample, tokens, settings.band_examples),
                top_tokens=_top_tokens(frequent[at], summary.active_count, collected.tokens.occurrences, tokens),
                decoder_norm=float(norms.decoder[feature]),
                encoder_norm=float(norms.encoder[feature]),
                encoder_decoder_cosine=None if np.isnan(cosine) else cosine,
                nearest_features=near,
                top_boosted_tokens=effect.boosted,
                top_suppressed_tokens=effect.suppressed,
                logit_histogram=effect.histogram,
                logit_skew=effect.skew,
                logit_kurtosis=effect.kurtosis,
            )
        )
    return tuple(stats)


def _example(held: HeldExample, tokens: TokenText) -> ActivationExample:
    ids = held.token_ids.tolist()
    return ActivationExample(
        text=tokens.decode(ids),
        tokens=tokens.strings(ids),
        token_ids=tuple(ids),
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
    tokens: TokenText,
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
                    examples=tuple(_example(held, tokens) for held in inside),
                )
            )
    return tuple(bands)


def _top_tokens(
    rows: Iterable[tuple[int, int, float]], active_count: int, occurrences: np.ndarray, tokens: TokenText
) -> tuple[TokenActivity, ...]:
    return tuple(
        TokenActivity(
            token=tokens.strings([token_id])[0],
            token_id=token_id,
            active_count=count,
            share=count / active_count,
            firing_rate=count / int(occurrences[token_id]),
            mean_activation=mean,
        )
        for token_id, count, mean in rows
    )
