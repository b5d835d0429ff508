"""Short quotations of values and names that come from a file, for error messages of one line."""

from __future__ import annotations

from collections.abc import Sequence

_MOST_NAMES = 5
_MOST_CHARACTERS = 80


def quote(value: object) -> str:
    """Return a short description of any value, without control characters and without a recursion into containers."""
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if abs(value) < 10**15 else f"a number of {value.bit_length()} bits"
    if isinstance(value, str):
        return ascii(value[:_MOST_CHARACTERS]) + ("…" if len(value) > _MOST_CHARACTERS else "")
    return f"a {type(value).__name__}"


def quote_name(name: object) -> str:
    """Return a name as it is if it is short and printable; any other key as from `quote`."""
    if isinstance(name, str) and name.isprintable() and 0 < len(name) <= _MOST_CHARACTERS:
        return name
    return quote(name)


def list_names(names: Sequence[object]) -> str:
    """Return up to five names, and the number of the others."""
    listed = ", ".join(quote_name(name) for name in names[:_MOST_NAMES])
    others = len(names) - _MOST_NAMES
    return f"{listed} and {others} more" if others > 0 else listed
