"""Tests of the large georeferenced pair: pixels, georeference, and truth of the changes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.warp
from numpy.typing import NDArray

from rsicrc.errors import ArgumentError
from rsicrc_train.synth import generate_scene
from rsicrc_train.synth.cells import draw_cell
from rsicrc_train.synth.large_scene import AFTER_FILE, BEFORE_FILE, CHANGES_FILE

SEED = 4


def read(path: Path) -> NDArray[np.uint8]:
    with rasterio.open(path) as file:
        return np.asarray(file.read().transpose(1, 2, 0))


def features(folder: Path) -> list[dict[str, Any]]:
    document = json.loads((folder / CHANGES_FILE).read_text())
    assert document.keys() == {"type", "features"}
    return list(document["features"])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth") / "scene"
    generate_scene(folder, 1000, 760, SEED)
    return folder


def test_scene_consists_of_the_cells(scene: Path) -> None:
    cell = draw_cell(SEED, 1, 2)
    for name, image in ((BEFORE_FILE, cell.before), (AFTER_FILE, cell.after)):
        found = read(scene / name)
        assert found.shape == (760, 1000, 3)
        # Cells are blended over 16 pixels at their edges.
        assert np.array_equal(found[256:480, 496:720], image[16:240, 16:240])


def test_scene_has_square_pixels_in_utm_and_the_date(scene: Path) -> None:
    for name, year in ((BEFORE_FILE, "2018"), (AFTER_FILE, "2022")):
        with rasterio.open(scene / name) as file:
            assert file.crs.to_epsg() == 32632
            assert file.transform == rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)
            assert file.tags()["TIFFTAG_DATETIME"].startswith(year)
            assert file.block_shapes == [(240, 240)] * 3


def test_changes_are_where_the_cells_have_them(scene: Path) -> None:
    found = [feature["properties"] for feature in features(scene)]
    expected = [
        (change.kind, change.sentences[0], [v + 240 * (c, r)[i % 2] for i, v in enumerate(change.box)])
        for r in range(3)
        for c in range(4)
        for change in draw_cell(SEED, r, c, can_change=r * 240 + 256 <= 760 and c * 240 + 256 <= 1000).changes
    ]
    assert [(each["kind"], each["caption"], each["pixels"]) for each in found] == expected
    assert found
    assert all(each["captions"][0] == each["caption"] for each in found)


def test_outlines_are_the_boxes_in_wgs_84(scene: Path) -> None:
    for feature in features(scene):
        ring = np.array(feature["geometry"]["coordinates"][0])
        assert np.array_equal(ring[0], ring[-1])
        area = (ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1]).sum() / 2
        assert area > 0  # counterclockwise
        x, y = (np.array(axis) for axis in rasterio.warp.transform("EPSG:4326", "EPSG:32632", *ring.T))
        box = feature["properties"]["pixels"]
        assert np.allclose((x - 500_000) / 0.5, [box[k] for k in (0, 2, 2, 0, 0)], atol=0.05)
        assert np.allclose((5_400_000 - y) / 0.5, [box[k] for k in (3, 3, 1, 1, 3)], atol=0.05)


def test_scene_is_a_function_of_seed_and_size(scene: Path, tmp_path: Path) -> None:
    generate_scene(tmp_path / "again", 1000, 760, SEED)
    for name in (BEFORE_FILE, AFTER_FILE, CHANGES_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (scene / name).read_bytes()
    generate_scene(tmp_path / "other", 256, 256, SEED + 1)
    assert not np.array_equal(read(tmp_path / "other" / AFTER_FILE), read(scene / AFTER_FILE)[:256, :256])


@pytest.mark.parametrize("size", [(255, 400), (400, 255), (400, 200_001)])
def test_side_out_of_range_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="a scene has sides of 256 to 200000 pixels"):
        generate_scene(tmp_path / "scene", *size, 0)


def test_boxes_hold_the_visible_changes() -> None:
    found = 0
    for row, column in np.ndindex(4, 4):
        changed, unchanged = (draw_cell(SEED, row, column, can_change) for can_change in (True, False))
        # Weather and details do not depend on the change, so one image is equal and the other lacks only the change.
        different = [
            np.abs(one.astype(int) - other).max(2) > 40
            for one, other in ((changed.before, unchanged.before), (changed.after, unchanged.after))
        ]
        inside = np.zeros((256, 256), bool)
        for change in changed.changes:
            left, top, right, bottom = change.box
            inside[top:bottom, left:right] = True
            assert (different[0] | different[1])[top:bottom, left:right].sum() > 100, change
        found += len(changed.changes)
        assert sum((mask & ~inside).sum() for mask in different) <= 60, changed.changes  # a few cars
    assert found
