"""`rsicrc-train evaluate`: a checkpoint gets the figures of the folder that it becomes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from rsicrc.cli.main import cli
from rsicrc.errors import CheckpointError, DataError
from rsicrc_train.cli import commands

FEW = ("--split", "val", "--limit", 4, "--beams", 1, "--threads", 1, "--json")


def run(group: object, *arguments: object) -> str:
    result = CliRunner().invoke(group, [str(argument) for argument in arguments])  # type: ignore[arg-type]
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_a_checkpoint_is_measured_as_its_folder_is(
    checkpoint_file: Path, model_folder: Path, scenes: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    own = json.loads(run(commands, "evaluate", checkpoint_file, scenes, *FEW, "--html", page))
    folder = json.loads(run(cli, "evaluate", scenes, *FEW, "--model", model_folder))
    del own["model"], folder["model"]  # two exports differ in their time stamps
    assert own == folder
    assert (own["pairs"], own["split"]) == (4, "val")
    # The random model has another vocabulary than the scenes: said, not passed over.
    assert any("words that the model does not know" in note for note in own["notes"])
    assert page.read_text().startswith("<!doctype html>")


def test_what_cannot_be_evaluated(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pairs in the split 'test'"):
        run(commands, "evaluate", tmp_path / "none.pt", scenes)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"broken\.pt cannot be exported: .*is not a PyTorch file"):
        run(commands, "evaluate", broken, scenes, *FEW)
