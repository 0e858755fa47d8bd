"""What the numbers of a comparison mean, in a word and its reasons."""

from sae_analysis.records import FeatureStats, Likeness

SUPERSTIMULUS = 0.75
"""Realised fraction below which the search's text is more than the feature ever meets."""

NARROW = 0.25
"""Share of its activation below which a trigger does not work elsewhere."""

ALIKE = 0.45
"""Likeness from which two firings mean the same: the mean, over residual vectors and co-active features, of what they
have in common as a share of what real examples have. Other features of the same SAE stay below 0.35 in 99 of 100
pairs, and a feature's own examples, real and synthetic, above 0.48 in all that were tried (docs/comparison.md)."""

_LEAST_EXPECTED = {"residual vectors": 0.5, "features active beside it": 0.15}
"""What likeness is a share of at the least: where real examples have next to nothing in common, that is no measure."""

SAME_TOKEN = 0.5
"""Share of the strong sequences that fire on a token of the feature's own, from which it is the same trigger."""


def judge(
    real: FeatureStats,
    synthetic: FeatureStats,
    *,
    likeness: Likeness,
    realised: float | None,
    behind_text: float | None,
) -> tuple[str, tuple[str, ...]]:
    """Return the verdict and its reasons, the decisive one first."""
    if found := _plain(real, synthetic):
        return found
    is_alike, reasons = _alike(likeness)
    if behind_text is not None and behind_text < NARROW:
        return "artefact", (f"behind other text {100 * behind_text:.0f} % of its activation is left", *reasons)
    if not is_alike:
        return "second sense", reasons
    if realised is not None and realised < SUPERSTIMULUS:
        return "superstimulus", (f"real text reaches {100 * realised:.0f} % of it", *_length(likeness), *reasons)
    return "same trigger" if _is_same_token(likeness) else "same meaning in new words", reasons


def _plain(real: FeatureStats, synthetic: FeatureStats) -> tuple[str, tuple[str, ...]] | None:
    """Return the verdict where the examples need not be compared."""
    if synthetic.is_dead and real.is_dead:
        return "dead", ("it fired neither on the text nor on anything that the search tried",)
    if synthetic.is_dead:
        return "search failed", ("it fires on the text, and the search found nothing that fires it",)
    best = synthetic.examples[0].synthesis
    if best and best.is_sink:
        return "artefact", ("its strongest sequence fires on an attention sink",)
    if real.is_dead:
        return "never fires in text but can", (f"it never fired on {real.token_count:,} tokens",)
    return None


def _alike(likeness: Likeness) -> tuple[bool, tuple[str, ...]]:
    """Return whether both firings mean the same, and what says so."""
    known = {
        "residual vectors": (likeness.residual, likeness.residual_among_real),
        "features active beside it": (likeness.coactive, likeness.coactive_among_real),
    }
    shares = {what: _share(what, *pair) for what, pair in known.items() if pair[0] is not None}
    reasons = [f"{what}: {100 * share:.0f} % as alike as could be expected" for what, share in shares.items()]
    if likeness.same_token is not None:
        reasons.insert(0, f"{100 * likeness.same_token:.0f} % of its strong sequences fire on a token of its own")
    if not shares:  # nothing was measured where it fires
        return _is_same_token(likeness), tuple(reasons)
    return sum(shares.values()) / len(shares) >= ALIKE, tuple(reasons)


def _length(likeness: Likeness) -> tuple[str, ...]:
    """Return how much of a superstimulus is the size of the residual vector, not its direction."""
    if not likeness.length_real or likeness.length_synthetic is None:
        return ()
    return (f"residual vectors are {likeness.length_synthetic / likeness.length_real:.2f} times as long there",)


def _is_same_token(likeness: Likeness) -> bool:
    return likeness.same_token is not None and likeness.same_token >= SAME_TOKEN


def _share(what: str, value: float | None, among_real: float | None) -> float:
    return min(1.0, max(0.0, value or 0.0) / max(among_real or 0.0, _LEAST_EXPECTED[what]))
