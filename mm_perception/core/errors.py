"""The errors of this package.

Each message says what was wrong, what was expected, what was got and where. A node drops and counts the
message that raised; a command prints the text and exits with code 2.
"""

from __future__ import annotations

_LONGEST = 8000


class MmPerceptionError(Exception):
    """Base of every error that this package raises on purpose.

    Names out of an input are part of messages; one of a megabyte is cut, so that a log stays readable.
    """

    def __init__(self, message: str = "") -> None:
        cut = len(message) - _LONGEST
        super().__init__(message if cut <= 0 else f"{message[:_LONGEST]}… ({cut} characters more)")


class ConfigError(MmPerceptionError):
    """A configuration file, parameter or command-line value cannot be used."""


class DataError(MmPerceptionError):
    """A measurement is malformed: wrong encoding, truncated, wrong shape, impossible stamp."""


class CalibrationError(MmPerceptionError):
    """A camera model or transform is missing, singular or between the wrong frames."""


class SightError(DataError):
    """The sensors could not see: there is no result, in the place of one that would look like a free road."""


class ModelError(MmPerceptionError):
    """A model card, checkpoint or weights file is missing or does not fit."""


class EngineError(MmPerceptionError):
    """An inference engine is not available, refused its input or produced unusable output."""


class TrainingError(MmPerceptionError):
    """A training run cannot go on: the loss is not finite, or its checkpoint is damaged or of another run."""


class BagError(MmPerceptionError):
    """A bag cannot be read or written."""
