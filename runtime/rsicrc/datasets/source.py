"""Sources of pairs: a table, a captioned data set, or folders of images."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from rsicrc.datasets.folders import rows_from_folders, rows_from_patterns
from rsicrc.datasets.registry import find_layout, read_splits
from rsicrc.errors import PairsError, shortened
from rsicrc.inputs.pair_table import PairRow, read_pairs

_HASH = 12  # hexadecimal digits, enough to avoid collisions among millions of images with the same name


def read_source(
    path: Path,
    after: Path | None = None,
    match: tuple[str, str] | None = None,
    taken: Collection[str] = (),
) -> list[PairRow]:
    """Read pairs from a table, a data set or folders.

    Args:
        path: Table of pairs (CSV, JSON lines or Parquet, `-` for standard input, see
            `rsicrc.inputs.pair_table.read_pairs`), folder of a data set in a layout of `rsicrc.datasets.registry` (for
            example LEVIR-CC), folder with the folders A and B, or folder of the earlier images.
        after: Folder of the later images, with the same file names or the same names before the ending.
        match: Patterns of the names of the earlier and the later images, with `{id}` for the common part, for example
            `t1_{id}.png` and `t2_{id}.png`. Without `after`, both are relative to `path`, or to the folders A and B in
            `path`.
        taken: Names that columns of a table must not have; such columns of a data set are left out.

    Returns:
        The rows with unique ids. A row of a table without ids has the number of the row; other rows have the matched
        `{id}`, or an id made from the file name and the full paths, so that pairs of different folders never replace
        each other.

    Raises:
        PairsError: The table or the folder cannot be used.
        DataError: The captions of the data set cannot be used.
        OSError: A file cannot be read.
    """
    sides = path / "A", path / "B"
    two_sides = after is None and all(side.is_dir() for side in sides)
    if match is not None:
        in_sides = two_sides and not any("/" in pattern for pattern in match)
        before, later = sides if in_sides else (path, after or path)
        return with_ids(rows_from_patterns(before, later, match))
    if after is not None:
        return with_ids(rows_from_folders(path, after))
    if not path.is_dir():
        return read_pairs(path, taken)
    if find_layout(path) is not None:
        return _rows_from_data_set(path, taken)
    if two_sides:
        return with_ids(rows_from_folders(*sides))
    raise PairsError(
        f"{path}: neither a data set of a known layout, such as LEVIR-CC, nor a folder with the folders A and B. "
        "Name two folders, before and after, a table of pairs, or patterns of the names (--match)"
    )


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
                f"id '{shortened(name)}' stands for two pairs"
                if row.named
                else f"{shortened(row.before, 300)} and {shortened(row.after, 300)} occur twice"
            )
            raise PairsError(f"{duplicate}. Remove one of them, or give each row a unique id")
        result[name] = replace(row, id=name, named=True)
    return list(result.values())


def _made_id(row: PairRow) -> str:
    before, after = (path.absolute() for path in row.paths)
    digest = hashlib.sha256(f"{before}\n{after}".encode(errors="surrogatepass")).hexdigest()
    return f"{after.stem}-{digest[:_HASH]}"


def _rows_from_data_set(folder: Path, taken: Collection[str]) -> list[PairRow]:
    return with_ids(
        [
            PairRow("", str(pair.before), str(pair.after), Path(), _extra(split, pair.changed, taken), named=False)
            for split, pairs in read_splits(folder).items()
            for pair in pairs
        ]
    )


def _extra(split: str, changed: bool, taken: Collection[str]) -> dict[str, str | bool]:
    return {name: value for name, value in (("split", split), ("changed", changed)) if name not in taken}
