"""Errors of LanceDB, converted to errors of rsicrc with a message of one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from rsicrc.errors import ArgumentError, IndexFolderError, IndexWriteError, RsicrcError

_SYSTEM_ERROR = re.compile(r"([A-Z][a-z][A-Za-z ]+) \(os error \d+\)")
_SYNTAX_ERROR = re.compile(r"\((sql parser error: .*)\)")
_NOISE = re.compile(r"^(lance error: |Invalid input, |Schema error: )*|\. Valid fields are.*|,? ?/\S+\.rs:\d+(:\d+)?")
_LONGEST = 300


def reading(folder: Path) -> AbstractContextManager[None]:
    """Convert every error of LanceDB to an IndexFolderError: damaged or removed files."""
    return _converting(
        lambda text: IndexFolderError(
            f"{folder}: removed while it is open, or damaged ({text}). Remove it and index again"
        )
    )


def writing(folder: Path) -> AbstractContextManager[None]:
    """Convert every error of LanceDB to an IndexWriteError; a failed commit changes nothing."""
    kept = "earlier commits are kept, run the same command again to continue"
    return _converting(lambda text: IndexWriteError(f"{text}; {kept}", str(folder)))


def filtering(where: str, columns: list[str]) -> AbstractContextManager[None]:
    """Convert every error of LanceDB to an ArgumentError about a condition."""
    names = ", ".join(columns)
    return _converting(
        lambda text: ArgumentError(f"where {where!r:.200}: {text}. It is an SQL condition on the columns {names}")
    )


@contextmanager
def _converting(make: Callable[[str], RsicrcError]) -> Iterator[None]:
    """Convert the error of the block; errors of rsicrc and interruptions pass.

    Args:
        make: Returns the error for a reason.
    """
    try:
        yield
    except RsicrcError:
        raise
    except BaseException as error:
        # A panic of Rust is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise make(reason(error)) from error


def reason(error: BaseException) -> str:
    """Return the message of LanceDB in one line, without source locations and lists of columns."""
    text = " ".join(str(error).split())
    for pattern in (_SYSTEM_ERROR, _SYNTAX_ERROR):
        if found := pattern.search(text):
            return found.group(1)
    return _NOISE.sub("", text).rstrip(" .")[:_LONGEST] or type(error).__name__
