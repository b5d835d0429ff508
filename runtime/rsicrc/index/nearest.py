"""Exact search: the most similar of some vectors, by one matrix product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranked:
    """Rows of an index, best first.

    Attributes:
        numbers: int64 [n], the rows as the table numbers them.
        similarity: float32 [n], the cosine of each with the query.
    """

    numbers: NDArray[np.int64]
    similarity: NDArray[np.float32]


@dataclass(frozen=True)
class Vectors:
    """All vectors of an index, in memory.

    Attributes:
        matrix: float32 [N, d], each of length 1.
        numbers: int64 [N], the table's number of each, ascending.
    """

    matrix: NDArray[np.float32]
    numbers: NDArray[np.int64]

    def nearest(self, vector: NDArray[np.float32], count: int, among: NDArray[np.int64] | None = None) -> Ranked:
        """Find the vectors with the largest dot product with `vector`; equal ones in the order of the table.

        Args:
            vector: float32 [d].
            count: how many to return, fewer where there are not so many.
            among: row numbers, ascending, to which the search is confined.
        """
        if among is None:
            positions = None
            similarity = self.matrix @ vector
        else:
            positions = np.searchsorted(self.numbers, among)
            # A gather copies; when most rows are wanted it is cheaper to score all.
            few = len(positions) < len(self.numbers) // 4
            similarity = self.matrix[positions] @ vector if few else (self.matrix @ vector)[positions]
        best = _largest(similarity, count)
        chosen = best if positions is None else positions[best]
        return Ranked(self.numbers[chosen], similarity[best])


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Return the positions of the largest values, largest first; of equal ones, the first."""
    if count < len(values):
        threshold = np.partition(values, len(values) - count)[len(values) - count]
        candidates = np.flatnonzero(values >= threshold)
    else:
        candidates = np.arange(len(values))
    order = np.argsort(-values[candidates], kind="stable")
    return candidates[order][:count]
