"""How the cost of ``real`` grows with tokens, features, width and k, beside a model of it.

    python benchmarks/real_curves.py --results curves.jsonl [--rounds 3] [--write]

One of the four is varied at a time, on the shape of gelu-1l (benchmarks/real_subject.py); the rest stays at BASE. Every
measurement is a process of its own. The model has as few terms as say where the time goes; what each costs is fitted to
all cases by least squares on relative errors, none below zero. Finished measurements are kept in the results
file; ``--write`` puts the table into docs/benchmarks.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import real
import real_subject
from peak import peak_mib
from scipy.optimize import nnls
from synthetic_table import put_between

BASE = {"tokens": 65_024, "features": 128, "width": 16_384, "k": 32}
STEPS = {
    "tokens": (8_128, 16_256, 32_512),
    "features": (1, 16, 1024, 4096),
    "width": (4096, 65_536),
    "k": (8, 128),
}
Case = dict[str, int]
Terms = dict[str, Callable[[Case, float], float]]


def looked_at_closer(case: Case, loose: float) -> float:
    """Return the tokens on which one of the features asked for may be among the k largest.

    A feature is, on k of the dictionary's width; that it may be is ``loose`` times as frequent.
    """
    return case["tokens"] * (1 - (1 - case["k"] / case["width"]) ** (loose * case["features"]))


READING: Terms = {
    "once": lambda _case, _loose: 1.0,
    "token (text, forward pass)": lambda case, _loose: case["tokens"],
    "token and feature that fires": lambda case, _loose: case["tokens"] * case["k"],
    "token looked at closer and feature of the dictionary (product)": lambda case, loose: (
        looked_at_closer(case, loose) * case["width"]
    ),
}
"""What the seconds of reading are made of, per what."""

REPORT: Terms = {
    "once, report": lambda _case, _loose: 1.0,
    "feature asked for (effects on the logits, examples as text)": lambda case, _loose: case["features"],
    "feature asked for and feature of the dictionary (nearest)": lambda case, _loose: case["features"] * case["width"],
}

LOOSE = np.geomspace(1, 64, 25)
"""Values tried for how much more often a feature may be among the largest than it is."""


def cases() -> list[Case]:
    """Return what is measured: the base, and it with one of its numbers changed."""
    return [BASE, *(BASE | {name: value} for name, values in STEPS.items() for value in values)]


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Measure a case in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps(case), "--subject", options.subject]
    environment = os.environ | {"HF_HOME": str(options.subject), "HF_HUB_OFFLINE": "1"}
    command += ["--threads", options.threads]
    printed = subprocess.check_output(list(map(str, command)), env=environment, stderr=subprocess.DEVNULL, text=True)
    return json.loads(printed.splitlines()[-1])


def child(case: Case, options: argparse.Namespace) -> None:
    """Measure a case here and print it."""
    from sae_analysis.machine import prepare

    prepare(options.threads)
    sae = real_subject.sae_folder(options.subject, "topk", case["width"], case["k"])
    found = real.ours(real.built(options.subject, sae), str(case["features"]), tokens=case["tokens"])
    found["peak_mib"] = round(peak_mib())
    print(json.dumps(found))


def fitted(cases: Sequence[Case], seconds: Sequence[float], terms: Terms, loose: float) -> tuple[np.ndarray, float]:
    """Return the seconds that one unit of each term costs, and the root of the mean squared relative error."""
    measured = np.array(seconds)
    matrix = np.array([[term(case, loose) for term in terms.values()] for case in cases])
    units, error = nnls(matrix / measured[:, None], np.ones(len(measured)))
    return units, float(error) / len(measured) ** 0.5


def table(rows: Sequence[dict[str, Any]], threads: int) -> str:
    """Return measurements beside the model."""
    measured = [case for case in cases() if any(_is_of(row, case) for row in rows)]
    of_case = [[row for row in rows if _is_of(row, case)] for case in measured]
    reading = [statistics.median(row["reading"] for row in found) for found in of_case]
    report = [statistics.median(row["seconds"] - row["reading"] for row in found) for found in of_case]
    loose = min(LOOSE, key=lambda value: fitted(measured, reading, READING, value)[1])
    reading_units, reading_error = fitted(measured, reading, READING, loose)
    report_units, report_error = fitted(measured, report, REPORT, loose)
    said = [
        f"TopK on the shape of gelu-1l, {threads} threads; where nothing else is said {BASE['tokens']:,} tokens, "
        f"{BASE['features']} features of {BASE['width']:,}, k = {BASE['k']}. Medians of "
        f"{max(row['round'] for row in rows) + 1} rounds, in seconds; *model* is what the terms below come to "
        f"(typical error {reading_error:.0%} of reading, {report_error:.0%} of the report).",
        "",
        "| | reading | model | report | model | peak MiB |",
        "|---|---|---|---|---|---|",
    ]
    for case, found, read, reported in zip(measured, of_case, reading, report, strict=True):
        changed = [f"{name} {value:,}" for name, value in case.items() if value != BASE[name]]
        models = [
            sum(unit * term(case, loose) for unit, term in zip(units, terms.values(), strict=True))
            for units, terms in ((reading_units, READING), (report_units, REPORT))
        ]
        peak = statistics.median(row["peak_mib"] for row in found)
        cells = [*changed, *([] if changed else ["as said"]), f"{read:.2f}", f"{models[0]:.2f}", f"{reported:.2f}"]
        said.append("| " + " | ".join([*cells, f"{models[1]:.2f}", f"{peak:,.0f}"]) + " |")
    said += ["", "| per | costs | where nothing else is said, s |", "|---|---|---|"]
    for terms, units in ((READING, reading_units), (REPORT, report_units)):
        for (name, term), unit in zip(terms.items(), units, strict=True):
            said.append(f"| {name} | {_in_words(unit)} | {unit * term(BASE, loose):.2f} |")
    said += [
        "",
        f"That a feature *may* be among the k largest is taken to be {loose:.1f} times as frequent as that it is.",
    ]
    return "\n".join(said)


def _in_words(seconds: float) -> str:
    scale, unit = next(((1 / scale, unit) for scale, unit in _UNITS if seconds >= scale), (1e9, "ns"))
    return f"{seconds * scale:.3g} {unit}"


_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def _is_of(row: dict[str, Any], case: Case) -> bool:
    return all(row[name] == value for name, value in case.items())


def main() -> None:
    """Measure what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("curves.jsonl"), help="measurements, made or gone on with")
    parser.add_argument("--subject", type=Path, default=real.SUBJECT)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks.md")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.subject = options.subject.resolve()
    if options.child:
        child(options.child, options)
        return
    real.prepare_subject(options.subject, (("topk", case["width"], case["k"]) for case in cases()))
    rows = [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    for turn in range(options.rounds):
        for case in cases():
            key = case | {"round": turn}
            if not any(_is_of(row, key) for row in rows):
                rows.append(key | measure(case, options))
                with options.results.open("a") as lines:
                    lines.write(json.dumps(rows[-1]) + "\n")
    text = table(rows, options.threads)
    print(text)
    if options.write:
        real.PAGE.write_text(put_between(real.PAGE.read_text(), "curves", text))


if __name__ == "__main__":
    main()
