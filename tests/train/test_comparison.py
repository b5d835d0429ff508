"""Tests of `rsicrc-train compare`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rsicrc.errors import DataError
from rsicrc_train.comparison import differing_options, read_run, to_dict
from rsicrc_train.recipes import Recipe
from rsicrc_train.run_folder import LOG, RECIPE, STARTS
from rsicrc_train.run_log import RunLog, record_start
from tests.train.test_cli import rsicrc_train


def write_run(folder: Path, recipe: Recipe, losses: list[float], data: str = "a") -> Path:
    folder.mkdir()
    (folder / RECIPE).write_text(recipe.to_yaml())
    log = RunLog(folder / LOG, 0, tensorboard=False)
    for step, loss in enumerate(losses, start=1):
        log.write(step, "train", (loss + 1, loss, 1), 1e-3, 10.0 * step)
        log.write(step, "val", (loss, loss / 2, loss / 2), 0.0, 0.0)
    record_start(folder / STARTS, 0, 1, "cpu", {"init": None, "data_sha256": data})
    return folder


@pytest.fixture
def runs(recipe: Recipe, tmp_path: Path) -> list[Path]:
    other = replace(recipe, training=replace(recipe.training, threshold=0.8), model=replace(recipe.model, h_dim=48))
    return [
        write_run(tmp_path / "one", recipe, [3.0, 2.0, 2.5]),
        write_run(tmp_path / "two", other, [3.5, 1.5], data="b"),
    ]


def test_runs_are_compared_by_metrics_options_and_curves(runs: list[Path], tmp_path: Path) -> None:
    ended = rsicrc_train("compare", *runs, "--json", "--curves", tmp_path / "curves.png")
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    first, second = (run["metrics"] for run in document["runs"])
    assert (first["best step"], first["validation loss"], first["steps"]) == (2, 2.0, 3)
    assert (second["best step"], second["validation captioning"]) == (2, 0.75)
    assert first["median pairs per second"] == 20
    assert document["differences"] == {
        "model.h_dim": [32, 48],
        "training.threshold": [1.0, 0.8],
        "data_sha256": ["a", "b"],
    }
    assert [row["loss"] for row in document["runs"][0]["validation"]] == [3.0, 2.0, 2.5]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    text = rsicrc_train("compare", *runs).stdout
    assert any(line.split() == ["training.threshold", "1", "0.8"] for line in text.splitlines())
    assert any(line.split() == ["3", "2.5", "–"] for line in text.splitlines())


def test_run_of_an_earlier_version_differs_only_where_it_was_trained_differently(runs: list[Path]) -> None:
    file = runs[0] / RECIPE
    file.write_text("\n".join(line for line in file.read_text().splitlines() if "cache_features" not in line))
    (runs[1] / RECIPE).write_text(file.read_text() + "\n  cache_features: true\n")
    assert differing_options([read_run(run) for run in runs]) == {
        "training.cache_features": [False, True],
        "data_sha256": ["a", "b"],
    }


def test_run_without_validation_is_compared(runs: list[Path]) -> None:
    (runs[0] / LOG).write_text((runs[0] / LOG).read_text().splitlines()[0] + "\n")
    assert to_dict([read_run(run) for run in runs])["runs"][0]["metrics"] == {"steps": 0}


def test_other_folders_are_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not the folder of a training run: it has no recipe\.yaml"):
        read_run(tmp_path)
    (runs[0] / STARTS).write_text("[]")
    with pytest.raises(DataError, match="is damaged"):
        read_run(runs[0])
    ended = rsicrc_train("compare", runs[1])
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
