"""The change raster of a scene: similarity maps weighted by the change score, blended over overlapping tiles."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.files import replacing
from rsicrc.scenes.reader import CELL, cell_range
from rsicrc.scenes.result import SceneResult, check_output
from rsicrc.scenes.tile import SceneTile

if TYPE_CHECKING:
    from affine import Affine

Rows = NDArray[np.float32]
NODATA = -9999.0
_LEAST_WEIGHT = 1e-3  # of a cell at the border of a tile, so that the border of the scene has a value
# Creation options of GDAL's COG driver that a caller may replace.
_CREATION = {"COMPRESS": "DEFLATE", "PREDICTOR": "YES", "BLOCKSIZE": "512", "OVERVIEW_RESAMPLING": "AVERAGE"}


def raster_transform(result: SceneResult) -> Affine:
    """Return the transform of the raster's cells, each of 8 × 8 pixels of the grid."""
    from affine import Affine

    return result.plan.grid.transform @ Affine.scale(CELL)


def raster_size(result: SceneResult) -> tuple[int, int]:
    """Return the height and width of the raster: the cells whose centers lie in the grid."""
    return cell_range(0, result.plan.grid.height)[1], cell_range(0, result.plan.grid.width)[1]


def change_rows(result: SceneResult) -> Iterator[tuple[int, Rows]]:
    """Yield the raster from the top in groups of rows; only the rows under one row of tiles are in memory.

    Yields:
        The first row, and float32 [pairs of dates, rows, columns] with values from 0 to 1, and NODATA where no tile has
        a valid pixel.
    """
    height, width = raster_size(result)
    pairs = len(result.plan.pairs)
    start = 0
    sums, weights = np.zeros((2, pairs, 0, width), np.float64)
    tiles = [tile for tile in result.tiles if tile.similarity is not None]
    tiles.sort(key=lambda tile: (tile.index, tile.pair))
    for top, row in groupby(tiles, key=lambda tile: tile.box[1]):
        first, last = cell_range(top, top + result.plan.side)
        finished = first - start
        if finished > sums.shape[1]:
            yield start, _blended(sums, weights)
            empty = np.zeros((pairs, finished - sums.shape[1], width))
            yield start + sums.shape[1], _blended(empty, empty)
            sums, weights = np.zeros((2, pairs, 0, width))
        elif finished:
            yield start, _blended(sums[:, :finished], weights[:, :finished])
            sums, weights = sums[:, finished:], weights[:, finished:]
        start = first
        missing = np.zeros((pairs, last - start - sums.shape[1], width))
        sums, weights = np.concatenate([sums, missing], axis=1), np.concatenate([weights, missing], axis=1)
        for tile in row:
            _add(tile, result.plan.side, sums, weights, start)
    if sums.shape[1]:
        yield start, _blended(sums, weights)
    start += sums.shape[1]
    if start < height:
        empty = np.zeros((pairs, height - start, width))
        yield start, _blended(empty, empty)


def write_raster(result: SceneResult, path: Path, creation: Mapping[str, str], *, overwrite: bool) -> None:
    """Write the change raster as a cloud-optimized GeoTIFF with one band for each pair of dates.

    Raises:
        SceneError: The file exists.
        OSError: The file cannot be written; an existing file is unchanged.
    """
    import rasterio
    from rasterio.errors import RasterioError
    from rasterio.shutil import copy

    check_output(path, (".tif", ".tiff"), overwrite=overwrite)
    height, width = raster_size(result)
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "dtype": "float32",
        "count": len(result.plan.pairs),
        "height": height,
        "width": width,
        "crs": result.plan.grid.crs,
        "transform": raster_transform(result),
        "nodata": NODATA,
        "bigtiff": "if_safer",
    }
    options = {**_CREATION, **{name.upper(): value for name, value in creation.items()}}
    try:
        with replacing(path) as temporary, _removed(path) as rows_file:
            with rasterio.open(rows_file, "w", **profile) as rows:
                for start, values in change_rows(result):
                    rows.write(values, window=((start, start + values.shape[1]), (0, width)))
                _describe(rows, result)
            copy(rows_file, temporary, driver="COG", **options)
            _check(temporary)
    except RasterioError as error:
        raise OSError(None, f"the raster could not be written ({error}). Is the disk full?", str(path)) from error


@contextmanager
def _removed(path: Path) -> Iterator[Path]:
    """Yield the name of a temporary file next to a path, and remove the file at the end."""
    temporary = path.resolve().with_name(f".{path.stem}.{os.getpid()}.rows.tif")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _describe(rows: Any, result: SceneResult) -> None:
    for band, (earlier, later) in enumerate(result.plan.pairs, 1):
        sources = result.plan.sources
        rows.set_band_description(band, f"change from {sources[earlier].name} to {sources[later].name}")
    rows.update_tags(MODEL=result.model, CHANGE_THRESHOLD=str(result.threshold))


def _check(path: Path) -> None:
    """Read a file again: GDAL may report a full disk only in its log."""
    import rasterio

    with rasterio.open(path, driver="GTiff") as written:
        for band in written.indexes:
            written.checksum(band)


def _add(tile: SceneTile, side: int, sums: NDArray[np.float64], weights: NDArray[np.float64], start: int) -> None:
    """Add a tile to the sums of the rows from `start` on."""
    (first_row, last_row), (first_column, last_column) = (
        cell_range(tile.box[1], tile.box[3]),
        cell_range(tile.box[0], tile.box[2]),
    )
    rows = (np.arange(first_row, last_row) + 0.5) * CELL - tile.box[1]
    columns = (np.arange(first_column, last_column) + 0.5) * CELL - tile.box[0]
    weight = np.outer(_hann(rows, side), _hann(columns, side))
    if tile.cells is not None:
        weight = weight * tile.cells
    values = _change_map(tile)
    found = _interpolated(values, rows / side * values.shape[0] - 0.5, columns / side * values.shape[1] - 0.5)
    part = (tile.pair, slice(first_row - start, last_row - start), slice(first_column, last_column))
    sums[part] += found * weight
    weights[part] += weight


def _change_map(tile: SceneTile) -> NDArray[np.float64]:
    """Return the dissimilarity at each position, scaled so that its largest value is the change score."""
    similarity = np.zeros((1, 1)) if tile.similarity is None else tile.similarity.astype(np.float64)
    difference = np.maximum(1 - similarity, 0)
    largest = float(difference.max())
    score = 1.0 if tile.change_score is None else tile.change_score
    return difference * (score / largest) if largest > 0 else difference


def _interpolated(values: NDArray[np.float64], rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float64]:
    """Return bilinear values at all combinations of rows and columns, constant beyond the border."""
    for axis, positions in enumerate((rows, columns)):
        clipped = np.clip(positions, 0, values.shape[axis] - 1)
        low = np.minimum(clipped.astype(int), max(values.shape[axis] - 2, 0))
        high = np.minimum(low + 1, values.shape[axis] - 1)
        share = (clipped - low).reshape((-1, 1) if axis == 0 else (1, -1))
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values


def _hann(positions: NDArray[Any], side: int) -> NDArray[np.float64]:
    window: NDArray[np.float64] = np.sin(np.pi * positions / side) ** 2
    return np.maximum(window, _LEAST_WEIGHT)


def _blended(sums: NDArray[np.float64], weights: NDArray[np.float64]) -> Rows:
    known = weights > 0
    return np.where(known, sums / np.where(known, weights, 1), NODATA).astype(np.float32)
