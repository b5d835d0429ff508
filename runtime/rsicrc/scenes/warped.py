"""Pixels of a source on the grid of a scene: resampled where the grids differ, with a mask of valid pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import SceneError, printable
from rsicrc.inputs.tiles import Box
from rsicrc.scenes.grid import Grid, coordinates, project
from rsicrc.scenes.source import Source

if TYPE_CHECKING:
    from rasterio.io import DatasetReader
    from rasterio.windows import Window

Values = NDArray[Any]
Mask = NDArray[np.bool_]
_ALIGNED = 0.01  # pixels; a smaller offset is not resampled
_STEPS = 9
_VALID = 255


def read_box(dataset: DatasetReader, source: Source, grid: Grid, box: Box) -> tuple[Values, Mask]:
    """Read a part of the grid from a source.

    The mask is resampled apart, by the nearest pixel, and invalid pixels have no part in the values of others.

    Args:
        dataset: The opened file of the source, used by this thread only.
        source: The source.
        grid: The grid.
        box: (left, top, right, bottom) in pixels of the grid.

    Returns:
        Values [h, w, 3], uint8 for files of this type, else float32; and bool [h, w], True where they are valid.

    Raises:
        SceneError: The file is damaged.
    """
    from rasterio.errors import RasterioError

    try:
        offset = _whole_offset(source, grid)
        if offset is not None:
            return _read_aligned(dataset, source, box, offset)
        return _read_resampled(dataset, source, grid, box)
    except (RasterioError, OSError) as error:
        raise SceneError(
            f"{printable(source.name)}: damaged or incomplete ({error}). Copy or download it again"
        ) from error


def _whole_offset(source: Source, grid: Grid) -> tuple[int, int] | None:
    """Return the (column, row) of the source at the origin of the grid if their pixels coincide."""
    if source.crs != grid.crs:
        return None
    to_source = ~source.transform @ grid.transform
    same = all(
        math.isclose(one, other, abs_tol=1e-9) for one, other in zip(to_source[:2], (1, 0), strict=True)
    ) and all(math.isclose(one, other, abs_tol=1e-9) for one, other in zip(to_source[3:5], (0, 1), strict=True))
    column, row = round(to_source.c), round(to_source.f)
    if same and abs(to_source.c - column) < _ALIGNED and abs(to_source.f - row) < _ALIGNED:
        return column, row
    return None


def _read_aligned(dataset: DatasetReader, source: Source, box: Box, offset: tuple[int, int]) -> tuple[Values, Mask]:
    left, top, right, bottom = box[0] + offset[0], box[1] + offset[1], box[2] + offset[0], box[3] + offset[1]
    values = np.zeros((bottom - top, right - left, 3), np.uint8 if source.dtype == "uint8" else np.float32)
    valid = np.zeros((bottom - top, right - left), np.bool_)
    window = _clipped(source, left, top, right, bottom)
    if window is not None:
        pixels, mask = _read_window(dataset, source, window)
        rows = slice(window.row_off - top, window.row_off - top + window.height)
        columns = slice(window.col_off - left, window.col_off - left + window.width)
        values[rows, columns] = pixels.transpose(1, 2, 0)
        valid[rows, columns] = mask
    return values, valid


def _read_resampled(dataset: DatasetReader, source: Source, grid: Grid, box: Box) -> tuple[Values, Mask]:
    from affine import Affine
    from rasterio.warp import Resampling, reproject

    left, top, right, bottom = box
    height, width = bottom - top, right - left
    kind = np.uint8 if source.dtype == "uint8" else np.float32
    values = np.zeros((height, width, 3), kind)
    valid = np.zeros((height, width), np.uint8)
    x, y = _source_points(source, grid, box)
    if not len(x):
        return values, valid.astype(np.bool_)
    # Pixels of the source for one pixel of the grid: 2 or more are averaged while reading, from overviews if possible.
    across, down = _scales(source, grid, box)
    factor = max(1, math.floor(min(across, down)))
    margin = 2 * factor + 2 * math.ceil(max(across, down))
    low_x, low_y, high_x, high_y = (
        factor * math.floor((float(x.min()) - margin) / factor),
        factor * math.floor((float(y.min()) - margin) / factor),
        factor * math.ceil((float(x.max()) + margin) / factor),
        factor * math.ceil((float(y.max()) + margin) / factor),
    )
    window = _clipped(source, low_x, low_y, high_x, high_y)
    if window is None:
        return values, valid.astype(np.bool_)
    pixels, mask = _read_window(dataset, source, window, factor)
    transform = (
        source.transform
        @ Affine.translation(window.col_off, window.row_off)
        @ Affine.scale(window.width / pixels.shape[2], window.height / pixels.shape[1])
    )
    mask_bytes = mask.astype(np.uint8) * _VALID
    common: dict[str, Any] = {
        "src_transform": transform,
        "src_crs": source.crs,
        "dst_transform": grid.transform @ Affine.translation(left, top),
        "dst_crs": grid.crs,
    }
    # The mask is also an alpha band of the values, so that no invalid pixel enters the interpolation.
    stacked = np.concatenate([np.where(mask, pixels, 0).astype(kind), mask_bytes[np.newaxis].astype(kind)])
    warped = np.zeros((4, height, width), kind)
    reproject(
        stacked,
        warped,
        src_alpha=4,
        dst_alpha=4,
        resampling=Resampling.bilinear,
        # GDAL would guess the scales from the sizes of the arrays, wrongly for turned images and parts with a margin.
        XSCALE=str(min(1.0, factor / across)),
        YSCALE=str(min(1.0, factor / down)),
        SRC_ALPHA_MAX=str(_VALID),
        DST_ALPHA_MAX=str(_VALID),
        **common,
    )
    reproject(mask_bytes, valid, resampling=Resampling.nearest, **common)
    return np.ascontiguousarray(warped[:3].transpose(1, 2, 0)), valid > 0


def _source_points(source: Source, grid: Grid, box: Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the columns and rows of the source at evenly spaced points of a box, as far as they have an image."""
    left, top, right, bottom = box
    columns, rows = np.meshgrid(np.linspace(left, right, _STEPS), np.linspace(top, bottom, _STEPS))
    points = project(grid.crs, source.crs, coordinates(grid.transform, columns.ravel(), rows.ravel()))
    points = points[np.isfinite(points).all(axis=1)]
    x, y = coordinates(~source.transform, points[:, 0], points[:, 1]).T
    return x, y


def _scales(source: Source, grid: Grid, box: Box) -> tuple[float, float]:
    """Return the pixels of the source, along its rows and its columns, for one pixel at the center of a box."""
    column, row = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    columns, rows = np.array([column, column + 1, column]), np.array([row, row, row + 1])
    points = project(grid.crs, source.crs, coordinates(grid.transform, columns, rows))
    if not np.isfinite(points).all():
        return 1.0, 1.0
    x, y = coordinates(~source.transform, points[:, 0], points[:, 1]).T
    return math.hypot(x[1] - x[0], x[2] - x[0]), math.hypot(y[1] - y[0], y[2] - y[0])


def _clipped(source: Source, left: int, top: int, right: int, bottom: int) -> Window | None:
    from rasterio.windows import Window

    left, top, right, bottom = max(left, 0), max(top, 0), min(right, source.width), min(bottom, source.height)
    return Window(left, top, right - left, bottom - top) if left < right and top < bottom else None


def _read_window(dataset: DatasetReader, source: Source, window: Window, factor: int = 1) -> tuple[Values, Mask]:
    """Read the color bands [3, h, w] and the mask [h, w] of a window, reduced by a factor."""
    from rasterio.enums import Resampling

    shape = math.ceil(window.height / factor), math.ceil(window.width / factor)
    method = Resampling.average if factor > 1 else Resampling.nearest
    pixels = dataset.read(list(source.bands), window=window, out_shape=(3, *shape), resampling=method)
    valid = dataset.dataset_mask(window=window, out_shape=shape, resampling=Resampling.nearest) > 0
    if source.dtype != "uint8":
        pixels = pixels.astype(np.float32)
        finite = np.isfinite(pixels).all(axis=0)
        valid &= finite
        pixels[:, ~finite] = 0
    return pixels, valid
