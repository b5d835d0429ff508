"""Tests of the cached features of a frozen trunk."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rsicrc.datasets.levir_cc import read_levir
from rsicrc_train.recipes import Recipe
from rsicrc_train.run_log import read_log
from rsicrc_train.trainer import Trainer
from rsicrc_train.trunk_features import cached_features


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RSICRC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def trainer(data: Path, folder: Path, recipe: Recipe, **options: Any) -> Trainer:
    training = replace(recipe.training, trunk="frozen", epochs=1, **options)
    return Trainer(data, folder, replace(recipe, training=training), resume=False, init=None, device="cpu")


def test_training_on_cached_features_equals_one_on_images(
    scenes: Path, recipe: Recipe, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = trainer(scenes, tmp_path / "images", recipe, cache_features=False)
    images.fit()
    assert not cache.exists()
    trainer(scenes, tmp_path / "first", recipe).fit()
    assert len(list(cache.iterdir())) == 2  # train and val
    cached = trainer(scenes, tmp_path / "second", recipe)
    monkeypatch.setattr("rsicrc_train.data.prepare_pair", lambda *_: pytest.fail("an image was read"))
    cached.fit()
    for one, other in zip(read_log(tmp_path / "images/log.csv"), read_log(tmp_path / "second/log.csv"), strict=True):
        assert float(other["loss"]) == pytest.approx(float(one["loss"]), rel=2e-3)
    assert (tmp_path / "first/log.csv").read_text().count("\n") == (tmp_path / "second/log.csv").read_text().count("\n")


def test_features_are_those_of_the_trunk(scenes: Path, recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    run = trainer(scenes, tmp_path / "run", recipe, item="caption", captions=1)
    features = cached_features(run.raw_model, run.loaders["train"])
    assert features is not None
    assert features.shape == (48, 2, 128, 2, 2)
    assert features.dtype == np.float16
    dataset, model = run.datasets["train"], run.raw_model.eval()
    pixels = torch.from_numpy(np.stack([dataset[item].images for item in (5 * 3, 5 * 40)]))
    expected = model.encode_images(pixels).embedding
    dataset.features = features
    stored = torch.from_numpy(np.stack([dataset[item].images for item in (5 * 3, 5 * 40)]))
    assert torch.allclose(model.encode_images(stored).embedding, expected, atol=5e-3)


def test_another_image_trunk_or_size_is_computed_again(
    scenes: Path, recipe: Recipe, cache: Path, tmp_path: Path
) -> None:
    def files(data: Path, name: str, **options: Any) -> int:
        run = trainer(data, tmp_path / name, recipe, **options)
        assert cached_features(run.raw_model, run.loaders["val"]) is not None
        return len(list(cache.iterdir()))

    assert files(scenes, "a") == 1
    assert files(scenes, "b", batch_size=4) == 1
    assert files(scenes, "c", seed=1) == 2  # other random weights of the trunk
    moved = shutil.copytree(scenes, tmp_path / "moved")
    assert files(moved, "d") == 1 + 1  # the same images in another folder
    image = read_levir(moved, "val")[0].after
    Image.open(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(image)
    assert files(moved, "e") == 3


def test_augmented_pixels_are_not_cached(scenes: Path, recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    run = trainer(scenes, tmp_path / "run", recipe, jitter=0.5)
    run._use_cached_features(lambda *_args, **_options: None)
    assert run.datasets["train"].features is None
    assert run.datasets["val"].features is not None
    swapped = trainer(scenes, tmp_path / "swapped", recipe, swap=True)
    swapped._use_cached_features(lambda *_args, **_options: None)
    dataset = swapped.datasets["train"]
    assert dataset.features is not None
    unchanged = [item for item in range(48) if dataset.labels[item] < 0]
    orders = {bool(np.array_equal(dataset[item].images, dataset.features[item])) for item in unchanged}
    assert orders == {True, False}


def test_training_goes_on_without_place_for_the_features(
    scenes: Path, recipe: Recipe, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.write_text("a file where the folder should be")
    trainer(scenes, tmp_path / "run", recipe).fit()
    assert any("features of the frozen trunk are not cached" in message for message in caplog.messages)


def test_damaged_cache_is_computed_again(scenes: Path, recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    run = trainer(scenes, tmp_path / "run", recipe)
    whole = cached_features(run.raw_model, run.loaders["val"])
    (file,) = cache.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    again = cached_features(run.raw_model, run.loaders["val"])
    assert whole is not None
    assert again is not None
    assert file.read_bytes() == content
