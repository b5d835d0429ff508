"""`rsicrc-run index --scene` and `rsicrc-run search -o`: tiles of scenes in an index, and hits with places."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import lancedb  # noqa: F401 - the tests need the extra
import numpy as np
import pytest
import rasterio.warp
from rasterio.transform import from_origin

import rsicrc
from rsicrc.cli.console import FAILED, WRONG_USAGE
from tests.runtime.conftest import Command
from tests.runtime.scenes.files import save

QUERY = "a road is built"
LEFT, TOP, PIXEL, SIDE = 500_000.0, 5_400_000.0, 0.5, 200


def write_scene(path: Path, seed: int, changed: slice = slice(0)) -> Path:
    pixels = np.random.default_rng(seed).integers(1, 256, (3, SIDE, SIDE), np.uint8)
    pixels[:, changed] = 255
    return save(path, pixels.transpose(1, 2, 0), crs="EPSG:32632", transform=from_origin(LEFT, TOP, PIXEL, PIXEL))


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path]:
    return write_scene(tmp_path / "before.tif", 0), write_scene(tmp_path / "after.tif", 1)


@pytest.fixture
def index(rsicrc_run: Command, scene: tuple[Path, Path], model_folder: Path, tmp_path: Path) -> Path:
    ended = rsicrc_run("index", "--scene", *scene, "-o", tmp_path / "index", "--captions", "--model", model_folder)
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f"{tmp_path / 'index'}: ")
    return tmp_path / "index"


def test_hits_have_the_places_of_their_tiles(rsicrc_run: Command, index: Path, tmp_path: Path) -> None:
    ended = rsicrc_run("search", index, QUERY, "-k", 100, "-o", tmp_path / "hits.geojson")
    assert ended.code == 0
    document = json.loads((tmp_path / "hits.geojson").read_text())
    assert document.keys() == {"type", "features"}
    features: list[dict[str, Any]] = document["features"]
    assert len(features) == len(rsicrc.Index.open(index)) > 1
    assert [feature["properties"]["rank"] for feature in features] == list(range(1, len(features) + 1))
    for feature in features:
        properties = feature["properties"]
        left, top, right, bottom = map(int, properties["after"].partition("#")[2].split(","))
        ring = np.array(feature["geometry"]["coordinates"][0])
        x, y = (np.array(axis) for axis in rasterio.warp.transform("EPSG:4326", "EPSG:32632", *ring.T))
        columns, rows = (x - LEFT) / PIXEL, (TOP - y) / PIXEL
        assert np.allclose([columns.min(), columns.max(), rows.min(), rows.max()], [left, right, top, bottom], atol=0.1)
        assert properties["caption"]
        assert properties["longitude"] == pytest.approx(ring[:-1, 0].mean(), abs=1e-6)
    west = min(feature["properties"]["longitude"] for feature in features)
    ended = rsicrc_run("search", index, QUERY, "--where", f"longitude > {west + 1e-6}", "-o", tmp_path / "east.geojson")
    assert 0 < len(json.loads((tmp_path / "east.geojson").read_text())["features"]) < len(features)


def test_only_changed_tiles_are_encoded_again(
    rsicrc_run: Command, index: Path, scene: tuple[Path, Path], tmp_path: Path
) -> None:
    count = len(rsicrc.Index.open(index))
    ended = rsicrc_run("index", "--scene", *scene, "-o", index, "--captions")
    assert ended.out == f"{index}: {count} pairs ({count} unchanged)\n"
    write_scene(scene[1], 1, changed=slice(SIDE - 20, SIDE))
    ended = rsicrc_run("index", "--scene", *scene, "-o", index, "--captions")
    assert ended.code == 0
    boxes = [row.rpartition(",")[2] for row in rsicrc.Index.open(index).store.columns(["after"])["after"].to_pylist()]
    at_the_bottom = boxes.count(str(SIDE))
    assert ended.out == f"{index}: {count} pairs ({at_the_bottom} written, {count - at_the_bottom} unchanged)\n"


def test_tiles_are_not_reranked_in_silence(rsicrc_run: Command, index: Path) -> None:
    ended = rsicrc_run("search", index, QUERY, "--rerank", 1)
    assert ended.code == 0
    assert "not reranked" in ended.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["before.tif"], WRONG_USAGE, "--scene goes with two files"),
        (["before.tif", "absent.tif"], FAILED, "absent.tif"),
        (["before.tif", "after.tif", "--match", "a{id}", "b{id}"], WRONG_USAGE, "--scene goes with two files"),
    ],
)
def test_wrong_scenes_leave_no_index(
    rsicrc_run: Command,
    scene: tuple[Path, Path],
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = rsicrc_run("index", "--scene", *arguments, "-o", "new", "--model", model_folder)
    assert (ended.code, ended.out, ended.err.count("\n")) == (code, "", 1)
    assert message in ended.err
    assert not Path("new").exists()


def test_hits_without_places_are_refused(
    rsicrc_run: Command, pictures: Path, model_folder: Path, tmp_path: Path
) -> None:
    for side, date in (("A", "a"), ("B", "b")):
        (tmp_path / side).mkdir()
        shutil.copyfile(pictures / f"1{date}.png", tmp_path / side / "1.png")
    rsicrc_run("index", tmp_path / "A", tmp_path / "B", "-o", tmp_path / "i", "--model", model_folder)
    ended = rsicrc_run("search", tmp_path / "i", QUERY, "-o", tmp_path / "hits.geojson")
    assert ended.code == FAILED
    assert "the pairs of this index have no places" in ended.err
    assert not (tmp_path / "hits.geojson").exists()
    ended = rsicrc_run("search", tmp_path / "i", QUERY, "-o", tmp_path / "hits.gpkg")
    assert (ended.code, "must end in one of .geojson, .json" in ended.err) == (WRONG_USAGE, True)
    ended = rsicrc_run("index", tmp_path / "A", tmp_path / "B", "-o", tmp_path / "i", "--any-resolution")
    assert (ended.code, "--any-resolution goes with --scene" in ended.err) == (WRONG_USAGE, True)
