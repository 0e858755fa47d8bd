"""What does each part of the search add? The search without it, on the features of the comparison.

    python benchmarks/synthetic_ablations.py --results small.jsonl --features 24 --seeds 3 --budget 20000 \
        --model MODEL --sae SAE --corpus CORPUS [--no-text] [--write]

``--results`` is a file that benchmarks/synthetic.py has begun: its first line holds the features, their dataset maxima
and the real text to begin with. Every variant runs with equal token-evaluations; parts that save some are judged by
what is found with the same number. ``--no-text`` leaves real text out of every variant. Each budget, with and without
text, has its own table, which goes to docs/method.md with ``--write``.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from synthetic import subject
from synthetic_table import interval, put_between

from sae_analysis.synth_activations import Evaluator, Search, SearchSettings, Vocabulary
from sae_analysis.synth_activations.operators import OPERATORS
from sae_analysis.synth_activations.starts import SOURCES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "method.md"
FLUENT = 6.0
"""Nats per token up to which a sequence counts as fluent here."""

NO_TEXT = "real text to begin with"


def variants() -> dict[str, dict[str, Any]]:
    """Return what is changed about the settings to leave each part out."""
    never = 1 << 30
    found: dict[str, dict[str, Any]] = {
        "nothing": {},
        NO_TEXT: {},
        "the slope": {
            "operators": tuple(name for name in OPERATORS if "promising" not in name), "swept_share": 0.0,
        },
        "sweeps of the best": {"swept_share": 0.0},
        "beginnings run once": {"caching": False},
        "looking at what others try": {"harvest": False},
        "beginning anew": {"patience": never, "last_share": 0.0},
        "a last population of the best": {"last_share": 0.0},
        "the stage in embedding space": {"n_steps": 0},
        "fluent sequences": {"fluency": 0.0},
    }  # fmt: skip
    for name in OPERATORS:
        found[f"operator: {name}"] = {"operators": tuple(other for other in OPERATORS if other != name)}
    for name in SOURCES[1:]:
        found[f"source: {name}"] = {"sources": tuple(other for other in SOURCES if other != name)}
    return found


def main() -> None:
    """Run all variants and print the table."""
    options = _options()
    header = json.loads(options.results.open().readline())
    known = {one["feature"]: one for one in header["features"] if one["maximum"] > 0}
    features = tuple(known)[: options.features]
    site, _ = subject(options)
    vocabulary = Vocabulary(site.model.tokens, site.model.d_vocab)
    base = SearchSettings(budget=options.budget, seq_len=header["subject"]["seq_len"])
    text = {feature: known[feature]["real"] for feature in features}
    rows = []
    for name, changes in variants().items():
        if options.no_text and name == NO_TEXT:
            continue
        if options.only and name not in ("nothing", *options.only):
            continue
        best: list[list[float]] = []
        fluent: list[list[float]] = []
        begin = time.perf_counter()
        for seed in range(options.seeds):
            starts = None if options.no_text or name == NO_TEXT else text
            search = Search(Evaluator(site, features), vocabulary, replace(base, seed=seed, **changes), starts).run()
            best.append([search[f].found[0].value / known[f]["maximum"] for f in features])
            fluent.append([_fluent(search[f].found) / known[f]["maximum"] for f in features])
        seconds = (time.perf_counter() - begin) / (len(features) * options.seeds)
        rows.append((name, np.median(best, axis=0), np.median(fluent, axis=0), seconds))
        print(_line(rows[-1], rows[0]), flush=True)
    if options.write:
        said = (
            f"{header['words'].split('. ')[0]}; {len(features)} features that fire in the corpus, "
            f"{options.seeds} seeds, {options.budget:,} token-evaluations a feature"
            f"{', without real text to begin with' if options.no_text else ''}. Strongest sequence by the dataset "
            "maximum: median over features of the median over seeds, and the median change when a part is left out, "
            "with its 95 % bootstrap "
            f"interval over features; the same for sequences of at most {FLUENT:g} nats per token."
        )
        head = "| left out | best | change | fluent | change | s a feature |\n|---|---|---|---|---|---|"
        table = "\n".join([said, "", head, *(_line(row, rows[0]) for row in rows)])
        kind = f"synthetic ablations at {options.budget}{' without text' if options.no_text else ''}"
        PAGE.write_text(put_between(PAGE.read_text(), kind, table))


def _fluent(found: Sequence[Any]) -> float:
    values = [one.value for one in found if one.cross_entropy is not None and one.cross_entropy <= FLUENT]
    return max(values, default=0.0)


def _line(row: tuple[str, np.ndarray, np.ndarray, float], whole: tuple[str, np.ndarray, np.ndarray, float]) -> str:
    name, best, fluent, seconds = row
    cells = [name]
    for mine, its in ((best, whole[1]), (fluent, whole[2])):
        change = mine - its
        low, high = interval(change)
        told = "" if row is whole else f"{statistics.median(change):+.3f} ({low:+.3f} to {high:+.3f})"
        cells += [f"{np.median(mine):.3f}", told]
    return "| " + " | ".join([*cells, f"{seconds:.2f}"]) + " |"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--features", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=20_000)
    parser.add_argument("--no-text", action="store_true", help="no variant begins with real text")
    parser.add_argument("--only", nargs="*", help="these variants, by name")
    parser.add_argument("--write", action="store_true")
    for name in ("--model", "--sae", "--corpus", "--hook"):
        parser.add_argument(name)
    parser.add_argument("--bos", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
