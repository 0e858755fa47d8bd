"""What every analysis says of a feature in the same way: what was counted of it, and what its weights say."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sae_analysis import directions
from sae_analysis.accumulators import PositionStatistics, TokenStatistics, ValueStatistics, ValueSummary
from sae_analysis.directions import LogitEffects, Norms
from sae_analysis.language_model import TokenText
from sae_analysis.reconstruction import Site
from sae_analysis.records import (
    ActivationExample,
    ExampleBand,
    FeatureSearch,
    FeatureStats,
    Histogram,
    TokenActivity,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSide:
    """What one feature's weights say."""

    decoder_norm: float
    encoder_norm: float
    cosine: float | None
    """Between encoder and decoder direction."""

    nearest: tuple[tuple[int, float], ...]
    effect: LogitEffects


def weight_sides(site: Site, features: Sequence[int], norms: Norms, most: int) -> Iterator[WeightSide]:
    """Yield what the weights say of each feature, with lists of length ``most``; ``norms`` are those of all features.

    Products are made for several features at once, so the last bits may depend on which are asked for together.
    """
    neighbours = directions.nearest_features(site.sae, features, most)
    effects = directions.logit_effects(site, features, most)
    for feature, nearest, effect in zip(features, neighbours, effects, strict=True):
        cosine = float(norms.cosine[feature])
        yield WeightSide(
            decoder_norm=float(norms.decoder[feature]),
            encoder_norm=float(norms.encoder[feature]),
            cosine=None if np.isnan(cosine) else cosine,
            nearest=nearest,
            effect=effect,
        )


class Counted:
    """What was counted of some features over one population of tokens."""

    def __init__(
        self,
        *,
        values: ValueStatistics,
        tokens: TokenStatistics,
        positions: PositionStatistics,
        token_count: int,
        text: TokenText,
        list_length: int,
    ) -> None:
        """Finish the accumulators, which were fed with the same ``token_count`` kept tokens."""
        self.summaries: tuple[ValueSummary, ...] = values.finish()
        """One a feature, in the accumulators' order."""
        self._values, self._tokens, self._positions = values, tokens, positions
        self._frequent = tokens.finish(list_length)
        self._fired_at = positions.finish()
        self._token_count, self._text = token_count, text

    def feature_stats(
        self,
        feature: int,
        at: int,
        weights: WeightSide,
        *,
        examples: tuple[ActivationExample, ...],
        example_bands: tuple[ExampleBand, ...] = (),
        search: FeatureSearch | None = None,
    ) -> FeatureStats:
        """Return all that is known of a feature, which has the place ``at`` in the accumulators."""
        summary, edges = self.summaries[at], tuple(self._positions.edges.astype(float).tolist())
        density = summary.active_count / self._token_count if self._token_count else 0.0
        return FeatureStats(
            feature_idx=feature,
            token_count=self._token_count,
            active_count=summary.active_count,
            negative_count=summary.negative_count,
            density=density,
            sparsity=1 - density,
            mean_activation=summary.mean,
            std_activation=summary.std,
            max_activation=float(self._values.maximum[at]),
            min_activation=float(self._values.minimum[at]),
            quantiles=summary.quantiles,
            histogram=Histogram(edges=summary.histogram_edges, counts=summary.histogram_counts),
            position_histogram=Histogram(edges=edges, counts=tuple(self._fired_at[at].tolist())),
            position_token_counts=tuple(self._positions.token_counts.tolist()),
            examples=examples,
            example_bands=example_bands,
            top_tokens=self._top_tokens(at),
            decoder_norm=weights.decoder_norm,
            encoder_norm=weights.encoder_norm,
            encoder_decoder_cosine=weights.cosine,
            nearest_features=weights.nearest,
            top_boosted_tokens=weights.effect.boosted,
            top_suppressed_tokens=weights.effect.suppressed,
            logit_histogram=weights.effect.histogram,
            logit_skew=weights.effect.skew,
            logit_kurtosis=weights.effect.kurtosis,
            search=search,
        )

    def _top_tokens(self, at: int) -> tuple[TokenActivity, ...]:
        return tuple(
            TokenActivity(
                token=self._text.strings([token_id])[0],
                token_id=token_id,
                active_count=count,
                share=count / self.summaries[at].active_count,
                firing_rate=count / int(self._tokens.occurrences[token_id]),
                mean_activation=mean,
            )
            for token_id, count, mean in self._frequent[at]
        )
