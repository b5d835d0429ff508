"""Tests of the records of a run: log after an interruption, curves, TensorBoard, and starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rsicrc_train.run_log import RunLog, draw_curves, read_log, record_start

LOSSES = (3.0, 2.0, 1.0)


def test_resumed_log_continues_after_the_saved_step(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = RunLog(path, 0, tensorboard=False)
    for step in range(1, 14):
        log.write(step, "train", LOSSES, 1e-3, 12.0)
    log.write(13, "val", LOSSES, 0.0, 0.0)
    whole = path.read_bytes()
    path.write_bytes(whole + b"14,train,3.0")  # the process was killed while writing
    assert len(list(read_log(path))) == 14
    path.write_bytes(whole[: whole.rindex(b"13,train") + 1])  # cut to "1", which is not a row
    assert [row["step"] for row in read_log(path)] == [str(step) for step in range(1, 13)]
    RunLog(path, 10, tensorboard=False).write(11, "train", LOSSES, 1e-3, 12.0)
    assert [row["step"] for row in read_log(path)] == [str(step) for step in range(1, 12)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.csv"]


def test_missing_matplotlib_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = RunLog(tmp_path / "log.csv", 0, tensorboard=False)
    log.write(1, "train", LOSSES, 1e-3, 12.0)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    draw_curves(log.path, tmp_path / "curves.png")
    assert caplog.messages == ["curves.png is not drawn, matplotlib is missing: pip install 'rsicrc[train]'"]
    assert not (tmp_path / "curves.png").exists()


def test_tensorboard_holds_the_same_metrics(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    log = RunLog(tmp_path / "log.csv", 0, tensorboard=True)
    log.write(1, "train", LOSSES, 1e-3, 12.0)
    log.write(1, "val", LOSSES, 0.0, 0.0)
    (file,) = (tmp_path / "tensorboard").iterdir()
    tags = {value.tag for event in loader.EventFileLoader(str(file)).Load() for value in event.summary.value}
    assert {"train/loss", "train/learning_rate", "val/contrastive"} <= tags
    assert "val/learning_rate" not in tags


def test_every_start_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "starts.json"
    record_start(path, 0, 1, "cpu")
    record_start(path, 12, 2, "cpu")
    first, second = json.loads(path.read_text())
    assert (first["step"], second["step"], second["processes"]) == (0, 12, 2)
    assert first["command"] == sys.argv
    assert first["commit"] is None or len(first["commit"].rstrip("+")) == 40
