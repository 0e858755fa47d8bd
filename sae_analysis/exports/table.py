"""One row a feature, for pandas, Polars, DuckDB: the single numbers and words of the records, and lists of tokens."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any, get_type_hints

from sae_analysis.errors import OutputError
from sae_analysis.records import AnalysisResult, Comparison, ComparisonResult, FeatureStats, Likeness, TokenValues

_SINGLE: Mapping[Any, str] = {int: "int64", float: "float64", float | None: "float64", str: "string"}
"""Arrow's name for the type of a field that is a column by itself."""

_Columns = dict[str, tuple[str, list[Any]]]
"""Arrow's type and the values of each column by its name."""


def files(result: AnalysisResult | ComparisonResult) -> Mapping[str, bytes]:
    """Return the table as Parquet, its provenance in the table's metadata.

    Raises:
        OutputError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise OutputError("Tables need pyarrow, which is not installed: pip install 'sae-analysis[parquet]'.") from None
    if isinstance(result, ComparisonResult):
        name, runs = "comparison", {"real": result.real, "synthetic": result.synthetic}
        columns = _comparisons(result)
    else:
        name, runs = result.provenance.analysis, {result.provenance.analysis: result.provenance}
        columns = _features(result)
    types = {kind: pyarrow.type_for_alias(kind) for kind in _SINGLE.values()}
    types["strings"] = pyarrow.list_(pyarrow.string())
    schema = pyarrow.schema(
        [(column, types[kind]) for column, (kind, _) in columns.items()],
        metadata={kind: json.dumps(dataclasses.asdict(run)) for kind, run in runs.items()},
    )
    content = pyarrow.table({column: values for column, (_, values) in columns.items()}, schema=schema)
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(content, buffer)
    return {f"{name}.parquet": buffer.getvalue().to_pybytes()}


def _features(result: AnalysisResult) -> _Columns:
    features = result.features
    strongest = [stats.examples[0] if stats.examples else None for stats in features]
    return _singles(features, FeatureStats) | {
        "fires_on": ("strings", [[activity.token for activity in stats.top_tokens] for stats in features]),
        "raises": ("strings", [_tokens(stats.top_boosted_tokens) for stats in features]),
        "lowers": ("strings", [_tokens(stats.top_suppressed_tokens) for stats in features]),
        "strongest_text": ("string", [one and one.text for one in strongest]),
        "strongest_token": ("string", [one and one.tokens[one.peak_position] for one in strongest]),
    }


def _comparisons(result: ComparisonResult) -> _Columns:
    until = [one.tokens_until for one in result.features]
    return {
        **_singles(result.features, Comparison),
        **_singles([one.likeness for one in result.features], Likeness),
        "reasons": ("strings", [list(one.reasons) for one in result.features]),
        "tokens_until": ("float64", [span and span.median for span in until]),
        "tokens_until_low": ("float64", [span and span.low for span in until]),
        "tokens_until_high": ("float64", [span and span.high for span in until]),
    }


def _singles(records: Iterable[Any], kind: type) -> _Columns:
    rows, hints = list(records), get_type_hints(kind)
    known = {field.name: _SINGLE.get(hints[field.name]) for field in dataclasses.fields(kind)}
    return {name: (arrow, [getattr(row, name) for row in rows]) for name, arrow in known.items() if arrow}


def _tokens(values: TokenValues) -> list[str]:
    return [token for token, _ in values]
