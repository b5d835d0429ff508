"""Adding pairs to an index: only what is new or changed goes through the model, and is committed every little while."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pyarrow as pa

from rsicrc.errors import ImageError, RsicrcError
from rsicrc.index.columns import SUM_COLUMNS, column_types, extra_names, fit
from rsicrc.index.fingerprint import Fingerprint, fingerprint, stamp_of
from rsicrc.results import PairFailure

if TYPE_CHECKING:
    from rsicrc.engine import Engine
    from rsicrc.index.store import Store
    from rsicrc.inputs.pair_table import PairRow
    from rsicrc.progress import ProgressCallback

# A commit takes some tenths of a second in a large table: rare enough to cost nothing, often enough to lose little.
_COMMIT_ROWS = 1024
_COMMIT_SECONDS = 20.0
_WORKERS = 4

Kind: TypeAlias = Literal["new", "changed", "captioned", "updated", "unchanged", "failed"]


@dataclass
class Added:
    """What `Index.add` did.

    Attributes:
        new: Pairs that were not in the index.
        changed: Pairs of which an image is another than before.
        captioned: Pairs that were there without a caption, and have one now.
        updated: Pairs of which only paths or columns are others.
        unchanged: Pairs that were there already.
        failures: Why a pair could not be indexed, by id.
    """

    new: int = 0
    changed: int = 0
    captioned: int = 0
    updated: int = 0
    unchanged: int = 0
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Plan:
    """What is to be done with a row.

    Attributes:
        row: The row.
        kind: How it is counted.
        record: The columns to be written; none for a row that is as it was.
        problem: Why it failed.
    """

    row: PairRow
    kind: Kind
    record: Mapping[str, Any]
    problem: str = ""

    @property
    def needs_model(self) -> bool:
        """Whether the pair must go through the model."""
        return self.kind in ("new", "changed", "captioned")


class _Known:
    """What the index holds already, without vectors."""

    def __init__(self, store: Store) -> None:
        self._columns = ["id", "before", "after", *SUM_COLUMNS, "caption", *extra_names(store.schema)]
        self._table: pa.Table = store.columns(self._columns).combine_chunks()
        self._place = {name: number for number, name in enumerate(self._table.column("id").to_pylist())}

    def get(self, row_id: str) -> dict[str, Any] | None:
        """Return a row."""
        number = self._place.get(row_id)
        if number is None:
            return None
        return {name: self._table.column(name)[number].as_py() for name in self._columns}


def add_rows(
    store: Store, engine: Engine, rows: Sequence[PairRow], *, captions: bool, batch_size: int, advance: ProgressCallback
) -> Added:
    """Bring an index up to date with some rows; rows of the index that are not among them stay as they are.

    Args:
        store: The index.
        engine: The model that the index was made with.
        rows: The pairs, with unique ids.
        captions: Write captions too.
        batch_size: Pairs that go through the model together.
        advance: Called once for every row.

    Raises:
        PairsError: A column cannot be taken into the index; nothing was added.
        OSError: The index could not be written; what was committed before stays.
    """
    types = {**column_types(rows), **{name: store.schema.field(name).type for name in extra_names(store.schema)}}
    details = {row.id: _details(row, types) for row in rows}
    store.add_columns(types)
    added = Added()
    writer = _Writer(store, added, advance)
    waiting: deque[_Plan] = deque()

    def pairs() -> Iterator[tuple[Path, Path]]:
        for plan in _plans(rows, details, _Known(store), captions):
            if plan.needs_model:
                waiting.append(plan)
                yield plan.row.paths
            else:
                writer.settle(plan)

    try:
        for result in engine.encode_stream(pairs(), captions=captions, batch_size=batch_size):
            plan = waiting.popleft()
            if isinstance(result, PairFailure):
                writer.settle(_Plan(plan.row, "failed", {}, str(result.error)))
                continue
            record = {**plan.record, "vector": result.embedding}
            if result.caption is not None:
                caption = result.caption
                record |= {"caption": caption.text, "score": caption.score, "change_score": caption.change_score}
            writer.settle(_Plan(plan.row, plan.kind, record))
    except (KeyboardInterrupt, RsicrcError):  # what is done is done
        writer.commit()
        raise
    writer.commit()
    return added


class _Writer:
    """Collects finished rows and commits them every little while."""

    def __init__(self, store: Store, added: Added, advance: ProgressCallback) -> None:
        self._store = store
        self._added = added
        self._advance = advance
        self._full: list[_Plan] = []
        self._partial: list[_Plan] = []
        self._since = time.monotonic()

    def settle(self, plan: _Plan) -> None:
        """Take a finished row."""
        if plan.kind == "failed":
            self._added.failures[plan.row.id] = plan.problem
        else:
            (self._full if plan.needs_model else self._partial).append(plan)
        failed = len(self._added.failures)
        self._advance(note=f"{failed} failed" if failed else None)
        pending = len(self._full) + sum(bool(plan.record) for plan in self._partial)
        if pending >= _COMMIT_ROWS or (pending and time.monotonic() - self._since > _COMMIT_SECONDS):
            self.commit()

    def commit(self) -> None:
        """Write what is finished."""
        if self._full:
            self._store.upsert([plan.record for plan in self._full])
        partial = [plan.record for plan in self._partial if plan.record]
        if partial:
            self._store.update(partial)
        for plan in [*self._full, *self._partial]:
            setattr(self._added, plan.kind, getattr(self._added, plan.kind) + 1)
        self._full, self._partial = [], []
        self._since = time.monotonic()


def _details(row: PairRow, types: Mapping[str, pa.DataType]) -> dict[str, Any]:
    """Return a row's id, paths and columns as the index holds them; a column that the row lacks is null."""
    before, after = (str(path.absolute()) for path in row.paths)
    extra = {name: fit(row.extra.get(name), kind, name, row.id) for name, kind in types.items()}
    return {"id": row.id, "before": before, "after": after, **extra}


def _plans(
    rows: Sequence[PairRow], details: Mapping[str, Mapping[str, Any]], known: _Known, captions: bool
) -> Iterator[_Plan]:
    """Decide about row after row, in order, a little ahead of who takes the plans: checksums are read meanwhile."""
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="rsicrc-sums") as pool:
        pending: deque[Future[_Plan]] = deque()
        try:
            for row in rows:
                pending.append(pool.submit(_plan, row, details[row.id], known.get(row.id), captions))
                if len(pending) > 16 * _WORKERS:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _plan(row: PairRow, details: Mapping[str, Any], known: Mapping[str, Any] | None, captions: bool) -> _Plan:
    if row.problem is not None:
        return _Plan(row, "failed", {}, row.problem)
    try:
        same = known is not None and bool(known["stamp"]) and known["stamp"] == stamp_of(row.paths)
        sums = _sums_of(known) if same and known is not None else fingerprint(row.paths)
    except ImageError as error:
        return _Plan(row, "failed", {}, str(error))
    record = {**details, **sums.to_dict()}
    if known is None:
        return _Plan(row, "new", record)
    if (sums.before_sha256, sums.after_sha256) != (known["before_sha256"], known["after_sha256"]):
        return _Plan(row, "changed", record)
    if captions and known["caption"] is None:
        return _Plan(row, "captioned", record)
    others = {name for name, value in record.items() if known[name] != value}
    # A stamp alone says nothing new about the pair, but saves reading its files the next time.
    return _Plan(row, "updated" if others - {"stamp"} else "unchanged", record if others else {})


def _sums_of(known: Mapping[str, Any]) -> Fingerprint:
    return Fingerprint(*(known[name] for name in SUM_COLUMNS))
