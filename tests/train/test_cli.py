"""`rsicrc-train` as a process: results, and one line for each wrong input."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rsicrc.datasets.levir_cc import read_levir
from rsicrc_train.recipes import Recipe


def rsicrc_train(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rsicrc_train.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_synth_and_fit_make_a_checkpoint(recipe: Recipe, tmp_path: Path) -> None:
    data, run, file = tmp_path / "data", tmp_path / "run", tmp_path / "recipe.yaml"
    file.write_text(recipe.to_yaml())
    made = rsicrc_train("synth", data, "--pairs", 40, "--seed", 3, "--splits", "train=0.8,val=0.2")
    assert (made.returncode, made.stdout) == (0, f"{data}\n")
    assert len(read_levir(data, "train")) == 32
    fitted = rsicrc_train("fit", data, "-o", run, "--recipe", file, "--epochs", 1, "--device", "cpu")
    assert (fitted.returncode, fitted.stdout) == (0, f"{run / 'best.pt'}\n")
    assert (run / "best.pt").is_file()

    again = rsicrc_train("fit", data, "-o", run, "--recipe", file, "--device", "cpu")
    assert again.returncode == 1
    assert "already holds a run: continue it with --resume" in again.stderr
    finished = rsicrc_train("fit", data, "-o", run, "--recipe", file, "--epochs", 1, "--resume", "--device", "cpu")
    assert (finished.returncode, finished.stdout) == (0, f"{run / 'best.pt'}\n")
    assert "is finished after 4 steps: there is nothing left to train" in finished.stderr
    other = rsicrc_train("fit", data, "-o", run, "--resume", "--epochs", 9, "--set", "warmup=0.5", "--device", "cpu")
    assert (other.returncode, other.stdout) == (1, "")
    assert "epochs is 1 there, not 9; warmup is 0.025 there, not 0.5: leave the options out" in other.stderr
    assert other.stderr.count("\n") == 1
    taken = rsicrc_train("synth", data, "--pairs", 4)
    assert taken.returncode == 1
    assert "not an empty directory" in taken.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["synth", "new", "--pairs", 4, "--splits", "train"], 2, "not of the form"),
        (["synth", "new", "--pairs", 4, "--splits", "train=0.5"], 2, "must sum to 1"),
        (["synth", "new", "--pairs", 4, "--splits", "training=1"], 2, "unknown split 'training'"),
        (["synth", "new", "--pairs", 4, "--seed", -1], 2, "seed must be 0 or more"),
        (["synth", "new", "--pairs", 4, "--grounds", "sea"], 2, "grounds are some of bareland, meadow, woods, not sea"),
        (["synth", "new"], 2, "give either --pairs N or --scene WIDTHxHEIGHT"),
        (["synth", "new", "--pairs", 4, "--scene", "512x512"], 2, "give either --pairs N or --scene WIDTHxHEIGHT"),
        (["synth", "new", "--scene", "512"], 2, "--scene '512' is not of the form 2048x2048"),
        (["synth", "new", "--scene", "100x512"], 2, "a scene has sides of 256 to 200000 pixels, not 100 × 512"),
        (["fit", "nowhere", "-o", "run"], 1, "nowhere: no such file or folder"),
        (["fit", "nowhere", "-o", "run", "--recipe", "huge"], 1, "no recipe 'huge': name one of tiny"),
        (["fit", "nowhere", "-o", "run", "--resume"], 1, "holds no run"),
        (
            ["fit", "nowhere", "-o", "run", "--set", "warmup=2"],
            1,
            "option warmup must be a number from 0 to 1, not 2.0",
        ),
        (
            ["fit", "nowhere", "-o", "run", "--epochs", 2, "--set", "epochs=3"],
            2,
            "epochs is given twice, as 2 and as 3",
        ),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[object], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = rsicrc_train(*arguments)
    assert done.returncode == code
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("rsicrc-train: error: ")
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_broken_image_stops_training_with_one_line(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    data, file = shutil.copytree(scenes, tmp_path / "data"), tmp_path / "recipe.yaml"
    broken = data / "images/train/B/train_000007.png"
    broken.write_bytes(broken.read_bytes()[:200])
    file.write_text(recipe.to_yaml())
    ended = rsicrc_train("fit", data, "-o", tmp_path / "run", "--recipe", file, "--workers", 1, "--device", "cpu")
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"rsicrc-train: error: {broken}: damaged or incomplete")
    assert last.endswith("`rsicrc-train check-data` lists all such images")
    assert "Traceback" not in ended.stderr
