"""Where files go, and how they are written so that a half-written one never takes the place of a good one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Let the block write a temporary file, and move it to `path` in one step when the block has ended well.

    Yields:
        The temporary file, in the same folder and with the same suffix. It is removed if the block fails.

    Raises:
        OSError: It could not be written; the error names `path`, which is as it was.
    """
    target = path.resolve()  # where a link points to, not the link
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


def user_cache() -> Path:
    """Return the user's folder for what can be made again: `$XDG_CACHE_HOME/rsicrc`, or below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rsicrc"


def cache_folder(folder: Path, name: str) -> Path:
    """Return where a library may keep what it compiled: in the model folder, or else in the user's cache.

    What is in it can be deleted at any time.
    """
    engines = folder / "engines"
    if not os.access(engines if engines.exists() else folder, os.W_OK):
        engines = user_cache()
    return engines / name
