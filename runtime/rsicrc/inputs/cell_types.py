"""Types of the columns of a CSV file, which has only text."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_DIGITS = 18  # integers of more digits do not fit into 64 bits, and are usually names
_DECIMAL = re.compile(r"[+-]?(0|[1-9][0-9]*|(?=\.[0-9]))(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_BOOLEANS = {"true": True, "false": False}


def infer_types(rows: Sequence[Mapping[Any, Any]], keep: Collection[Any] = ()) -> list[dict[Any, Any]]:
    """Convert the cells of a table from text to the type of their column.

    A column becomes int, float or bool if all its cells can be read as such, else it stays text. Numbers with leading
    zeros and numbers of more than 18 digits stay text, because they are usually names. An empty cell becomes None.

    Args:
        rows: Cells by column.
        keep: Columns that are not converted.
    """
    names = dict.fromkeys(name for row in rows for name in row if name not in keep)
    types = {name: _column_type(row.get(name) for row in rows) for name in names}
    return [{name: _parse(cell, types[name]) if name in types else cell for name, cell in row.items()} for row in rows]


def _column_type(cells: Iterable[Any]) -> type:
    values = [cell.strip() for cell in cells if isinstance(cell, str) and cell.strip()]
    whole = [value for value in values if _INTEGER.fullmatch(value)]
    if any(len(value.lstrip("+-")) > _DIGITS for value in whole):
        return str
    if len(whole) == len(values):
        return int
    if all(_DECIMAL.fullmatch(value) and math.isfinite(float(value)) for value in values):
        return float
    return bool if all(value.lower() in _BOOLEANS for value in values) else str


def _parse(cell: Any, kind: type) -> Any:
    text = cell.strip() if isinstance(cell, str) else ""
    if not text:
        return None
    return _BOOLEANS[text.lower()] if kind is bool else kind(text)
