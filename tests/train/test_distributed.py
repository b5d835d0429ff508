"""Tests that two real processes, connected by gloo, train like one process."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rsicrc_train import checkpoint as checkpoints
from rsicrc_train.recipes import Recipe, load_recipe

# Gradients and BatchNorm statistics of the first batch and of the last, smaller batch of an epoch.
GRADIENTS = """
import sys
from pathlib import Path
import torch
from rsicrc_train import distributed
from rsicrc_train.recipes import load_recipe
from rsicrc_train.trainer import Trainer

recipe, data, devices, output = sys.argv[1:]
folder = Path(output).with_suffix("")
trainer = Trainer(
    Path(data), folder, load_recipe(recipe), resume=False, init=None, device="cpu", devices=int(devices)
)
fabric, model = trainer.fabric, trainer.raw_model.train()
parts = list(trainer.loaders["train"].shuffled(0))
found = {"sizes": []}
for name, part in (("full", parts[0]), ("last", parts[-1])):
    losses = trainer.objectives["train"].training_losses(trainer.model, part)
    fabric.backward(losses.loss)
    found["sizes"].append(len(part.items) * (fabric.world_size if part.shared else 1))
    found[name] = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}
    found[name] |= {key: value.clone() for key, value in model.named_buffers() if "running" in key}
    means = distributed.mean(fabric, torch.stack(losses).detach())
    found[name] |= dict(zip(losses._fields, means, strict=True))
    trainer.optimizer.zero_grad()
distributed.on_main_process(fabric, lambda: torch.save(found, output))
"""
LOSSES = ("loss", "captioning", "contrastive")
EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny.pt"
# Mining as done by `fit` before an epoch. The example model is trained, so its neighbors do not depend on rounding.
MINING = """
import sys
from pathlib import Path
import torch
from rsicrc.datasets.registry import read_split
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_train import checkpoint, distributed
from rsicrc_train.batches import BatchLoader
from rsicrc_train.data import PairDataset
from rsicrc_train.negatives import SentenceSimilarity
from rsicrc_train.objective import Objective
from rsicrc_train.recipes import Training

example, data, devices, mined_by, output = sys.argv[1:]
fabric = distributed.launch("cpu", int(devices), 1, "32-true")
saved = checkpoint.load(Path(example))
vocabulary = Vocabulary.from_words(saved.vocabulary, saved.config.max_len)
pairs = read_split(Path(data), "train")
dataset = PairDataset(pairs, vocabulary, saved.config.preprocessing, 2)
training = Training(batch_size=10, mined=3, mined_by=mined_by, workers=0, false_negatives="eliminate")
objective = Objective(fabric, dataset, training, SentenceSimilarity())
objective.mine_negatives(saved.build_model(), BatchLoader(fabric, dataset, training), 0)
distributed.on_main_process(fabric, lambda: torch.save(objective.mined, output))
"""


def fit(data: Path, folder: Path, recipe: Recipe, *arguments: str) -> None:
    file = folder.with_suffix(".yaml")
    file.write_text(recipe.to_yaml())
    command = [sys.executable, "-m", "rsicrc_train.cli", "fit", str(data), "-o", str(folder), "--recipe", str(file)]
    environment = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(
        [*command, "--device", "cpu", *arguments], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{folder / 'best.pt'}\n"  # only the main process prints


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def exact(recipe: Recipe) -> Recipe:
    """Recipe without dropout, which differs between processes by design, and with all losses that gather tensors.

    There is no mining: an untrained model embeds all pairs almost equally, so its neighbors depend on rounding.
    """
    training = replace(
        recipe.training,
        epochs=1,
        batch_size=4,
        accumulate=2,
        symmetric=True,
        gradient_clip=1.0,
        temperature=0.1,
        ema=0.9,
    )
    return Recipe(replace(recipe.model, dropout=0.0), training)


def test_two_processes_train_like_one(scenes: Path, exact: Recipe, tmp_path: Path) -> None:
    fit(scenes, tmp_path / "one", exact)
    fit(scenes, tmp_path / "two", exact, "--devices", "2")
    two = assert_equal_runs(tmp_path, rows=6 + 1)
    assert len(checkpoints.load(tmp_path / "two" / "last.pt").progress["random"]) == 2

    fit(scenes, tmp_path / "two", exact, "--resume", "--devices", "2")  # no steps are left
    assert curve(tmp_path / "two") == two


@pytest.mark.slow
def test_two_processes_have_the_published_gradients_of_one(scenes: Path, exact: Recipe, tmp_path: Path) -> None:
    training = replace(load_recipe("published").training, batch_size=22, output_dropout=0.0, epochs=1, workers=0)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(Recipe(exact.model, replace(training, temperature=0.1)).to_yaml())
    found = {}
    for devices in (1, 2):
        output = tmp_path / f"{devices}.pt"
        run_script(tmp_path, GRADIENTS, recipe, scenes, devices, output)
        found[devices] = torch.load(output)
    assert found[1]["sizes"] == [22, 20]
    for batch in ("full", "last"):
        one, two = found[1][batch], found[2][batch]
        assert two.keys() == one.keys()
        others = [name for name in one if name in LOSSES or "running" in name]
        for name in others:
            difference = (two[name] - one[name]).norm() / one[name].norm().clamp(min=1e-3)
            assert difference < 1e-3, (batch, name)
        # One vector, because BatchNorm and ReLU amplify the rounding of float32 up to 0.01 in the first convolutions.
        gradient, other = (
            torch.cat([each[name].flatten() for name in one if name not in others]) for each in (one, two)
        )
        assert (other - gradient).norm() / gradient.norm() < 5e-3, batch


def run_script(folder: Path, script: str, *arguments: object) -> None:
    file = folder / "script.py"
    file.write_text(script)
    environment = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "LOCAL_RANK")}
    command = [sys.executable, str(file), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr


def assert_equal_runs(tmp_path: Path, rows: int) -> list[dict[str, str]]:
    """Check that the runs in the folders one and two have the same losses and statistics; return the log of two."""
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert [(row["step"], row["split"]) for row in one] == [(row["step"], row["split"]) for row in two]
    assert len(one) == rows
    for first, second in zip(one, two, strict=True):
        for loss in LOSSES:
            assert float(second[loss]) == pytest.approx(float(first[loss]), rel=1e-3), (first, second)
    left, right = (checkpoints.load(tmp_path / name / "last.pt").state_dict for name in ("one", "two"))
    for name, tensor in left.items():
        if "running" in name:  # BatchNorm used all pairs, not half of them
            assert torch.allclose(tensor, right[name], rtol=1e-2, atol=1e-3), name
    return two


@pytest.mark.parametrize("mined_by", ["image", "text"])
def test_two_processes_mine_the_same_pairs_as_one(mined_by: str, scenes: Path, tmp_path: Path) -> None:
    found = {}
    for devices in (1, 2):
        output = tmp_path / f"{devices}.pt"
        run_script(tmp_path, MINING, EXAMPLE, scenes, devices, mined_by, output)
        found[devices] = torch.load(output)
    assert found[1].shape == (48, 3)
    assert len(found[1].unique()) > 10  # different pairs for different queries
    assert torch.equal(found[2], found[1])
