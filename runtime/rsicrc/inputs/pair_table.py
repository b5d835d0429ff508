"""A table of image pairs: a CSV file with a header, or JSON lines or a Parquet file with the same keys."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsicrc.errors import PairsError

COLUMNS = ("before", "after")
# Columns that a captions file adds to a row. A table must not have columns with these names.
RESULT_COLUMNS = (
    "caption",
    "score",
    "change_score",
    "changed",
    "seen",
    "warnings",
    "n_best",
    "error",
    "model",
    "search",
)


@dataclass(frozen=True)
class PairRow:
    """One row of a table.

    Attributes:
        id: Id from the table, or the number of the row (from 1) as text.
        before: Path of the earlier image, as written in the table.
        after: Path of the later image, as written in the table.
        folder: Folder of the table, which relative paths start from.
        extra: The other columns, passed through to the captions file.
        problem: Reason why the row cannot be used, if it is known from the table.
        named: True if the id is from the table.
    """

    id: str
    before: str
    after: str
    folder: Path
    extra: Mapping[str, Any]
    problem: str | None = None
    named: bool = True

    @property
    def paths(self) -> tuple[Path, Path]:
        """Paths of the two images, with the folder of the table."""
        return self.folder / self.before, self.folder / self.after

    def to_dict(self) -> dict[str, Any]:
        """Return the row's fields in a line of a captions file."""
        return {"id": self.id, "before": self.before, "after": self.after, **self.extra}


def read_pairs(path: Path) -> list[PairRow]:
    """Read a table of pairs.

    The columns `before` and `after` are required. The column `id` is optional; by default the id is the number of the
    row. A row without a path is returned with a `problem`, so that a job can report the row and process the others.

    Args:
        path: Table to read: `*.jsonl` or `*.ndjson` as JSON lines, `*.parquet` as Parquet (needs pyarrow), any other
            file as CSV (UTF-8, comma).

    Raises:
        PairsError: The table as a whole cannot be used: no rows, a missing column, a duplicate id, not UTF-8, …
        OSError: The file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        records = _parquet_rows(path)
    else:
        text = _text(path)
        records = _json_rows(text, path) if suffix in (".jsonl", ".ndjson") else _csv_rows(text, path)
    rows: list[PairRow] = []
    lines: dict[str, int] = {}
    for line, fields in records:
        row = _row(fields, number=len(rows) + 1, folder=path.parent, where=f"{path}: line {line}")
        if row.id in lines:
            raise PairsError(f"{path}: id '{row.id}' occurs in lines {lines[row.id]} and {line}. Make ids unique")
        lines[row.id] = line
        rows.append(row)
    if not rows:
        raise PairsError(f"{path}: no rows. The table needs the columns 'before' and 'after', and one row per pair")
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        raise PairsError(f"{path}: not UTF-8 text (byte {error.start}). Save the table as 'CSV UTF-8'") from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    with path.open("rb") as file:  # a missing file raises OSError, as for the other formats
        try:
            from pyarrow import ArrowException
            from pyarrow.parquet import read_table
        except ImportError as error:
            raise PairsError(f"{path}: Parquet needs pyarrow: `pip install 'rsicrc[search]'`") from error
        try:
            table = read_table(file)
        except ArrowException as error:
            raise PairsError(f"{path}: not a Parquet file ({error})") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise PairsError(f"{path}: no column '{missing[0]}', only {', '.join(map(repr, table.column_names))}")
    yield from enumerate(table.to_pylist(), start=1)


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    if not text.strip():
        return
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in reader.fieldnames or ()]
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            found = ", ".join(f"'{name}'" for name in header)
            raise PairsError(
                f"{path}: no column '{missing[0]}' in the header, only {found}. "
                "The first line must name the columns, separated by commas"
            )
        if len(set(header)) < len(header):
            raise PairsError(f"{path}: a column name occurs twice in the header. Rename one")
        reader.fieldnames = header
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        raise PairsError(f"{path}: line {reader.line_num} is not CSV ({error})") from error


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    # Not splitlines(): JSON strings may contain Unicode line separators.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise PairsError(f"{path}: line {number} is not JSON ({error})") from error
        if not isinstance(fields, dict):
            raise PairsError(f"{path}: line {number} is not a JSON object with the keys 'before' and 'after'")
        yield number, fields


def _row(fields: dict[Any, Any], number: int, folder: Path, where: str) -> PairRow:
    taken = [name for name in RESULT_COLUMNS if name in fields]
    if taken:
        raise PairsError(f"{where}: '{taken[0]}' is a column of the results. Rename it in the table")
    surplus = fields.pop(None, None)  # csv stores surplus cells under the key None
    given_id = fields.pop("id", None)
    row_id = str(number if given_id is None else given_id).strip()
    if not row_id:
        raise PairsError(f"{where}: the id is empty. Give every row an id, or remove the column")
    problem = None if surplus is None else "more cells than columns in the header: is a comma in a path not quoted?"
    paths = []
    for name in COLUMNS:
        value = fields.pop(name, None)
        path = value.strip() if isinstance(value, str) else ""
        if not path:
            problem = problem or f"no path in '{name}'"
        paths.append(path)
    return PairRow(row_id, paths[0], paths[1], folder, fields, problem, named=given_id is not None)
