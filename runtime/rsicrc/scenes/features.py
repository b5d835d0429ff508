"""Features of the outputs: polygons on the grid with properties, and their binary and geographic forms."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rsicrc.scenes.grid import project
from rsicrc.scenes.tile import PROPERTIES, Ring, SceneTile

if TYPE_CHECKING:
    from rasterio.crs import CRS

Position = tuple[float, float]
Polygon = tuple[tuple[Position, ...], ...]  # the outer ring, then the holes
AREA = "area_m2"
DECIMALS = 7  # of longitude and latitude: about 1 cm
_POLYGON = 3  # in well-known binary
_LITTLE_ENDIAN = 1


@dataclass(frozen=True)
class Feature:
    """A polygon in the reference system of the grid, with its properties.

    Attributes:
        rings: The outer ring, counterclockwise, and the holes, clockwise; the last point of each equals the first.
        properties: Values by name.
    """

    rings: tuple[Ring, ...]
    properties: dict[str, Any]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(x_min, y_min, x_max, y_max)."""
        x, y = zip(*self.rings[0], strict=True)
        return min(x), min(y), max(x), max(y)

    def wkb(self) -> bytes:
        """Return the polygon as well-known binary, little endian."""
        rings = (struct.pack("<I", len(ring)) + np.array(ring, "<f8").tobytes() for ring in self.rings)
        return struct.pack("<BII", _LITTLE_ENDIAN, _POLYGON, len(self.rings)) + b"".join(rings)

    def wkt(self) -> str:
        """Return the polygon as well-known text."""
        rings = ("(" + ", ".join(f"{x:.12g} {y:.12g}" for x, y in ring) + ")" for ring in self.rings)
        return f"POLYGON ({', '.join(rings)})"


def columns(regions: bool) -> dict[str, type]:
    """Return the names and kinds of the properties of tiles or of regions."""
    return {**PROPERTIES, AREA: float} if regions else PROPERTIES


def tile_features(tiles: Iterable[SceneTile]) -> list[Feature]:
    """Return a feature for each tile."""
    return [Feature((tile.ring,), tile.to_dict()) for tile in tiles]


def geographic(features: Sequence[Feature], crs: CRS) -> Iterator[list[Polygon]]:
    """Yield the polygons of each feature in longitude and latitude (WGS 84), as RFC 7946 requires.

    A polygon that crosses the antimeridian is cut there into several. Outer rings are counterclockwise.
    """
    from rasterio.crs import CRS

    points = np.array([point for feature in features for ring in feature.rings for point in ring], np.float64)
    if not len(points):
        return
    positions = np.round(project(crs, CRS.from_epsg(4326), points), DECIMALS)
    start = 0
    for feature in features:
        rings = []
        for ring in feature.rings:
            rings.append(positions[start : start + len(ring)])
            start += len(ring)
        if np.ptp(rings[0][:, 0]) > 180:
            yield _cut(feature, crs)
        else:
            yield [_oriented([[(x, y) for x, y in ring.tolist()] for ring in rings])]


def signed_area(ring: Sequence[Position]) -> float:
    """Return the area of a ring in the units of its points; negative if it is clockwise."""
    points = np.array(ring, np.float64)
    x, y = (points - points[0]).T  # small numbers: the products of large coordinates would lose digits
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2


def _cut(feature: Feature, crs: CRS) -> list[Polygon]:
    from rasterio.warp import transform_geom

    polygon = {"type": "Polygon", "coordinates": feature.rings}
    found = transform_geom(crs, "EPSG:4326", polygon, antimeridian_cutting=True, precision=DECIMALS)
    parts = found["coordinates"] if found["type"] == "MultiPolygon" else [found["coordinates"]]
    return [_oriented([[(x, y) for x, y in ring] for ring in part]) for part in parts]


def _oriented(rings: Sequence[Sequence[Position]]) -> Polygon:
    turned = []
    for number, ring in enumerate(rings):
        outer = number == 0
        turned.append(tuple(ring) if (signed_area(ring) > 0) == outer else tuple(reversed(ring)))
    return tuple(turned)
