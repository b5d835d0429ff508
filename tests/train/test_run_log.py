"""What a run writes down: a log that survives kills, curves, TensorBoard, and where the code came from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rsicrc_train.run_log import Log, describe_start, draw_curves, read_log

FIGURES = (3.0, 2.0, 1.0)


def test_a_log_goes_on_after_the_state_that_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = Log(path, 0, tensorboard=False)
    for step in range(1, 14):
        log.write(step, "train", FIGURES, 1e-3, 12.0)
    log.write(13, "val", FIGURES, 0.0, 0.0)
    whole = path.read_bytes()
    path.write_bytes(whole + b"14,train,3.0")  # killed while writing
    assert len(list(read_log(path))) == 14
    path.write_bytes(whole[: whole.rindex(b"13,train") + 1])  # cut to "1", which is no row
    assert [row["step"] for row in read_log(path)] == [str(step) for step in range(1, 13)]
    Log(path, 10, tensorboard=False).write(11, "train", FIGURES, 1e-3, 12.0)
    assert [row["step"] for row in read_log(path)] == [str(step) for step in range(1, 12)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.csv"]


def test_curves_without_matplotlib_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log(tmp_path / "log.csv", 0, tensorboard=False)
    log.write(1, "train", FIGURES, 1e-3, 12.0)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    draw_curves(log.path, tmp_path / "curves.png")
    assert capsys.readouterr().err == "curves.png is not drawn, matplotlib is missing: pip install 'rsicrc[train]'\n"
    assert not (tmp_path / "curves.png").exists()


def test_tensorboard_holds_the_same_figures(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    log = Log(tmp_path / "log.csv", 0, tensorboard=True)
    log.write(1, "train", FIGURES, 1e-3, 12.0)
    log.write(1, "val", FIGURES, 0.0, 0.0)
    (file,) = (tmp_path / "tensorboard").iterdir()
    tags = {value.tag for event in loader.EventFileLoader(str(file)).Load() for value in event.summary.value}
    assert {"train/loss", "train/learning_rate", "val/contrastive"} <= tags
    assert "val/learning_rate" not in tags


def test_every_start_is_described(tmp_path: Path) -> None:
    path = tmp_path / "starts.json"
    describe_start(path, 0, 1, "cpu")
    describe_start(path, 12, 2, "cpu")
    first, second = json.loads(path.read_text())
    assert (first["step"], second["step"], second["processes"]) == (0, 12, 2)
    assert first["command"] == sys.argv
    assert first["commit"] is None or len(first["commit"].rstrip("+")) == 40
