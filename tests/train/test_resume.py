"""Test that a run which is killed several times ends with the weights of an uninterrupted run."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rsicrc_train import checkpoint as checkpoints
from rsicrc_train.recipes import Recipe, Training
from rsicrc_train.run_folder import LAST, LOG
from rsicrc_train.trainer import Trainer

KILLS = 5


def steps(folder: Path) -> list[int]:
    log = folder / LOG
    if not log.exists():
        return []
    with log.open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["split"] == "train"]


def killed(command: list[str], folder: Path, step: int) -> None:
    """Run a command until `step` steps are done, then kill it."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while (steps(folder) or [0])[-1] < step or not (folder / LAST).exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param(
            {
                "workers": 1,
                "mined": 2,
                "ema": 0.9,
                "accumulate": 2,
                "symmetric": True,
                "precision": "bf16-mixed",
                "turns": True,
                "jitter": 0.3,
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=["plain", "everything"],
)
def test_run_killed_five_times_ends_with_the_same_weights(
    options: dict[str, object], scenes: Path, recipe: Recipe, tmp_path: Path
) -> None:
    batch = 8 // int(str(options.get("accumulate", 1)))
    training: Training = replace(recipe.training, epochs=6, save_every=2, batch_size=batch, **options)  # type: ignore[arg-type]
    recipe = Recipe(recipe.model, training)
    assert recipe.model.dropout > 0
    whole = Trainer(scenes, tmp_path / "whole", recipe, resume=False, init=None, device="cpu")
    whole.fit()

    file, folder = tmp_path / "recipe.yaml", tmp_path / "killed"
    file.write_text(recipe.to_yaml())
    command = [sys.executable, "-m", "rsicrc_train.cli", "fit", str(scenes), "-o", str(folder), "--device", "cpu"]
    total = whole.total_steps
    stops = sorted(random.Random(1).sample(range(2, total - 3), KILLS))
    killed([*command, "--recipe", str(file)], folder, stops[0])
    for stop in stops[1:]:
        killed([*command, "--resume"], folder, stop)
    resumed = Trainer(scenes, folder, recipe, resume=True, init=None, device="cpu")
    assert resumed.state.step < total
    best = resumed.fit()

    for name in (LAST, best.name):
        expected, found = (checkpoints.load(path / name) for path in (tmp_path / "whole", folder))
        assert all(torch.equal(found.state_dict[key], tensor) for key, tensor in expected.state_dict.items())
    assert steps(folder) == list(range(1, total + 1))
