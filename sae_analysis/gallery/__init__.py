"""A page to browse the pictures of a run by its numbers: one file beside them, that needs no server and no network."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from sae_analysis.files import write_whole
from sae_analysis.records import ActivationExample, AnalysisResult, Comparison, ComparisonResult, FeatureStats
from sae_analysis.wording import NOT_SEARCHED, POOR_FIT

_AROUND = 48
"""Characters of an example quoted on either side of its peak."""

_TOKENS = 10
"""Tokens of each list that a search for words looks into."""

_KINDS = ("comparison", "real", "synthetic")
"""Order of a feature's pages."""

_OVERVIEWS: Mapping[str, str] = {
    "real_vs_synthetic_comparison": "real beside synthetic",
    "summary_*_real": "summary, real",
    "summary_*_synthetic": "summary, synthetic",
    "statistics_real": "the dictionary",
    "statistics_synthetic": "the search",
}
"""Pictures of all features: pattern of their names, and what the button that shows them says."""

_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("feature", "feature", "text"),
    ("density", "fires on", "share"),
    ("real_max", "real max", "number"),
    ("synthetic_max", "synthetic max", "number"),
    ("realised", "realised", "share"),
    ("verdict", "verdict", "words"),
    ("search", "search", "words"),
    ("example", "strongest example", "example"),
)
"""Name, title and kind of each column; those that nothing is known for are left out."""


def write_gallery(folder: Path, results: Iterable[AnalysisResult | ComparisonResult]) -> Path:
    """Write ``index.html`` on the pictures that are in a folder, by all that the results say; return its path.

    Raises:
        OutputError: the file cannot be written; what was there before is untouched.
    """
    features: dict[int, dict[str, Any]] = {}
    described: dict[str, set[int]] = {}
    about, alarm = "", ""
    for result in sorted(results, key=_last_word):
        if isinstance(result, ComparisonResult):
            known = {one.feature_idx: _of_comparison(one) for one in result.features}
            kind, run = "comparison", result.real
        else:
            kind, run = result.provenance.analysis, result.provenance
            describe = _of_search if kind == "synthetic" else _on_text
            known = {stats.feature_idx: describe(stats) for stats in result.features}
            if result.fit and result.fit.is_poor:
                alarm = f"{POOR_FIT} · "
        for feature, said in known.items():
            features[feature] = _merged(features.get(feature, {}), said)
        described.setdefault(kind, set()).update(known)
        about = f"SAE {run.sae} · model {run.model} · {run.place}"
    rows = [
        _row(feature, known, [kind for kind in _KINDS if feature in described.get(kind, ())], folder)
        for feature, known in sorted(features.items())
    ]
    columns = [
        {"name": name, "title": title, "kind": kind}
        for name, title, kind in _COLUMNS
        if any(row.get(name) is not None for row in rows)
    ]
    overviews = list(_overviews(folder, described))
    content = {"about": alarm + about, "columns": columns, "features": rows, "overviews": overviews}
    page = files("sae_analysis.gallery").joinpath("page.html").read_text(encoding="utf-8")
    path = folder / "index.html"
    write_whole(path, page.replace("__DATA__", _embedded(content)).encode(errors="backslashreplace"))
    return path


def left_behind(kind: str, written: Iterable[Path], folder: Path) -> list[Path]:
    """Return the files of an earlier run in a folder that the result written there now does not describe.

    ``kind`` is that of the result: ``real``, ``synthetic`` or ``comparison``; ``written`` all files that belong to it.
    """
    ours = re.compile(rf"(feature_\d+_|summary_\d+_|statistics_|){kind}\.(png|svg|pdf|parquet)")
    new = {path.name for path in written}
    return sorted(path for path in folder.iterdir() if ours.fullmatch(path.name) and path.name not in new)


def _embedded(content: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    """Return JSON that ends no script early, whatever a token holds."""
    return json.dumps(content, allow_nan=False).replace("<", "\\u003c")


def _last_word(result: AnalysisResult | ComparisonResult) -> int:
    """Return a rank: of what several results say, the last one's holds."""
    if isinstance(result, ComparisonResult):
        return 2
    return 1 if result.provenance.analysis == "real" else 0


def _merged(before: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a feature, now that another result has been heard: it unsays nothing by silence."""
    known = {name: before.get(name) if value is None else value for name, value in said.items()}
    words = [one["words"] for one in (before, said) if "words" in one]
    return {**before, **known, "words": " ".join(words)}


def _of_comparison(one: Comparison) -> dict[str, Any]:
    return {
        "realised": one.realised,
        "verdict": one.verdict_in_words,
        "real_max": one.real_max,
        "synthetic_max": one.synthetic_max,
    }


def _on_text(stats: FeatureStats) -> dict[str, Any]:
    tokens = [item.token for item in stats.top_tokens[:_TOKENS]]
    return {
        "density": stats.density,
        "real_max": stats.max_activation,
        "example": _quoted(stats.examples),
        "words": _words(stats, tokens),
    }


def _of_search(stats: FeatureStats) -> dict[str, Any]:
    return {
        "synthetic_max": stats.max_activation,
        "search": NOT_SEARCHED if stats.search and not stats.search.is_searched else None,
        "example": _quoted(stats.examples),
        "words": _words(stats, []),
    }


def _words(stats: FeatureStats, tokens: Iterable[str]) -> str:
    pushed = [token for token, _ in stats.top_boosted_tokens[:_TOKENS]]
    return " ".join([*tokens, *pushed, *(example.text for example in stats.examples)])


def _quoted(examples: tuple[ActivationExample, ...]) -> tuple[str, str, str] | None:
    """Return the strongest example's peak with what stands around it, and ``…`` where there is more."""
    if not examples:
        return None
    tokens, peak = examples[0].tokens, examples[0].peak_position
    before, after = "".join(tokens[:peak]), "".join(tokens[peak + 1 :])
    begins_later = len(before) > _AROUND or examples[0].source_position > 0
    front = ("…" if begins_later else "") + before[-_AROUND:]
    return front, tokens[peak], after[:_AROUND] + ("…" if len(after) > _AROUND else "")


def _row(feature: int, known: Mapping[str, Any], kinds: Iterable[str], folder: Path) -> dict[str, Any]:
    pictures = [f"feature_{feature}_{kind}.png" for kind in kinds]
    words = " ".join([known.get("verdict") or "", known.get("search") or "", known["words"]])
    there = [name for name in pictures if (folder / name).exists()]
    return {"feature": feature, **known, "words": words, "pictures": there}


def _overviews(folder: Path, kinds: Iterable[str]) -> Iterator[dict[str, Any]]:
    for pattern, title in _OVERVIEWS.items():
        if not pattern.endswith(tuple(kinds)):
            continue
        found = sorted(folder.glob(f"{pattern}.png"), key=lambda path: (len(path.name), path.name))
        if found:
            yield {"title": title, "pictures": [path.name for path in found]}
