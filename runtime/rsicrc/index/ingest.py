"""Addition of pairs to an index: only new and changed pairs are encoded, with commits at intervals."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pyarrow as pa

from rsicrc.errors import ImageError, RsicrcError, is_utf8, printable
from rsicrc.index.columns import CHECKSUM_COLUMNS, column_types, convert, user_columns
from rsicrc.index.fingerprint import Fingerprint, fingerprint, stamp_of
from rsicrc.results import Caption, PairFailure

if TYPE_CHECKING:
    from rsicrc.engine import Engine
    from rsicrc.index.store import Store
    from rsicrc.inputs.pair_table import PairRow
    from rsicrc.progress import ProgressCallback

# A commit takes some tenths of a second in a large table. These intervals keep both its cost and the work lost by an
# interruption small.
COMMIT_ROWS = 1024
_COMMIT_SECONDS = 20.0
_WORKERS = 4

Kind: TypeAlias = Literal["new", "changed", "captioned", "updated", "unchanged", "failed"]


@dataclass
class AddResult:
    """The result of `Index.add`: numbers of pairs by kind.

    Attributes:
        new: Number of pairs that were not in the index.
        changed: Number of pairs with a changed image.
        captioned: Number of indexed pairs that had no caption and have one now.
        updated: Number of pairs of which only paths or columns have changed.
        unchanged: Number of pairs that were already in the index.
        failures: Id → reason, of pairs that could not be indexed.
    """

    new: int = 0
    changed: int = 0
    captioned: int = 0
    updated: int = 0
    unchanged: int = 0
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Update:
    """The update of one row of the index.

    Attributes:
        row: The row.
        kind: Kind of the update, for counting.
        record: Columns to write; empty if the row is unchanged.
        problem: Reason of a failure.
    """

    row: PairRow
    kind: Kind
    record: Mapping[str, Any]
    problem: str = ""

    @property
    def needs_model(self) -> bool:
        """True if the pair has to be encoded by the model."""
        return self.kind in ("new", "changed", "captioned")


class _IndexedRows:
    """The rows of the index, without vectors."""

    def __init__(self, store: Store) -> None:
        self._columns = ["id", "before", "after", *CHECKSUM_COLUMNS, "caption", *user_columns(store.schema)]
        self._table: pa.Table = store.columns(self._columns).combine_chunks()
        self._position = {name: number for number, name in enumerate(self._table.column("id").to_pylist())}

    def get(self, row_id: str) -> dict[str, Any] | None:
        """Return the row with this id, or None."""
        number = self._position.get(row_id)
        if number is None:
            return None
        return {name: self._table.column(name)[number].as_py() for name in self._columns}


def add_rows(
    store: Store, engine: Engine, rows: Sequence[PairRow], *, captions: bool, batch_size: int, advance: ProgressCallback
) -> AddResult:
    """Add or update rows of an index; all other rows of the index are kept.

    Args:
        store: Table of the index.
        engine: Model of the index.
        rows: The pairs, with unique ids.
        captions: Also store captions.
        batch_size: Number of pairs in a batch.
        advance: Called once per row.

    Raises:
        PairsError: A column does not match the index. Nothing was added.
        IndexWriteError: The index could not be written. Earlier commits are kept.
    """
    types = {**column_types(rows), **{name: store.schema.field(name).type for name in user_columns(store.schema)}}
    details = {row.id: _columns_of(row, types) for row in rows}
    store.add_columns(types)
    added = AddResult()
    writer = _Writer(store, added, advance)
    waiting: deque[_Update] = deque()

    def pairs() -> Iterator[tuple[Path, Path]]:
        for update in _updates(rows, details, _IndexedRows(store), captions):
            if update.needs_model:
                waiting.append(update)
                yield update.row.paths
            else:
                writer.finish(update)

    with committing(writer.commit):
        for result in engine.encode_stream(pairs(), captions=captions, batch_size=batch_size):
            update = waiting.popleft()
            if isinstance(result, PairFailure):
                writer.finish(_Update(update.row, "failed", {}, str(result.error)))
                continue
            record = {**update.record, "vector": result.embedding, **caption_columns(result.caption)}
            writer.finish(_Update(update.row, update.kind, record))
    return added


@contextmanager
def committing(commit: Callable[[], None]) -> Iterator[None]:
    """Commit the finished rows at the end of the block, also after an interruption or an error of rsicrc."""
    try:
        yield
    except OSError:  # also an IndexWriteError: another commit would fail too
        raise
    except (KeyboardInterrupt, RsicrcError):
        commit()
        raise
    commit()


def caption_columns(caption: Caption | None) -> dict[str, Any]:
    """Return the columns of a caption; none for a pair without one."""
    if caption is None:
        return {}
    return {"caption": caption.text, "score": caption.score, "change_score": caption.change_score}


class _Writer:
    """Buffer of finished rows that are committed at intervals."""

    def __init__(self, store: Store, added: AddResult, advance: ProgressCallback) -> None:
        self._store = store
        self._added = added
        self._advance = advance
        self._full: list[_Update] = []
        self._partial: list[_Update] = []
        self._since = time.monotonic()

    def finish(self, update: _Update) -> None:
        """Count a finished row, and commit if an interval is over."""
        if update.kind == "failed":
            self._added.failures[update.row.id] = update.problem
        else:
            (self._full if update.needs_model else self._partial).append(update)
        failed = len(self._added.failures)
        self._advance(note=f"{failed} failed" if failed else None)
        pending = len(self._full) + sum(bool(update.record) for update in self._partial)
        if pending >= COMMIT_ROWS or (pending and time.monotonic() - self._since > _COMMIT_SECONDS):
            self.commit()

    def commit(self) -> None:
        """Write the finished rows."""
        if self._full:
            self._store.upsert([update.record for update in self._full])
        partial = [update.record for update in self._partial if update.record]
        if partial:
            self._store.update(partial)
        for update in [*self._full, *self._partial]:
            setattr(self._added, update.kind, getattr(self._added, update.kind) + 1)
        self._full, self._partial = [], []
        self._since = time.monotonic()


def _columns_of(row: PairRow, types: Mapping[str, pa.DataType]) -> dict[str, Any]:
    """Return the id, paths and user columns of a row with the types of the index; missing columns are None."""
    before, after = (str(path.absolute()) for path in row.paths)
    extra = {name: convert(row.extra.get(name), kind, name, row.id) for name, kind in types.items()}
    return {"id": row.id, "before": before, "after": after, **extra}


def _updates(
    rows: Sequence[PairRow], details: Mapping[str, Mapping[str, Any]], known: _IndexedRows, captions: bool
) -> Iterator[_Update]:
    """Yield the update of each row in order. Threads compute the checksums of the next rows in advance."""
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="rsicrc-sums") as pool:
        pending: deque[Future[_Update]] = deque()
        try:
            for row in rows:
                pending.append(pool.submit(_update, row, details[row.id], known.get(row.id), captions))
                if len(pending) > 16 * _WORKERS:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _update(row: PairRow, details: Mapping[str, Any], known: Mapping[str, Any] | None, captions: bool) -> _Update:
    if row.problem is not None:
        return _Update(row, "failed", {}, row.problem)
    odd = next((text for text in details.values() if isinstance(text, str) and not is_utf8(text)), None)
    if odd is not None:
        return _Update(row, "failed", {}, f"{printable(odd)}: not UTF-8, an index cannot hold it. Rename it")
    try:
        same = known is not None and bool(known["stamp"]) and known["stamp"] == stamp_of(row.paths)
        sums = _checksums(known) if same and known is not None else fingerprint(row.paths)
    except ImageError as error:
        return _Update(row, "failed", {}, str(error))
    record = {**details, **sums.to_dict()}
    if known is None:
        return _Update(row, "new", record)
    if (sums.before_sha256, sums.after_sha256) != (known["before_sha256"], known["after_sha256"]):
        return _Update(row, "changed", record)
    if captions and known["caption"] is None:
        return _Update(row, "captioned", record)
    differing = {name for name, value in record.items() if known[name] != value}
    # A new stamp does not count as an update, but is stored to avoid reading the files the next time.
    return _Update(row, "updated" if differing - {"stamp"} else "unchanged", record if differing else {})


def _checksums(known: Mapping[str, Any]) -> Fingerprint:
    return Fingerprint(*(known[name] for name in CHECKSUM_COLUMNS))
