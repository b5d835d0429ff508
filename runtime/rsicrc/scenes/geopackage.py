"""GeoPackage files (OGC 12-128r19, version 1.3), written with SQLite: no second GDAL in the process."""

from __future__ import annotations

import errno
import json
import sqlite3
import struct
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsicrc.scenes.features import Feature
from rsicrc.scenes.recorded import FACTS

if TYPE_CHECKING:
    from rasterio.crs import CRS

_APPLICATION = 0x47504B47  # "GPKG"
_VERSION = 10300
_OWN_SRS = 100_000  # identifier of a reference system without an EPSG code
_SQL_TYPES = {str: "TEXT", float: "DOUBLE", bool: "BOOLEAN"}
_ENVELOPE_LITTLE_ENDIAN = 0b00000011
_TABLES = """
CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY, organization TEXT NOT NULL,
    organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT);
CREATE TABLE gpkg_contents (table_name TEXT NOT NULL PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,
    description TEXT DEFAULT '', last_change DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
    min_x DOUBLE, min_y DOUBLE, max_x DOUBLE, max_y DOUBLE, srs_id INTEGER,
    CONSTRAINT fk_gc_r_srs_id FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys(srs_id));
CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL,
    geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL,
    CONSTRAINT pk_geom_cols PRIMARY KEY (table_name, column_name), CONSTRAINT uk_gc_table_name UNIQUE (table_name),
    CONSTRAINT fk_gc_tn FOREIGN KEY (table_name) REFERENCES gpkg_contents(table_name),
    CONSTRAINT fk_gc_srs FOREIGN KEY (srs_id) REFERENCES gpkg_spatial_ref_sys (srs_id));
CREATE TABLE gpkg_extensions (table_name TEXT, column_name TEXT, extension_name TEXT NOT NULL,
    definition TEXT NOT NULL, scope TEXT NOT NULL,
    CONSTRAINT ge_tce UNIQUE (table_name, column_name, extension_name));
CREATE TABLE gpkg_metadata (id INTEGER CONSTRAINT m_pk PRIMARY KEY ASC NOT NULL,
    md_scope TEXT NOT NULL DEFAULT 'dataset', md_standard_uri TEXT NOT NULL,
    mime_type TEXT NOT NULL DEFAULT 'text/xml', metadata TEXT NOT NULL DEFAULT '');
CREATE TABLE gpkg_metadata_reference (reference_scope TEXT NOT NULL, table_name TEXT, column_name TEXT,
    row_id_value INTEGER, timestamp DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
    md_file_id INTEGER NOT NULL, md_parent_id INTEGER,
    CONSTRAINT crmr_mfi_fk FOREIGN KEY (md_file_id) REFERENCES gpkg_metadata(id),
    CONSTRAINT crmr_mpi_fk FOREIGN KEY (md_parent_id) REFERENCES gpkg_metadata(id));
"""


def write_geopackage(
    path: Path, features: Sequence[Feature], crs: CRS, facts: dict[str, Any], columns: Mapping[str, type]
) -> None:
    """Write features to a layer `changes` in the reference system of the grid.

    Raises:
        OSError: The file cannot be written.
    """
    try:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("PRAGMA journal_mode = OFF")  # the file has a temporary name until it is complete
            database.execute(f"PRAGMA application_id = {_APPLICATION}")
            database.execute(f"PRAGMA user_version = {_VERSION}")
            database.executescript(_TABLES)
            srs_id = _write_systems(database, crs)
            _write_layer(database, features, srs_id, columns)
            _write_facts(database, facts)
    except sqlite3.Error as error:
        number = errno.ENOSPC if "full" in str(error) else errno.EIO
        raise OSError(number, str(error), str(path)) from error


def _write_systems(database: sqlite3.Connection, crs: CRS) -> int:
    from rasterio.crs import CRS

    authority = crs.to_authority()
    name, code = ("EPSG", int(authority[1])) if authority and authority[0] == "EPSG" else ("NONE", _OWN_SRS)
    rows = {
        -1: ("Undefined Cartesian SRS", -1, "NONE", -1, "undefined", None),
        0: ("Undefined geographic SRS", 0, "NONE", 0, "undefined", None),
        4326: ("WGS 84 geodetic", 4326, "EPSG", 4326, CRS.from_epsg(4326).to_wkt(), "longitude and latitude"),
    }
    title = crs.to_dict(projjson=True).get("name", "unknown")
    rows[code] = (title, code, name, code, crs.to_wkt(), None)
    database.executemany("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, ?)", rows.values())
    return code


def _write_layer(
    database: sqlite3.Connection, features: Sequence[Feature], srs_id: int, columns: Mapping[str, type]
) -> None:
    # `id` is taken by the layer's own key in some programs, so the key is `fid` as GDAL writes it.
    names = ", ".join(f'"{name}" {_SQL_TYPES[kind]}' for name, kind in columns.items())
    database.execute(f"CREATE TABLE changes (fid INTEGER PRIMARY KEY AUTOINCREMENT, geom POLYGON, {names})")
    sides = zip(*(feature.bounds for feature in features), strict=True)
    area = [pick(values) for pick, values in zip((min, min, max, max), sides, strict=True)] if features else []
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    database.execute(
        "INSERT INTO gpkg_contents VALUES ('changes', 'features', 'changes', '', ?, ?, ?, ?, ?, ?)",
        (now, *(area or [None] * 4), srs_id),
    )
    database.execute("INSERT INTO gpkg_geometry_columns VALUES ('changes', 'geom', 'POLYGON', ?, 0, 0)", (srs_id,))
    marks = ", ".join("?" * (2 + len(columns)))
    database.executemany(
        f"INSERT INTO changes VALUES ({marks})",  # noqa: S608 - only marks
        (
            (None, _blob(feature, srs_id), *(_value(feature.properties[name]) for name in columns))
            for feature in features
        ),
    )


def _write_facts(database: sqlite3.Connection, facts: dict[str, Any]) -> None:
    extension = "http://www.geopackage.org/spec121/#extension_metadata"
    database.executemany(
        "INSERT INTO gpkg_extensions VALUES (?, NULL, 'gpkg_metadata', ?, 'read-write')",
        [("gpkg_metadata", extension), ("gpkg_metadata_reference", extension)],
    )
    database.execute(
        "INSERT INTO gpkg_metadata VALUES (1, 'dataset', ?, 'application/json', ?)",
        (FACTS, json.dumps(facts, ensure_ascii=False)),
    )
    database.execute(
        "INSERT INTO gpkg_metadata_reference (reference_scope, table_name, md_file_id) VALUES ('table', 'changes', 1)"
    )


def _blob(feature: Feature, srs_id: int) -> bytes:
    x_min, y_min, x_max, y_max = feature.bounds
    header = struct.pack("<2sBBi4d", b"GP", 0, _ENVELOPE_LITTLE_ENDIAN, srs_id, x_min, x_max, y_min, y_max)
    return header + feature.wkb()


def _value(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value
