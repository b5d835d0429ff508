"""Tests of `rsicrc-train check-data`: every kind of fault is found and counted, and nothing else is reported."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rsicrc.datasets.registry import read_splits, unknown_splits
from rsicrc.errors import CheckpointError, DataError
from rsicrc_train.data_check import (
    BROKEN,
    DUPLICATE,
    EMPTY,
    LONG,
    MISSING,
    NO_WORDS,
    REPEATED,
    UNEQUAL,
    UNKNOWN,
    UNKNOWN_SPLIT,
    check_data,
)
from rsicrc_train.data_use import describe_use
from rsicrc_train.recipes import load_recipe
from rsicrc_train.vocabulary_source import find_vocabulary
from tests.models import save_checkpoint
from tests.train.test_cli import rsicrc_train


def inspect(data: Path, recipe: str = "tiny", checkpoint: Path | None = None) -> dict[str, Any]:
    splits = read_splits(data)
    return check_data(splits, find_vocabulary(splits, recipe, checkpoint)).to_dict()


def counts(document: dict[str, Any]) -> dict[str, int]:
    return {finding["message"]: finding["count"] for finding in document["findings"] if finding["count"]}


@pytest.fixture
def data(scenes: Path, tmp_path: Path) -> Path:
    return shutil.copytree(scenes, tmp_path / "data")


def test_sound_data_set_has_no_faults(scenes: Path) -> None:
    document = inspect(scenes, "published")
    assert document["sound"]
    assert document["pairs"] == {"train": 48, "val": 12}
    assert document["changed"] == {"train": 24, "val": 6}
    assert set(counts(document)) <= {UNKNOWN}


def test_command_prints_counts_of_a_sound_data_set(scenes: Path) -> None:
    ended = rsicrc_train("check-data", scenes)
    assert ended.returncode == 0
    assert ended.stdout.startswith("train: 48 pairs, 24 of them changed (50.0 %)\nval: 12 pairs")
    assert "\nan epoch: 48 items (each a pair), 1 steps of 32, 16 items left out\n" in ended.stdout
    assert f"       0 {MISSING}\n" in ended.stdout


def test_every_fault_is_counted(data: Path) -> None:
    train, val = data / "images/train", data / "images/val"
    (train / "A/train_000001.png").unlink()
    (train / "B/train_000002.png").write_bytes(b"no image")
    (train / "B/train_000003.png").write_bytes((train / "A/train_000004.png").read_bytes()[:500])
    with Image.open(val / "B/val_000001.png") as image:
        image.resize((100, 100)).save(val / "B/val_000001.png")
    for side in "AB":  # the same pixels under another name and with another compression
        with Image.open(train / side / "train_000005.png") as image:
            image.save(val / side / "val_000002.png", compress_level=9)
    ended = rsicrc_train("check-data", data, "--json")
    assert ended.returncode == 1
    document = json.loads(ended.stdout)
    assert document.pop("training")["items"] == 48
    assert document == {"data": str(data), **json.loads(json.dumps(inspect(data)))}
    assert document["sound"] is False
    found = counts(document)
    assert {message: found[message] for message in (MISSING, BROKEN, UNEQUAL, DUPLICATE)} == {
        MISSING: 1,
        BROKEN: 2,
        UNEQUAL: 1,
        DUPLICATE: 1,
    }
    examples = {finding["message"]: finding["examples"] for finding in document["findings"]}
    assert examples[MISSING] == [str(train / "A/train_000001.png")]
    assert examples[DUPLICATE] == [f"{val / 'B/val_000002.png'} is {train / 'B/train_000005.png'}"]


def test_captions_are_checked_against_the_recipe_or_the_checkpoint(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "b.png")
    lines = [
        {"before": "a.png", "after": "b.png", "split": "train", "captions": ["a road is built"] * 6},
        {"before": "b.png", "after": "a.png", "split": "val", "captions": ["a villa", f"a {'road ' * 24}"]},
    ]
    table = tmp_path / "pairs.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)))
    document = inspect(table)
    assert (document["sound"], document["words"]) == (True, 4 + 4)
    assert counts(document) == {f"{LONG} 22 words": 1, UNKNOWN: 1}
    assert document["findings"][-1]["examples"] == ["villa (1)"]
    assert counts(inspect(table, "published")) == {UNKNOWN: 1}
    found = counts(inspect(table, checkpoint=save_checkpoint(tmp_path, seed=0)))
    assert found == {f"{LONG} 10 words": 1, UNKNOWN: 1}


def test_use_by_a_training_is_counted(tmp_path: Path) -> None:
    lines = [
        {"before": "a.png", "after": "b.png", "split": "train", "captions": ["a road is built"] * 6 + ["a villa"]},
        {"before": "b.png", "after": "a.png", "split": "train", "captions": ["a road"]},
        {"before": "b.png", "after": "a.png", "split": "val", "captions": ["a villa", f"a {'road ' * 24}"]},
        {"before": "b.png", "after": "a.png", "split": "valid", "captions": ["a villa"]},
    ]
    table = tmp_path / "pairs.jsonl"
    table.write_text("\n".join(map(json.dumps, lines)))
    splits = read_splits(table)
    vocabulary = find_vocabulary(splits, "tiny")
    training = load_recipe("tiny", {"batch_size": 3, "captions": 5}).training
    use = describe_use(splits, vocabulary, training)
    assert (use.items, use.steps, use.left_out, use.unused_captions) == (2, 0, 2, 2)
    assert use.known_words == {"train": pytest.approx(27 / 28), "val": pytest.approx(26 / 27)}
    assert use.cut_captions == {"train": 0, "val": 1}
    use = describe_use(splits, vocabulary, replace(training, item="caption", captions=1))
    assert (use.items, use.steps, use.left_out, use.unused_captions) == (8, 2, 2, 0)
    whole = replace(training, item="caption", captions=1, partial_batch=True)
    assert (describe_use(splits, vocabulary, whole).steps, describe_use(splits, vocabulary, whole).left_out) == (3, 0)
    assert unknown_splits(table) == {"valid": 1}
    found = check_data(splits, vocabulary, unknown_splits=unknown_splits(table)).to_dict()
    assert counts(found)[UNKNOWN_SPLIT] == 1


def test_splits_of_every_layout_are_named(scenes: Path, tmp_path: Path) -> None:
    assert unknown_splits(scenes) == {}
    document = json.loads((scenes / "LevirCCcaptions.json").read_text())
    document["images"][0]["split"] = "restval"
    (tmp_path / "LevirCCcaptions.json").write_text(json.dumps(document))
    assert unknown_splits(tmp_path) == {"restval": 1}


def test_pairs_that_occur_twice_in_a_split_are_a_remark(data: Path) -> None:
    train = data / "images/train"
    for side in "AB":
        shutil.copy(train / side / "train_000005.png", train / side / "train_000006.png")
    document = inspect(data)
    assert counts(document)[REPEATED] == 1
    assert document["sound"]


def test_missing_training_splits_are_a_fault(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    (tmp_path / "pairs.csv").write_text("before,after,split,captions\na.png,a.png,test,no change\n")
    document = inspect(tmp_path / "pairs.csv")
    assert not document["sound"]
    assert counts(document)[EMPTY] == 2


def test_unreadable_arguments_are_refused(tmp_path: Path, scenes: Path) -> None:
    with pytest.raises(DataError, match="not a data set that can be read"):
        inspect(tmp_path)
    with pytest.raises(DataError, match="no recipe 'huge'"):
        inspect(scenes, "huge")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        inspect(scenes, checkpoint=tmp_path / "none.pt")


def test_hostile_files_are_counted(data: Path) -> None:
    train = data / "images/train"
    for number, side in enumerate("AB", start=1):
        (train / side / f"train_00000{number}.png").unlink()
    os.mkfifo(train / "A/train_000001.png")
    (train / "B/train_000002.png").symlink_to("/dev/zero")
    found = inspect(data)
    assert counts(found)[BROKEN] == 2


def test_vocabulary_without_words_is_a_fault(data: Path) -> None:
    captions = data / "LevirCCcaptions.json"
    document = json.loads(captions.read_text())
    document["images"] = [image for image in document["images"] if image["filename"].startswith("train_00000")][:1]
    captions.write_text(json.dumps(document))
    found = inspect(data)
    assert counts(found)[NO_WORDS] == 1
    assert not found["sound"]
