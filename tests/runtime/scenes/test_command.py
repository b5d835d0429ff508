"""The command `rsicrc-run scene`."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.runtime.conftest import Command, Ended
from tests.runtime.scenes.files import ORIGIN, save, texture

Run = Callable[..., Ended]
CPU = ("--device", "cpu", "--backend", "onnxruntime", "--threads", "1", "--beams", "1")


@pytest.fixture
def run(rsicrc_run: Command, scene_model: Path) -> Run:
    """Return a function that runs `rsicrc-run scene` in this process."""
    return lambda *args: rsicrc_run("scene", *args, "--model", scene_model)


def error_line(ended: Ended) -> str:
    assert ended.code != 0
    errors = ended.err
    line = errors.strip().splitlines()[-1]
    assert "Traceback" not in errors
    assert line.startswith("rsicrc-run")
    return line


def test_command_writes_all_outputs(run: Run, scene_files: tuple[Path, Path], tmp_path: Path) -> None:
    changes, raster = tmp_path / "changes.geojson", tmp_path / "change.tif"
    options = ("--all-tiles", "--raster", raster, "--stac", "--co", "COMPRESS=LZW", *CPU)
    ended = run(*scene_files, "-o", changes, *options)
    assert ended.code == 0
    assert ended.out.split() == [str(changes), str(raster), str(tmp_path / "changes.stac.json")]
    assert (
        "grid EPSG:32633, 420 x 300 pixels of 0.5 m; overlap 100% of the latest image; 15 tiles of 128 x 128"
        in ended.err
    )
    assert "bands 1,2,3; stretch none (8 bit); shift between the dates 0." in ended.err
    assert len(json.loads(changes.read_text())["features"]) == 15
    with rasterio.open(raster) as dataset:
        assert dataset.compression.name == "lzw"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["change.tif", "changes.geojson", "changes.stac.json"]


def test_dry_run_writes_nothing(run: Run, scene_files: tuple[Path, Path], tmp_path: Path) -> None:
    ended = run(*scene_files, "-o", tmp_path / "changes.gpkg", "--dry-run")
    assert (ended.code, ended.out) == (0, "")
    assert "15 tiles" in ended.err
    assert not list(tmp_path.iterdir())


def test_existing_output_is_refused_before_the_work(run: Run, scene_files: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "changes.csv"
    path.write_text("mine")
    assert "--overwrite" in error_line(run(*scene_files, "-o", path))
    assert path.read_text() == "mine"
    assert run(*scene_files, "-o", path, "--overwrite", *CPU).code == 0
    assert path.read_text().startswith("id,caption")
    copy = tmp_path / "scene.tif"
    copy.write_bytes(scene_files[0].read_bytes())
    command = (copy, scene_files[1], "-o", tmp_path / "c.csv", "--raster", copy, "--overwrite")
    assert "is one of the images" in error_line(run(*command))


def test_bad_usage_is_one_line(run: Run, scene_files: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "changes.csv"
    assert "two or more images" in error_line(run(scene_files[0], "-o", path))
    assert "-o" in error_line(run(*scene_files))
    assert "must end in one of" in error_line(run(*scene_files, "-o", tmp_path / "changes.shp"))
    assert "give 3 numbers" in error_line(run(*scene_files, "-o", path, "--bands", "1,2"))
    assert "give 4 numbers" in error_line(run(*scene_files, "-o", path, "--bbox", "1,2,x,4"))
    assert "min < max" in error_line(run(*scene_files, "-o", path, "--bbox", "3,2,1,4"))
    assert "give KEY=VALUE" in error_line(run(*scene_files, "-o", path, "--co", "COMPRESS"))
    assert "No such file" in error_line(run(*scene_files, "-o", tmp_path / "none" / "changes.csv"))
    assert "not a reference system" in error_line(
        run(*scene_files, "-o", path, "--bbox", "1,2,3,4", "--bbox-crs", "EPSG:1")
    )
    assert "--dates" in error_line(run(*scene_files[:1], *scene_files[:1], "-o", path, "--stac", "--dates", "x,y"))


def test_unusable_files_are_one_line(run: Run, scene_files: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "changes.csv"
    before, after = scene_files
    far = save(tmp_path / "far.tif", texture(64, 64), transform=rasterio.transform.from_origin(0, ORIGIN[1], 0.5, 0.5))
    assert "do not overlap" in error_line(run(before, far, "-o", path))
    no_system = save(tmp_path / "crs.tif", texture(64, 64), crs=None)
    assert "no coordinate reference system" in error_line(run(before, no_system, "-o", path))
    gray = save(tmp_path / "gray.tif", texture(64, 64)[..., :1])
    assert "has 1 band;" in error_line(run(gray, after, "-o", path))
    empty = save(tmp_path / "empty.tif", np.zeros((300, 420, 3), np.uint8), nodata=0)
    assert "no valid pixel" in error_line(run(before, empty, "-o", path))
    coarse = save(tmp_path / "coarse.tif", texture(64, 64), transform=rasterio.transform.from_origin(*ORIGIN, 5, 5))
    assert "--any-resolution" in error_line(run(before, coarse, "-o", path))
    huge = tmp_path / "huge.tif"
    profile = {"crs": "EPSG:32633", "transform": rasterio.transform.from_origin(*ORIGIN, 0.5, 0.5), "SPARSE_OK": True}
    size = {"width": 1_500_000, "height": 1_500_000, "tiled": True, "blockxsize": 4096, "blockysize": 4096}
    with rasterio.open(huge, "w", driver="GTiff", count=3, dtype="uint8", bigtiff="yes", **profile, **size):
        pass
    assert "--bbox" in error_line(run(huge, huge, "-o", path))
    assert not path.exists()


def test_full_disk_keeps_the_finished_tiles(
    run: Run, scene_model: Path, scene_files: tuple[Path, Path], tmp_path: Path
) -> None:
    """A limit of the size of files stands for the full disk: both end a write with an error of the system."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    path = tmp_path / "changes.csv"
    program = "from rsicrc.cli.main import main; main()"
    args = ["scene", *map(str, scene_files), "-o", str(path), "--all-tiles", "--model", str(scene_model), *CPU]
    done = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1
    assert "run the same command again to continue" in done.stderr.splitlines()[-1]
    assert not path.exists()
    (journal,) = tmp_path.iterdir()
    kept = len(journal.read_text().splitlines()) - 1
    assert kept >= 1
    assert run(*scene_files, "-o", path, "--all-tiles", *CPU).code == 0
    assert len(path.read_text().splitlines()) == 16
    assert [file.name for file in tmp_path.iterdir()] == ["changes.csv"]
