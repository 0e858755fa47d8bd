"""What a search says about a feature: the numbers that its pages share, and the answer in words."""

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

_ROUNDING = 1.0001
"""Activations this close are equal: batches of other sizes round otherwise."""

Points = list[tuple[float, float]]


def not_searched(found: Iterable[FeatureSearch]) -> str:
    """Return what a subtitle adds of the searches whose beginnings took the whole budget; nothing if there are none."""
    hasty = sum(not search.is_searched for search in found)
    return f"; for {count(hasty)} of them {NOT_SEARCHED}" if hasty else ""


def convergence(search: FeatureSearch) -> Points:
    """Return token-evaluations and the largest activation so far; nothing costs less than one."""
    return [(max(1.0, float(spent)), value) for spent, value in search.convergence]


def best_after(stats: FeatureStats, search: FeatureSearch) -> int | None:
    """Return the token-evaluations after which nothing stronger came; None where that was not recorded."""
    reached = abs(stats.largest_activation)
    return next((spent for spent, value in search.convergence if abs(value) * _ROUNDING >= reached), None)


def made_beside(stats: FeatureStats, search: FeatureSearch) -> str:
    """Return what the strongest example is if the search itself did not reach it, else nothing."""
    origin, after = _origin(stats), best_after(stats, search)
    if origin is None or after is None or origin.token_evaluations >= after:
        return ""
    if origin.provenance == "single token":
        return "a single token, tried beside the search"
    if origin.provenance == "real text" and not origin.token_evaluations:
        return "real text that it began with, as it was"
    if search.shortest and search.shortest.token_ids == stats.examples[0].token_ids:
        return f"what is left of one found after {count(origin.token_evaluations)}, without tokens that were in the way"
    return ""


def known_before(stats: FeatureStats, search: FeatureSearch) -> str:
    """Return after how much one as strong was known, if the strongest example itself came later, else nothing."""
    origin, after = _origin(stats), best_after(stats, search)
    return count(after) if origin and after is not None and origin.token_evaluations > after else ""


def _origin(stats: FeatureStats) -> Synthesis | None:
    """Return where the strongest example came from."""
    return stats.examples[0].synthesis if stats.examples else None


def frontier(stats: FeatureStats) -> Points:
    """Return cross-entropy and activation of the strongest example within each cross-entropy, both ascending.

    A strongest example that was shortened after the search is none of the search's frontier, but of this one.
    """
    known = [*stats.search.frontier] if stats.search else []
    steps: Points = []
    for surprise, value in sorted(fluency((*known, *stats.examples)), key=lambda point: (point[0], -point[1])):
        if not steps or value > steps[-1][1]:
            steps.append((surprise, value))
    return steps


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


def answer(stats: FeatureStats, search: FeatureSearch, *, without_bos: bool = False) -> list[Part]:
    """Return the subtitle: what it reaches, on what, at what effort, and what no search would give.

    ``without_bos`` says that single tokens were tried behind a common one.
    """
    caveat = "" if search.is_searched else f"; {NOT_SEARCHED}"
    if stats.is_dead:
        spent = shortened(search.token_evaluations, "token-evaluation")
        near = [example.synthesis.pre_activation for example in stats.examples if example.synthesis]
        closest = f", at best {number(max(near))} before the activation rule" if near else ""
        return [f"nothing fired it in {spent}{closest}{caveat}", *pushes(stats)]
    reached = f"reaches {number(stats.largest_activation)}"
    found = [reached, *_on_what(stats.examples[0])] if stats.examples else [reached]
    return [*found, _effort(stats, search) + caveat, *_alone(search, without_bos=without_bos), *pushes(stats)]


def _effort(stats: FeatureStats, search: FeatureSearch) -> str:
    spent = shortened(search.token_evaluations, "token-evaluation")
    after = best_after(stats, search)
    return f" in {spent}" if after is None else f", found after {count(after)} of {spent}"


def _alone(search: FeatureSearch, *, without_bos: bool) -> list[Part]:
    token, value = search.single_token
    if value == 0:
        return ["; no token alone fires it"]
    how = ", one token behind a common one, gives" if without_bos else " alone gives"
    return ["; ", Quoted((token,)), f"{how} {number(value)}"]


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
