"""Results on disk: records to JSON and back, with nothing lost on the way, finished or half-way."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_analysis.errors import OutputError
from sae_analysis.files import FINGERPRINT_DIGITS, unwritable, write_whole
from sae_analysis.records import SCHEMA_VERSION, AnalysisResult, ComparisonResult, FeatureResults, FeatureStats
from sae_analysis.typed_json import from_json, parse
from sae_analysis.wording import shown

_UNFINISHED = ".unfinished.jsonl"


def write_result(result: AnalysisResult | FeatureResults | ComparisonResult, path: str | Path) -> None:
    """Write a result as JSON, one feature a line.

    Raises:
        OutputError: the file cannot be written; what was there before is untouched.
    """
    sections = _plain(result.result if isinstance(result, FeatureResults) else result)
    features = ",\n".join(_dump(feature) for feature in sections.pop("features"))
    head = {"schema_version": sections.pop("schema_version"), **sections}
    lines = ",\n".join(f"{_dump(name)}: {_dump(content)}" for name, content in head.items())
    text = f'{{{lines},\n"features": [\n{features}\n]}}\n'
    content = text.encode(errors="backslashreplace")  # a file name that is no UTF-8 becomes JSON's \udce4
    write_whole(Path(path), content)


_ANY = "a real.json, synthetic.json or comparison.json"


def read_result(path: str | Path, wanted: str = "a real.json or synthetic.json") -> AnalysisResult:
    """Read an analysis back; ``wanted`` is what an error asks for.

    Raises:
        OutputError: missing, damaged, of another schema version, or a comparison.
    """
    result = read_any(path, wanted)
    if isinstance(result, ComparisonResult):
        raise OutputError(f"Result {path} is a comparison: give the real.json or synthetic.json that it was made of.")
    return result


def read_any(path: str | Path, wanted: str = _ANY) -> AnalysisResult | ComparisonResult:
    """Read an analysis or a comparison back; ``wanted`` is what an error asks for.

    Raises:
        OutputError: missing, damaged, or of another schema version.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe or a device may never end
            raise OutputError(f"Result {path} is no regular file: give {wanted}.")
        content = parse(path.read_bytes())
    except OSError as error:
        raise OutputError(f"Result {path} cannot be read: {error.strerror}. Give {wanted}.") from None
    except (ValueError, RecursionError):
        raise OutputError(f"Result {path} is not JSON: it is damaged or cut short. Run the analysis again.") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise OutputError(
            f"Result {path} has schema version {shown(version)}: this version reads {SCHEMA_VERSION}. "
            "Run the analysis again."
        )
    try:
        return from_json(content, ComparisonResult if "synthetic" in content else AnalysisResult)
    except ValueError as error:
        raise OutputError(f"Result {path} lacks what it should hold ({error}). Run the analysis again.") from None


class FinishedFeatures:
    """The finished features of a run that has not ended, one a line of JSON, in a file of the run's own.

    A run is known by its fingerprint, which is part of the file's name, so that two runs never write into one file.
    """

    def __init__(self, folder: Path, analysis: str, fingerprint: str) -> None:
        """Name the file; nothing is read or written."""
        self.path = folder / f"{analysis}-{fingerprint[:FINGERPRINT_DIGITS]}{_UNFINISHED}"
        self._head = {"schema_version": SCHEMA_VERSION, "fingerprint": fingerprint}
        self._others = f"{analysis}-*{_UNFINISHED}"

    def others(self) -> list[Path]:
        """Return the files of other runs of this analysis in the folder."""
        return sorted(path for path in self.path.parent.glob(self._others) if path != self.path)

    def read(self) -> tuple[dict[int, FeatureStats], bool]:
        """Return the features by index, and whether the file was damaged; what is damaged is taken off its end.

        Raises:
            OutputError: the file cannot be read or mended, or holds the features of another run.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]  # what follows the last line break was never finished
        except FileNotFoundError:
            return {}, False
        except OSError as error:
            raise OutputError(f"{self.path} cannot be read: {error.strerror}. Remove it to begin anew.") from None
        sound: list[bytes] = []
        features: dict[int, FeatureStats] = {}
        for line in lines:
            try:
                content = parse(line)
                if sound:
                    stats = from_json(content, FeatureStats)
                    features[stats.feature_idx] = stats
            except (ValueError, RecursionError):
                break
            if not sound and content != self._head:
                raise OutputError(f"{self.path} holds features of another run: move it away.")
            sound.append(line)
        mended = b"".join(line + b"\n" for line in sound) or _line(self._head)
        if is_damaged := self.path.read_bytes() != mended:
            write_whole(self.path, mended)
        return features, is_damaged

    def add(self, features: Sequence[FeatureStats]) -> None:
        """Write features behind those that are there, and return when the disk has them.

        Raises:
            OutputError: the file cannot be written to.
        """
        content = [_plain(stats) for stats in features]
        try:
            if not self.path.exists():
                content.insert(0, self._head)
            with self.path.open("ab") as file:
                file.write(b"".join(_line(one) for one in content))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(self.path, error) from None

    def remove(self) -> None:
        """Remove the file: the run has ended and its result is written."""
        self.path.unlink(missing_ok=True)


def _line(content: Any) -> bytes:  # noqa: ANN401
    return _dump(content).encode(errors="backslashreplace") + b"\n"


def _dump(content: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Turn records into dictionaries, tuples into lists; ``dataclasses.asdict`` would copy every number by itself."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value] if value and not isinstance(value[0], (int, float, str)) else value
    return dict(value) if isinstance(value, Mapping) else value
