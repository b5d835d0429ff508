"""Opening and atomic replacement of files, locks, and the user's cache folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Pipes and devices, which may block or never end, are not opened.

    Raises:
        IsADirectoryError: The path is a folder.
        OSError: The file cannot be opened, or is a pipe, socket or device.
        ValueError: The path holds a NUL character.
    """
    require_regular(path.stat(), path)
    file = open(path, "rb", opener=_open_without_blocking)  # noqa: SIM115 - Path.open has no opener
    try:
        require_regular(os.fstat(file.fileno()), path)  # the file may have been replaced since
    except OSError:
        file.close()
        raise
    return file


def require_regular(status: os.stat_result, path: Path) -> None:
    """Raise an error if a status is not that of a regular file.

    Raises:
        IsADirectoryError: The path is a folder.
        OSError: The path is a pipe, socket or device.
    """
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "a pipe, socket or device, not a file", str(path))


def _open_without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


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


def user_cache() -> Path | None:
    """Return the user's cache folder; None if there is no home folder to put it in.

    The folder is `$RSICRC_CACHE`, else `$XDG_CACHE_HOME/rsicrc`, else `~/.cache/rsicrc`. It can be deleted at any time.
    """
    if folder := os.environ.get("RSICRC_CACHE"):
        return Path(folder)
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "rsicrc"
    try:
        return Path.home() / ".cache" / "rsicrc"
    except RuntimeError:  # no HOME, and the number of the user has no name
        return None


def compiled_folder(graph_sha256: str, library: str, version: str, device: str, settings: object) -> Path | None:
    """Return the folder in the user's cache for a graph that a library has compiled; None without a cache.

    Compiled graphs are code. They are only read from a folder that this user's processes fill, never from a model
    folder. The path identifies all that the result of the compilation depends on. The C++ library computes the same
    path (runtime/cpp/src/cache.cpp).

    Args:
        graph_sha256: SHA-256 of the ONNX file, in hexadecimal digits.
        library: Name of the library.
        version: Version of the library.
        device: Name of the device; every character that is not a letter, a digit, a dot or a dash is replaced.
        settings: Everything else that changes the result, as values that JSON can represent.
    """
    cache = user_cache()
    return None if cache is None else cache / "compiled" / graph_sha256 / _key(library, version, device, settings)


def timing_folder(library: str, version: str, device: str, settings: object) -> Path | None:
    """Return the folder in the user's cache for times that a library has measured on a device; None without a cache.

    The arguments are those of `compiled_folder`.
    """
    cache = user_cache()
    return None if cache is None else cache / "timings" / _key(library, version, device, settings)


def _key(library: str, version: str, device: str, settings: object) -> str:
    text = json.dumps([device, settings], sort_keys=True, separators=(",", ":"))
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", f"{library}-{version}-{device}")
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
