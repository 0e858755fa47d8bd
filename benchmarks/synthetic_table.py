"""What the rows of the comparison say, as a table. Reads no model: rows in, Markdown out."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]
"""What one method came to on one feature, with one seed and one budget."""

Measure = Callable[[Row], float]
"""One number of a row, in units of the dataset maximum."""

OURS, BEGUN = "ours", ", begun with real text"
RESAMPLES = 10_000
_ENOUGH_SHARE = 0.1
"""Of the median maximum of the features that fire: what a feature that never fired must reach to count as made to."""


# --- numbers -------------------------------------------------------------------------------------------------------


def ratio(maxima: Mapping[int, float], *, limit: str | None = None, kind: str = "best") -> Measure:
    """Return the measure of what was found by the dataset maximum; nothing found, or nothing that fires, counts 0."""

    def measure(row: Row) -> float:
        found = row[kind] if limit is None else row["fluent"].get(limit)
        return max(found["value"], 0.0) / maxima[row["feature"]] if found else 0.0

    return measure


def seed_to_seed(rows: Sequence[Row], measure: Measure) -> tuple[float, float] | None:
    """Return by how much a feature's values deviate from seed to seed, as a share of their mean.

    Standard deviations: the median over features, and that of the most fickle tenth. None with a single seed.
    """
    found: dict[int, list[float]] = {}
    for row in rows:
        found.setdefault(row["feature"], []).append(measure(row))
    spread = [statistics.stdev(values) / statistics.mean(values) for values in found.values() if len(values) > 1]
    return (statistics.median(spread), float(np.quantile(spread, 0.9))) if spread else None


def by_feature(rows: Sequence[Row], measure: Measure) -> dict[int, float]:
    """Return each feature's median over seeds."""
    found: dict[int, list[float]] = {}
    for row in rows:
        found.setdefault(row["feature"], []).append(measure(row))
    return {feature: statistics.median(values) for feature, values in found.items()}


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> np.ndarray:
    """Return ours less theirs for the features that both have."""
    return np.array([ours[feature] - theirs[feature] for feature in sorted(ours.keys() & theirs.keys())])


def interval(differences: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median: features are drawn anew, with replacement."""
    drawn = np.random.default_rng(seed).integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.quantile(np.median(differences[drawn], axis=1), (0.025, 0.975))
    return float(low), float(high)


def win_rate(differences: np.ndarray) -> float:
    """Return the share of features on which ours is ahead; a tie counts half."""
    return float(((differences > 0) + 0.5 * (differences == 0)).mean())


def seconds_to(row: Row, value: float) -> float:
    """Return after how long a run had a valid sequence of at least that value; infinity if never."""
    return next((seconds for _, seconds, best in row["curve"] if best >= value), float("inf"))


def speed(ours: Sequence[Row], theirs: Sequence[Row]) -> tuple[float, float] | None:
    """Return how long we take to where each of their runs ended, by the time that it took itself to get there.

    The first number is the median over runs, the second the share of runs whose value we reach at all.
    """
    mine = {(row["feature"], row["seed"]): row for row in ours}
    shares = []
    for row in theirs:
        own = mine.get((row["feature"], row["seed"]))
        if own is not None and row["curve"]:
            _, seconds, value = row["curve"][-1]
            shares.append(seconds_to(own, value) / seconds)
    if not shares:
        return None
    return statistics.median(shares), sum(np.isfinite(shares)) / len(shares)


# --- tables --------------------------------------------------------------------------------------------------------


def report(header: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return all tables, with what they were measured on."""
    maxima = {item["feature"]: item["maximum"] for item in header["features"]}
    fired = {feature: value for feature, value in maxima.items() if value > 0}
    parts = [header["words"]]
    for budget in sorted({row["budget"] for row in rows if row["budget"]}):
        cell = [row for row in rows if row["budget"] in (budget, 0)]
        at_budget = {row["feature"] for row in cell if row["budget"]}
        methods = [method for method in header["methods"] if any(row["method"] == method for row in cell)]
        usual = [row for row in cell if row["feature"] in at_budget & fired.keys()]
        groups = {method: group for method in methods if (group := [row for row in usual if row["method"] == method])}
        seeds = len({row["seed"] for group in groups.values() for row in group})
        parts.append(
            f"### {budget:,} token-evaluations a feature: {len(at_budget & fired.keys())} features, {seeds} seed"
            + "s" * (seeds > 1)
        )
        parts.append(_strength(groups, maxima))
        if spread := seed_to_seed(groups.get(OURS, ()), ratio(maxima)):
            middle, most = (f"{100 * part:.1f} %" for part in spread)
            parts.append(f"Ours from seed to seed: {middle} (median over features), {most} for the most fickle tenth.")
        parts.append(_fluency(groups, maxima))
        never = [row for row in cell if row["feature"] not in fired]
        if never:
            parts.append(_never_active(never, methods, statistics.median(fired.values())))
    return "\n\n".join(parts)


def _strength(groups: Mapping[str, Sequence[Row]], maxima: Mapping[int, float]) -> str:
    best, raw = ratio(maxima), ratio(maxima, kind="raw")
    lines = []
    for method, rows in groups.items():
        values = list(by_feature(rows, best).values())
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        quick = speed(_ours(groups, method), rows)
        lines.append(
            [
                method,
                f"{middle:.3f}",
                f"{low:.2f} to {high:.2f}",
                _percent(np.mean(np.array(values) > 1)),
                *_against(_ours(groups, method), rows, best),
                f"{np.median(list(by_feature(rows, raw).values())):.3f}",
                _percent(np.mean([row["raw"]["valid"] for row in rows])),
                f"{statistics.median(row['seconds'] for row in rows):.2f}",
                f"{statistics.median(row['flops'] for row in rows) / 1e9:.1f}",
                "" if quick is None else f"{quick[0]:.2f} ({_percent(quick[1])})",
            ]
        )
    head = (
        "method | best text / dataset maximum | quartiles | above 1 | ours minus it [95 %] | ours wins | "
        "any tokens | of these text | seconds | GFLOP | our time to its value (reached)"
    )
    return _table(head, lines)


def _fluency(groups: Mapping[str, Sequence[Row]], maxima: Mapping[int, float]) -> str:
    lines = []
    for method, rows in groups.items():
        measures = {limit: ratio(maxima, limit=limit) for limit in ("4", "6", "9")}
        medians = [np.median(list(by_feature(rows, measure).values())) for measure in measures.values()]
        against = _against(_ours(groups, method), rows, measures["6"])
        lines.append([method, *(f"{median:.3f}" for median in medians), *against])
    head = "method | at most 4 nats per token | at most 6 | at most 9 | at most 6: ours minus it [95 %] | ours wins"
    return _table(head, lines)


def _never_active(rows: Sequence[Row], methods: Sequence[str], typical: float) -> str:
    lines = []
    for method in methods:
        mine = [row for row in rows if row["method"] == method]
        if mine:
            values = by_feature(mine, lambda row: row["best"]["value"] if row["best"] else 0.0)
            fires = np.array(list(values.values()))
            enough = _percent(np.mean(fires >= _ENOUGH_SHARE * typical))
            lines.append([method, str(len(fires)), _percent(np.mean(fires > 0)), enough])
    return _table("method | features never active in the corpus | made to fire | to a tenth of a usual maximum", lines)


def _ours(groups: Mapping[str, Sequence[Row]], method: str) -> Sequence[Row]:
    """Return the rows of ours that a method is compared with: those that began with the same."""
    partner = OURS + BEGUN if method.endswith(BEGUN) and method != OURS + BEGUN else OURS
    return [] if method == OURS else groups.get(partner, [])


def _against(ours: Sequence[Row], theirs: Sequence[Row], measure: Measure) -> tuple[str, str]:
    """Return by how much ours is ahead, seeds paired too, and on what share of features."""
    seeds = {row["seed"] for row in theirs if row["budget"]}
    same = [row for row in ours if row["seed"] in seeds or not seeds]
    differences = paired(by_feature(same, measure), by_feature(theirs, measure))
    if not len(differences):
        return "", ""
    low, high = interval(differences)
    return f"{np.median(differences):+.3f} [{low:+.3f}, {high:+.3f}]", _percent(win_rate(differences))


def _percent(share: float | np.floating) -> str:
    return f"{100 * share:.0f} %"


def _table(head: str, lines: Sequence[Sequence[str]]) -> str:
    columns = head.split(" | ")
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def put_between(text: str, name: str, section: str) -> str:
    """Return a page with a section in its place between its markers, or at the end."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    marked = f"{begin}\n\n{section.strip()}\n\n{end}"
    if begin in text and end in text:
        before, _, rest = text.partition(begin)
        return before + marked + rest.partition(end)[2]
    return f"{text.rstrip()}\n\n{marked}\n".lstrip()
