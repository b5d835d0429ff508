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
# What a captions file adds to a row; a table's own columns must not hide behind these names.
RESULT_COLUMNS = ("caption", "score", "change_score", "n_best", "error", "model", "search")


@dataclass(frozen=True)
class PairRow:
    """One row of a table.

    Attributes:
        id: Its name in the table, or its number among the rows (from 1), as text.
        before: Path of the earlier image, as the table has it.
        after: Path of the later image, as the table has it.
        folder: What relative paths start from: the table's folder.
        extra: The other columns, passed through to the captions file.
        problem: Why the row cannot be used, where reading the table showed it already.
        named: Whether the table gives it its id.
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
        """The two images, where they really are."""
        return self.folder / self.before, self.folder / self.after

    def to_dict(self) -> dict[str, Any]:
        """Return the row's part of a line in a captions file."""
        return {"id": self.id, "before": self.before, "after": self.after, **self.extra}


def read_pairs(path: Path) -> list[PairRow]:
    """Read a table of pairs.

    Columns `before` and `after` are needed; `id` names the rows and is their number without it. A row that lacks a path
    is returned with its `problem`, so that a job can report it in its place and do the others.

    Args:
        path: `*.jsonl` or `*.ndjson` is read as JSON lines, `*.parquet` as Parquet (this needs pyarrow), anything else
            as CSV (UTF-8, comma).

    Raises:
        PairsError: The table as a whole cannot be used: no rows, a column missing, an id twice, not UTF-8, …
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
            raise PairsError(f"{path}: id '{row.id}' stands in lines {lines[row.id]} and {line}. Make ids unique")
        lines[row.id] = line
        rows.append(row)
    if not rows:
        raise PairsError(f"{path}: no rows. The table needs the columns 'before' and 'after', and a row for each pair")
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # spreadsheets put a byte order mark first
    except UnicodeDecodeError as error:
        raise PairsError(f"{path}: not UTF-8 text (byte {error.start}). Save the table as 'CSV UTF-8'") from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    with path.open("rb") as file:  # a file that is not there is an OSError like that of the other tables
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
            raise PairsError(f"{path}: a column name stands twice in the header. Rename one")
        reader.fieldnames = header
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:
        raise PairsError(f"{path}: line {reader.line_num} is not CSV ({error})") from error


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    # Not splitlines(): JSON strings may hold line separators of Unicode's.
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
    surplus = fields.pop(None, None)  # csv puts the cells that the header does not name here
    given_id = fields.pop("id", None)
    row_id = str(number if given_id is None else given_id).strip()
    if not row_id:
        raise PairsError(f"{where}: the id is empty. Give every row one, or leave the column out")
    problem = None if surplus is None else "more cells than the header has columns: is a comma in a path not quoted?"
    paths = []
    for name in COLUMNS:
        value = fields.pop(name, None)
        path = value.strip() if isinstance(value, str) else ""
        if not path:
            problem = problem or f"no path in '{name}'"
        paths.append(path)
    return PairRow(row_id, paths[0], paths[1], folder, fields, problem, named=given_id is not None)
