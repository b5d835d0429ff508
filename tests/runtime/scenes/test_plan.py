"""The common grid, validity, stretches, pixel sizes and shifts of scenes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rasterio.transform import Affine, from_origin

from rsicrc.errors import SceneError
from rsicrc.manifest import Manifest
from rsicrc.scenes.grid import project, utm_zone
from rsicrc.scenes.plan import ScenePlan
from rsicrc.scenes.reader import TileReader
from rsicrc.scenes.scene import Scene
from tests.runtime.scenes.files import ORIGIN, PIXEL, save, save_warped, texture


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return np.maximum(texture(300, 420), 1)


def plan_of(manifest: Manifest, *files: Path, **settings: Any) -> ScenePlan:
    return Scene.open(*files, **settings).plan(manifest)


def pixels(plan: ScenePlan, date: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    reader = TileReader(plan)
    values = reader.read(date, (0, 0, plan.grid.width, plan.grid.height))
    reader.close()
    return values


def test_files_on_one_grid_are_read_unchanged(
    tmp_path: Path, image: NDArray[np.uint8], scene_manifest: Manifest
) -> None:
    before = save(tmp_path / "a.tif", image)
    moved = from_origin(ORIGIN[0] + 20 * PIXEL, ORIGIN[1] - 10 * PIXEL, PIXEL, PIXEL)
    after = save(tmp_path / "b.tif", image[10:, 20:], transform=moved)
    plan = plan_of(scene_manifest, before, after)
    assert (plan.grid.width, plan.grid.height, plan.grid.transform) == (400, 290, moved)
    for date in (0, 1):
        values, valid = pixels(plan, date)
        assert valid.all()
        assert np.array_equal(values, image[10:, 20:])
    assert plan.overlap == pytest.approx(1)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32632"])
def test_other_reference_systems_are_read_on_the_grid(
    tmp_path: Path, image: NDArray[np.uint8], scene_manifest: Manifest, crs: str
) -> None:
    plan = plan_of(scene_manifest, save_warped(tmp_path / "a.tif", image, crs), save(tmp_path / "b.tif", image))
    assert plan.grid.name == "EPSG:32633"
    values, valid = pixels(plan, 0)
    difference = np.abs(values.astype(int) - pixels(plan, 1)[0])[valid]
    assert valid.mean() > 0.97
    assert np.median(difference) <= 2
    assert np.percentile(difference, 99) <= 8


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
def test_grid_is_utm_where_lengths_on_the_map_are_not_meters(
    tmp_path: Path, image: NDArray[np.uint8], scene_manifest: Manifest, crs: str
) -> None:
    # At 47° north a Web Mercator pixel of 0.73 m is 0.5 m on the ground.
    files = [save_warped(tmp_path / f"{name}.tif", image, crs) for name in "ab"]
    plan = plan_of(scene_manifest, *files)
    assert plan.grid.name == "EPSG:32633"
    assert plan.grid.pixel_size == pytest.approx(PIXEL, rel=0.03)


def test_rotated_file_is_read_on_the_grid(tmp_path: Path, image: NDArray[np.uint8], scene_manifest: Manifest) -> None:
    turned = np.ascontiguousarray(np.rot90(image))  # a quarter turn: exact pixels under a rotated transform
    transform = Affine(0, -PIXEL, ORIGIN[0] + 420 * PIXEL, -PIXEL, 0, ORIGIN[1])
    plan = plan_of(
        scene_manifest, save(tmp_path / "a.tif", turned, transform=transform), save(tmp_path / "b.tif", image)
    )
    values, valid = pixels(plan, 0)
    assert valid.all()
    assert np.abs(values.astype(int) - image).max() <= 1


def test_offset_of_half_a_pixel_is_resampled(
    tmp_path: Path, image: NDArray[np.uint8], scene_manifest: Manifest
) -> None:
    moved = from_origin(ORIGIN[0] + PIXEL / 2, ORIGIN[1], PIXEL, PIXEL)
    plan = plan_of(scene_manifest, save(tmp_path / "a.tif", image, transform=moved), save(tmp_path / "b.tif", image))
    values, _ = pixels(plan, 0)
    offset = plan.grid.transform.c - ORIGIN[0]
    assert offset == 0
    expected = (image[:, 4:-4].astype(float) + image[:, 3:-5]) / 2
    assert np.abs(values[:, 4:-4] - expected).max() <= 1


def test_files_in_different_places_are_refused(
    tmp_path: Path, image: NDArray[np.uint8], scene_manifest: Manifest
) -> None:
    far = save(tmp_path / "a.tif", image, transform=from_origin(ORIGIN[0] + 1000, ORIGIN[1], PIXEL, PIXEL))
    with pytest.raises(SceneError, match="do not overlap"):
        plan_of(scene_manifest, far, save(tmp_path / "b.tif", image))


def test_black_pixels_are_valid_where_another_band_has_data(tmp_path: Path, scene_manifest: Manifest) -> None:
    image = np.full((200, 200, 3), 90, np.uint8)
    image[50:60, 50:60, 0] = 0
    image[100:110, 100:110] = 0
    files = [save(tmp_path / f"{name}.tif", image, nodata=0) for name in "ab"]
    _, valid = pixels(plan_of(scene_manifest, *files), 0)
    assert valid[50:60, 50:60].all()
    assert not valid[100:110, 100:110].any()


def test_alpha_of_either_date_makes_pixels_invalid_and_equal(tmp_path: Path, scene_manifest: Manifest) -> None:
    image = texture(128, 128)
    alpha = np.full((128, 128, 1), 255, np.uint8)
    alpha[:30] = 0
    masked = np.concatenate([image, alpha], axis=2)
    plan = plan_of(scene_manifest, save(tmp_path / "a.tif", masked, alpha="YES"), save(tmp_path / "b.tif", image))
    (tile,) = TileReader(plan).tiles()
    assert tile.valid_share == pytest.approx(98 / 128)
    assert tile.images is not None
    assert not tile.images[0][:30].any()
    assert not tile.images[1][:30].any()
    assert tile.cells is not None
    assert tile.cells.mean() == pytest.approx(12 / 16)


def test_invalid_pixels_do_not_leak_into_resampled_values(tmp_path: Path, scene_manifest: Manifest) -> None:
    image = np.full((200, 200, 3), 100, np.uint8)
    image[80:120, 80:120] = 255
    moved = from_origin(ORIGIN[0] + 0.3 * PIXEL, ORIGIN[1], PIXEL, PIXEL)
    before = save(tmp_path / "a.tif", image, nodata=255, transform=moved)
    plan = plan_of(scene_manifest, before, save(tmp_path / "b.tif", np.full_like(image, 100)))
    values, valid = pixels(plan, 0)
    assert set(np.unique(values[valid])) == {100}


def test_tiles_with_few_valid_pixels_are_left_out(tmp_path: Path, scene_manifest: Manifest) -> None:
    image = np.maximum(texture(128, 256), 1)
    image[:, :100] = 0
    files = [save(tmp_path / f"{name}.tif", image, nodata=0) for name in "ab"]
    tiles = list(TileReader(plan_of(scene_manifest, *files, overlap=0)).tiles())
    assert [tile.images is None for tile in tiles] == [True, False]


def test_scenes_without_valid_pixels_are_refused(tmp_path: Path, scene_manifest: Manifest) -> None:
    empty = save(tmp_path / "a.tif", np.zeros((200, 200, 3), np.uint8), nodata=0)
    with pytest.raises(SceneError, match="no valid pixel"):
        plan_of(scene_manifest, empty, save(tmp_path / "b.tif", texture(200, 200)))


def test_sixteen_bit_files_of_one_sensor_share_a_stretch(tmp_path: Path, scene_manifest: Manifest) -> None:
    image = np.maximum(texture(300, 420), 1).astype(np.uint16) * np.array([12, 9, 6], np.uint16)
    brighter = image + 500
    before = save(tmp_path / "a.tif", image, nodata=0)
    plan = plan_of(scene_manifest, before, save(tmp_path / "b.tif", brighter, nodata=0))
    assert plan.stretches[0] == plan.stretches[1]
    union = np.concatenate([image.reshape(-1, 3), brighter.reshape(-1, 3)])
    assert plan.stretches[0] is not None
    low, high = np.percentile(union, (2, 98), axis=0)
    # One range for all bands keeps the colors.
    assert np.allclose(plan.stretches[0].low, low.min(), atol=60)
    assert np.allclose(plan.stretches[0].high, high.max(), atol=60)
    other = save(tmp_path / "c.tif", brighter.astype(np.float32), nodata=0)
    apart = plan_of(scene_manifest, before, other)
    assert apart.stretches[0] != apart.stretches[1]


def test_stretch_does_not_depend_on_nodata(tmp_path: Path, scene_manifest: Manifest) -> None:
    image = texture(300, 420).astype(np.float32) + 1000
    image[:, :100] = np.nan
    files = [save(tmp_path / f"{name}.tif", image) for name in "ab"]
    plan = plan_of(scene_manifest, *files)
    assert plan.stretches[0] is not None
    assert min(plan.stretches[0].low) > 1000
    _, valid = pixels(plan, 0)
    assert not valid[:, :100].any()
    assert valid[:, 100:].all()


def test_files_of_eight_bit_have_no_stretch(scene_files: tuple[Path, Path], scene_manifest: Manifest) -> None:
    assert plan_of(scene_manifest, *scene_files).stretches == [None, None]


def test_coarse_pixels_are_refused_or_taken_as_they_are(tmp_path: Path, scene_manifest: Manifest) -> None:
    transform = from_origin(*ORIGIN, 10, 10)
    files = [save(tmp_path / f"{name}.tif", texture(200, 200), transform=transform) for name in "ab"]
    with pytest.raises(SceneError, match=r"pixels of 10 m, but the model was trained on 0\.5 m"):
        plan_of(scene_manifest, *files)
    plan = plan_of(scene_manifest, *files, any_resolution=True)
    assert plan.grid.pixel_size == 10
    assert any("may be wrong" in note for note in plan.notes)


@pytest.mark.parametrize(("pixel", "expected"), [(0.25, 0.5), (0.8, 0.5), (0.495, 0.495)])
def test_other_pixel_sizes_are_resampled_to_the_models(
    tmp_path: Path, scene_manifest: Manifest, pixel: float, expected: float
) -> None:
    transform = from_origin(*ORIGIN, pixel, pixel)
    files = [save(tmp_path / f"{name}.tif", texture(400, 400), transform=transform) for name in "ab"]
    assert plan_of(scene_manifest, *files).grid.pixel_size == pytest.approx(expected)


def test_reduced_pixels_are_means(tmp_path: Path, scene_manifest: Manifest) -> None:
    image = texture(600, 600)
    files = [
        save(tmp_path / f"{name}.tif", image, transform=from_origin(*ORIGIN, PIXEL / 3, PIXEL / 3)) for name in "ab"
    ]
    values, _ = pixels(plan_of(scene_manifest, *files), 0)
    means = image.reshape(200, 3, 200, 3, 3).mean(axis=(1, 3))
    assert np.abs(values[2:-2, 2:-2] - means[2:-2, 2:-2]).max() <= 1.5


def test_unknown_pixel_size_of_the_model_is_a_warning(scene_files: tuple[Path, Path], scene_manifest: Manifest) -> None:
    plan = plan_of(replace(scene_manifest, pixel_size=None), *scene_files)
    assert any("does not say the pixel size" in note for note in plan.notes)


def test_shift_is_measured_and_corrected(tmp_path: Path, scene_manifest: Manifest) -> None:
    image = texture(620, 620)
    moved = image[10:-10, 10:-10]
    before = save(tmp_path / "a.tif", image[13:593, 14:594])  # content 4 columns to the left and 3 rows up
    after = save(tmp_path / "b.tif", moved[:580, :580])
    plan = plan_of(scene_manifest, before, after)
    assert plan.shifts[0] is not None
    assert plan.shifts[0].columns == pytest.approx(-4, abs=0.1)
    assert plan.shifts[0].rows == pytest.approx(-3, abs=0.1)
    assert any("--align" in note for note in plan.notes)
    aligned = plan_of(scene_manifest, before, after, align=True)
    assert aligned.shifts[0] is not None
    assert aligned.shifts[0].length < 0.1
    first, valid = pixels(aligned, 0)
    second, _ = pixels(aligned, 1)
    assert np.median(np.abs(first.astype(int) - second)[valid]) <= 1


def test_tiles_cover_the_grid_and_bbox_cuts_it(scene_files: tuple[Path, Path], scene_manifest: Manifest) -> None:
    plan = plan_of(scene_manifest, *scene_files)
    covered = np.zeros((plan.grid.height, plan.grid.width), np.bool_)
    for left, top, right, bottom in plan.boxes:
        assert (right - left, bottom - top) == (128, 128)
        covered[top:bottom, left:right] = True
    assert covered.all()
    x, y = ORIGIN
    bbox = (x + 50, y - 130, x + 120, y - 60)
    part = plan_of(scene_manifest, *scene_files, bbox=bbox, bbox_crs="EPSG:32633")
    assert part.grid.transform @ (0, 0) == (bbox[0], bbox[3])
    assert (part.grid.width, part.grid.height) == (140, 140)
    with pytest.raises(SceneError, match="--bbox lies outside"):
        plan_of(scene_manifest, *scene_files, bbox=(0, 0, 1, 1))


def test_area_selects_the_tiles_that_it_touches(
    tmp_path: Path, scene_files: tuple[Path, Path], scene_manifest: Manifest
) -> None:
    scene = Scene.open(*scene_files)
    x, y = ORIGIN
    corner = np.array([(x + 2, y - 2), (x + 9, y - 2), (x + 9, y - 9), (x + 2, y - 9), (x + 2, y - 2)])
    far = corner + np.array([190, -140])
    rings = [
        project(scene.sources[0].crs, utm_zone(scene.sources[0]).from_epsg(4326), ring).tolist()
        for ring in (corner, far)
    ]
    area = tmp_path / "area.geojson"
    area.write_text(json.dumps({"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}))
    plan = plan_of(scene_manifest, *scene_files, aoi=area, overlap=0)
    assert len(plan.boxes) < 12
    assert {(0, 0), (plan.grid.width - 128, plan.grid.height - 128)} <= {box[:2] for box in plan.boxes}
    area.write_text("{}")
    with pytest.raises(SceneError, match="has no polygon"):
        plan_of(scene_manifest, *scene_files, aoi=area)


def test_mixed_band_counts_without_names_are_refused(tmp_path: Path, scene_manifest: Manifest) -> None:
    image = np.concatenate([texture(200, 200), texture(200, 200)[..., :1]], axis=2)
    four = save(tmp_path / "a.tif", image, photometric="MINISBLACK")
    with pytest.raises(SceneError, match="has 4 bands and"):
        plan_of(scene_manifest, four, save(tmp_path / "b.tif", image[..., :3]))
    assert plan_of(scene_manifest, four, tmp_path / "b.tif", bands=(1, 2, 3)).boxes
