"""Public docstrings say what a caller cannot see from the name: shapes of arrays, and what is raised."""

import ast
import re
from pathlib import Path

import sae_analysis
from sae_analysis import errors

PACKAGE = Path(sae_analysis.__file__).parent
OURS = {name for name in vars(errors) if name.endswith("Error")}
BARE = re.compile(r"\b(Tensor|NDArray|ndarray|IntArray|FloatArray)\b")
SHAPED = re.compile(r"\b(Float|Int|Int64|Bool|Shaped)\[")


def public_functions():
    """Yield each public function and method of the library with where it stands; overriding ones inherit theirs."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "main" not in path.parts[len(PACKAGE.parts) :]:
            yield from _in(ast.parse(path.read_text()).body, path.relative_to(PACKAGE).as_posix())


def _in(body, place):
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _in(node.body, f"{place} {node.name}")
        elif isinstance(node, ast.FunctionDef) and (node.name == "__init__" or not node.name.startswith("_")):
            yield f"{place} {node.name}", node


def lacking(node):
    """Return what a docstring does not say."""
    said = ast.get_docstring(node) or ""
    raised = {
        found.exc.func.id
        for found in ast.walk(node)
        if isinstance(found, ast.Raise) and isinstance(found.exc, ast.Call) and isinstance(found.exc.func, ast.Name)
    } & OURS
    missing = [name for name in sorted(raised) if name not in said.partition("Raises:")[2]]
    annotations = [argument.annotation for argument in (*node.args.args, *node.args.kwonlyargs)] + [node.returns]
    kinds = [ast.unparse(annotation) for annotation in annotations if annotation]
    arrays = [kind for kind in kinds if BARE.search(kind) and not SHAPED.search(kind) and "Callable" not in kind]
    is_abstract_record = any("Mapping" in kind or "dict" in kind for kind in arrays)
    if arrays and "[" not in said and not is_abstract_record:
        missing.append(f"shapes of {arrays}")
    return [] if said else ["a docstring"], missing


def test_the_check_finds_what_is_missing():
    [bad] = ast.parse("def f(x: Tensor) -> int:\n    '''Say.'''\n    raise CorpusError('no')").body
    assert lacking(bad) == ([], ["CorpusError", "shapes of ['Tensor']"])
    [good] = ast.parse("def f(x: Float[Tensor, 'a']) -> int:\n    '''Say.\n\n    Raises:\n        CorpusError: x.'''\n"
                       "    raise CorpusError('no')").body  # fmt: skip
    assert lacking(good) == ([], [])
    assert lacking(ast.parse("def f(): pass").body[0]) == (["a docstring"], [])


def test_every_public_function_says_its_shapes_and_errors():
    found = list(public_functions())
    assert len(found) > 400
    missing = {place: lacking(node) for place, node in found}
    assert {place: what for place, what in missing.items() if what != ([], [])} == {}


def test_the_public_surface_is_there_and_all_of_it_is_described():
    for name in sae_analysis.__all__:
        assert getattr(sae_analysis, name).__doc__, name
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imported = {alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    [said] = [ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign)]
    assert imported == set(sae_analysis.__all__) == set(said)
    assert said == sorted(said)
