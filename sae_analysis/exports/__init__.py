"""Results in other tools' formats: dashboards of SAEDashboard and Neuronpedia, features of circuit-tracer, tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from sae_analysis.errors import OutputError
from sae_analysis.exports import circuit_tracer, neuronpedia, table
from sae_analysis.exports.table import FeatureTable
from sae_analysis.files import WEIGHT_SUFFIXES, prepare_folder, write_whole
from sae_analysis.records import AnalysisResult, ComparisonResult, FeatureResults

__all__ = ["FORMATS", "FeatureTable", "export"]


class _Format(Protocol):
    def __call__(self, result: AnalysisResult, *, sae: str, model: str) -> Mapping[str, bytes]:
        """Return the content of each file by its name."""
        ...


_OF_ANALYSES: Mapping[str, _Format] = {"neuronpedia": neuronpedia.files, "circuit-tracer": circuit_tracer.files}

FORMATS = (*_OF_ANALYSES, "parquet")
"""Formats that a result can be exported to; a comparison to ``parquet`` alone."""


def export(
    result: AnalysisResult | FeatureResults | ComparisonResult,
    form: str,
    folder: str | Path,
    *,
    sae: str | None = None,
    model: str | None = None,
) -> list[Path]:
    """Write a result in a format of ``FORMATS`` and return the paths.

    Args:
        result: What to write.
        form: The format.
        folder: Where to; made if it is not there.
        sae: What the SAE is called there (default: the name of its file).
        model: What the model is called there (default: the name of its folder).

    Raises:
        OutputError: no such format, one that cannot hold a comparison, or a file cannot be written.
    """
    if isinstance(result, FeatureResults):
        result = result.result
    if form == "parquet":
        content = table.files(result)
    elif form not in FORMATS:
        raise OutputError(f"Export to '{form}' is not known: use one of {', '.join(FORMATS)}.")
    elif isinstance(result, ComparisonResult):
        raise OutputError(f"A comparison cannot be exported to {form}: give a real.json or synthetic.json, or parquet.")
    else:
        run = result.provenance
        names = {"sae": sae or _name_of_sae(run.sae), "model": model or Path(run.model).name or run.model}
        content = _OF_ANALYSES[form](result, **names)
    folder = Path(folder)
    prepare_folder(folder)
    written = []
    for name, raw in content.items():
        write_whole(folder / name, raw)
        written.append(folder / name)
    return written


def _name_of_sae(sae: str) -> str:
    """Return the name of its file without its ending, or of its folder, whose dots begin no ending."""
    path = Path(sae)
    return (path.stem if path.suffix in WEIGHT_SUFFIXES else path.name) or sae
