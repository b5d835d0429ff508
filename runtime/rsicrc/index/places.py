"""Places of the rows of an index: hits as GeoJSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rsicrc.errors import IndexFolderError
from rsicrc.files import replacing
from rsicrc.results import rounded

if TYPE_CHECKING:
    from rsicrc.index.hits import Hits

GEOMETRY = "geometry"  # column with a geometry of GeoJSON as text


def write_hits(hits: Hits, path: Path) -> None:
    """Write hits as GeoJSON: a feature for each hit, best first; hits without a place have no geometry.

    Raises:
        IndexFolderError: No row of the index has a place, or a place is not GeoJSON.
        OSError: The file cannot be written; an existing file is unchanged.
    """
    if GEOMETRY not in hits.table.column_names:
        raise IndexFolderError("the pairs of this index have no places: index scenes with `rsicrc-run index --scene`")
    features = []
    for row in hits:
        place = row.pop(GEOMETRY)
        try:
            shape = None if place is None else json.loads(place)
        except ValueError as error:
            raise IndexFolderError(f"id {row['id']!r}: its column {GEOMETRY!r} is not GeoJSON ({error})") from error
        features.append({"type": "Feature", "id": row["id"], "geometry": shape, "properties": rounded(row)})
    document = {"type": "FeatureCollection", "features": features}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, ensure_ascii=False, default=str), "utf-8", "backslashreplace")
