"""Shared fixtures of the training tests: a small generated data set and a recipe that trains in seconds."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rsicrc_train.recipes import Recipe


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 generated pairs in LEVIR-CC's layout. Read them only; to change them, copy them first."""
    from rsicrc_train.synth import generate

    folder = tmp_path_factory.mktemp("scenes") / "data"
    generate(folder, pairs=60, seed=5, splits={"train": 0.8, "val": 0.2})
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the features of frozen trunks out of the user's cache."""
    if "RSICRC_CACHE" not in os.environ:
        monkeypatch.setenv("RSICRC_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def recipe() -> Recipe:
    """Two epochs of six steps."""
    from rsicrc_train.config import TrunkConfig
    from rsicrc_train.recipes import Recipe, Training
    from tests.models import SMALL

    trunk = TrunkConfig("clip_resnet", (1, 1, 1, 1), width=4, image_size=64)
    model = replace(SMALL, trunk=trunk, d_model=32, a_dim=32, max_len=24, encoder_layers=1)
    return Recipe(model, Training(epochs=2, batch_size=8, captions=2, save_every=2, workers=0, learning_rate=1e-3))
