"""The prediction of `info --memory`, for batch sizes that were not measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rsicrc.cli import memory
from rsicrc.cli.memory import Memory, predict_memory
from rsicrc.errors import BackendError
from tests.runtime.conftest import Command

SETTINGS: dict[str, Any] = {"backend": "onnxruntime", "precision": "fp32", "threads": 1, "streams": None}


def test_prediction_matches_other_batch_sizes(model_folder: Path) -> None:
    predicted = predict_memory(model_folder, **SETTINGS)
    measured = memory._measure(model_folder, 64, {"beams": None, "loading": SETTINGS})
    assert measured == pytest.approx(predicted.peak(64), rel=0.1)


def test_command_prints_the_prediction(
    model_folder: Path, rsicrc_run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "predict_memory", lambda folder, beams, **settings: Memory(2e9, beams * 1e6))
    ended = rsicrc_run("info", "--memory", "--beams", "5", "--model", model_folder)
    assert (ended.code, ended.out.splitlines()[0]) == (0, "2000.0 MB, and 5.0 MB for each pair of a batch")
    ended = rsicrc_run("info", "--memory", "--beams", "5", "--json", "--model", model_folder)
    assert json.loads(ended.out) == {
        "base": 2_000_000_000,
        "per_pair": 5_000_000,
        "peak": {"1": 2_005_000_000, "8": 2_040_000_000, "32": 2_160_000_000, "64": 2_320_000_000},
    }


def test_unknown_backend_is_reported(model_folder: Path) -> None:
    with pytest.raises(BackendError, match=r"memory could not be measured: .*no backend 'tpu'"):
        predict_memory(model_folder, backend="tpu")
