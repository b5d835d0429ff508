"""The columns of an index: the fixed columns, and the columns of the user's tables with their types."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from rsicrc.errors import PairsError, is_utf8, shortened
from rsicrc.inputs.pair_table import PairRow
from rsicrc.untrusted.fields import shown

CAPTION_COLUMNS = ("caption", "score", "change_score")
CHECKSUM_COLUMNS = ("before_sha256", "after_sha256", "stamp")
# Columns that a search adds to the returned rows.
HIT_COLUMNS = ("rank", "similarity", "log_prob", "rank_score")
_RESERVED = frozenset({"id", "before", "after", "vector", *CHECKSUM_COLUMNS, *CAPTION_COLUMNS, *HIT_COLUMNS})
_NAMES = {
    pa.int64(): "whole numbers",
    pa.float64(): "numbers",
    pa.bool_(): "true or false",
    pa.string(): "text",
    pa.date32(): "dates",
    pa.timestamp("us"): "times",
}


def base_schema(width: int, metadata: Mapping[bytes, bytes]) -> pa.Schema:
    """Return the schema of an empty index, with vectors of `width` numbers."""
    texts = ("id", "before", "after", *CHECKSUM_COLUMNS)
    return pa.schema(
        [
            *(pa.field(name, pa.string(), nullable=False) for name in texts),
            pa.field("vector", pa.list_(pa.float32(), width), nullable=False),
            pa.field("caption", pa.string()),
            pa.field("score", pa.float64()),
            pa.field("change_score", pa.float64()),
        ],
        metadata=dict(metadata),
    )


def user_columns(schema: pa.Schema) -> list[str]:
    """Return the names of the columns of an index that come from the user's tables."""
    return [name for name in schema.names if name not in _RESERVED]


def column_types(rows: Iterable[PairRow]) -> dict[str, pa.DataType]:
    """Return the types of the extra columns of the rows, without columns that have no value.

    Raises:
        PairsError: The name of a column is reserved or not supported.
    """
    found: dict[str, set[pa.DataType]] = {}
    for row in rows:
        for name, value in row.extra.items():
            if name in _RESERVED or name.startswith("_") or not name or "." in name or "`" in name or not is_utf8(name):
                reason = "the name is reserved for a column of the index" if name in _RESERVED else "not a usable name"
                raise PairsError(f"column '{shortened(name)}': {reason}. Rename it in the table")
            if value is not None:
                found.setdefault(name, set()).add(_type_of(value))
    return {name: _common(types) for name, types in found.items()}


def convert(value: Any, target: pa.DataType, name: str, row_id: str) -> Any:
    """Convert a value to the type of a column.

    Raises:
        PairsError: The value has an incompatible type.
    """
    if value is None:
        return None
    if target == pa.string():
        if isinstance(value, str):
            return value
        return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, dict)) else str(value)
    given = _type_of(value)
    if given == target:
        aware = isinstance(value, datetime.datetime) and value.tzinfo is not None
        return value.astimezone(datetime.UTC).replace(tzinfo=None) if aware else value
    if target == pa.float64() and given == pa.int64():
        return float(value)
    if target == pa.int64() and given == pa.float64() and float(value).is_integer():
        return int(value)
    raise PairsError(
        f"id '{shortened(row_id)}': column '{shortened(name)}' of the index holds {_NAMES[target]}, not "
        f"{shown(value)}. Correct the table, or rename its column"
    )


def _type_of(value: Any) -> pa.DataType:
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if -(1 << 63) <= value < 1 << 63 else pa.string()
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, datetime.datetime):
        return pa.timestamp("us")
    if isinstance(value, datetime.date):
        return pa.date32()
    return pa.string()


def _common(types: set[pa.DataType]) -> pa.DataType:
    if len(types) == 1:
        return next(iter(types))
    return pa.float64() if types == {pa.int64(), pa.float64()} else pa.string()
