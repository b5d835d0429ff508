"""Atomic replacement of files, locks, and the folders for cached data."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file atomically: the block writes a temporary file, which is renamed to `path` if the block succeeds.

    Yields:
        Path of the temporary file, in the same folder and with the same suffix. If the block fails, the temporary file
        is removed and `path` is unchanged.

    Raises:
        OSError: The file could not be written; the error names `path`.
    """
    target = path.resolve()  # replace the file that a symbolic link points to, not the link
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        yield temporary
        temporary.replace(target)
    except OSError as error:
        if error.filename is not None and Path(error.filename) != temporary:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def is_folder(path: Path) -> bool:
    """Return True if a path names a folder; unlike `Path.is_dir`, a name that is too long is no error."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def try_lock(file: IO[bytes]) -> bool:
    """Lock an open file for this writer, without waiting.

    The lock belongs to the file, not to its name. It ends when the file is closed, also by the end of the process.

    Returns:
        False if another writer has locked the file.

    Raises:
        OSError: The file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def user_cache() -> Path:
    """Return the user's cache folder: `$XDG_CACHE_HOME/rsicrc`, or `~/.cache/rsicrc`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rsicrc"


def cache_folder(folder: Path, name: str) -> Path:
    """Return the folder for compiled graphs: in the model folder if that is writable, else in the user's cache.

    The folder can be deleted at any time.

    Args:
        folder: The model folder.
        name: Name of the cache, which should name the library and its version.
    """
    engines = folder / "engines"
    if not os.access(engines if engines.exists() else folder, os.W_OK):
        engines = user_cache()
    return engines / name
