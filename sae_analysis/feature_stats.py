"""What every analysis says of a feature in the same way: what was counted of it, and what its weights say."""

from collections.abc import Collection, Iterator, Sequence
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
    """L2 norm of its decoder row."""

    encoder_norm: float
    """L2 norm of its encoder column."""

    cosine: float | None
    """Cosine between encoder and decoder direction."""

    nearest: tuple[tuple[int, float], ...]
    """(feature, cosine) of the nearest decoder directions."""

    effect: LogitEffects


def weight_sides(
    site: Site, features: Sequence[int], norms: Norms, most: int, in_full: Collection[int] | None = None
) -> Iterator[WeightSide]:
    """Yield what the weights say of each feature, with lists of length ``most``; ``norms`` are those of all features.

    Those that are not ``in_full`` (None: all are) come without neighbours and without the bins of their logit effects.
    Products are made for several features at once, so the last bits may depend on which are asked for together.
    """
    full = frozenset(features if in_full is None else in_full)
    neighbours = directions.nearest_features(site.sae, [feature for feature in features if feature in full], most)
    effects = directions.logit_effects(site, features, most, full)
    for feature, effect in zip(features, effects, strict=True):
        cosine = float(norms.cosine[feature])
        yield WeightSide(
            decoder_norm=float(norms.decoder[feature]),
            encoder_norm=float(norms.encoder[feature]),
            cosine=None if np.isnan(cosine) else cosine,
            nearest=next(neighbours) if feature in full else (),
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
        in_full: Collection[int] | None = None,
    ) -> None:
        """Finish the accumulators, which were fed with the same ``token_count`` kept tokens.

        Of places in them that are not ``in_full`` (None: all are) there are no quantiles and no histogram.
        """
        self.summaries: tuple[ValueSummary, ...] = values.finish(in_full)
        """One a feature, in the accumulators' order."""
        self._values, self._tokens = values, tokens
        self._frequent = tokens.finish(list_length)
        self._fired_at = positions.finish()
        self._position_edges = tuple(positions.edges.astype(float).tolist())
        self._position_tokens = tuple(positions.token_counts.tolist())
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
        summary = self.summaries[at]
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
            position_histogram=Histogram(edges=self._position_edges, counts=tuple(self._fired_at[at].tolist())),
            position_token_counts=self._position_tokens,
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
        frequent, active_count = self._frequent[at], self.summaries[at].active_count
        texts = self._text.strings([token_id for token_id, _, _ in frequent])
        return tuple(
            TokenActivity(
                token=token,
                token_id=token_id,
                active_count=count,
                share=count / active_count,
                firing_rate=count / int(self._tokens.occurrences[token_id]),
                mean_activation=mean,
            )
            for token, (token_id, count, mean) in zip(texts, frequent, strict=True)
        )
