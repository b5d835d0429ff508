"""What can be indexed: a table of pairs, a captioned data set, or two folders with files of the same names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from rsicrc.datasets.registry import find_layout, read_splits
from rsicrc.errors import PairsError
from rsicrc.index.columns import typed_text
from rsicrc.inputs.pair_table import PairRow, read_pairs

PathLike: TypeAlias = str | os.PathLike[str]
# A row as Python code has it: two paths, or a mapping with `before`, `after`, perhaps `id`, and columns of its own.
GivenPair: TypeAlias = PairRow | tuple[PathLike, PathLike] | Mapping[str, Any]

_HASH = 12  # hexadecimal digits: no clash to be expected among millions of images that are all named alike
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"})
# Tables whose cells have types. In any other file, all is text.
_TYPED_TABLES = frozenset({".jsonl", ".ndjson", ".parquet"})


def read_source(path: Path, after: Path | None = None) -> list[PairRow]:
    """Find the pairs that a user names.

    Args:
        path: Table of pairs (CSV, JSON lines or Parquet, see `rsicrc.inputs.pair_table.read_pairs`), folder of a data
            set that `rsicrc.datasets.registry` knows, such as LEVIR-CC, folder with the folders A and B in it, or
            folder of the before images.
        after: The folder of the later images, under the same names.

    Returns:
        The rows, each with an id that is its own: the table's, or one made from the file's name and its full path, so
        that pairs of different tables never take each other's place.

    Raises:
        PairsError: The table or the folder cannot be used.
        DataError: The captions of the data set cannot be used.
        OSError: It cannot be read.
    """
    if after is not None:
        return _folder_pair(path, after)
    if not path.is_dir():
        rows = read_pairs(path)
        return named(rows if path.suffix.lower() in _TYPED_TABLES else typed_text(rows))
    if find_layout(path) is not None:
        return _captioned(path)
    if (path / "A").is_dir() and (path / "B").is_dir():
        return _folder_pair(path / "A", path / "B")
    raise PairsError(
        f"{path}: neither a data set that is known, such as LEVIR-CC, nor a folder with the folders A and B. "
        "Name two folders, before and after, or a table of pairs"
    )


def given_rows(pairs: Iterable[GivenPair]) -> list[PairRow]:
    """Turn pairs from Python code into rows.

    Raises:
        PairsError: One is neither two paths nor a mapping with `before` and `after`, an id occurs twice, or there are
            none.
    """
    rows = named([_given(pair, number) for number, pair in enumerate(pairs, start=1)])
    if not rows:
        raise PairsError("there are no pairs to index")
    return rows


def named(rows: Sequence[PairRow]) -> list[PairRow]:
    """Give the rows that have no id one: the later image's name, and a hash of both full paths.

    Raises:
        PairsError: An id, or a pair without one, occurs twice.
    """
    result: dict[str, PairRow] = {}
    for row in rows:
        name = row.id if row.named else _made_id(row)
        if name in result:
            what = f"id '{name}' stands for two pairs" if row.named else f"{row.before} and {row.after} are there twice"
            raise PairsError(f"{what}. Keep one, or give each its own id")
        result[name] = replace(row, id=name, named=True)
    return list(result.values())


def _made_id(row: PairRow) -> str:
    before, after = (path.absolute() for path in row.paths)
    digest = hashlib.sha256(f"{before}\n{after}".encode(errors="surrogatepass")).hexdigest()
    return f"{after.stem}-{digest[:_HASH]}"


def _given(pair: GivenPair, number: int) -> PairRow:
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


def _captioned(folder: Path) -> list[PairRow]:
    return named(
        [
            PairRow(
                "", str(pair.before), str(pair.after), Path(), {"split": split, "changed": pair.changed}, named=False
            )
            for split, pairs in read_splits(folder).items()
            for pair in pairs
        ]
    )


def _folder_pair(before: Path, after: Path) -> list[PairRow]:
    """Pair the images of two folders by name; one without its counterpart becomes a row with a problem."""
    first, second = _pictures(before), _pictures(after)
    rows = []
    for name in sorted({*first, *second}):
        lonely = None
        if name not in first or name not in second:
            lonely = f"{name}: only in {before if name in first else after}"
        rows.append(PairRow("", str(before / name), str(after / name), Path(), {}, lonely, named=False))
    if not first or not second:
        raise PairsError(f"{after if first else before}: no images (PNG, JPEG, TIFF, WebP or BMP) in this folder")
    return named(rows)


def _pictures(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise PairsError(f"{folder}: no such folder" if not folder.exists() else f"{folder}: not a folder")
    names = {path.name for path in folder.iterdir() if path.suffix.lower() in _PICTURES}
    return {name for name in names if not name.startswith(".")}
