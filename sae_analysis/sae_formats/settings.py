"""A configuration file's content, asked for by type."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from sae_analysis.errors import SAEFormatError
from sae_analysis.wording import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A JSON or YAML object; every question has an answer or an error that names the file."""

    name: str
    """Path of the file; empty if there is none."""

    content: Mapping[str, Any]

    @property
    def file_name(self) -> str:
        """Name of the file without its folder."""
        return PurePath(self.name).name

    def __contains__(self, key: str) -> bool:
        return self.content.get(key) is not None

    def section(self, key: str) -> "Settings":
        """Return the object under a key; empty if there is none."""
        found = self.content.get(key)
        return Settings(name=self.name, content=found if isinstance(found, Mapping) else {})

    def text(self, key: str, default: str | None = None) -> str | None:
        """Return a string.

        Raises:
            SAEFormatError: it is something else.
        """
        return self._get(key, str, "text", default)

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a truth value.

        Raises:
            SAEFormatError: it is something else.
        """
        return bool(self._get(key, bool, "true or false", default))

    def number(self, key: str) -> float | None:
        """Return a number, in the unit that the format gives its setting.

        Raises:
            SAEFormatError: it is something else.
        """
        found = self._get(key, (int, float), "a number", None)
        return None if found is None else float(f"{found}")  # a number too large is infinite, and refused where used

    def whole(self, key: str) -> int | None:
        """Return a whole number.

        Raises:
            SAEFormatError: it is something else.
        """
        return self._get(key, int, "a whole number", None)

    def _get(self, key: str, kind: Any, words: str, default: Any) -> Any:  # noqa: ANN401 - a file's content
        found = self.content.get(key)
        if found is None:
            return default
        if not isinstance(found, kind) or (kind is not bool and isinstance(found, bool)):
            raise SAEFormatError(f"SAE configuration {self.name} says {key} = {shown(found)}: expected {words}.")
        return found
