"""The LanceDB table of an index on disk: its identity, its commits, filters, and vector search.

LanceDB commits are atomic, so an interrupted writer leaves the table in the state before or after a commit. A lock file
serializes writers: LanceDB resolves conflicts between commits, but two concurrent upserts of the same new id would both
insert a row.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsicrc.errors import IndexFolderError, IndexWriteError, PairsError, shortened
from rsicrc.index.columns import base_schema, user_columns
from rsicrc.index.condition import normalize_condition
from rsicrc.index.exact_search import Ranked
from rsicrc.index.failures import filtering, reading, writing
from rsicrc.untrusted.fields import shown, whole
from rsicrc.untrusted.strict_json import parse_json

FORMAT_VERSION = 1
# Number of rows from which an approximate index is built, because a scan of all vectors takes too long.
APPROXIMATE_FROM = 200_000
_TABLE = "pairs"
_LOCK = ".lock"
_METADATA = b"rsicrc"
_READ_ROWS = 8192
_MOST_WIDTH = 16_384
# Measured on a million vectors (docs/measurements/search.md): with fewer lists or candidates, recall@10 is below 0.99.
_PROBES = 32
_REFINE = 4
_ITERATIONS = 10


@dataclass(frozen=True)
class Identity:
    """Identity of the model of an index.

    Attributes:
        checkpoint: SHA-256 of the checkpoint that the model folder was exported from.
        model: Path of the model folder.
        width: Length of a vector.
    """

    checkpoint: str
    model: str
    width: int


class Store:
    """The table of an index, with the rows from the time of opening and the rows written through this object.

    Attributes:
        folder: Folder of the index.
        identity: Identity of the model of the index.
        approximate: True if vectors are searched through an approximate index.
    """

    def __init__(self, folder: Path, table: Any) -> None:
        self.folder = folder
        self._table = table
        self.identity = _read_identity(folder, table.schema)
        self.approximate = self._has_vector_index()

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Open an index.

        Raises:
            IndexFolderError: The index is missing, damaged, or of a newer version.
        """
        if not is_index(folder):
            raise IndexFolderError(f"{folder}: no index here. Make one with `rsicrc-run index PAIRS -o {folder}`")
        with reading(folder):
            return cls(folder, _connect(folder).open_table(_TABLE))

    @classmethod
    def create(cls, folder: Path, identity: Identity) -> Store:
        """Create an empty index, or open the index that another process has just created.

        Raises:
            IndexFolderError: The folder contains other files.
            IndexWriteError: The folder cannot be written.
        """
        if folder.is_file():
            raise IndexFolderError(f"{folder}: a file. An index is a folder: give another name")
        if folder.is_dir() and not is_index(folder):
            others = {path.name for path in folder.iterdir()} - {_LOCK, f"{_TABLE}.lance"}
            if others:
                raise IndexFolderError(
                    f"{folder}: not an index, and not empty ('{shortened(min(others))}'). Give another name"
                )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise IndexWriteError(f"cannot be made ({getattr(error, 'strerror', error)})", str(folder)) from error
        with _locked(folder):
            if not is_index(folder):
                fields = {"format_version": FORMAT_VERSION, **asdict(identity)}
                schema = base_schema(identity.width, {_METADATA: json.dumps(fields).encode()})
                with writing(folder):
                    _connect(folder).create_table(_TABLE, schema=schema)
        return cls.open(folder)

    def __len__(self) -> int:
        with reading(self.folder):
            return int(self._table.count_rows())

    @property
    def schema(self) -> pa.Schema:
        """The schema of the table."""
        return self._table.schema

    def refresh(self) -> None:
        """Include rows that other processes have written since the table was opened."""
        with reading(self.folder):
            self._table.checkout_latest()
            self.approximate = self._has_vector_index()

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Read whole columns."""
        with reading(self.folder):
            return self._table.search().select(list(names)).to_arrow()

    def add_columns(self, types: Mapping[str, pa.DataType]) -> None:
        """Add columns with these names and types; existing columns keep their types.

        Raises:
            IndexWriteError: The table could not be written.
        """
        with _locked(self.folder):
            self.refresh()
            missing = [pa.field(name, kind) for name, kind in types.items() if name not in self.schema.names]
            if missing:
                with writing(self.folder):
                    self._table.add_columns(pa.schema(missing))

    def upsert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows in one commit: new ids are added, existing ids are replaced. Missing columns become null.

        Raises:
            IndexWriteError: Nothing was written.
            PairsError: A value cannot be stored.
        """
        self.merge(_to_table(rows, self._table.schema))

    def merge(self, rows: pa.Table) -> None:
        """Write rows like `upsert`, from an Arrow table with all columns."""
        self._merge(rows, insert=True)

    def update(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write some columns of existing rows in one commit; all rows have the same columns, including `id`.

        Raises:
            IndexWriteError: Nothing was written.
            PairsError: A value cannot be stored.
        """
        schema = pa.schema([self._table.schema.field(name) for name in rows[0]])
        self._merge(_to_table(rows, schema), insert=False)

    def tidy(self) -> None:
        """Merge small fragments, and build or extend the approximate index of a large table.

        Raises:
            IndexWriteError: The table could not be written; it is still valid.
        """
        with _locked(self.folder), writing(self.folder):
            self._table.optimize()
            if len(self) >= APPROXIMATE_FROM and not self.approximate:
                from lancedb.index import IvfSq

                # One byte per number. Product quantization takes thirty times as long to build and has a lower recall.
                config = IvfSq(distance_type="dot", max_iterations=_ITERATIONS)
                self._table.create_index("vector", config=config)
            self.refresh()

    def vectors(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Read all vectors, float32 [d, N], and their row numbers for `take`, int64 [N], ascending."""
        matrix = np.empty((self.identity.width, len(self)), np.float32)
        numbers = np.empty(matrix.shape[1], np.int64)
        start = 0
        with reading(self.folder):
            for batch in self._table.search().select(["vector"]).with_row_id(True).to_batches(_READ_ROWS):
                part = batch.column("vector").flatten().to_numpy().reshape(-1, self.identity.width)
                matrix[:, start : start + len(part)] = part.T
                numbers[start : start + len(part)] = batch.column("_rowid").to_numpy()
                start += len(part)
        if start != len(numbers):
            raise IndexFolderError(
                f"{self.folder}: damaged ({start} of {len(numbers)} rows). Remove it and index again"
            )
        if (np.diff(numbers) > 0).all():  # usual, but not guaranteed by LanceDB
            return matrix, numbers
        order = np.argsort(numbers)
        return matrix[:, order], numbers[order]

    def matching(self, where: str) -> NDArray[np.int64]:
        """Return the row numbers of all rows that meet an SQL condition, ascending.

        Raises:
            ArgumentError: `where` is not a condition on the columns of the table.
        """
        with self._filtering(where) as condition:
            found = self._table.search().where(condition).select(["_rowid"]).with_row_id(True).to_arrow()
        return np.sort(found.column("_rowid").to_numpy().astype(np.int64))

    def nearest(self, vector: NDArray[np.float32], count: int, where: str | None) -> Ranked:
        """Find the rows with the most similar vectors through the approximate index, best first.

        Raises:
            ArgumentError: `where` is not a condition on the columns of the table.
        """
        query = self._table.search(vector).distance_type("dot").limit(count)
        # With a condition, the search continues until enough rows are found: 0 means no maximum.
        query = query.minimum_nprobes(_PROBES).maximum_nprobes(_PROBES if where is None else 0).refine_factor(_REFINE)
        query = query.select(["_rowid", "_distance"]).with_row_id(True)
        if where is None:
            with reading(self.folder):
                found = query.to_arrow()
        else:
            with self._filtering(where) as condition:
                found = query.where(condition, prefilter=True).to_arrow()
        distances = found.column("_distance").to_numpy()  # for dot products, the distance is 1 - the product
        return Ranked(found.column("_rowid").to_numpy().astype(np.int64), 1 - distances.astype(np.float32))

    def take(self, numbers: NDArray[np.int64]) -> pa.Table:
        """Read rows by number, in the given order, without vectors and checksums."""
        names = ["id", "before", "after", "caption", "score", "change_score", *user_columns(self._table.schema)]
        if not len(numbers):
            return self._table.schema.empty_table().select(names)
        with reading(self.folder):
            query = self._table.take_row_ids([int(number) for number in numbers])
            rows = query.select(names).with_row_id().to_arrow()
        position = {number: row for row, number in enumerate(rows.column("_rowid").to_pylist())}
        return rows.take([position[int(number)] for number in numbers]).select(names)

    def _has_vector_index(self) -> bool:
        return any("vector" in index.columns for index in self._table.list_indices())

    def _merge(self, data: pa.Table, insert: bool) -> None:
        with _locked(self.folder), writing(self.folder):
            self.refresh()
            merge = self._table.merge_insert("id").when_matched_update_all()
            (merge.when_not_matched_insert_all() if insert else merge).execute(data)

    @contextmanager
    def _filtering(self, where: str) -> Iterator[str]:
        """Yield a condition as LanceDB reads it; errors of the block are errors of the condition."""
        columns = [name for name in self._table.schema.names if name not in ("vector", "stamp")]
        with filtering(where, columns):
            condition = normalize_condition(where, columns)
            if not is_index(self.folder):
                raise IndexFolderError(f"{self.folder}: removed while it is open. Index again")
            yield condition


def is_index(folder: Path) -> bool:
    """Return True if a folder contains an index, or a LanceDB table with the name of an index."""
    try:
        return any((folder / f"{_TABLE}.lance" / "_versions").glob("*.manifest"))
    except (OSError, ValueError):  # a name that is too long, or has a NUL character
        return False


def _to_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    try:
        return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise PairsError(f"a value of the table cannot be stored in an index ({shortened(error, 200)})") from error


def _connect(folder: Path) -> Any:
    import lancedb  # here, because the import takes more than a second

    return lancedb.connect(str(folder))


def _read_identity(folder: Path, schema: pa.Schema) -> Identity:
    try:
        fields = parse_json((schema.metadata or {})[_METADATA].decode())
        version = fields["format_version"]
        checkpoint, model = fields["checkpoint"], fields["model"]
        width = whole(fields["width"], "width", 1, _MOST_WIDTH)
        if not isinstance(checkpoint, str) or not isinstance(model, str):
            raise ValueError("checkpoint and model must be texts")
    except (KeyError, TypeError, ValueError) as error:
        raise IndexFolderError(f"{folder}: a LanceDB table, but not an index of rsicrc. Name another folder") from error
    if version != FORMAT_VERSION:
        raise IndexFolderError(
            f"{folder}: made by another rsicrc (index format {shown(version)}; this one reads {FORMAT_VERSION}). "
            "Index again"
        )
    types = dict(zip(schema.names, schema.types, strict=True))
    for field in base_schema(width, {}):
        if types.get(field.name) != field.type:
            raise IndexFolderError(
                f"{folder}: damaged (the column {field.name} is not of type {field.type}). Index again"
            )
    return Identity(checkpoint, model, width)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of the index. The operating system releases the lock of a process that ends."""
    try:
        file = (folder / _LOCK).open("wb")
    except OSError as error:
        raise IndexWriteError(f"cannot be written ({error.strerror})", str(folder)) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
