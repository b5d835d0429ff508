"""Sources of pairs for an index: a table, a captioned data set, two folders, or Python objects."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from rsicrc.datasets.registry import find_layout, read_splits
from rsicrc.errors import PairsError
from rsicrc.index.columns import infer_types
from rsicrc.inputs.pair_table import PairRow, read_pairs

PathLike: TypeAlias = str | os.PathLike[str]
# A pair in Python code: a row, two paths, or a mapping with `before`, `after`, optionally `id`, and other columns.
PairInput: TypeAlias = PairRow | tuple[PathLike, PathLike] | Mapping[str, Any]

_HASH = 12  # hexadecimal digits, enough to avoid collisions among millions of images with the same name
_IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"})
# Tables whose cells have types. In other tables, all cells are text.
_TYPED_TABLES = frozenset({".jsonl", ".ndjson", ".parquet"})


def read_source(path: Path, after: Path | None = None) -> list[PairRow]:
    """Read pairs from a table, a data set or folders.

    Args:
        path: Table of pairs (CSV, JSON lines or Parquet, see `rsicrc.inputs.pair_table.read_pairs`), folder of a data
            set in a layout of `rsicrc.datasets.registry` (for example LEVIR-CC), folder with the folders A and B, or
            folder of the earlier images.
        after: Folder of the later images, with the same file names.

    Returns:
        The rows with unique ids: the id from the table, or an id made from the file name and the full paths, so that
        pairs of different tables never replace each other.

    Raises:
        PairsError: The table or the folder cannot be used.
        DataError: The captions of the data set cannot be used.
        OSError: A file cannot be read.
    """
    if after is not None:
        return _rows_from_folders(path, after)
    if not path.is_dir():
        rows = read_pairs(path)
        return with_ids(rows if path.suffix.lower() in _TYPED_TABLES else infer_types(rows))
    if find_layout(path) is not None:
        return _rows_from_data_set(path)
    if (path / "A").is_dir() and (path / "B").is_dir():
        return _rows_from_folders(path / "A", path / "B")
    raise PairsError(
        f"{path}: neither a data set of a known layout, such as LEVIR-CC, nor a folder with the folders A and B. "
        "Name two folders, before and after, or a table of pairs"
    )


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


def with_ids(rows: Sequence[PairRow]) -> list[PairRow]:
    """Give rows without an id an id made of the name of the later image and a hash of both full paths.

    Raises:
        PairsError: An id, or a pair without an id, occurs twice.
    """
    result: dict[str, PairRow] = {}
    for row in rows:
        name = row.id if row.named else _made_id(row)
        if name in result:
            duplicate = (
                f"id '{name}' stands for two pairs" if row.named else f"{row.before} and {row.after} occur twice"
            )
            raise PairsError(f"{duplicate}. Remove one of them, or give each row a unique id")
        result[name] = replace(row, id=name, named=True)
    return list(result.values())


def _made_id(row: PairRow) -> str:
    before, after = (path.absolute() for path in row.paths)
    digest = hashlib.sha256(f"{before}\n{after}".encode(errors="surrogatepass")).hexdigest()
    return f"{after.stem}-{digest[:_HASH]}"


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


def _rows_from_data_set(folder: Path) -> list[PairRow]:
    return with_ids(
        [
            PairRow(
                "", str(pair.before), str(pair.after), Path(), {"split": split, "changed": pair.changed}, named=False
            )
            for split, pairs in read_splits(folder).items()
            for pair in pairs
        ]
    )


def _rows_from_folders(before: Path, after: Path) -> list[PairRow]:
    """Pair the images of two folders by name; an image without a counterpart becomes a row with a problem."""
    first, second = _image_names(before), _image_names(after)
    rows = []
    for name in sorted({*first, *second}):
        problem = None
        if name not in first or name not in second:
            problem = f"{name}: only in {before if name in first else after}"
        rows.append(PairRow("", str(before / name), str(after / name), Path(), {}, problem, named=False))
    if not first or not second:
        raise PairsError(f"{after if first else before}: no images (PNG, JPEG, TIFF, WebP or BMP) in this folder")
    return with_ids(rows)


def _image_names(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise PairsError(f"{folder}: no such folder" if not folder.exists() else f"{folder}: not a folder")
    names = {path.name for path in folder.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES}
    return {name for name in names if not name.startswith(".")}
