"""A table of image pairs: a CSV file with a header, or JSON lines or a Parquet file with the same keys.

CSV files are read as spreadsheets write them: separated by commas, semicolons or tabs, in UTF-8, UTF-16 or
Windows-1252, with capitals and blanks in column names, empty columns and rows, and paths with backslashes.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsicrc.errors import PairsError, printable, shortened
from rsicrc.inputs.cell_types import infer_types

STDIN = Path("-")
COLUMNS = ("before", "after")
_LISTED = 20
# Columns that a captions file adds to a row. A table must not have columns with these names.
RESULT_COLUMNS = (
    "caption",
    "score",
    "change_score",
    "change_probability",
    "changed",
    "seen",
    "warnings",
    "n_best",
    "error",
    "model",
    "search",
)


# Names that are recognized in any case, with blanks around them.
_KNOWN = frozenset({*COLUMNS, "id", "split", "captions", "changed"})
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_FIELD_LIMIT = 1 << 27  # bytes of a cell; the limit of Python's module csv is 128 KiB
_csv_lock = threading.Lock()  # for the limit, which is one for the whole process


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
        return _resolve(self.folder, self.before), _resolve(self.folder, self.after)

    def to_dict(self) -> dict[str, Any]:
        """Return the row's fields in a line of a captions file."""
        return {"id": self.id, "before": self.before, "after": self.after, **self.extra}


def read_pairs(path: Path, taken: Collection[str] = RESULT_COLUMNS) -> list[PairRow]:
    """Read a table of pairs.

    The columns `before` and `after` are required. The column `id` is optional; by default the id is the number of the
    row. A row without a path is returned with a `problem`, so that a job can report the row and process the others. The
    cells of a CSV file get the type of their column (see `rsicrc.inputs.cell_types`).

    Args:
        path: Table to read: `*.jsonl` or `*.ndjson` as JSON lines, `*.parquet` as Parquet (needs pyarrow), any other
            file as CSV. `-` reads standard input, whose format is recognized by its first bytes; its paths are relative
            to the current folder.
        taken: Names that columns of the table must not have.

    Raises:
        PairsError: The table as a whole cannot be used: no rows, a missing column, a duplicate id, a wrong encoding, …
        OSError: The file cannot be read.
    """
    name = "standard input" if path == STDIN else str(path)
    content = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
    kind = _format(content) if path == STDIN else path.suffix.lower()
    records: Iterable[tuple[int, dict[Any, Any]]]
    if kind == ".parquet":
        records = _parquet_rows(content, name)
    elif kind in (".jsonl", ".ndjson"):
        records = _json_rows(_text(content, name, kind), name)
    else:
        records = _csv_rows(_text(content, name, kind), name)
    rows: list[PairRow] = []
    lines: dict[str, int] = {}
    for line, fields in records:
        row = _row(fields, number=len(rows) + 1, folder=path.parent, where=f"{name}: line {line}", taken=taken)
        if row.id in lines:
            raise PairsError(
                f"{name}: id '{shortened(row.id)}' occurs in lines {lines[row.id]} and {line}. Make ids unique"
            )
        lines[row.id] = line
        rows.append(row)
    if not rows:
        raise PairsError(f"{name}: no rows. The table needs the columns 'before' and 'after', and one row per pair")
    return rows


def _resolve(folder: Path, text: str) -> Path:
    """Return the path of an image; backslashes separate folders unless there is such a file."""
    path = folder / text
    if "\\" in text and not path.exists():
        return folder / text.replace("\\", "/")
    return path


def _format(content: bytes) -> str:
    if content.startswith(b"PAR1"):
        return ".parquet"
    return ".jsonl" if content.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{") else ".csv"


def _text(content: bytes, name: str, kind: str) -> str:
    try:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = content.decode("utf-16")
        else:
            text = content.decode("utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        problem = f"{name}: not UTF-8 text (byte {error.start}). Save the table as 'CSV UTF-8'"
        if kind in (".jsonl", ".ndjson"):
            raise PairsError(problem) from error
        try:
            text = content.decode("cp1252")  # "CSV" of a spreadsheet on Windows
        except UnicodeDecodeError:
            raise PairsError(problem) from error
    if "\0" in text:
        raise PairsError(f"{name}: not a text file, or UTF-16 without a byte order mark. Save the table as 'CSV UTF-8'")
    return text


def _parquet_rows(content: bytes, name: str) -> Iterator[tuple[int, dict[Any, Any]]]:
    try:
        from pyarrow import ArrowException, BufferReader
        from pyarrow.parquet import read_table
    except ImportError as error:
        raise PairsError(f"{name}: Parquet needs pyarrow: `pip install 'rsicrc[search]'`") from error
    try:
        table = read_table(BufferReader(content))
        table.validate(full=True)  # texts that are not UTF-8, offsets outside the data
        names = [_column_name(column) for column in table.column_names]
        columns = [column.to_pylist() for column in table.columns]
    except (ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        reason = printable(" ".join(str(error).split()))
        raise PairsError(f"{name}: not a Parquet file, or damaged ({reason:.200})") from error
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise PairsError(f"{name}: no column '{missing[0]}', only {_listed(names)}")
    if len(set(names)) < len(names):
        raise PairsError(f"{name}: a column name occurs twice. Rename one")
    rows = zip(*columns, strict=True)
    yield from enumerate((dict(zip(names, row, strict=True)) for row in rows), start=1)


def _listed(names: Sequence[Any]) -> str:
    """Return the first names for a message."""
    more = ", …" if len(names) > _LISTED else ""
    return ", ".join(f"'{shortened(name, 60)}'" for name in names[:_LISTED]) + more


def _csv_rows(text: str, name: str) -> list[tuple[int, dict[Any, Any]]]:
    """Return the rows of a CSV file with the number of the line on which each row ends."""
    # Excel reads and writes the separator in a line of its own.
    declared = re.match(r"sep=(.)\r?\n", text, re.IGNORECASE)
    text = text[declared.end() :] if declared else text
    if not text.strip():
        return []
    with _csv_lock:
        limit = csv.field_size_limit(_FIELD_LIMIT)
        try:
            separator = declared.group(1) if declared else _separator(text)
            records = _cells(text, separator, name, 2 if declared else 1)
        finally:
            csv.field_size_limit(limit)
    if not records:  # only empty cells
        return []
    (_, first), *rest = records
    header = [_column_name(cell) for cell in first]
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise PairsError(
            f"{name}: no column '{missing[0]}' in the header, only {_listed(header)}. "
            "The first line must name the columns, separated by commas, semicolons or tabs"
        )
    used = [column for column in header if column]
    if len(set(used)) < len(used):
        raise PairsError(f"{name}: a column name occurs twice in the header. Rename one")
    rows = [(line, _fields(header, cells)) for line, cells in rest]
    typed = infer_types([fields for _, fields in rows], keep=(*COLUMNS, "id", "captions", None))
    return [(line, fields) for (line, _), fields in zip(rows, typed, strict=True)]


def _separator(text: str) -> str:
    """Return the separator with which the header has the required columns; by default the comma."""
    for separator in _SEPARATORS:
        try:
            header = next(csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=separator), [])
        except csv.Error:
            continue
        if set(COLUMNS) <= set(map(_column_name, header)):
            return separator
    return ","


def _cells(text: str, separator: str, name: str, line: int) -> list[tuple[int, list[str]]]:
    """Return the cells of all rows that are not empty, with the number of the line on which each row ends."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        return [(reader.line_num + line - 1, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise PairsError(f"{name}: line {reader.line_num + line - 1} is not CSV ({error})") from error


def _fields(header: list[str], cells: list[str]) -> dict[Any, Any]:
    """Return the cells by column; cells that are not empty and have no column are stored under None."""
    padded = [*cells, *[None] * (len(header) - len(cells))]
    fields: dict[Any, Any] = {column: cell for column, cell in zip(header, padded, strict=False) if column}
    unnamed = [cell for column, cell in zip(header, cells, strict=False) if not column]
    surplus = [cell for cell in [*unnamed, *cells[len(header) :]] if cell.strip()]
    return {**fields, None: surplus} if surplus else fields


def _column_name(name: Any) -> Any:
    """Return the name of a column without blanks around it; known names in lower case."""
    if not isinstance(name, str):
        return name
    name = name.strip()
    return name.lower() if name.lower() in _KNOWN else name


def _json_rows(text: str, name: str) -> Iterator[tuple[int, dict[Any, Any]]]:
    # Not splitlines(): JSON strings may contain Unicode line separators.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PairsError(f"{name}: line {number} is not JSON ({shortened(error, 200)})") from error
        if not isinstance(fields, dict):
            raise PairsError(f"{name}: line {number} is not a JSON object with the keys 'before' and 'after'")
        named = {_column_name(key): value for key, value in fields.items()}
        if len(named) < len(fields):
            raise PairsError(f"{name}: line {number} has a key twice. Rename one")
        yield number, named


def _row(fields: dict[Any, Any], number: int, folder: Path, where: str, taken: Collection[str]) -> PairRow:
    surplus = fields.pop(None, None)
    found = [name for name in fields if name in taken]
    if found:
        raise PairsError(f"{where}: '{found[0]}' is a column of the results. Rename it in the table")
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
