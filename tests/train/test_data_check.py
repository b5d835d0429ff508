"""`rsicrc-train check-data`: every kind of fault is found and counted, and nothing else is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from rsicrc.errors import CheckpointError, DataError
from rsicrc_train.cli import app
from rsicrc_train.data_check import BROKEN, EMPTY, LONG, MISSING, TWICE, UNEQUAL, UNKNOWN
from tests.models import save_checkpoint


def look(*arguments: object) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON document of the command."""
    result = CliRunner().invoke(app, ["check-data", *map(str, arguments), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout)


def counts(document: dict[str, Any]) -> dict[str, int]:
    return {finding["what"]: finding["count"] for finding in document["findings"] if finding["count"]}


@pytest.fixture
def data(scenes: Path, tmp_path: Path) -> Path:
    return shutil.copytree(scenes, tmp_path / "data")


def test_a_sound_data_set(scenes: Path) -> None:
    code, document = look(scenes, "--recipe", "published")
    assert (code, document["sound"]) == (0, True)
    assert document["pairs"] == {"train": 48, "val": 12}
    assert document["changed"] == {"train": 24, "val": 6}
    assert set(counts(document)) <= {UNKNOWN}
    result = CliRunner().invoke(app, ["check-data", str(scenes)])
    assert result.stdout.startswith("train: 48 pairs, 24 of them changed\nval: 12 pairs")
    assert f"       0 {MISSING}\n" in result.stdout


def test_every_fault_is_counted(data: Path) -> None:
    train, val = data / "images/train", data / "images/val"
    (train / "A/train_000001.png").unlink()
    (train / "B/train_000002.png").write_bytes(b"no image")
    (train / "B/train_000003.png").write_bytes((train / "A/train_000004.png").read_bytes()[:500])
    with Image.open(val / "B/val_000001.png") as image:
        image.resize((100, 100)).save(val / "B/val_000001.png")
    for date in "AB":  # the same pixels under another name, packed another way
        with Image.open(train / date / "train_000005.png") as image:
            image.save(val / date / "val_000002.png", compress_level=9)
    code, document = look(data)
    assert (code, document["sound"]) == (1, False)
    found = counts(document)
    assert {what: found[what] for what in (MISSING, BROKEN, UNEQUAL, TWICE)} == {
        MISSING: 1,
        BROKEN: 2,
        UNEQUAL: 1,
        TWICE: 1,
    }
    examples = {finding["what"]: finding["examples"] for finding in document["findings"]}
    assert examples[MISSING] == [str(train / "A/train_000001.png")]
    assert examples[TWICE] == [f"{val / 'B/val_000002.png'} is {train / 'B/train_000005.png'}"]


def test_captions_are_measured_by_the_recipe_or_the_checkpoint(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "b.png")
    lines = [
        {"before": "a.png", "after": "b.png", "split": "train", "captions": ["a road is built"] * 6},
        {"before": "b.png", "after": "a.png", "split": "val", "captions": ["a villa", f"a {'road ' * 24}"]},
    ]
    table = tmp_path / "pairs.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)))
    code, document = look(table)
    assert (code, document["words"]) == (0, 4 + 4)
    assert counts(document) == {f"{LONG} 22 words": 1, UNKNOWN: 1}
    assert document["findings"][-1]["examples"] == ["villa (1)"]
    assert counts(look(table, "--recipe", "published")[1]) == {UNKNOWN: 1}
    found = counts(look(table, "--checkpoint", save_checkpoint(tmp_path, seed=0))[1])
    assert found == {f"{LONG} 10 words": 1, UNKNOWN: 1}


def test_splits_that_training_needs(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    (tmp_path / "pairs.csv").write_text("before,after,split,captions\na.png,a.png,test,no change\n")
    code, document = look(tmp_path / "pairs.csv")
    assert code == 1
    assert counts(document)[EMPTY] == 2


def test_what_cannot_be_looked_over(tmp_path: Path, scenes: Path) -> None:
    with pytest.raises(DataError, match="not a data set that can be read"):
        look(tmp_path)
    with pytest.raises(DataError, match="no recipe 'huge'"):
        look(scenes, "--recipe", "huge")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        look(scenes, "--checkpoint", tmp_path / "none.pt")
