"""Tiles of a scene with their captions: the records of all outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.inputs.tiles import Box
from rsicrc.results import rounded

Ring = tuple[tuple[float, float], ...]
# Names and kinds of the properties of a tile, in the order of the columns.
PROPERTIES: dict[str, type] = {
    "id": str,
    "caption": str,
    "score": float,
    "change_score": float,
    "changed": bool,
    "valid_share": float,
    "before": str,
    "after": str,
    "before_datetime": str,
    "after_datetime": str,
    "model": str,
    "error": str,
}


@dataclass(frozen=True)
class SceneTile:
    """One tile of a pair of dates, with its caption.

    Attributes:
        index: Number of the tile in the plan, row by row from the top left.
        pair: Number of the pair of dates, from 0.
        box: (left, top, right, bottom) in pixels of the grid.
        ring: Corners in the reference system of the grid, counterclockwise; the last equals the first.
        valid_share: Share of pixels that are valid in both dates.
        caption: The best sentence; None if the tile could not be captioned.
        score: Score of the sentence.
        change_score: 1 - the probability of the no-change sentences; None for models without such sentences.
        changed: Decision by the threshold of the manifest.
        before: File of the earlier date.
        after: File of the later date.
        before_datetime: Time of the earlier date (ISO 8601), if it is known.
        after_datetime: Time of the later date, if it is known.
        model: Identifier of the model folder.
        error: Reason why the tile has no caption.
        similarity: float16 [h, w], similarity of the features of both dates at each position.
        cells: bool [n, m], validity of the cells of the change raster whose centers lie in the tile; None if all are
            valid.
    """

    index: int
    pair: int
    box: Box
    ring: Ring
    valid_share: float
    caption: str | None
    score: float | None
    change_score: float | None
    changed: bool | None
    before: str
    after: str
    before_datetime: str | None = None
    after_datetime: str | None = None
    model: str | None = None
    error: str | None = None
    similarity: NDArray[np.float16] | None = None
    cells: NDArray[np.bool_] | None = None

    @property
    def id(self) -> str:
        """Identifier of the tile in its output: number of the pair of dates, then number of the tile."""
        return f"{self.pair}-{self.index}"

    def to_dict(self) -> dict[str, Any]:
        """Return the properties, without the geometry; the names are those of `PROPERTIES`."""
        properties: dict[str, Any] = rounded({name: getattr(self, name) for name in PROPERTIES})
        return properties
