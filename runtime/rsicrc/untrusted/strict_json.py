"""JSON documents of bounded size and depth, without duplicate keys, NaN, huge numbers and invalid Unicode."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

_MOST_BYTES = 64_000_000
_MOST_DEPTH = 32
_MOST_DIGITS = 19  # of a 64-bit integer


def read_text(path: Path) -> str:
    """Read a regular file of UTF-8 text, at most 64 MB.

    Raises:
        FileNotFoundError: The file is missing.
        OSError, ValueError: The file cannot be read, is no regular file (a pipe or a device would never end), is too
            large, or is not UTF-8.
    """
    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError(f"larger than {_MOST_BYTES:,} bytes")
    return content.decode("utf-8")


def parse_json(text: str) -> Any:
    """Parse a JSON document.

    Raises:
        ValueError: The text is not valid JSON, repeats a key, is nested deeply, or has a number that is not finite, an
            integer of more than 64 bits, or a character that cannot be written as UTF-8.
    """
    try:
        document = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except RecursionError as error:
        raise ValueError(f"nested more than {_MOST_DEPTH} levels deep") from error
    _check_depth(document)
    return document


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        repeated = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {repeated[:80]!r} occurs twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large for a number")
    return number


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _MOST_DIGITS or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"{text[:40]} is too large for a whole number")
    return int(text)


def _check_depth(document: Any) -> None:
    level = [document]
    for _ in range(_MOST_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str) and not value.isascii():
                _check_unicode(value)
        level = below
        if not level:
            return
    raise ValueError(f"nested more than {_MOST_DEPTH} levels deep")


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text[:80]!a} is not valid Unicode") from error
