"""Change the code at random places, one at a time, and see whether tests notice.

    python tests/mutants.py --count 100 --seed 0 [--workers 2]

In accumulators, SAE interface and comparison an operator, a comparison, a constant or a condition is exchanged; the
tests of that part run on a copy of the project, and where they pass, those of what is built on it. Mutants that nobody
noticed are printed as the line that was changed.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("sae_analysis")

PARTS = {
    "accumulators": ("test_accumulators*.py test_house.py", "test_real_activations.py", "test_parts.py"),
    "sae_interface": (
        "test_sae_interface_*.py test_screening.py test_house.py",
        "test_sae_formats_*.py",
        "test_real_activations.py",
    ),
    "comparison": ("test_comparison*.py test_house.py", "test_reports.py", "test_visualizer_*.py"),
}
"""Tests of each part; the first are those that should notice."""

_SECONDS = 400
"""After which a mutant is taken to hang, which is noticed."""

_EXCHANGED: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.USub: ast.UAdd,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


def places(tree: ast.Module) -> Iterator[tuple[ast.AST, str, object]]:
    """Yield what can be changed: a node, its field, and the new value."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.BinOp, ast.BoolOp, ast.UnaryOp)) and type(node.op) in _EXCHANGED:
            if not _is_of_types(node):
                yield node, "op", _EXCHANGED[type(node.op)]()
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in _EXCHANGED:
            yield node, "ops", [_EXCHANGED[type(node.ops[0])](), *node.ops[1:]]
        elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
            yield node, "value", not node.value if isinstance(node.value, bool) else node.value + 1
        elif isinstance(node, (ast.If, ast.IfExp)):
            yield node, "test", ast.UnaryOp(op=ast.Not(), operand=node.test)


def _is_of_types(node: ast.AST) -> bool:
    """Return whether an operation is the union of an annotation, such as ``int | None``."""
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and "None" in ast.unparse(node)


def mutants(part: str) -> list[tuple[Path, int, str]]:
    """Return every mutant of a part: file, number of its place, and how the line reads then."""
    found = []
    for path in sorted((ROOT / PACKAGE / part).rglob("*.py")):
        tree = ast.parse(path.read_text())
        lines = path.read_text().splitlines()
        for number, (node, field, value) in enumerate(places(tree)):
            line = getattr(node, "lineno", 0)
            new = value if isinstance(value, (int, float)) else type(value[0] if isinstance(value, list) else value)
            found.append((path.relative_to(ROOT), number, f"{line}: {lines[line - 1].strip()}  [{field} -> {new}]"))
    return found


def mutate(path: Path, number: int) -> None:
    """Write a mutant in place of a file."""
    tree = ast.parse(path.read_text())
    node, field, value = list(places(tree))[number]
    setattr(node, field, value)
    path.write_text(ast.unparse(ast.fix_missing_locations(tree)))


def is_noticed(part: str, path: Path, number: int) -> str:
    """Return which tests notice a mutant, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "results", "__pycache__", "findings"))
        mutate(copy / path, number)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(copy)}
        for tests in PARTS[part]:
            files = [f"tests/{file.name}" for test in tests.split() for file in sorted((ROOT / "tests").glob(test))]
            command = [sys.executable, "test.py", *files, "-x", "-q", "-p", "no:cacheprovider"]
            try:
                ended = subprocess.run(
                    command, cwd=copy, env=environment, capture_output=True, check=False, timeout=_SECONDS
                )
            except subprocess.TimeoutExpired:
                return tests
            if ended.returncode:
                return tests
    return ""


def main() -> None:
    """Sample mutants, evenly over the parts, and count those that are noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    share = -(-options.count // len(options.parts))
    chosen = [(part, *mutant) for part in options.parts for mutant in draw.sample(mutants(part), share)]
    with ThreadPoolExecutor(options.workers) as pool:
        results = pool.map(lambda one: (one, is_noticed(*one[:3])), chosen)
        noticed = 0
        for number, ((part, path, _, line), tests) in enumerate(results, 1):
            noticed += bool(tests)
            said = f"noticed by {tests}" if tests else "SURVIVED"
            print(f"{number}/{len(chosen)} {part} {path}:{line}: {said}", flush=True)
    print(f"{noticed} of {len(chosen)} mutants were noticed")


if __name__ == "__main__":
    main()
