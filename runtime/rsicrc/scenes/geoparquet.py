"""GeoParquet files (version 1.1): polygons in the reference system of the grid, with their bounds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsicrc.scenes.features import Feature
from rsicrc.scenes.recorded import FACTS

if TYPE_CHECKING:
    from rasterio.crs import CRS

_SIDES = ("xmin", "ymin", "xmax", "ymax")


def write_geoparquet(
    path: Path, features: Sequence[Feature], crs: CRS, facts: dict[str, Any], columns: Mapping[str, type]
) -> None:
    """Write features as a GeoParquet table.

    Raises:
        OSError: The file cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {str: pa.string(), float: pa.float64(), bool: pa.bool_()}
    box = pa.struct([(side, pa.float64()) for side in _SIDES])
    fields = [pa.field(name, kinds[kind]) for name, kind in columns.items()]
    fields += [pa.field("geometry", pa.binary()), pa.field("bbox", box)]
    bounds = [dict(zip(_SIDES, feature.bounds, strict=True)) for feature in features]
    arrays: list[Any] = [[_value(feature.properties[name]) for feature in features] for name in columns]
    arrays += [[feature.wkb() for feature in features], bounds]
    metadata = {"geo": json.dumps(_geo(features, crs)), FACTS: json.dumps(facts)}
    schema = pa.schema(fields, metadata=metadata)
    table = pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip(arrays, schema, strict=True)], schema=schema
    )
    parquet.write_table(table, path, compression="zstd")


def _geo(features: Sequence[Feature], crs: CRS) -> dict[str, Any]:
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"] if features else [],
        "crs": crs.to_dict(projjson=True),
        "orientation": "counterclockwise",
        "covering": {"bbox": {side: ["bbox", side] for side in _SIDES}},
    }
    if features:
        bounds = zip(*(feature.bounds for feature in features), strict=True)
        column["bbox"] = [pick(values) for pick, values in zip((min, min, max, max), bounds, strict=True)]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _value(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value
