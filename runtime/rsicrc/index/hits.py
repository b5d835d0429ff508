"""The result of a search: rows of the index with their scores, best first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Hits:
    """The rows found by a search.

    Columns of the table: `rank` (from 1), `similarity` (cosine of the pair and the query, -1 to 1), then with reranking
    `log_prob` (log p of the query given the pair; null if the images could not be read) and `rank_score` (the sort
    key), then `id`, `before`, `after`, `caption`, `score`, `change_score`, and the columns of the user's table.

    Attributes:
        query: Normalized sentence without unknown words; None for a search by example.
        unknown: Words of the sentence that are not in the vocabulary.
        table: The rows, best first.
    """

    query: str | None
    unknown: Sequence[str]
    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self.to_list()

    def to_list(self) -> list[dict[str, Any]]:
        """Return one dict per row."""
        rows: list[dict[str, Any]] = self.table.to_pylist()
        return rows

    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        return self.table

    def to_pandas(self) -> Any:
        """Return the rows as a pandas data frame; pandas must be installed."""
        return self.table.to_pandas()
