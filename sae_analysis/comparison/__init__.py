"""What a feature does beside what it could do: a real and a synthetic analysis, set side by side. No model is needed.

Numbers here (how far real text goes, how alike the two firings are), the tail of real activations in ``tails``, what
it all means in ``verdicts``.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from sae_analysis.comparison.tails import Tail, fitted_tail
from sae_analysis.comparison.verdicts import judge
from sae_analysis.errors import OutputError
from sae_analysis.records import (
    ActivationExample,
    AnalysisResult,
    Comparison,
    ComparisonResult,
    FeatureStats,
    Firing,
    Likeness,
    Provenance,
    TokenSpan,
)

__all__ = ["check_common", "compare", "compare_all", "compare_features", "fitted_tail"]

FLUENT = 6.0
"""Nats per token up to which a sequence counts as fluent."""

_SAME = ("model_sha256", "hook", "hook_out", "sae_sha256", "activation_rule")
"""What both analyses must have been run on, by name in their provenance."""

STRONG = 0.5
"""Share of the strongest sequence's activation from which another counts as strong."""


def compare(
    real: AnalysisResult, synthetic: AnalysisResult, other_seeds: Sequence[AnalysisResult] = ()
) -> ComparisonResult:
    """Compare the features that both analyses describe, the most under-activated first.

    ``other_seeds`` are searches like ``synthetic``, which say how much its maxima owe to chance.

    Raises:
        OutputError: they are not a real and synthetic analyses of one subject, or have no feature in common.
    """
    for other in (synthetic, *other_seeds):
        _check(real.provenance, other.provenance)
    others = [other.by_feature() for other in other_seeds]
    return ComparisonResult(
        real=real.provenance,
        synthetic=synthetic.provenance,
        token_count=real.fit.token_count if real.fit else 0,
        features=compare_all(real.by_feature(), synthetic.by_feature(), others),
    )


def compare_all(
    real: Mapping[int, FeatureStats],
    synthetic: Mapping[int, FeatureStats],
    other_seeds: Sequence[Mapping[int, FeatureStats]] = (),
) -> tuple[Comparison, ...]:
    """Compare the features that both describe, the most under-activated first; where they come from is not checked.

    Raises:
        OutputError: they have no feature in common.
    """
    common = [feature for feature in real if feature in synthetic]
    if not common:
        raise OutputError(
            f"The real result describes {_listed(real)}, the synthetic one {_listed(synthetic)}: they have none in "
            "common. Give results of the same features."
        )
    features = [
        compare_features(
            real[feature],
            synthetic[feature],
            [other[feature].max_activation for other in other_seeds if feature in other],
        )
        for feature in common
    ]
    return tuple(sorted(features, key=lambda one: (one.realised is None, one.realised or 0.0, one.feature_idx)))


def compare_features(real: FeatureStats, synthetic: FeatureStats, other_seeds: Sequence[float] = ()) -> Comparison:
    """Compare what one feature does on real text with what a search made it do.

    ``other_seeds`` are the largest activations that searches like it reached.
    """
    search, tail, potential = synthetic.search, fitted_tail(real), synthetic.max_activation
    fluent = _largest(synthetic, FLUENT)
    excerpt = search.excerpts[0] if search and search.excerpts else None
    surprise = excerpt.synthesis.cross_entropy if excerpt and excerpt.synthesis else None
    realised = real.max_activation / potential if potential > 0 else None
    elsewhere = tail.largest_on(real.token_count).divided_by(potential) if tail and potential > 0 else None
    behind_text = statistics.median(search.behind_text) if search and search.behind_text else None
    likeness = _likeness(real, synthetic)
    judged = judge(real, synthetic, likeness=likeness, realised=realised, elsewhere=elsewhere, behind_text=behind_text)
    return Comparison(
        feature_idx=real.feature_idx,
        verdict=judged.verdict,
        reasons=judged.reasons,
        is_settled=judged.is_settled,
        real_max=real.max_activation,
        synthetic_max=potential,
        other_seeds=tuple(other_seeds),
        fluent_max=fluent,
        excerpt_max=excerpt.max_activation if excerpt else None,
        as_fluent_max=None if surprise is None else _largest(synthetic, surprise),
        realised=realised,
        realised_low=elsewhere.low if elsewhere else None,
        realised_high=elsewhere.high if elsewhere else None,
        tokens_until=_span(tail, potential),
        tokens_until_fluent=None if fluent is None else _span(tail, fluent),
        single_token_max=search.single_token[1] if search else None,
        ceiling=search.ceiling if search else None,
        behind_text=behind_text,
        likeness=likeness,
    )


# --- how far real text goes ----------------------------------------------------------------------------------------


def _largest(synthetic: FeatureStats, most_surprise: float) -> float | None:
    """Return the largest activation of a sequence that surprises the model no more; None if there is none."""
    known = (*synthetic.examples, *(synthetic.search.frontier if synthetic.search else ()))
    values = [
        one.max_activation
        for one in known
        if one.synthesis and one.synthesis.cross_entropy is not None and one.synthesis.cross_entropy <= most_surprise
    ]
    return max(values, default=None)


def _span(tail: Tail | None, value: float) -> TokenSpan | None:
    if tail is None or value <= 0:
        return None
    found = tail.tokens_until(value)
    low, median, high = (None if np.isinf(tokens) else tokens for tokens in (found.low, found.median, found.high))
    return TokenSpan(low=low, median=median, high=high)


# --- how alike the firings are -------------------------------------------------------------------------------------


def _likeness(real: FeatureStats, synthetic: FeatureStats) -> Likeness:
    """Compare where and how the strongest examples of both fire; baselines are the same among real ones."""
    does, could = real.examples, synthetic.examples
    ours, theirs = _firings(does), _firings(could)
    fires_on = {fold(token.token) for token in real.top_tokens} | {fold(_peak_token(one)) for one in does}
    return Likeness(
        same_token=_mean(
            fold(_peak_token(one)) in fires_on
            for one in could
            if one.max_activation > 0 and one.max_activation >= STRONG * synthetic.max_activation
        ),
        residual=_mean(_cosine(a.residual, b.residual) for a in ours for b in theirs),
        residual_among_real=_mean(_cosine(a.residual, b.residual) for a, b in combinations(ours, 2)),
        length_real=_mean(float(np.linalg.norm(one.residual)) for one in ours),
        length_synthetic=_mean(float(np.linalg.norm(one.residual)) for one in theirs),
        coactive=_mean(_overlap(dict(a.coactive), dict(b.coactive)) for a in ours for b in theirs),
        coactive_among_real=_mean(_overlap(dict(a.coactive), dict(b.coactive)) for a, b in combinations(ours, 2)),
        raised=_mean(_shared(a.ablation.raised, b.ablation.raised) for a in ours for b in theirs),
        raised_among_real=_mean(_shared(a.ablation.raised, b.ablation.raised) for a, b in combinations(ours, 2)),
        divergence_real=_mean(one.ablation.divergence for one in ours),
        divergence_synthetic=_mean(one.ablation.divergence for one in theirs),
    )


def fold(token: str) -> str:
    """Return a token without what spelling adds to it: spaces around it, and case."""
    return token.strip().casefold() or token


def _peak_token(example: ActivationExample) -> str:
    return example.tokens[example.peak_position]


def _firings(examples: Sequence[ActivationExample]) -> list[Firing]:
    return [one.firing for one in examples if one.firing is not None]


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.fmean(found) if found else None


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    left, right = np.array(a), np.array(b)
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norms if norms else 0.0


def _overlap(a: dict[int, float], b: dict[int, float]) -> float:
    """Return the weighted Jaccard index of two sets of active features, by magnitude.

    Source: Ioffe 2010, "Improved consistent sampling, weighted minhash and L1 sketching".
    """
    either = a.keys() | b.keys()
    pairs = [(abs(a.get(feature, 0.0)), abs(b.get(feature, 0.0))) for feature in either]
    most = sum(max(pair) for pair in pairs)
    return sum(min(pair) for pair in pairs) / most if most else 0.0


def _shared(a: Sequence[tuple[str, float]], b: Sequence[tuple[str, float]]) -> float:
    """Return the share of the longer list's tokens that both have; firings may raise fewer than lists have room for."""
    left, right = {token for token, _ in a}, {token for token, _ in b}
    most = max(len(left), len(right))
    return len(left & right) / most if most else 0.0


# --- what belongs together -----------------------------------------------------------------------------------------


def _check(real: Provenance, synthetic: Provenance) -> None:
    for run, wanted in ((real, "real"), (synthetic, "synthetic")):
        if run.analysis != wanted:
            raise OutputError(f"A result of '{run.analysis}' was given as the {wanted} one: give a {wanted}.json.")
    for name in _SAME:
        if getattr(real, name) != getattr(synthetic, name):
            theirs, ours = _named(real, name), _named(synthetic, name)
            raise OutputError(
                f"The two results do not belong together: {name.removesuffix('_sha256')} is {theirs} in the real one "
                f"and {ours} in the synthetic one. Give results of the same model, SAE and hook."
            )


def _named(run: Provenance, field: str) -> str:
    """Return what a field says; of a hash, what was hashed too, since two copies may be called alike and differ."""
    value = getattr(run, field)
    name = field.removesuffix("_sha256")
    return value if name == field else f"{getattr(run, name)} (hash {value[:12] or 'unknown'})"


def check_common(given: AnalysisResult, features: Sequence[int]) -> None:
    """Refuse features of which a result describes none, before the other result is made of them.

    Raises:
        OutputError: they have none in common.
    """
    if not given.by_feature().keys() & set(features):
        raise OutputError(
            f"The {given.provenance.analysis} result describes {_listed(given.by_feature())}, and `features` asks for "
            f"{_listed(features)}: they have none in common. Give a result of these features, or leave `features` out."
        )


def _listed(features: Iterable[int]) -> str:
    numbers = sorted(features)
    if len(numbers) < 2:
        return f"feature {numbers[0]}" if numbers else "no features"
    return f"{len(numbers):,} features ({numbers[0]} to {numbers[-1]})"
