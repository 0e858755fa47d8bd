"""What a user can cause, as exceptions whose message says what was asked, what was found, what to do."""


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


class WorkerError(SAEAnalysisError):
    """Workers that cannot be had, differ from one another, or keep dying."""
