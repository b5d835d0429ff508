"""Outputs of scenes, judged by other software: geopandas, pyproj, jsonschema, rio-cogeo and pystac."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import jsonschema
import numpy as np
import pyproj
import pystac
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

from rsicrc.engine import Engine
from rsicrc.errors import SceneError
from rsicrc.scenes.regions import change_regions
from rsicrc.scenes.result import SceneResult
from rsicrc.scenes.scene import Scene
from rsicrc.scenes.stac import write_item
from rsicrc.scenes.tile import PROPERTIES
from tests.runtime.scenes.files import ORIGIN, PIXEL, save, texture

POSITION = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number", "minimum": -180, "maximum": 180}}
RINGS = {"type": "array", "minItems": 1, "items": {"type": "array", "minItems": 4, "items": POSITION}}
GEOMETRY = {
    "oneOf": [
        {"properties": {"type": {"const": "Polygon"}, "coordinates": RINGS}},
        {"properties": {"type": {"const": "MultiPolygon"}, "coordinates": {"type": "array", "items": RINGS}}},
    ],
    "required": ["type", "coordinates"],
}
# RFC 7946, as far as it is about collections of polygons.
SCHEMA = {
    "type": "object",
    "required": ["type", "features"],
    "not": {"required": ["crs"]},
    "properties": {
        "type": {"const": "FeatureCollection"},
        "features": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "geometry", "properties"],
                "properties": {"type": {"const": "Feature"}, "geometry": GEOMETRY, "properties": {"type": "object"}},
            },
        },
    },
}


@pytest.fixture(scope="module")
def scene(scene_files: tuple[Path, Path], scene_engine: Engine) -> Scene:
    """Return a captioned scene, with a change score of each tile that falls from left to right."""
    scene = Scene.open(*scene_files)
    list(scene.captions(scene_engine, beams_options()))
    assert scene.result is not None
    tiles = [
        replace(tile, change_score=score, changed=score >= 0.5)
        for tile in scene.result.tiles
        for score in [0.95 - tile.box[0] / 400]
    ]
    scene.result = replace(scene.result, tiles=tiles, threshold=0.5)
    return scene


def beams_options() -> Any:
    from rsicrc.decoding.options import CaptionOptions

    return CaptionOptions(beams=1)


def result_of(scene: Scene) -> SceneResult:
    assert scene.result is not None
    return scene.result


def read_geojson(path: Path) -> Any:
    document = json.loads(path.read_text())
    jsonschema.validate(document, SCHEMA)
    return document


def test_geojson_is_valid_and_in_its_place(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "changes.geojson"
    scene.write(path)
    document = read_geojson(path)
    changed = result_of(scene).selected(all_tiles=False)
    assert 0 < len(changed) == len(document["features"]) < len(result_of(scene).tiles)
    to_map = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32633", always_xy=True)
    for feature, tile in zip(document["features"], changed, strict=True):
        assert list(feature["properties"]) == list(PROPERTIES)
        assert feature["properties"]["caption"] == tile.caption
        (ring,) = feature["geometry"]["coordinates"]
        found = np.column_stack(to_map.transform(*np.array(ring).T))
        assert np.abs(found - np.array(tile.ring)).max() < 0.01  # 7 decimals of a degree
    frame = geopandas.read_file(path)
    assert frame.crs.to_epsg() == 4326
    assert frame.geometry.is_valid.all()
    assert all(shape.exterior.is_ccw for shape in frame.geometry)
    assert frame["before_datetime"].notna().all()


@pytest.mark.parametrize("ending", ["gpkg", "parquet"])
def test_projected_outputs_are_exact(scene: Scene, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"changes.{ending}"
    scene.write(path, all_tiles=True)
    read = geopandas.read_file if ending == "gpkg" else geopandas.read_parquet
    frame = read(path)
    tiles = result_of(scene).tiles
    assert frame.crs.to_epsg() == 32633
    assert len(frame) == len(tiles)
    for shape, tile in zip(frame.geometry, tiles, strict=True):
        assert np.abs(np.array(shape.exterior.coords) - np.array(tile.ring)).max() < 1e-3
        assert shape.area == pytest.approx((128 * PIXEL) ** 2, abs=1e-3)
    assert frame["caption"].tolist() == [tile.caption for tile in tiles]
    assert frame["changed"].tolist() == [tile.changed for tile in tiles]
    assert frame.geometry.is_valid.all()
    if ending == "gpkg":
        assert "graduatedSymbol" in path.with_suffix(".qml").read_text()


def test_csv_has_positions(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "changes.csv"
    scene.write(path)
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == len(result_of(scene).selected(all_tiles=False))
    x, y = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32633", always_xy=True).transform(
        float(rows[0]["longitude"]), float(rows[0]["latitude"])
    )
    assert (x, y) == (pytest.approx(ORIGIN[0] + 64 * PIXEL, abs=0.01), pytest.approx(ORIGIN[1] - 64 * PIXEL, abs=0.01))
    assert rows[0]["wkt"].startswith("POLYGON ((500000 5199936, ")


@pytest.mark.parametrize("ending", ["geojson", "gpkg", "parquet", "csv"])
def test_result_without_changes_is_an_empty_collection(scene: Scene, tmp_path: Path, ending: str) -> None:
    empty = Scene(scene.sources, scene.options)
    empty.result = replace(result_of(scene), tiles=[replace(tile, changed=False) for tile in result_of(scene).tiles])
    path = tmp_path / f"none.{ending}"
    empty.write(path)
    if ending == "geojson":
        assert read_geojson(path)["features"] == []
    elif ending == "csv":
        assert len(path.read_text().splitlines()) == 1
    else:
        read = geopandas.read_file if ending == "gpkg" else geopandas.read_parquet
        frame = read(path)
        assert len(frame) == 0
        assert frame.crs.to_epsg() == 32633


def test_polygons_are_cut_at_the_antimeridian(tmp_path: Path, scene_engine: Engine) -> None:
    transform = rasterio.transform.from_origin(833_978 - 90, 5_000, PIXEL, PIXEL)  # zone 60, at 180° east
    image = texture(200, 300)
    files = [save(tmp_path / f"{name}.tif", image, crs="EPSG:32660", transform=transform) for name in "ab"]
    scene = Scene.open(*files, dates=("2018-01-01", "2020-01-01"))
    list(scene.captions(scene_engine, beams_options()))
    path = tmp_path / "changes.geojson"
    scene.write(path, all_tiles=True)
    geometries = [feature["geometry"] for feature in read_geojson(path)["features"]]
    cut = [geometry for geometry in geometries if geometry["type"] == "MultiPolygon"]
    assert cut
    for geometry in cut:
        for (ring,) in geometry["coordinates"]:
            assert np.ptp(np.array(ring)[:, 0]) < 1
    frame = geopandas.read_file(path)
    assert frame.geometry.is_valid.all()
    geodesic = pyproj.Geod(ellps="WGS84")
    area = sum(abs(geodesic.geometry_area_perimeter(shape)[0]) for shape in frame.geometry)
    assert area == pytest.approx(len(geometries) * (128 * PIXEL) ** 2, rel=0.005)  # the scale of UTM at its border
    write_item(result_of(scene), path, {"changes": path})
    west, _, east, _ = json.loads((tmp_path / "changes.stac.json").read_text())["bbox"]
    assert west > 179
    assert east < -179


def test_raster_is_a_valid_cog_with_the_largest_change_in_each_tile(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "change.tif"
    scene.write_raster(path)
    valid, errors, _ = cog_validate(path)
    assert (valid, errors) == (True, [])
    with rasterio.open(path) as dataset:
        values = dataset.read(1, masked=True)
        assert (dataset.crs.to_epsg(), dataset.nodata) == (32633, -9999)
        assert dataset.transform == rasterio.transform.from_origin(*ORIGIN, 8 * PIXEL, 8 * PIXEL)
    assert values.shape == (37, 52)
    assert not values.mask.any()
    assert 0 <= values.min() <= values.max() <= 0.95
    assert values[:, :16].max() > values[:, -16:].max()


def test_raster_has_nodata_where_pixels_are_invalid(tmp_path: Path, scene_engine: Engine) -> None:
    image = np.maximum(texture(256, 256), 1)
    image[:, :40] = 0
    files = [save(tmp_path / f"{name}.tif", image, nodata=0) for name in "ab"]
    scene = Scene.open(*files)
    list(scene.captions(scene_engine, beams_options()))
    scene.write_raster(tmp_path / "change.tif", creation={"compress": "zstd"})
    with rasterio.open(tmp_path / "change.tif") as dataset:
        mask = dataset.read(1, masked=True).mask
        assert dataset.compression.name == "zstd"
    assert mask[:, :5].all()
    assert not mask[:, 5:].any()


def test_raster_of_strips_equals_the_blend_of_all_tiles(scene: Scene) -> None:
    from rsicrc.scenes import change_raster

    result = result_of(scene)
    height, width = change_raster.raster_size(result)
    sums, weights = np.zeros((2, 1, height, width))
    for tile in result.tiles:
        change_raster._add(tile, result.plan.side, sums, weights, 0)
    rows = list(change_raster.change_rows(result))
    assert len(rows) > 1
    assert [start for start, _ in rows] == list(np.cumsum([0, *(part.shape[1] for _, part in rows)])[:-1])
    assert np.allclose(np.concatenate([part for _, part in rows], axis=1), sums / weights, atol=1e-6)


def test_regions_have_outlines_areas_and_the_strongest_caption(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "regions.gpkg"
    scene.write(path, regions=True)
    scene.write_raster(tmp_path / "change.tif")
    with rasterio.open(tmp_path / "change.tif") as dataset:
        cells = int((dataset.read(1) >= 0.5).sum())
    frame = geopandas.read_file(path)
    assert len(frame)
    assert frame.geometry.is_valid.all()
    assert frame.area.sum() == pytest.approx(cells * (8 * PIXEL) ** 2, abs=1e-3)
    assert np.allclose(frame["area_m2"], frame.area, atol=1e-3)
    assert frame["change_score"].max() == pytest.approx(0.95)
    scene.write(tmp_path / "regions.geojson", regions=True)
    read_geojson(tmp_path / "regions.geojson")


def test_regions_of_tiles_that_a_calibration_leaves_unchanged(scene: Scene) -> None:
    result = result_of(scene)
    unchanged = replace(result, tiles=[replace(tile, changed=False) for tile in result.tiles])
    scores = [region.properties["change_score"] for region in change_regions(unchanged)]
    assert scores == [region.properties["change_score"] for region in change_regions(result)]


def test_stac_item_is_valid(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "changes.geojson"
    scene.write(path)
    write_item(result_of(scene), path, {"changes": path})
    document = json.loads((tmp_path / "changes.stac.json").read_text())
    item = pystac.Item.from_dict(document)
    assert item.to_dict(include_self_link=False)["properties"]["start_datetime"] == "2018-05-01T10:00:00Z"
    assert item.common_metadata.end_datetime is not None
    assert item.assets["changes"].href == "./changes.geojson"
    assert document["bbox"][0] < document["bbox"][2]


def test_existing_output_is_not_replaced(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "changes.csv"
    path.write_text("mine")
    with pytest.raises(SceneError, match="--overwrite"):
        scene.write(path)
    assert path.read_text() == "mine"
    scene.write(path, overwrite=True)
    assert path.read_text() != "mine"
    with pytest.raises(SceneError, match="must end in one of"):
        scene.write(tmp_path / "changes.shp")


def test_failed_write_leaves_the_old_file(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    from rsicrc.scenes import geopackage

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    path = tmp_path / "changes.gpkg"
    path.write_text("old")
    monkeypatch.setattr(geopackage, "_write_facts", full)
    with pytest.raises(OSError, match="full"):
        scene.write(path, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["changes.gpkg"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("ending", ["geojson", "gpkg", "parquet"])
def test_recorded_stretch_is_used_again(tmp_path: Path, scene_engine: Engine, ending: str) -> None:
    image = texture(200, 200).astype(np.uint16) * 9
    files = [save(tmp_path / f"{name}.tif", image) for name in "ab"]
    scene = Scene.open(*files)
    list(scene.captions(scene_engine, beams_options()))
    path = tmp_path / f"first.{ending}"
    scene.write(path, all_tiles=True)
    brighter = [save(tmp_path / f"{name}.tif", image + 800) for name in "cd"]
    again = Scene.open(*brighter, stretch_from=path).plan(scene_engine.manifest)
    assert again.stretches == result_of(scene).plan.stretches
    (tmp_path / "other.geojson").write_text("{}")
    with pytest.raises(SceneError, match="records no stretch"):
        Scene.open(*files, stretch_from=tmp_path / "other.geojson").plan(scene_engine.manifest)
