"""What the numbers of a comparison mean, in a word and its reasons."""

import statistics
from dataclasses import dataclass, replace

from sae_analysis.comparison.tails import Interval
from sae_analysis.records import FeatureStats, Likeness
from sae_analysis.wording import NOT_SEARCHED, percent, three_digits

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


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and what it rests on: the decisive reason first, then what leaves it unsettled.

    ``is_settled`` says whether nine of ten other texts as long would give the same, and the search was one: it had
    budget for a step, and did not fall short of the text. None where that is not known.
    """

    verdict: str
    reasons: tuple[str, ...]
    is_settled: bool | None = True


def judge(
    real: FeatureStats,
    synthetic: FeatureStats,
    *,
    likeness: Likeness,
    realised: float | None,
    elsewhere: Interval | None,
    behind_text: float | None,
) -> Judgement:
    """Return what the numbers of a comparison mean.

    ``realised`` is the real maximum as a share of the synthetic one, ``elsewhere`` what other texts as long would
    realise, ``behind_text`` the share of its activation that the shortest sequence keeps behind other text.
    """
    found = _plain(real, synthetic) or _compared(likeness, realised, elsewhere, behind_text)
    if synthetic.search is None or synthetic.search.is_searched:
        return found
    return replace(found, reasons=_doubted(found.reasons, NOT_SEARCHED), is_settled=False)


def _compared(
    likeness: Likeness, realised: float | None, elsewhere: Interval | None, behind_text: float | None
) -> Judgement:
    """Return the verdict on a feature that both text and search fired."""
    own_token, (share, shares) = _own_token(likeness), _alike(likeness)
    if behind_text is not None and behind_text < NARROW:
        return Judgement("artefact", (f"behind other text {percent(behind_text)} is left", *own_token, *shares))
    is_same = _is_same_token(likeness) if share is None else share >= ALIKE  # no firing was looked at: tokens decide
    if not is_same:
        return Judgement("second sense", (*shares, *own_token))
    is_settled, doubt = _settled(realised, elsewhere)
    if realised is not None and realised < SUPERSTIMULUS:
        reached = f"real text reaches {percent(realised)} of it"
        reasons = _doubted((reached, *_length(likeness), *shares, *own_token), *doubt)
        return Judgement("superstimulus", reasons, is_settled)
    verdict = "same trigger" if _is_same_token(likeness) else "same meaning in new words"
    return Judgement(verdict, _doubted((*own_token, *shares), *doubt), is_settled)


def _doubted(reasons: tuple[str, ...], *doubts: str) -> tuple[str, ...]:
    """Return reasons with what speaks against the verdict behind the one that decides."""
    return (*reasons[:1], *doubts, *reasons[1:])


def _settled(realised: float | None, elsewhere: Interval | None) -> tuple[bool | None, tuple[str, ...]]:
    """Return whether more text or a longer search would leave the verdict as it is, and what speaks against it."""
    if realised is not None and realised > 1:
        return False, ("the search fell short of the text, and a longer one may not",)
    if elsewhere is None:
        return None, ()
    if (elsewhere.low < SUPERSTIMULUS) == (elsewhere.high < SUPERSTIMULUS):
        return True, ()
    return False, (f"other texts as long would reach {percent(elsewhere.low)} to {percent(elsewhere.high)}",)


def _plain(real: FeatureStats, synthetic: FeatureStats) -> Judgement | None:
    """Return the verdict where the examples need not be compared."""
    if synthetic.is_dead and real.is_dead:
        return Judgement("dead", ("it fired neither on the text nor on anything that the search tried",), None)
    if synthetic.is_dead:
        return Judgement("search failed", ("it fires on the text, and the search found nothing that fires it",))
    best = synthetic.examples[0].synthesis
    if best and best.is_sink:
        return Judgement("artefact", ("its strongest sequence fires on an attention sink",))
    if real.is_dead:
        return Judgement("never fires in text but can", (f"it never fired on {real.token_count:,} tokens",), None)
    return None


def _alike(likeness: Likeness) -> tuple[float | None, tuple[str, ...]]:
    """Return how alike both firings are, as a share of what could be expected, and what says so; None if nothing."""
    known = {
        "residual vectors": (likeness.residual, likeness.residual_among_real),
        "features active beside it": (likeness.coactive, likeness.coactive_among_real),
    }
    shares, said = [], []
    for what, (value, among_real) in known.items():
        if value is not None:
            least = _LEAST_EXPECTED[what]
            expected = max(among_real or 0.0, least)
            shares.append(min(1.0, max(0.0, value) / expected))
            among = "" if among_real is None else f", among real examples {three_digits(among_real)}"
            floor = f"; {three_digits(least)} is the least expected" if expected == least else ""
            said.append(f"{what}: {three_digits(value)}{among}{floor}")
    if not shares:
        return None, ()
    share = statistics.fmean(shares)
    return share, (
        f"{percent(share)} as alike as could be expected (it takes {percent(ALIKE)} to be the same thing)",
        *said,
    )


def _own_token(likeness: Likeness) -> tuple[str, ...]:
    if likeness.same_token is None:
        return ()
    return (f"{percent(likeness.same_token)} of its strong sequences fire on a token of its own",)


def _length(likeness: Likeness) -> tuple[str, ...]:
    """Return how much of a superstimulus is the size of the residual vector, not its direction."""
    if not likeness.length_real or likeness.length_synthetic is None:
        return ()
    times = three_digits(likeness.length_synthetic / likeness.length_real)
    return (f"residual vectors are {times} times as long there",)


def _is_same_token(likeness: Likeness) -> bool:
    return likeness.same_token is not None and likeness.same_token >= SAME_TOKEN
