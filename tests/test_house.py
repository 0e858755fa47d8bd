"""Rules of the house that no tool checks."""

import ast
from pathlib import Path

import sae_analysis

PACKAGE = Path(sae_analysis.__file__).parent

LACKING = {
    "Collected": {"frozen"},  # accumulators change
    "Judgement": {"kw_only"},  # a verdict and its reasons, in that order everywhere
    "Unfinished": {"frozen"},  # goes on growing
}


def test_records_are_frozen_slotted_and_made_by_name():
    """Beyond what pages are drawn from, which is made by the thousand and by place."""
    lacking = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if "visualizer" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                for decorator in node.decorator_list:
                    if "dataclass" in ast.unparse(decorator):
                        given = decorator.keywords if isinstance(decorator, ast.Call) else []
                        true = {word.arg for word in given if ast.unparse(word.value) == "True"}
                        lacking[node.name] = {"frozen", "slots", "kw_only"} - true
    assert len(lacking) > 40
    assert {name: flags for name, flags in lacking.items() if flags} == LACKING
