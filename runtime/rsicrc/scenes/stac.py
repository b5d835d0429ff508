"""STAC Items (version 1.1) that describe the outputs of a scene."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rsicrc.errors import SceneError
from rsicrc.files import replacing
from rsicrc.scenes.features import Feature, Polygon, geographic
from rsicrc.scenes.geojson import geometry
from rsicrc.scenes.plan import ScenePlan
from rsicrc.scenes.result import SceneResult

_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
_TYPES = {
    ".geojson": "application/geo+json",
    ".json": "application/geo+json",
    ".gpkg": "application/geopackage+sqlite3",
    ".parquet": "application/vnd.apache.parquet",
    ".csv": "text/csv",
    ".html": "text/html",
    ".htm": "text/html",
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".tiff": "image/tiff; application=geotiff; profile=cloud-optimized",
}


def item_path(output: Path) -> Path:
    """Return the path of the item that belongs to an output."""
    return output.with_name(f"{output.stem}.stac.json")


def item_times(plan: ScenePlan) -> tuple[str, str]:
    """Return the first and the last time of the dates, as RFC 3339 requires.

    Raises:
        SceneError: A date has no time.
    """
    times = []
    for source in plan.sources:
        try:
            time = datetime.fromisoformat(source.time or "")
        except ValueError as error:
            raise SceneError(f"{source.name}: --stac needs the time of the image: give all with --dates") from error
        times.append(time if time.tzinfo else time.replace(tzinfo=UTC))
    first, last = (pick(times).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for pick in (min, max))
    return first, last


def write_item(result: SceneResult, output: Path, assets: Mapping[str, Path]) -> None:
    """Write the item of an output.

    Args:
        result: The result.
        output: The vector output; the item is put next to it.
        assets: Title of each asset, and its file.

    Raises:
        SceneError: A date has no time.
        OSError: The file cannot be written.
    """
    plan = result.plan
    start, end = item_times(plan)
    ring = plan.grid.ring((0, 0, plan.grid.width, plan.grid.height))
    (polygons,) = geographic([Feature((ring,), {})], plan.grid.crs)
    authority = plan.grid.crs.to_authority()
    system = (
        {"proj:code": ":".join(authority)} if authority else {"proj:projjson": plan.grid.crs.to_dict(projjson=True)}
    )
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [_PROJECTION],
        "id": output.stem,
        "geometry": geometry(polygons),
        "bbox": _bbox(polygons),
        "properties": {
            "datetime": None,
            "start_datetime": start,
            "end_datetime": end,
            "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "gsd": plan.grid.pixel_size,
            **system,
            "proj:shape": [plan.grid.height, plan.grid.width],
            "proj:transform": list(plan.grid.transform)[:6],
            "rsicrc:model": result.model,
            "rsicrc:sources": [source.name for source in plan.sources],
        },
        "links": [],
        "assets": {
            title: {"href": f"./{path.name}", "type": _TYPES[path.suffix.lower()], "roles": ["data"]}
            for title, path in assets.items()
        },
    }
    with replacing(item_path(output)) as temporary:
        temporary.write_text(json.dumps(item, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _bbox(polygons: list[Polygon]) -> list[float]:
    """Return (west, south, east, north); west is larger than east if the polygons lie on both sides of 180°."""
    points: list[Any] = [point for polygon in polygons for point in polygon[0]]
    south, north = min(y for _, y in points), max(y for _, y in points)
    longitudes = [x for x, _ in points]
    if len(polygons) > 1:
        return [min(x for x in longitudes if x > 0), south, max(x for x in longitudes if x < 0), north]
    return [min(longitudes), south, max(longitudes), north]
