"""Vector outputs of a scene: the format is chosen by the ending of the file."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rsicrc.files import replacing
from rsicrc.scenes.features import DECIMALS, Feature, columns, tile_features
from rsicrc.scenes.geojson import write_geojson
from rsicrc.scenes.geopackage import write_geopackage
from rsicrc.scenes.geoparquet import write_geoparquet
from rsicrc.scenes.grid import crs_name, project
from rsicrc.scenes.regions import change_regions
from rsicrc.scenes.result import SceneResult, check_output

if TYPE_CHECKING:
    from rasterio.crs import CRS

ENDINGS = (".geojson", ".json", ".gpkg", ".parquet", ".csv")
_STYLE = Path(__file__).with_name("changes.qml")


def write_result(result: SceneResult, path: Path, *, all_tiles: bool, regions: bool, overwrite: bool) -> None:
    """Write tiles or regions to a file; see `Scene.write`.

    Raises:
        SceneError: The ending is unknown, or the file exists.
        OSError: The file cannot be written; an existing file is unchanged.
    """
    check_output(path, ENDINGS, overwrite=overwrite)
    features = change_regions(result) if regions else tile_features(result.selected(all_tiles))
    crs, facts, names = result.plan.grid.crs, result.facts(), columns(regions)
    with replacing(path) as temporary:
        match path.suffix.lower():
            case ".gpkg":
                write_geopackage(temporary, features, crs, facts, names)
            case ".parquet":
                write_geoparquet(temporary, features, crs, facts, names)
            case ".csv":
                _write_csv(temporary, features, crs, names)
            case _:
                write_geojson(temporary, features, crs, facts)
    style = path.with_suffix(".qml")
    if path.suffix.lower() == ".gpkg" and not style.exists():  # an existing style may be the user's own
        with replacing(style) as temporary:
            temporary.write_bytes(_STYLE.read_bytes())


def _write_csv(path: Path, features: Sequence[Feature], crs: CRS, names: Mapping[str, type]) -> None:
    """Write a table with the center of each polygon in longitude and latitude, and the polygon as text."""
    from rasterio.crs import CRS

    centers = [
        ((x_min + x_max) / 2, (y_min + y_max) / 2) for x_min, y_min, x_max, y_max in (f.bounds for f in features)
    ]
    positions = project(crs, CRS.from_epsg(4326), np.array(centers, np.float64).reshape(-1, 2))
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "longitude", "latitude", "crs", "wkt"])
        for feature, position in zip(features, positions.tolist(), strict=True):
            values = [feature.properties[name] for name in names]
            writer.writerow([*values, *(round(value, DECIMALS) for value in position), crs_name(crs), feature.wkt()])
