"""How the cost of ``real`` grows with tokens, features, width and k, beside a model of it.

    python benchmarks/real_curves.py --results curves.jsonl [--rounds 3] [--write]

One of the four is varied at a time, on the shape of gelu-1l (benchmarks/real_subject.py); the rest stays at BASE. Every
measurement is a process of its own. The model has as few terms as say where the time goes; its coefficients are fitted
to all measurements by least squares on relative errors, none below zero. Finished measurements are kept in the results
file; ``--write`` puts the table into docs/benchmarks.md.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import real
import real_subject
from scipy.optimize import nnls
from synthetic_table import put_between

BASE = {"tokens": 65_024, "features": 128, "width": 16_384, "k": 32}
STEPS = {
    "tokens": (8_128, 16_256, 32_512),
    "features": (1, 16, 1024, 4096),
    "width": (4096, 65_536),
    "k": (8, 128),
}
TERMS = ("tokens", "tokens x width", "tokens x k", "tokens x features", "features", "features x width")
"""What seconds are made of: forward pass; encoder; what fires; what fires of those asked for; report; neighbours."""

READING = TERMS[:4]


def cases() -> list[dict[str, int]]:
    """Return what is measured: the base, and it with one of its numbers changed."""
    return [BASE, *(BASE | {name: value} for name, values in STEPS.items() for value in values)]


def measure(case: dict[str, int], options: argparse.Namespace) -> dict[str, Any]:
    """Measure a case in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps(case), "--subject", options.subject]
    environment = os.environ | {"HF_HOME": str(options.subject), "HF_HUB_OFFLINE": "1"}
    command += ["--threads", options.threads]
    printed = subprocess.check_output(list(map(str, command)), env=environment, stderr=subprocess.DEVNULL, text=True)
    return json.loads(printed.splitlines()[-1])


def child(case: dict[str, int], options: argparse.Namespace) -> None:
    """Measure a case here and print it."""
    from sae_analysis.machine import prepare

    prepare(options.threads)
    sae = real_subject.sae_folder(options.subject, "topk", case["width"], case["k"])
    found = real.ours(options.subject, sae, str(case["features"]), tokens=case["tokens"])
    found["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(found))


def terms(case: dict[str, int]) -> list[float]:
    """Return the terms of the model for a case."""
    return [float(np.prod([case[name] for name in term.split(" x ")])) for term in TERMS]


def fitted(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return the seconds that one unit of each term costs: of reading, and of the report."""
    found = np.zeros(len(TERMS))
    reading = np.array([terms(row)[: len(READING)] for row in rows])
    seconds = np.array([row["reading"] for row in rows])
    found[: len(READING)] = nnls(reading / seconds[:, None], np.ones(len(rows)))[0]
    report = np.array([[1.0, *terms(row)[len(READING) :]] for row in rows])
    seconds = np.array([row["seconds"] - row["reading"] for row in rows])
    found[len(READING) :] = nnls(report / seconds[:, None], np.ones(len(rows)))[0][1:]
    return found


def table(rows: Sequence[dict[str, Any]], threads: int) -> str:
    """Return measurements beside the model."""
    units = fitted(rows)
    base = dict(zip(TERMS, units * np.array(terms(BASE)), strict=True))
    said = [
        f"TopK on the shape of gelu-1l, {threads} threads; where nothing else is said {BASE['tokens']:,} tokens, "
        f"{BASE['features']} features of {BASE['width']:,}, k = {BASE['k']}. Medians of "
        f"{max(row['round'] for row in rows) + 1} rounds, in seconds; *model* is what the terms below come to.",
        "",
        "| | reading | model | report | peak MiB |",
        "|---|---|---|---|---|",
    ]
    for case in cases():
        of_case = [row for row in rows if all(row[name] == value for name, value in case.items())]
        if of_case:
            changed = [f"{value:,} {name}" for name, value in case.items() if value != BASE[name]]
            reading = statistics.median(row["reading"] for row in of_case)
            report = statistics.median(row["seconds"] - row["reading"] for row in of_case)
            modelled = float(units[: len(READING)] @ terms(case)[: len(READING)])
            peak = statistics.median(row["peak_mib"] for row in of_case)
            cells = [changed[0] if changed else "base", f"{reading:.2f}", f"{modelled:.2f}", f"{report:.2f}"]
            said.append("| " + " | ".join([*cells, f"{peak:,.0f}"]) + " |")
    said += ["", "| term of the model | per unit | at the base, s |", "|---|---|---|"]
    for term, unit in zip(TERMS, units, strict=True):
        said.append(f"| {term} | {unit:.2e} s | {base[term]:.2f} |")
    return "\n".join(said)


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
            if not any(all(row[name] == value for name, value in key.items()) for row in rows):
                rows.append(key | measure(case, options))
                with options.results.open("a") as lines:
                    lines.write(json.dumps(rows[-1]) + "\n")
    text = table(rows, options.threads)
    print(text)
    if options.write:
        real.PAGE.write_text(put_between(real.PAGE.read_text(), "curves", text))


if __name__ == "__main__":
    main()
