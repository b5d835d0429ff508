"""Fields of a parsed document: their types and ranges. Every function raises ValueError with the name of the field."""

from __future__ import annotations

import math
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath
from reprlib import Repr
from typing import Any

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_LONGEST_NAME = 200


def whole(value: Any, name: str, low: int, high: int) -> int:
    """Return a whole number of a range."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {shown(value)}")
    return value


def number(value: Any, name: str, low: float, high: float) -> float:
    """Return a finite number of a range as a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number, not {shown(value)}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low:g} to {high:g}, not {shown(value)}")
    return float(value)


def flag(value: Any, name: str) -> bool:
    """Return a value that is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {shown(value)}")
    return value


def text(value: Any, name: str, longest: int = _LONGEST_NAME) -> str:
    """Return a text without control characters."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, not {shown(value)}")
    if len(value) > longest:
        raise ValueError(f"{name} is longer than {longest} characters")
    if not is_printable(value):
        raise ValueError(f"{name} has a control character: {value!a:.80}")
    return value


def mapping(value: Any, name: str, most: int) -> dict[str, Any]:
    """Return a mapping of at most `most` entries, with keys that are plain texts."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping, not {shown(value)}")
    if len(value) > most:
        raise ValueError(f"{name} has more than {most} entries")
    return {text(key, f"a name in {name}"): each for key, each in value.items()}


def sequence(value: Any, name: str, most: int) -> list[Any]:
    """Return a list of at most `most` values."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} must be a list, not {shown(value)}")
    if len(value) > most:
        raise ValueError(f"{name} has more than {most} entries")
    return list(value)


def file_name(value: str) -> str:
    """Return a name without a path, so that a document cannot name a file outside its folder on any system."""
    if value in ("", ".", "..") or PurePosixPath(value).name != value or PureWindowsPath(value).name != value:
        raise ValueError(f"{shown(value)} is not a plain file name")
    return value


def is_printable(value: str) -> bool:
    """Return True if a text has no control characters, invisible formatting characters or surrogates."""
    return value.isprintable() or not any(
        unicodedata.category(each) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for each in value
    )


def shown(value: Any) -> str:
    """Return a value for a message, on one line and not long."""
    return _SHORT.repr(value)
