"""Training: it learns, it resumes to the same weights, and it says what is wrong."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rsicrc.errors import DataError
from rsicrc_train import checkpoint as checkpoints
from rsicrc_train.loop import LOG, Run, learning_rate
from rsicrc_train.recipes import Recipe, Training, load_recipe


def train(data: Path, folder: Path, recipe: Recipe, *, resume: bool = False) -> Path:
    return Run(data, folder, recipe, resume=resume, init=None, device="cpu").fit()


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoints.load(path).state_dict


def test_a_run_learns_and_leaves_a_checkpoint_that_builds(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    best = train(scenes, tmp_path / "run", replace(recipe, training=replace(recipe.training, epochs=4)))
    with (tmp_path / "run" / LOG).open() as file:
        rows = list(csv.DictReader(file))
    validation = [float(row["loss"]) for row in rows if row["split"] == "val"]
    assert len(validation) == 4
    assert validation[-1] < validation[0]
    checkpoint = checkpoints.load(best)
    assert checkpoint.progress == {}
    assert len(checkpoint.no_change_sentences) == 5
    assert checkpoint.training["validation_loss"] == pytest.approx(min(validation), rel=1e-4)
    checkpoint.build_model()


def test_a_killed_run_resumes_to_the_same_weights(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    undisturbed = train(scenes, tmp_path / "whole", recipe)

    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.to_yaml())
    command = [sys.executable, "-m", "rsicrc_train.cli", "fit", str(scenes), "-o", str(tmp_path / "killed")]
    process = subprocess.Popen([*command, "--recipe", str(file), "--device", "cpu"], stderr=subprocess.DEVNULL)
    state = tmp_path / "killed" / "last.pt"
    while not state.exists():
        assert process.poll() is None, "the run ended before it had saved a state"
        time.sleep(0.01)
    process.kill()
    process.wait()

    resumed = train(scenes, tmp_path / "killed", recipe, resume=True)
    expected, found = weights(undisturbed.with_name("last.pt")), weights(resumed.with_name("last.pt"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    with (tmp_path / "killed" / LOG).open() as log:
        steps = [int(row["step"]) for row in csv.DictReader(log) if row["split"] == "train"]
    assert steps == list(range(1, 13))


def test_a_folder_with_a_run_is_not_overwritten(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    train(scenes, tmp_path, replace(recipe, training=replace(recipe.training, epochs=1)))
    with pytest.raises(DataError, match="--resume"):
        train(scenes, tmp_path, recipe)


def test_a_loss_that_explodes_stops_the_run_and_keeps_its_state(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    wild = replace(recipe, training=replace(recipe.training, learning_rate=1e12, save_every=1, warmup=0.0))
    with pytest.raises(DataError, match=r"the loss became (nan|inf|-inf) at step \d+.*lower learning rate"):
        train(scenes, tmp_path / "run", wild)
    checkpoints.load(tmp_path / "run" / "last.pt")


def test_too_few_pairs_for_a_batch(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="48 training pairs do not fill one batch of 64"):
        train(scenes, tmp_path / "run", replace(recipe, training=replace(recipe.training, batch_size=64)))
    assert not (tmp_path / "run").exists()


def test_learning_rate_rises_then_stays_or_falls_to_zero() -> None:
    published = Training()
    rates = [learning_rate(published, step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-4 / 25)
    assert rates[24:] == [1e-4] * 976
    falling = replace(published, schedule="cosine")
    assert learning_rate(falling, 24, 1000) == pytest.approx(1e-4)
    assert learning_rate(falling, 512, 1000) == pytest.approx(0.5e-4, rel=0.01)
    assert learning_rate(falling, 999, 1000) < 1e-9


def test_recipes_round_trip_and_name_what_is_unknown(recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(str(path)) == recipe
    assert load_recipe("published").training == Training()
    assert load_recipe("tiny", {"epochs": 3, "seed": None}).training.epochs == 3
    for reference, overrides, message in (
        ("nothing", {}, "no recipe 'nothing'"),
        ("tiny", {"epoch": 3}, "unknown training option.*epoch"),
        ("tiny", {"epochs": 0}, "epochs must be positive"),
    ):
        with pytest.raises(DataError, match=message):
            load_recipe(reference, overrides)
    path.write_text("model: 3\n")
    with pytest.raises(DataError, match="not a recipe"):
        load_recipe(str(path))
