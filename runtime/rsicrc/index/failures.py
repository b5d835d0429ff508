"""Errors of LanceDB, converted to errors of rsicrc with a message of one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rsicrc.errors import ArgumentError, IndexFolderError, IndexWriteError, RsicrcError

_SYSTEM_ERROR = re.compile(r"([A-Z][a-z][A-Za-z ]+) \(os error \d+\)")
_SYNTAX_ERROR = re.compile(r"\((sql parser error: .*)\)")
_NOISE = re.compile(r"^(lance error: |Invalid input, |Schema error: )*|\. Valid fields are.*|,? ?/\S+\.rs:\d+(:\d+)?")
_LONGEST = 300


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Convert every error of LanceDB to an IndexFolderError: damaged or removed files."""
    with _converting() as problem:
        yield
    if problem:
        raise IndexFolderError(
            f"{folder}: removed while it is open, or damaged ({reason(problem[0])}). Remove it and index again"
        ) from problem[0]


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Convert every error of LanceDB to an IndexWriteError; a failed commit changes nothing."""
    with _converting() as problem:
        yield
    if problem:
        kept = "earlier commits are kept, run the same command again to continue"
        raise IndexWriteError(f"{reason(problem[0])}; {kept}", str(folder)) from problem[0]


@contextmanager
def filtering(where: str, columns: list[str]) -> Iterator[None]:
    """Convert every error of LanceDB to an ArgumentError about a condition."""
    with _converting() as problem:
        yield
    if problem:
        text = reason(problem[0])
        raise ArgumentError(
            f"where {where!r:.200}: {text}. It is an SQL condition on the columns {', '.join(columns)}"
        ) from problem[0]


@contextmanager
def _converting() -> Iterator[list[BaseException]]:
    """Yield a list that holds the error of the block afterwards; errors of rsicrc and interruptions pass."""
    problem: list[BaseException] = []
    try:
        yield problem
    except RsicrcError:
        raise
    except Exception as error:
        problem.append(error)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a panic of Rust is no Exception
            raise
        problem.append(error)


def reason(error: BaseException) -> str:
    """Return the message of LanceDB in one line, without source locations and lists of columns."""
    text = " ".join(str(error).split())
    for pattern in (_SYSTEM_ERROR, _SYNTAX_ERROR):
        if found := pattern.search(text):
            return found.group(1)
    return _NOISE.sub("", text).rstrip(" .")[:_LONGEST] or type(error).__name__
