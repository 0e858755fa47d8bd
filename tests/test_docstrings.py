"""Docstrings say what a caller cannot see from the name: shapes, errors, units of numbers, and whose idea it is.

Units are looked for as words: what says nothing is found, not what says something wrong, and to a function of several
numbers one word is enough. Fields of records answer one by one. A source is an author with a year, or a repository.
"""

import ast
import inspect
import re
from pathlib import Path

import sae_analysis
from sae_analysis import errors, sae_formats
from sae_analysis.sae_interface.autoencoder import InputNorm
from sae_analysis.sae_interface.rules import ActivationRule

PACKAGE = Path(sae_analysis.__file__).parent
OURS = {name for name in vars(errors) if name.endswith("Error")}
BARE = re.compile(r"\b(Tensor|NDArray|ndarray|IntArray|FloatArray)\b")
SHAPED = re.compile(r"\b(Float|Int|Int64|Bool|Shaped)\[")
REAL = re.compile(r"\b(float|float32|float64|Float|FloatArray|TokenValues)\b")
MIXED = re.compile(r"str \| int \| float")
UNIT = re.compile(
    r"\b((pre-)?activations?|logits?|nats|cross-entropy|cosines?|norms?|variance|density|shares?|fractions?"
    r"|ratios?|rates?|times|percentages?|probability|quantiles?|log10|skewness|kurtosis|gradients?|embeddings?"
    r"|reconstruction|token-evaluations|(how many|in|number of) tokens|active features|seconds|bytes|inches|points"
    r"|pixels|ems|units?)\b|in \[0, 1\]",
    re.IGNORECASE,
)
"""What a real number can be a number of."""

WORK = re.compile(r"\b[A-Z]\w+ (et al\. |and [A-Z]\w+ )?(19|20)\d\d\b|\b[\w-]+/[\w-]+\b")
"""An author with a year, or a repository."""

SOURCES = {
    "accumulators/dictionary.py FitStatistics": "Gao et al. 2024",
    "accumulators/examples.py _mix": "Steele, Lea and Flood 2014",
    "comparison/__init__.py _overlap": "Ioffe 2010",
    "comparison/tails.py Tail": "Pickands 1975",
    "corpus/windows.py norm_outliers": "Xiao et al. 2023",
    "directions.py LogitEffects": "Bloom and Lin 2024",
    "exports/circuit_tracer.py": "circuit-tracer 0.5.0",
    "exports/neuronpedia.py": "SAEDashboard 0.8.0",
    "firings.py FiringReader _ablate": "Bricken et al. 2023",
    "language_model/base.py LanguageModel logit_effects": "Elhage et al. 2021",
    "language_model/tokens.py _byte_alphabet": "Radford et al. 2019",
    "records/examples.py Ablation": "Kullback and Leibler 1951",
    "sae_interface/autoencoder.py MatchingPursuit": "Costa et al. 2025",
    "sae_interface/screening.py Screen": "Higham 2002",
    "synth_activations/evaluation.py Evaluator gradient": "Zou et al. 2023",
    "synth_activations/evaluation.py Fluency": "Thompson, Straznickas and Sklar 2024",
    "synth_activations/fluency.py FluentPopulation": "Mouret and Clune 2015",
    "synth_activations/relaxation.py relax": "Guo et al. 2021",
    "synth_activations/report.py Reporter _shortest": "Foote et al. 2023",
    "synth_activations/report.py frontier": "Thompson, Straznickas and Sklar 2024",
    "synth_activations/scoring.py Reader attribution": "Li, Monroe and Jurafsky 2016",
    "synth_activations/search.py Search": "Thompson, Straznickas and Sklar 2024",
    "visualizer/tokens.py _as_seen": "Unicode Standard Annex 9",
}
"""Whose method it is, for what no rule below finds by itself."""


def modules():
    """Yield each module of the library with its path; the command line is not for callers."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "main" not in path.parts[len(PACKAGE.parts) :]:
            yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())


def public(kind):
    """Yield each public function and method, or each class (``kind``), with where it stands."""
    for path, module in modules():
        yield from _in(module.body, path, kind)


def _in(body, place, kind):
    for node in body:
        is_init = isinstance(node, ast.FunctionDef) and node.name == "__init__"
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and (is_init or not node.name.startswith("_")):
            if isinstance(node, kind):
                yield f"{place} {node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from _in(node.body, f"{place} {node.name}", kind)


def annotations(function):
    """Return the annotations of a function as text."""
    nodes = [argument.annotation for argument in (*function.args.args, *function.args.kwonlyargs)] + [function.returns]
    return [ast.unparse(node) for node in nodes if node]


def lacking(node):
    """Return what a docstring does not say."""
    said = ast.get_docstring(node) or ""
    raised = {
        found.exc.func.id
        for found in ast.walk(node)
        if isinstance(found, ast.Raise) and isinstance(found.exc, ast.Call) and isinstance(found.exc.func, ast.Name)
    } & OURS
    missing = [name for name in sorted(raised) if name not in said.partition("Raises:")[2]]
    kinds = annotations(node)
    arrays = [kind for kind in kinds if BARE.search(kind) and not SHAPED.search(kind) and "Callable" not in kind]
    is_abstract_record = any("Mapping" in kind or "dict" in kind for kind in arrays)
    if arrays and "[" not in said and not is_abstract_record:
        missing.append(f"shapes of {arrays}")
    if any(map(is_real, kinds)) and not UNIT.search(said):
        missing.append("a unit")
    return [] if said else ["a docstring"], missing


def is_real(kind):
    """Say whether an annotation is of real numbers, which are numbers of something."""
    return bool(REAL.search(MIXED.sub("", kind)))


def fields_without_unit(record):
    """Return the fields of a class with real numbers of which neither its own words nor those of the class say of what.

    Where a field has words of its own, these count alone.
    """
    return [
        ast.unparse(field.target)
        for field, after in zip(record.body, [*record.body[1:], None], strict=True)
        if isinstance(field, ast.AnnAssign)
        and not ast.unparse(field.target).startswith("_")
        and is_real(ast.unparse(field.annotation))
        and not UNIT.search(text_of(after) or ast.get_docstring(record) or "")
    ]


def text_of(node):
    """Return the text of a statement that is nothing but a string, else an empty one."""
    match node:
        case ast.Expr(ast.Constant(str(said))):
            return said
    return ""


def test_the_check_finds_what_is_missing():
    [bad] = ast.parse("def f(x: Tensor) -> int:\n    '''Say.'''\n    raise CorpusError('no')").body
    assert lacking(bad) == ([], ["CorpusError", "shapes of ['Tensor']"])
    [good] = ast.parse("def f(x: Float[Tensor, 'a']) -> int:\n    '''Say nats.\n\n    Raises:\n        CorpusError: x"
                       ".'''\n    raise CorpusError('no')").body  # fmt: skip
    assert lacking(good) == ([], [])
    assert lacking(ast.parse("def f(): pass").body[0]) == (["a docstring"], [])
    assert lacking(ast.parse("def f(x: float | None): 'Say of tokens.'").body[0]) == ([], ["a unit"])
    [record] = ast.parse("class A:\n    '''In nats.'''\n    a: float\n    b: float\n    'Largest.'\n    c: int").body
    assert fields_without_unit(record) == ["b"]


def test_every_public_function_says_its_shapes_errors_and_units():
    found = list(public(ast.FunctionDef))
    assert len(found) > 400
    missing = {place: lacking(node) for place, node in found}
    assert {place: what for place, what in missing.items() if what != ([], [])} == {}


def test_every_real_number_of_a_record_says_what_it_is_a_number_of():
    missing = {place: fields_without_unit(node) for place, node in public(ast.ClassDef)}
    assert len(missing) > 100
    assert {place: what for place, what in missing.items() if what} == {}


def all_docstrings():
    """Return every docstring of the library by where it stands, those of modules and private functions too."""

    def within(node, place):
        yield place, ast.get_docstring(node) or ""
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                yield from within(child, f"{place} {child.name}")

    return {place: said for path, module in modules() for place, said in within(module, path)}


def concrete(kind):
    """Yield every subclass that can be made, however deep."""
    for one in kind.__subclasses__():
        yield from concrete(one)
        if not inspect.isabstract(one):
            yield one


def source(said):
    """Return what a docstring says under ``Source:``, on one line."""
    return " ".join(said.partition("Source: ")[2].split())


def test_what_is_taken_from_a_paper_or_a_library_names_it():
    said = all_docstrings()
    assert {place: work for place, work in SOURCES.items() if work not in source(said[place])} == {}


def test_a_source_is_an_author_with_a_year_or_a_repository():
    assert WORK.search(source("As known. Source: Gao et al.\n 2024, equation 3."))
    assert WORK.search(source("Source: the bound is ours; rounding is of Higham 2002."))
    assert WORK.search(source("Source: EleutherAI/sparsify."))
    assert not WORK.search(source("Source: a paper of 2024, and common sense."))
    assert not WORK.search(source("As Gao et al. 2024 have it."))


def test_every_rule_norm_reader_and_measure_of_fit_names_its_source():
    said = all_docstrings()
    rules = [one for kind in (ActivationRule, InputNorm) for one in concrete(kind) if one.__module__.startswith("sae_")]
    families = [f"sae_formats/{family.__name__.rpartition('.')[2]}.py" for family in sae_formats._FAMILIES]
    measures = [place for place, _ in public(ast.FunctionDef) if place.startswith("reconstruction/fit.py ")]
    assert len(rules) >= 10
    assert len(families) >= 9
    assert len(measures) >= 5
    found = {one.__name__: one.__doc__ or "" for one in rules} | {place: said[place] for place in families + measures}
    assert {name for name, docstring in found.items() if not WORK.search(source(docstring))} == set()


def test_the_public_surface_is_there_and_all_of_it_is_described():
    for name in sae_analysis.__all__:
        assert getattr(sae_analysis, name).__doc__, name
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imported = {alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    [said] = [ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign)]
    assert imported == set(sae_analysis.__all__) == set(said)
    assert said == sorted(said)


def test_the_library_names_parameters_and_no_options_of_the_command_line():
    named = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.value}"
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "main"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.search(r"(?<![\w-])--[a-z]", node.value) and " " in node.value  # no argument of another program
    ]
    assert named == []
