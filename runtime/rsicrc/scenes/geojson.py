"""GeoJSON files (RFC 7946): WGS 84, counterclockwise, cut at the antimeridian."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsicrc.scenes.features import Feature, Polygon, geographic
from rsicrc.scenes.recorded import FACTS

if TYPE_CHECKING:
    from rasterio.crs import CRS


def geometry(polygons: Sequence[Polygon]) -> dict[str, Any]:
    """Return polygons in longitude and latitude as a GeoJSON geometry."""
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def write_geojson(path: Path, features: Sequence[Feature], crs: CRS, facts: dict[str, Any]) -> None:
    """Write a feature collection, one feature a line; the facts are a member of the collection."""
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", ')
        file.write(f'"{FACTS}": {_json(facts)}, "features": [')
        end = ""
        for feature, polygons in zip(features, geographic(features, crs), strict=True):
            item = {
                "type": "Feature",
                "id": feature.properties["id"],
                "geometry": geometry(polygons),
                "properties": feature.properties,
            }
            file.write(f"{end}\n{_json(item)}")
            end = ","
        file.write("\n]}\n")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace").decode("utf-8")
