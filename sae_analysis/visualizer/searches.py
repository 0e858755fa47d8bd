"""What a search says about a feature: the numbers that its pages share, and the answer in words."""

import math
from collections.abc import Iterable, Iterator

from sae_analysis.records import ActivationExample, FeatureSearch, FeatureStats, Synthesis
from sae_analysis.visualizer.digits import count, number, shortened
from sae_analysis.visualizer.wording import Part, Quoted, pushes
from sae_analysis.wording import NOT_SEARCHED

_BEFORE, _AFTER = 24, 12
"""Characters of its text quoted on either side of a peak."""

_LONGEST_QUOTED = 18

SINK, NOT_TEXT = "sink", "not text"
"""Marks of an example whose firing says little, and of one whose text is read as other tokens."""

Points = list[tuple[float, float]]


def largest(stats: FeatureStats) -> float:
    """Return the largest activation in magnitude, with its sign."""
    return max(stats.max_activation, stats.min_activation, key=abs)


def not_searched(found: Iterable[FeatureSearch]) -> str:
    """Return what a subtitle adds of the searches whose beginnings took the whole budget; nothing if there are none."""
    hasty = sum(not search.is_searched for search in found)
    return f"; for {count(hasty)} of them {NOT_SEARCHED}" if hasty else ""


def gain(stats: FeatureStats) -> float | None:
    """Return how many times the best single token's activation was reached; None if nothing or no token fires it."""
    alone = stats.search.single_token[1] if stats.search else 0.0
    times = abs(largest(stats)) / abs(alone) if alone else 0.0
    return times if times and math.isfinite(times) else None


def convergence(search: FeatureSearch) -> Points:
    """Return token-evaluations and the largest activation so far; nothing costs less than one."""
    return [(max(1.0, float(spent)), value) for spent, value in search.convergence]


def frontier(search: FeatureSearch) -> Points:
    """Return cross-entropy and activation of the strongest example at each level of fluency."""
    return [*fluency(search.frontier)]


def fluency(examples: tuple[ActivationExample, ...]) -> Iterator[tuple[float, float]]:
    """Yield cross-entropy and activation of the examples that have one."""
    for example in examples:
        if example.synthesis and example.synthesis.cross_entropy is not None:
            yield example.synthesis.cross_entropy, example.max_activation


def provenance(origin: Synthesis) -> str:
    """Return the provenance of an example on one line."""
    return " ".join(origin.provenance.split()) or "not recorded"


def start(origin: Synthesis) -> str:
    """Return the provenance as what an example was at the start; of text that was read as it is, the provenance."""
    return f"start: {provenance(origin)}" if origin.token_evaluations else provenance(origin)


def marks(example: ActivationExample) -> list[str]:
    """Return what speaks against taking an example at its word."""
    if example.synthesis is None:
        return []
    return [SINK] * example.synthesis.is_sink + [NOT_TEXT] * (not example.synthesis.is_text)


def answer(stats: FeatureStats, search: FeatureSearch) -> list[Part]:
    """Return the subtitle: what it reaches, on what, at what effort, and what no search would give."""
    caveat = "" if search.is_searched else f"; {NOT_SEARCHED}"
    if stats.is_dead:
        spent = shortened(search.token_evaluations, "token-evaluation")
        near = [example.synthesis.pre_activation for example in stats.examples if example.synthesis]
        closest = f", at best {number(max(near))} before the activation rule" if near else ""
        return [f"nothing fired it in {spent}{closest}{caveat}", *pushes(stats)]
    reached = f"reaches {number(largest(stats))}"
    found = [reached, *_on_what(stats.examples[0])] if stats.examples else [reached]
    return [*found, _effort(stats, search) + caveat, *_alone(search), *pushes(stats)]


def _effort(stats: FeatureStats, search: FeatureSearch) -> str:
    spent = shortened(search.token_evaluations, "token-evaluation")
    origin = stats.examples[0].synthesis if stats.examples else None
    return f", found after {count(origin.token_evaluations)} of {spent}" if origin else f" in {spent}"


def _alone(search: FeatureSearch) -> list[Part]:
    token, value = search.single_token
    if value == 0:
        return ["; no token alone fires it"]
    return ["; ", Quoted((token,)), f" alone gives {number(value)}"]


def _on_what(example: ActivationExample) -> list[Part]:
    text = _excerpt(example)
    peak = Quoted((example.tokens[example.peak_position],))
    return [" on ", peak, *([" in ", text] if len(text.tokens) > 1 else [])]


def _excerpt(example: ActivationExample) -> Quoted:
    """Return the tokens around the peak that a sentence has room for, an ellipsis at each end that was cut."""
    tokens, first = example.tokens, example.peak_position
    last = first
    if len(tokens[first]) > _LONGEST_QUOTED:
        return Quoted((tokens[first],))
    while first > 0 and sum(map(len, tokens[first - 1 : example.peak_position])) <= _BEFORE:
        first -= 1
    while last + 1 < len(tokens) and sum(map(len, tokens[example.peak_position + 1 : last + 2])) <= _AFTER:
        last += 1
    begin = tokens[first].lstrip(" ") or tokens[first]
    rest = tokens[first + 1 : last + 1]
    return Quoted((*(["…"] if first else []), begin, *rest, *(["…"] if last + 1 < len(tokens) else [])))
