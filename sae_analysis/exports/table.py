"""One row a feature, for pandas, Polars, DuckDB: the single numbers and words of the records, and lists of tokens."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_type_hints

from sae_analysis.errors import OutputError
from sae_analysis.records import (
    AnalysisResult,
    Comparison,
    ComparisonResult,
    FeatureSearch,
    FeatureStats,
    Likeness,
    Provenance,
    Relaxation,
    TokenSpan,
    TokenValues,
)

_SINGLE: Mapping[Any, str] = {
    int: "int64",
    int | None: "int64",
    float: "float64",
    float | None: "float64",
    str: "string",
    bool | None: "bool",
}
"""Arrow's name for the type of a field that is a column by itself."""

_ROWS_AT_ONCE = 1024
"""Features in a row group of a file."""

_Columns = dict[str, tuple[str, list[Any]]]
"""Arrow's type and the values of each column by its name."""


class FeatureTable:
    """A table of features that grows as they come: only a few rows are not compressed yet."""

    def __init__(self, *, searched: bool = False) -> None:
        """Begin with no row; features that were ``searched`` have columns about that too.

        Raises:
            OutputError: pyarrow is not installed.
        """
        self._buffer = _arrow().BufferOutputStream()
        self._searched = searched
        self._rows: list[FeatureStats] = []
        self._writer: Any = None

    def add(self, stats: FeatureStats) -> None:
        """Add a row."""
        self._rows.append(stats)
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._flush()

    def finish(self, provenance: Provenance) -> bytes:
        """Return the table as Parquet, its provenance in its metadata; nothing can be added after that."""
        if self._rows or not self._writer:
            self._flush()
        self._writer.add_key_value_metadata({provenance.analysis: json.dumps(dataclasses.asdict(provenance))})
        self._writer.close()
        return self._buffer.getvalue().to_pybytes()

    def _flush(self) -> None:
        table = _table(_features(self._rows) | (_searches(self._rows) if self._searched else {}))
        if self._writer is None:
            self._writer = _arrow().parquet.ParquetWriter(self._buffer, table.schema)
        self._writer.write_table(table)
        self._rows = []


def files(result: AnalysisResult | ComparisonResult) -> Mapping[str, bytes]:
    """Return the table as Parquet, its provenance in the table's metadata.

    Raises:
        OutputError: pyarrow is not installed.
    """
    if isinstance(result, AnalysisResult):
        rows = FeatureTable(searched=result.provenance.analysis == "synthetic")
        for stats in result.features:
            rows.add(stats)
        return {f"{result.provenance.analysis}.parquet": rows.finish(result.provenance)}
    runs = {"real": result.real, "synthetic": result.synthetic}
    metadata = {kind: json.dumps(dataclasses.asdict(run)) for kind, run in runs.items()}
    buffer = _arrow().BufferOutputStream()
    _arrow().parquet.write_table(_table(_comparisons(result)).replace_schema_metadata(metadata), buffer)
    return {"comparison.parquet": buffer.getvalue().to_pybytes()}


def _arrow() -> Any:  # noqa: ANN401 - a library without types that need not be installed
    try:
        import pyarrow.parquet
    except ImportError:
        raise OutputError("Tables need pyarrow, which is not installed: pip install 'sae-analysis[parquet]'.") from None
    return pyarrow


def _table(columns: _Columns) -> Any:  # noqa: ANN401 - as above
    arrow = _arrow()
    types = {kind: arrow.type_for_alias(kind) for kind in _SINGLE.values()}
    types |= {"strings": arrow.list_(arrow.string()), "floats": arrow.list_(arrow.float64())}
    schema = arrow.schema([(column, types[kind]) for column, (kind, _) in columns.items()])
    return arrow.table({column: values for column, (_, values) in columns.items()}, schema=schema)


def _features(features: Sequence[FeatureStats]) -> _Columns:
    strongest = [stats.examples[0] if stats.examples else None for stats in features]
    return _singles(features, FeatureStats) | {
        "fires_on": ("strings", [[activity.token for activity in stats.top_tokens] for stats in features]),
        "raises": ("strings", [_tokens(stats.top_boosted_tokens) for stats in features]),
        "lowers": ("strings", [_tokens(stats.top_suppressed_tokens) for stats in features]),
        "strongest_text": ("string", [one and one.text for one in strongest]),
        "strongest_token": ("string", [one and one.tokens[one.peak_position] for one in strongest]),
    }


def _searches(features: Sequence[FeatureStats]) -> _Columns:
    searches = [stats.search for stats in features]
    single = [search and search.single_token for search in searches]
    strongest = [stats.examples[0].synthesis if stats.examples else None for stats in features]
    shortest = [search and search.shortest for search in searches]
    return {
        **_singles(searches, FeatureSearch),
        **_singles([search and search.relaxation for search in searches], Relaxation),
        "single_token": ("string", [one and one[0] for one in single]),
        "single_token_activation": ("float64", [one and one[1] for one in single]),
        "gain": ("float64", [stats.gain for stats in features]),
        "cross_entropy": ("float64", [one and one.cross_entropy for one in strongest]),
        "shortest_text": ("string", [one and one.text for one in shortest]),
    }


def _comparisons(result: ComparisonResult) -> _Columns:
    return {
        **_singles(result.features, Comparison),
        **_singles([one.likeness for one in result.features], Likeness),
        "reasons": ("strings", [list(one.reasons) for one in result.features]),
        "other_seeds": ("floats", [list(one.other_seeds) for one in result.features]),
        **_spans("tokens_until", [one.tokens_until for one in result.features]),
        **_spans("tokens_until_fluent", [one.tokens_until_fluent for one in result.features]),
    }


def _spans(name: str, spans: Sequence[TokenSpan | None]) -> _Columns:
    return {
        name: ("float64", [span and span.median for span in spans]),
        f"{name}_low": ("float64", [span and span.low for span in spans]),
        f"{name}_high": ("float64", [span and span.high for span in spans]),
    }


def _singles(records: Iterable[Any], kind: type) -> _Columns:
    rows, hints = list(records), get_type_hints(kind)
    known = {field.name: _SINGLE.get(hints[field.name]) for field in dataclasses.fields(kind)}
    return {name: (arrow, [row and getattr(row, name) for row in rows]) for name, arrow in known.items() if arrow}


def _tokens(values: TokenValues) -> list[str]:
    return [token for token, _ in values]
