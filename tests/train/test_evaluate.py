"""`rsicrc-train evaluate`, which the exporter registers: the metrics of a checkpoint are those of its model folder."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoints
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rsicrc.cli.main import app as run_app
from rsicrc.errors import CheckpointError, DataError, RsicrcError
from rsicrc_train.cli import app as train_app

pytestmark = pytest.mark.usefixtures("declared_commands")

FEW = ("--split", "val", "--limit", 4, "--beams", 1, "--threads", 1, "--json")


def run(app: typer.Typer, *arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_checkpoint_has_the_metrics_of_its_folder(
    checkpoint_file: Path, model_folder: Path, scenes: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    own = json.loads(run(train_app, "evaluate", checkpoint_file, scenes, *FEW, "--html", page))
    folder = json.loads(run(run_app, "evaluate", scenes, *FEW, "--model", model_folder))
    del own["model"], folder["model"]  # two exports differ in their time stamps
    assert own == folder
    assert (own["pairs"], own["split"]) == (4, "val")
    # The vocabulary of the random model differs from that of the scenes, which the report notes.
    assert any("words that the model does not know" in note for note in own["notes"])
    assert page.read_text().startswith("<!doctype html>")


def test_wrong_inputs_are_named(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pairs in the split 'test'"):
        run(train_app, "evaluate", tmp_path / "none.pt", scenes)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"broken\.pt cannot be exported: .*is not a PyTorch file"):
        run(train_app, "evaluate", broken, scenes, *FEW)


def test_export_without_its_packages_names_the_extra(
    checkpoint_file: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ModuleNotFoundError(name="onnx")

    monkeypatch.setattr("rsicrc_export.temporary._export", fail)
    with pytest.raises(CheckpointError, match=r"exported: onnx is not installed: pip install 'rsicrc\[export\]'"):
        run(train_app, "evaluate", checkpoint_file, scenes, *FEW)


def test_evaluation_without_the_exporter_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: EntryPoints())
    with pytest.raises(RsicrcError, match=r"'evaluate' is not installed: pip install 'rsicrc\[export\]'"):
        run(train_app, "evaluate", "ckpt.pt", "data")
