"""Facts about a run that its outputs record, read again: the stretches of an earlier output."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from rsicrc.errors import SceneError
from rsicrc.scenes.stretch import Stretch

FACTS = "rsicrc"  # name of the facts in GeoJSON, in the metadata of Parquet, and of the table in GeoPackage


def recorded_stretches(path: Path) -> list[dict[str, Any] | None]:
    """Return the stretches that an output of a scene records (GeoJSON, GeoPackage or GeoParquet).

    Raises:
        SceneError: The file cannot be read, or records no stretch.
    """
    if not path.is_file():
        raise SceneError(f"{path}: no such file")
    try:
        stretches = _facts(path)["stretch"]
        for stretch in stretches:
            if stretch is not None:
                Stretch.from_dict(stretch)
        return list(stretches)
    except (OSError, ValueError, KeyError, TypeError, sqlite3.Error) as error:
        raise SceneError(
            f"{path}: records no stretch ({type(error).__name__}). Give a .geojson, .gpkg or .parquet file "
            "that `rsicrc-run scene` has written"
        ) from error


def _facts(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".gpkg":
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            (text,) = database.execute(
                "SELECT metadata FROM gpkg_metadata WHERE md_standard_uri = ?", (FACTS,)
            ).fetchone()
        return json.loads(text)
    if suffix == ".parquet":
        from pyarrow import parquet

        return json.loads(parquet.read_schema(path).metadata[FACTS.encode()])
    return json.loads(path.read_text(encoding="utf-8"))[FACTS]
