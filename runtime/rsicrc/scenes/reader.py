"""Reading of a scene's tiles: by threads, ahead of the model, in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rsicrc.cpu import available_cpus
from rsicrc.inputs.tiles import Box
from rsicrc.scenes.plan import ScenePlan
from rsicrc.scenes.source import open_dataset, raster_settings
from rsicrc.scenes.warped import Mask, read_box

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

Pixels = NDArray[np.uint8]
CELL = 8  # pixels of the grid along the side of a cell of the change raster
# Neighbors in a row are read as one part of the file, so that a block is decoded once for several tiles.
_TILES_PER_READ = 8
_MOST_THREADS = 4
_READ_AHEAD = 2  # parts per thread


@dataclass(frozen=True)
class TilePair:
    """The pixels of one tile at two dates.

    Attributes:
        index: Number of the tile in the plan.
        pair: Number of the pair of dates.
        box: (left, top, right, bottom) in pixels of the grid.
        valid_share: Share of pixels that are valid in both dates.
        images: uint8 [side, side, 3] of the earlier and the later date, 0 where one of them is invalid; None if the
            valid share is too small.
        cells: Validity of the cells of the change raster whose centers lie in the tile; None if all are valid.
    """

    index: int
    pair: int
    box: Box
    valid_share: float
    images: tuple[Pixels, Pixels] | None
    cells: NDArray[np.bool_] | None


def cell_range(start: int, stop: int) -> tuple[int, int]:
    """Return the first cell, and the one after the last, whose centers lie in a range of pixels."""
    half = CELL // 2
    return -(-(start - half) // CELL), -(-(stop - half) // CELL)


def _neighbors(row: list[int], boxes: Sequence[Box]) -> Iterator[list[int]]:
    """Yield parts of a row of tiles; an area of interest may leave gaps, which are not read."""
    run = row[:1]
    for index in row[1:]:
        if len(run) == _TILES_PER_READ or boxes[index][0] > boxes[run[-1]][2]:
            yield run
            run = []
        run.append(index)
    yield run


class TileReader:
    """The tiles of a plan, in order: for each tile all pairs of dates, one after the other.

    Args:
        plan: The plan.
        done: (index, pair) of the tiles that are left out because they are done.
        threads: Number of threads, each with its own opened files.
    """

    def __init__(self, plan: ScenePlan, done: Collection[tuple[int, int]] = (), threads: int | None = None) -> None:
        self._plan = plan
        self._done = done
        self._threads = threads or min(_MOST_THREADS, available_cpus())
        self._local = threading.local()
        self._opened: list[DatasetReader] = []
        self._lock = threading.Lock()

    def read(self, date: int, box: Box) -> tuple[Pixels, Mask]:
        """Read a part of the grid at one date; any thread may call this method.

        Args:
            date: Position of the date in the plan's sources.
            box: (left, top, right, bottom) in pixels of the grid.

        Returns:
            uint8 [h, w, 3], stretched; and bool [h, w], True where the pixels are valid.

        Raises:
            SceneError: The file is damaged.
        """
        plan = self._plan
        source = plan.sources[date]
        with raster_settings(source.name):
            values, valid = read_box(self._dataset(date), source, plan.grid_of(date), box)
        stretch = plan.stretches[date]
        return (values if stretch is None else stretch.apply(values)), valid

    def tiles(self) -> Generator[TilePair, None, None]:
        """Yield the tiles that are not done.

        Raises:
            SceneError: A file is damaged.
        """
        pending: deque[Future[list[TilePair]]] = deque()
        runs = self._runs()
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="rsicrc-scene")
        try:
            for run in runs:
                pending.append(pool.submit(self._read_run, run))
                if len(pending) > _READ_AHEAD * self._threads:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            self.close()

    def close(self) -> None:
        """Close the files; no other thread may read at this time."""
        with self._lock:
            for dataset in self._opened:
                dataset.close()
            self._opened.clear()
            self._local = threading.local()

    def _runs(self) -> Iterator[list[int]]:
        """Yield neighboring tiles that are read together. The runs do not depend on the tiles that are done."""
        boxes, pairs = self._plan.boxes, range(len(self._plan.pairs))
        for _, row in groupby(range(len(boxes)), key=lambda index: boxes[index][1]):
            for run in _neighbors(list(row), boxes):
                if any((index, pair) not in self._done for index in run for pair in pairs):
                    yield run

    def _read_run(self, run: list[int]) -> list[TilePair]:
        boxes = [self._plan.boxes[index] for index in run]
        left, top, bottom = boxes[0][0], boxes[0][1], boxes[0][3]
        dates = [self.read(date, (left, top, boxes[-1][2], bottom)) for date in range(len(self._plan.sources))]
        return [
            self._pair(index, pair, box, [(pixels[:, part], valid[:, part]) for pixels, valid in chosen])
            for index, box in zip(run, boxes, strict=True)
            for part in [slice(box[0] - left, box[2] - left)]
            for pair, positions in enumerate(self._plan.pairs)
            for chosen in [[dates[position] for position in positions]]
            if (index, pair) not in self._done
        ]

    def _pair(self, index: int, pair: int, box: Box, dates: list[tuple[Pixels, Mask]]) -> TilePair:
        (before, before_valid), (after, after_valid) = dates
        valid = before_valid & after_valid
        share = float(valid.mean())
        if share < self._plan.options.min_valid:
            return TilePair(index, pair, box, share, None, None)
        if share == 1:
            return TilePair(index, pair, box, share, (before.copy(), after.copy()), None)
        # The same color in both dates: the border of the data is no change.
        images = (np.where(valid[..., np.newaxis], before, 0), np.where(valid[..., np.newaxis], after, 0))
        first_column, last_column = cell_range(box[0], box[2])
        first_row, last_row = cell_range(box[1], box[3])
        rows = np.arange(first_row, last_row) * CELL + CELL // 2 - box[1]
        columns = np.arange(first_column, last_column) * CELL + CELL // 2 - box[0]
        return TilePair(index, pair, box, share, images, valid[np.ix_(rows, columns)])

    def _dataset(self, date: int) -> DatasetReader:
        """Return this thread's opened file of a date."""
        datasets: dict[int, DatasetReader] | None = getattr(self._local, "datasets", None)
        if datasets is None:
            datasets = self._local.datasets = {}
        if date not in datasets:
            source = self._plan.sources[date]
            datasets[date] = open_dataset(source.path, source.name)
            with self._lock:
                self._opened.append(datasets[date])
        return datasets[date]
