"""The errors that rsicrc raises on purpose.

Every class also inherits the fitting built-in error (`ValueError`, `FileNotFoundError`, …), so `except RsicrcError`
catches all of them and `except ValueError` still works. A message names the file and the problem, and gives a remedy.
"""


class RsicrcError(Exception):
    """Base class of all errors that rsicrc raises on purpose."""


class ArgumentError(RsicrcError, ValueError):
    """An argument is out of its range, for example more `n_best` captions than `beams`."""


class ModelFolderError(RsicrcError, ValueError):
    """A model folder is damaged, incomplete, or of a format that this version cannot read."""


class ModelNotFoundError(RsicrcError, FileNotFoundError):
    """No model folder was found at the given path."""


class ImageError(RsicrcError, ValueError):
    """An image cannot be used: missing, damaged, too small, too large, or of an unsuitable type."""


class PairsError(RsicrcError, ValueError):
    """A table of image pairs (CSV, JSON lines or Parquet) cannot be used."""


class SceneError(RsicrcError, ValueError):
    """Georeferenced rasters cannot be captioned together, or an output of a scene cannot be written."""


class IndexFolderError(RsicrcError, ValueError):
    """An index of pairs is missing, damaged, or was made with another model."""


class IndexWriteError(RsicrcError, OSError):
    """An index could not be written, for example because the disk is full; earlier commits are kept.

    Attributes:
        filename: Folder of the index.
        strerror: The reason.
    """

    def __init__(self, reason: str, folder: str) -> None:
        super().__init__(None, reason, folder)

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class BackendError(RsicrcError, RuntimeError):
    """A backend or device is not available, or it failed."""


class DeviceMemoryError(BackendError, MemoryError):
    """A GPU has not enough free memory: lower the batch size or the number of beams."""


class CheckpointError(RsicrcError, ValueError):
    """A checkpoint cannot be read, or the file is not a checkpoint."""


class ExportError(RsicrcError, RuntimeError):
    """An export failed, for example because a graph does not agree with the PyTorch model."""


class DataError(RsicrcError, ValueError):
    """A data set does not have the expected layout or content."""


class EmptySplitError(DataError):
    """A data set has no pairs in the requested split."""


def printable(text: str) -> str:
    """Return a text in which control characters and bytes that are not UTF-8 are escaped, for a line of a message."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(value: object, most: int = 80) -> str:
    """Return a value from a file as text for a message: printable, and cut after `most` characters."""
    text = str(value)
    return printable(text[:most]) + ("…" if len(text) > most else "")


def is_utf8(text: str) -> bool:
    """Return True if a text can be stored as UTF-8: it has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def describe_os_error(error: OSError) -> str:
    """Return `file: reason`, without the error number at the start of `str(error)`."""
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
