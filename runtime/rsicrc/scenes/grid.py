"""The common grid of a scene: north up, in meters, chosen from the latest image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import SceneError, printable
from rsicrc.inputs.tiles import Box
from rsicrc.scenes.tile import Ring

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS

    from rsicrc.scenes.source import Source

Bounds = tuple[float, float, float, float]
# A pixel size this close to that of the model is taken as it is: resampling would only blur.
SAME_SIZE = 0.02
_STEPS = 21  # points on each edge of an outline
_MOST_STRETCH = 0.05  # difference between lengths on the map and on the ground
_NORTHERN, _SOUTHERN, _POLAR_NORTH, _POLAR_SOUTH = 32600, 32700, 32661, 32761


@dataclass(frozen=True)
class Grid:
    """A grid of square pixels, north up.

    Attributes:
        crs: Reference system, projected.
        transform: Pixels to coordinates.
        width: Columns.
        height: Rows.
        pixel_size: Side of a pixel in meters.
    """

    crs: CRS
    transform: Affine
    width: int
    height: int
    pixel_size: float

    @property
    def name(self) -> str:
        """Name of the reference system, for example "EPSG:32614"."""
        return crs_name(self.crs)

    def ring(self, box: Box) -> Ring:
        """Return the corners of a box of pixels, counterclockwise, the last equal to the first."""
        left, top, right, bottom = box
        corners = ((left, bottom), (right, bottom), (right, top), (left, top), (left, bottom))
        return tuple(self.transform @ corner for corner in corners)

    def moved(self, columns: float, rows: float) -> Grid:
        """Return the grid with its origin moved by a number of pixels."""
        from affine import Affine

        transform = self.transform @ Affine.translation(columns, rows)
        return Grid(self.crs, transform, self.width, self.height, self.pixel_size)


def crs_name(crs: CRS) -> str:
    """Return "AUTHORITY:CODE", or the definition of a reference system without a code."""
    authority = crs.to_authority()
    return ":".join(authority) if authority else str(crs.to_wkt())


def map_system(source: Source) -> CRS:
    """Return the reference system of the grid: that of a file if its lengths are those on the ground, else UTM."""
    crs, transform = source.crs, source.transform
    north_up = transform.b == 0 == transform.d and transform.a > 0 > transform.e
    if crs.is_projected and north_up:
        across, along = ground_size(source)
        factor = crs.linear_units_factor[1]
        nominal = transform.a * factor, -transform.e * factor
        if all(abs(real / shown - 1) < _MOST_STRETCH for real, shown in zip((across, along), nominal, strict=True)):
            return crs
    return utm_zone(source)


def utm_zone(source: Source) -> CRS:
    """Return the UTM zone (the polar system beyond 84° north and 80° south) of the center of a file."""
    from rasterio.crs import CRS

    longitude, latitude = _center(source)
    if latitude > 84 or latitude < -80:
        return CRS.from_epsg(_POLAR_NORTH if latitude > 0 else _POLAR_SOUTH)
    zone = int((longitude + 180) % 360 // 6) + 1
    return CRS.from_epsg((_NORTHERN if latitude >= 0 else _SOUTHERN) + zone)


def ground_size(source: Source) -> tuple[float, float]:
    """Return the width and height of the pixel at the center of a file in meters on the ground."""
    column, row = source.width / 2, source.height / 2
    points = np.array([source.transform @ point for point in ((column, row), (column + 1, row), (column, row + 1))])
    x, y = project(source.crs, utm_zone(source), points).T
    return math.hypot(x[1] - x[0], y[1] - y[0]), math.hypot(x[2] - x[0], y[2] - y[0])


def coordinates(transform: Affine, columns: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coordinates of pixels, float64 [N, 2]."""
    x = transform.a * columns + transform.b * rows + transform.c
    y = transform.d * columns + transform.e * rows + transform.f
    return np.column_stack([x, y])


def project(source: CRS, target: CRS, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Transform points, float64 [N, 2], from one reference system to another; points without an image are infinite."""
    from rasterio.errors import RasterioError
    from rasterio.warp import transform

    if source == target:
        return points
    try:
        x, y = transform(source, target, points[:, 0].tolist(), points[:, 1].tolist())
    except RasterioError as error:
        raise SceneError(f"no transformation from {crs_name(source)} to {crs_name(target)} ({error})") from error
    return np.column_stack([x, y])


def footprint(source: Source, crs: CRS) -> Bounds:
    """Return the bounds of a file in a reference system; its edges are followed point by point.

    Raises:
        SceneError: The file lies outside the area of the reference system.
    """
    steps = np.linspace(0, 1, _STEPS)
    columns = np.concatenate([steps, steps, np.zeros(_STEPS), np.ones(_STEPS)]) * source.width
    rows = np.concatenate([np.zeros(_STEPS), np.ones(_STEPS), steps, steps]) * source.height
    points = project(source.crs, crs, coordinates(source.transform, columns, rows))
    if not np.isfinite(points).all():
        raise SceneError(f"{printable(source.name)}: lies outside the area of {crs_name(crs)}")
    return _bounds(points)


def box_bounds(bounds: Bounds, source: CRS, target: CRS) -> Bounds:
    """Return the bounds in another reference system of an area that is given by its bounds.

    Raises:
        SceneError: The area has no image in the other system.
    """
    x_min, y_min, x_max, y_max = bounds
    x, y = np.linspace(x_min, x_max, _STEPS), np.linspace(y_min, y_max, _STEPS)
    low, high = np.full(_STEPS, 1.0), np.full(_STEPS, 1.0)
    points = np.vstack(
        [
            np.column_stack([x, low * y_min]),
            np.column_stack([x, high * y_max]),
            np.column_stack([low * x_min, y]),
            np.column_stack([high * x_max, y]),
        ]
    )
    projected = project(source, target, points)
    if not np.isfinite(projected).all():
        raise SceneError(f"--bbox: the area has no position in {crs_name(target)}: check --bbox-crs")
    return _bounds(projected)


def intersection(areas: Sequence[Bounds]) -> Bounds | None:
    """Return the common part of several bounds; None if there is none."""
    x_min, y_min = (max(area[side] for area in areas) for side in (0, 1))
    x_max, y_max = (min(area[side] for area in areas) for side in (2, 3))
    return (x_min, y_min, x_max, y_max) if x_min < x_max and y_min < y_max else None


def make_grid(source: Source, crs: CRS, area: Bounds, pixel_size: float, side: int) -> Grid:
    """Return the grid that covers an area, at least one tile wide and high.

    The pixels are those of the file where its reference system and its pixel size are those of the grid.

    Args:
        source: The latest image.
        crs: Reference system of the grid.
        area: Bounds in this system.
        pixel_size: Side of a pixel in meters.
        side: Side of a tile in pixels.
    """
    from affine import Affine

    factor = crs.linear_units_factor[1]
    size = pixel_size / factor
    transform = source.transform
    x, y = 0.0, 0.0
    if crs == source.crs:
        x, y = transform.c, transform.f
        if math.isclose(size, transform.a, rel_tol=1e-9) and math.isclose(size, -transform.e, rel_tol=1e-9):
            size = transform.a
    left, bottom, right, top = area
    # A border that is off by rounding must not add a row of pixels.
    first_column, last_column = math.floor((left - x) / size + 1e-6), math.ceil((right - x) / size - 1e-6)
    first_row, last_row = math.floor((y - top) / size + 1e-6), math.ceil((y - bottom) / size - 1e-6)
    return Grid(
        crs,
        Affine(size, 0.0, x + first_column * size, 0.0, -size, y - first_row * size),
        max(side, last_column - first_column),
        max(side, last_row - first_row),
        size * factor,
    )


def _bounds(points: NDArray[np.float64]) -> Bounds:
    x_min, y_min = points.min(axis=0).tolist()
    x_max, y_max = points.max(axis=0).tolist()
    return x_min, y_min, x_max, y_max


def _center(source: Source) -> tuple[float, float]:
    from rasterio.crs import CRS

    point = np.array([source.transform @ (source.width / 2, source.height / 2)])
    longitude, latitude = project(source.crs, CRS.from_epsg(4326), point)[0].tolist()
    if not (math.isfinite(longitude) and math.isfinite(latitude)):
        raise SceneError(
            f"{printable(source.name)}: its position is outside its reference system: georeference it again"
        )
    return longitude, latitude
