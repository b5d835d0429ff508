"""Sources of pairs for an index: a table, a captioned data set, two folders, or Python objects."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from rsicrc.datasets.source import read_source as read_rows, with_ids
from rsicrc.errors import PairsError
from rsicrc.inputs.pair_table import PairRow

PathLike: TypeAlias = str | os.PathLike[str]
# A pair in Python code: a row, two paths, or a mapping with `before`, `after`, optionally `id`, and other columns.
PairInput: TypeAlias = PairRow | tuple[PathLike, PathLike] | Mapping[str, Any]


def read_source(path: Path, after: Path | None = None, match: tuple[str, str] | None = None) -> list[PairRow]:
    """Read pairs from a table, a data set or folders (see `rsicrc.datasets.source.read_source`).

    Returns:
        The rows with unique ids: the id from the table, or an id made from the file name and the full paths, so that
        pairs of different tables never replace each other.
    """
    return with_ids(read_rows(path, after, match))


def rows_from_pairs(pairs: Iterable[PairInput]) -> list[PairRow]:
    """Convert pairs from Python code to rows.

    Raises:
        PairsError: A pair is neither two paths nor a mapping with `before` and `after`, an id occurs twice, or there
            are no pairs.
    """
    rows = with_ids([_row_from_pair(pair, number) for number, pair in enumerate(pairs, start=1)])
    if not rows:
        raise PairsError("there are no pairs to index")
    return rows


def _row_from_pair(pair: PairInput, number: int) -> PairRow:
    if isinstance(pair, PairRow):
        return pair
    if isinstance(pair, Mapping):
        fields = dict(pair)
        paths = [fields.pop("before", None), fields.pop("after", None)]
    else:
        fields, paths = {}, list(pair) if isinstance(pair, (tuple, list)) else []
    if len(paths) != 2 or not all(isinstance(path, (str, os.PathLike)) and str(path) for path in paths):
        raise PairsError(f"pair {number}: a pair to index is two paths, or a mapping with 'before' and 'after'")
    row_id = fields.pop("id", None)
    named = row_id is not None and bool(str(row_id).strip())
    before, after = (os.fspath(path) for path in paths if path is not None)
    return PairRow(str(row_id).strip() if named else str(number), before, after, Path(), fields, named=named)
