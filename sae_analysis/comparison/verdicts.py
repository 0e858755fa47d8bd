"""What the numbers of a comparison mean, in a word and its reasons."""

from sae_analysis.records import FeatureStats, Likeness

SUPERSTIMULUS = 0.75
"""Realised fraction below which the search's text is more than the feature ever meets."""

NARROW = 0.25
"""Share of its activation below which a trigger does not work elsewhere."""

ALIKE = 0.6
"""Likeness, as a share of that among real examples, from which two firings mean the same."""

SAME_TOKEN = 0.5
"""Share of the strongest sequences that fire on a token of the feature's own, from which it is the same trigger."""


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
        return "superstimulus", (f"real text reaches {100 * realised:.0f} % of it", *reasons)
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
    shares = {
        "residual vectors": (likeness.residual, likeness.residual_among_real),
        "features active beside it": (likeness.coactive, likeness.coactive_among_real),
        "tokens it raises": (likeness.raised, likeness.raised_among_real),
    }
    known = {what: _share(*pair) for what, pair in shares.items()}
    ratios = {what: share for what, share in known.items() if share is not None}
    reasons = [f"{what}: {100 * share:.0f} % as alike as among real examples" for what, share in ratios.items()]
    if likeness.same_token is not None:
        reasons.insert(0, f"{100 * likeness.same_token:.0f} % of its strongest sequences fire on a token of its own")
    mean = sum(ratios.values()) / len(ratios) if ratios else 0.0
    return _is_same_token(likeness) or mean >= ALIKE, tuple(reasons)


def _is_same_token(likeness: Likeness) -> bool:
    return likeness.same_token is not None and likeness.same_token >= SAME_TOKEN


def _share(value: float | None, among_real: float | None) -> float | None:
    if value is None or among_real is None or among_real <= 0:
        return None
    return max(0.0, value / among_real)
