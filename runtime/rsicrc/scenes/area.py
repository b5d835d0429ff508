"""The area of interest of a scene: polygons of a GeoJSON file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsicrc.errors import SceneError, printable
from rsicrc.files import open_regular
from rsicrc.inputs.tiles import Box
from rsicrc.scenes.grid import Bounds, Grid

if TYPE_CHECKING:
    from rasterio.crs import CRS

_MOST_BYTES = 1 << 28
_CELLS = 32  # cells along each side of a tile in which polygons are looked for


class Area:
    """Polygons in the reference system of a grid.

    Args:
        path: GeoJSON file in longitude and latitude (RFC 7946).
        crs: Reference system of the grid.

    Raises:
        SceneError: The file cannot be read, or has no polygon.
    """

    def __init__(self, path: Path | str, crs: CRS) -> None:
        from rasterio.features import bounds
        from rasterio.warp import transform_geom

        polygons = list(_polygons(_read(Path(path)), str(path)))
        if not polygons:
            raise SceneError(f"{path}: has no polygon. Draw the area as polygons and save it as GeoJSON")
        try:
            self.polygons: list[dict[str, Any]] = [transform_geom("EPSG:4326", crs, polygon) for polygon in polygons]
            parts = [bounds(polygon) for polygon in self.polygons]
        except Exception as error:  # rasterio raises many kinds for damaged coordinates
            raise SceneError(f"{path}: a polygon is damaged ({error}). Save the area as GeoJSON again") from error
        self._parts: list[Bounds] = parts

    @property
    def bounds(self) -> Bounds:
        """Bounds of all polygons."""
        lows = [min(part[side] for part in self._parts) for side in (0, 1)]
        highs = [max(part[side] for part in self._parts) for side in (2, 3)]
        return lows[0], lows[1], highs[0], highs[1]

    def touches(self, grid: Grid, box: Box) -> bool:
        """Return True if a polygon touches a box of pixels."""
        from affine import Affine
        from rasterio.features import geometry_mask

        left, top, right, bottom = box
        (x_min, y_min), (x_max, y_max) = grid.transform @ (left, bottom), grid.transform @ (right, top)
        near = [
            polygon
            for polygon, part in zip(self.polygons, self._parts, strict=True)
            if part[0] <= x_max and part[2] >= x_min and part[1] <= y_max and part[3] >= y_min
        ]
        if not near:
            return False
        cell = Affine.translation(left, top) @ Affine.scale((right - left) / _CELLS, (bottom - top) / _CELLS)
        outside = geometry_mask(near, (_CELLS, _CELLS), grid.transform @ cell, all_touched=True)
        return not bool(outside.all())


def _read(path: Path) -> Any:
    try:
        with open_regular(path) as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise SceneError(f"{path}: more than {_MOST_BYTES} bytes. Simplify the polygons")
        return json.loads(content)
    except SceneError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise SceneError(f"{path}: cannot be read as GeoJSON ({printable(str(error))})") from error


def _polygons(document: Any, path: str) -> Iterator[dict[str, Any]]:
    if not isinstance(document, Mapping):
        raise SceneError(f"{path}: not a GeoJSON object")
    crs = document.get("crs")
    if crs is not None and not any(name in json.dumps(crs) for name in ("CRS84", "4326")):
        raise SceneError(
            f"{path}: GeoJSON holds longitude and latitude (EPSG:4326), this file another system. Convert it"
        )
    kind = document.get("type")
    if kind == "FeatureCollection":
        for feature in _items(document, "features", path):
            yield from _polygons(feature, path)
    elif kind == "Feature":
        if document.get("geometry") is not None:
            yield from _polygons(document["geometry"], path)
    elif kind == "GeometryCollection":
        for geometry in _items(document, "geometries", path):
            yield from _polygons(geometry, path)
    elif kind in ("Polygon", "MultiPolygon"):
        yield dict(document)


def _items(document: Mapping[str, Any], name: str, path: str) -> Sequence[Any]:
    items = document.get(name)
    if not isinstance(items, list):
        raise SceneError(f"{path}: '{name}' is not a list: not GeoJSON")
    return items
