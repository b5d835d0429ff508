"""Pairs that are encoded already, to be written into an index: tiles of scenes, whose images are no files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rsicrc.index.columns import CHECKSUM_COLUMNS
from rsicrc.index.ingest import COMMIT_ROWS, caption_columns, committing
from rsicrc.results import EncodedPair

if TYPE_CHECKING:
    from rsicrc.index.store import Store


@dataclass(frozen=True)
class EncodedRow:
    """A pair with its vector.

    Attributes:
        id: Id, which replaces an existing row with this id.
        before: Name of the earlier image.
        after: Name of the later image.
        before_sha256: SHA-256 of the pixels of the earlier image.
        after_sha256: SHA-256 of the pixels of the later image.
        result: Vector, and optionally caption.
        columns: Values of other columns.
    """

    id: str
    before: str
    after: str
    before_sha256: str
    after_sha256: str
    result: EncodedPair
    columns: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the columns of an index."""
        return {
            "id": self.id,
            "before": self.before,
            "after": self.after,
            "before_sha256": self.before_sha256,
            "after_sha256": self.after_sha256,
            "stamp": "",  # without files there is no time: the pixels are compared
            "vector": self.result.embedding,
            **caption_columns(self.result.caption),
            **self.columns,
        }


def known_checksums(store: Store) -> dict[str, tuple[str, str, bool]]:
    """Return id → checksums of both images, and true if the row has a caption."""
    before, after, _ = CHECKSUM_COLUMNS
    columns = store.columns(["id", before, after, "caption"]).to_pydict()
    captioned = (caption is not None for caption in columns["caption"])
    sums = zip(columns[before], columns[after], captioned, strict=True)
    return dict(zip(columns["id"], sums, strict=True))


def write_rows(store: Store, rows: Iterable[EncodedRow], types: Mapping[str, pa.DataType]) -> int:
    """Write rows, with commits at intervals; if the rows end with an error, the rows before it are kept.

    Returns:
        The number of rows.

    Raises:
        IndexWriteError: The index could not be written. Earlier commits are kept.
    """
    store.add_columns(types)
    count = 0
    waiting: list[EncodedRow] = []

    def commit() -> None:
        nonlocal count
        if waiting:
            store.upsert([row.to_dict() for row in waiting])
            count += len(waiting)
            waiting.clear()

    with committing(commit):
        for row in rows:
            waiting.append(row)
            if len(waiting) >= COMMIT_ROWS:
                commit()
    return count
