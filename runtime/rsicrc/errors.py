"""The one family of errors that rsicrc raises on purpose.

Every member also inherits the built-in that a caller without rsicrc in mind would expect (`ValueError`,
`FileNotFoundError`, …), so `except RsicrcError` catches them all and `except ValueError` still works. A message says
what was wrong with which file, and what to do about it.
"""


class RsicrcError(Exception):
    """Base of everything that rsicrc raises on purpose."""


class ArgumentError(RsicrcError, ValueError):
    """An argument is out of its range, for example more `n_best` captions than `beams`."""


class ModelFolderError(RsicrcError, ValueError):
    """A model folder is damaged, incomplete, or of a format that this version cannot read."""


class ModelNotFoundError(RsicrcError, FileNotFoundError):
    """There is no model folder where one was looked for."""


class ImageError(RsicrcError, ValueError):
    """An image cannot be used: missing, damaged, too small, too large, or of an unsuitable type."""


class PairsError(RsicrcError, ValueError):
    """A list of image pairs (a CSV file) cannot be used."""


class IndexFolderError(RsicrcError, ValueError):
    """An index of pairs is not there, is damaged, or was made with another model."""


class BackendError(RsicrcError, RuntimeError):
    """A backend or device is not there, or it failed."""


class DeviceMemoryError(BackendError, MemoryError):
    """A GPU has no memory for what was asked: lower the batch size or the number of beams."""


class CheckpointError(RsicrcError, ValueError):
    """A checkpoint cannot be read, or holds something else."""


class ExportError(RsicrcError, RuntimeError):
    """An export failed, for example because a graph does not agree with the PyTorch model."""


class DataError(RsicrcError, ValueError):
    """A data set does not have the layout or the content that it should have."""


class EmptySplitError(DataError):
    """A data set has no pairs in the split that was asked for."""
