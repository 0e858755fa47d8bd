"""What a user can cause, as exceptions whose message says what was asked, what was found, what to do."""

from collections.abc import Collection


class SAEAnalysisError(Exception):
    """Base of every error a user can cause; the command line prints it on one line and exits with 2."""


class FeatureError(SAEAnalysisError):
    """A feature specification that cannot be read, or a feature the SAE does not have."""


class CorpusError(SAEAnalysisError):
    """Text that is missing, unreadable, empty or too short to give one kept token."""


class ModelError(SAEAnalysisError):
    """A language model that cannot be loaded, or a hook it does not have."""


class SAEFormatError(SAEAnalysisError):
    """A checkpoint that is missing, damaged, of no known layout, or of a layout that is refused."""


class FitError(SAEAnalysisError):
    """An SAE and a hook that do not belong together: widths differ, or reconstruction is worse than the mean."""


class OutputError(SAEAnalysisError):
    """A result that cannot be written or read back."""


class SettingError(SAEAnalysisError):
    """A setting with a value that means nothing."""


class WorkerError(SAEAnalysisError):
    """Workers that cannot be had, differ from one another, or keep dying."""


def check_range(least: float, most: float = float("inf"), **settings: float | None) -> None:
    """Refuse settings, given by their names, that are out of a range in their own units; None is left alone.

    Raises:
        SettingError: one is, or is nan.
    """
    for name, value in settings.items():
        if value is not None and not least <= value <= most:
            wanted = f"at least {least:,}" if most == float("inf") else f"{least:,} to {most:,}"
            raise SettingError(f"{name} is {value:,}: give {wanted}.")


def check_choice(choices: Collection[str], **settings: str) -> None:
    """Refuse settings, given by their names, that are none of the choices.

    Raises:
        SettingError: one is.
    """
    for name, value in settings.items():
        if value not in choices:
            raise SettingError(f"{name} is {value!r}: give one of {', '.join(choices)}.")
