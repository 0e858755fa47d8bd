"""Do the verdicts of a comparison say what a reader says who looks at the examples?

    python main.py compare --model MODEL --sae SAE --corpus CORPUS --seed 11 --output small --features …
    python main.py compare --seed 11 --output demo --features …
    python main.py compare --seed 5 --max-tokens 6000 --output short --features …
    python benchmarks/verdicts.py small demo short [--write]

``--commands`` prints these with the features of ``verdict_labels.jsonl``: a label for each, and why, given on reading
the strongest examples of both kinds with their activations, no other number and no verdict. The small set is on the
stories model and SAE, the demo's on its own; the short one is the demo's on 6,000 tokens.

As a control the synthetic examples of each set are exchanged among its features: those of another feature should
never be called the same thing.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from synthetic_table import put_between

from sae_analysis.artifacts import read_result
from sae_analysis.comparison import compare_features
from sae_analysis.records import FeatureStats

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "comparison.md"
SETS = ("small", "demo", "short")
_COMMANDS = {
    "small": "--model MODEL --sae SAE --corpus CORPUS --seed 11",
    "demo": "--seed 11",
    "short": "--seed 5 --max-tokens 6000",
}
_THE_SAME = ("same trigger", "same meaning in new words", "superstimulus")


def main() -> None:
    """Print agreement, the table of confusions, and the control."""
    options = _options()
    labels = {name: _labels(name) for name in SETS}
    if options.commands:
        for name, command in _COMMANDS.items():
            features = ",".join(map(str, labels[name]))
            print(f"python main.py compare {command} --output {name} --no-figures --features {features}")
        return
    pairs, lines = Counter(), []
    for name, folder in zip(SETS, options.folders, strict=True):
        real, synthetic = (read_result(folder / f"{kind}.json").by_feature() for kind in ("real", "synthetic"))
        found = {feature: compare_features(real[feature], synthetic[feature]).verdict for feature in labels[name]}
        pairs.update((labels[name][feature], verdict) for feature, verdict in found.items())
        agreed = sum(labels[name][feature] == verdict for feature, verdict in found.items())
        for feature, verdict in found.items():
            if labels[name][feature] != verdict:
                print(f"{name} {feature}: read as {labels[name][feature]}, judged {verdict}")
        lines.append(f"| {name} | {agreed} of {len(found)} | {_control([*real.values()], [*synthetic.values()])} |")
    agreed = sum(many for (label, verdict), many in pairs.items() if label == verdict)
    whole = f"{agreed} of {pairs.total()} ({100 * agreed / pairs.total():.0f} %)"
    head = ["| set | reader and verdict agree | strangers called the same thing |", "|---|---|---|"]
    table = "\n".join([*head, *lines, f"| all | {whole} | |", "", *_confusions(pairs)])
    print(table)
    if options.write:
        PAGE.write_text(put_between(PAGE.read_text(), "verdicts", table))


def _labels(name: str) -> dict[int, str]:
    rows = map(json.loads, (HERE / "verdict_labels.jsonl").read_text().splitlines())
    return {row["feature"]: row["label"] for row in rows if row["set"] == name}


def _control(real: Sequence[FeatureStats], synthetic: Sequence[FeatureStats]) -> str:
    """Compare every feature that fired with the synthetic examples of every other one."""
    same = pairs = 0
    for one in real:
        for other in synthetic:
            if one.feature_idx == other.feature_idx or one.is_dead or other.is_dead:
                continue
            stranger = replace(other, feature_idx=one.feature_idx)
            pairs += 1
            same += compare_features(one, stranger).verdict in _THE_SAME
    return f"{same:,} of {pairs:,} ({100 * same / pairs:.1f} %)"


def _confusions(pairs: Counter[tuple[str, str]]) -> list[str]:
    names = sorted({name for pair in pairs for name in pair})
    rows = [[str(pairs[label, verdict] or "") for verdict in names] for label in names]
    return [
        f"| read as \\ judged | {' | '.join(names)} |",
        "|---|" + "---|" * len(names),
        *(f"| {label} | {' | '.join(row)} |" for label, row in zip(names, rows, strict=True)),
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="of the small, demo and short set")
    parser.add_argument("--commands", action="store_true", help="print how the folders are made, and nothing else")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.name}")
    options = parser.parse_args()
    if not options.commands and len(options.folders) != len(SETS):
        parser.error(f"give the folders of {', '.join(SETS)}")
    return options


if __name__ == "__main__":
    main()
