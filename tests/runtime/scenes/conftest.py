"""Fixtures of the tests of scenes: a model of images of 0.5 m, and two files of one place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsicrc.engine import Engine
from rsicrc.loading import load
from rsicrc.manifest import Manifest


@pytest.fixture(scope="session")
def scene_model(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder whose training images have 128 pixels of 0.5 m on each side."""
    from tests.runtime.scenes.files import set_scale

    return set_scale(Path(shutil.copytree(model_folder, tmp_path_factory.mktemp("scenes") / "model")))


@pytest.fixture(scope="session")
def scene_engine(scene_model: Path) -> Iterator[Engine]:
    """Return the engine of `scene_model`, on one thread."""
    with load(scene_model, device="cpu", backend="onnxruntime", threads=1) as engine:
        yield engine


@pytest.fixture(scope="session")
def scene_manifest(scene_model: Path) -> Manifest:
    """Return the manifest of `scene_model`."""
    return Manifest.load(scene_model, verify=False)


@pytest.fixture(scope="session")
def scene_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two files of 300 x 420 pixels of one place; the later one has a new dark square."""
    from tests.runtime.scenes.files import save, texture

    folder = tmp_path_factory.mktemp("pair")
    before = texture(300, 420)
    after = before.copy()
    after[40:90, 60:110] = 10
    dates = ("2018:05:01 10:00:00", "2020:06:02 11:30:00")
    return (
        save(folder / "before.tif", before, tags={"TIFFTAG_DATETIME": dates[0]}),
        save(folder / "after.tif", after, tags={"TIFFTAG_DATETIME": dates[1]}),
    )
