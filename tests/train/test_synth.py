"""Tests of the generated data set: layout, bytes, arguments."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from rsicrc.datasets.levir_cc import CAPTIONS_FILE, NO_CHANGE_SENTENCES
from rsicrc_train.synth import generate, make_pair
from rsicrc_train.synth.change_facts import GROUNDS
from rsicrc_train.synth.dataset import split_counts
from rsicrc_train.synth.pairs import make_scenes


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("synth") / "data"
    generate(directory, 20, seed=3)
    return directory


def test_generated_files_have_the_levir_cc_layout(written: Path) -> None:
    document = json.loads((written / CAPTIONS_FILE).read_text())
    assert set(document) == {"images", "dataset"}
    assert [image["filename"] for image in document["images"]][-3:] == [
        "val_000002.png",
        "test_000001.png",
        "test_000002.png",
    ]
    for number, image in enumerate(document["images"]):
        assert set(image) == {"filepath", "filename", "imgid", "split", "changeflag", "sentences", "sentids"}
        assert image["imgid"] == number
        assert image["filepath"] == image["split"]
        assert image["sentids"] == [5 * number + k for k in range(5)]
        for sentence, sentid in zip(image["sentences"], image["sentids"], strict=True):
            assert set(sentence) == {"tokens", "raw", "imgid", "sentid"}
            assert (sentence["imgid"], sentence["sentid"]) == (number, sentid)
            assert sentence["raw"] == " " + " ".join(sentence["tokens"]) + " ."
        for side in "AB":
            picture = cv2.imread(str(written / "images" / image["split"] / side / image["filename"]))
            assert picture is not None
            assert picture.shape == (256, 256, 3)
    assert len(list(written.rglob("*.png"))) == 40


def test_files_hold_the_pair_of_their_index(written: Path) -> None:
    pair = make_pair(3, 5)
    image = json.loads((written / CAPTIONS_FILE).read_text())["images"][5]
    assert [" ".join(s["tokens"]) for s in image["sentences"]] == list(pair.sentences)
    assert image["changeflag"] == pair.changed
    for side, picture in (("A", pair.before), ("B", pair.after)):
        stored = cv2.imread(str(written / "images" / "train" / side / "train_000006.png"))
        assert stored is not None
        assert np.array_equal(stored[..., ::-1], picture)


def test_half_of_the_pairs_is_unchanged(written: Path) -> None:
    images = json.loads((written / CAPTIONS_FILE).read_text())["images"]
    unchanged = [image for image in images if not image["changeflag"]]
    assert len(unchanged) == 10
    for image in unchanged:
        assert tuple(" ".join(s["tokens"]) for s in image["sentences"]) == NO_CHANGE_SENTENCES


def test_same_seed_gives_same_bytes_with_any_number_of_workers(written: Path, tmp_path: Path) -> None:
    done: list[int] = []
    generate(tmp_path, 20, seed=3, workers=2, progress=done.append)
    assert contents(tmp_path) == contents(written)
    assert sum(done) == 20


def test_other_seed_gives_other_pairs() -> None:
    assert not np.array_equal(make_pair(3, 0).before, make_pair(4, 0).before)
    assert not np.array_equal(make_pair(3, 0).before, make_pair(3, 1).before)


def test_grounds_select_the_kind_of_scene() -> None:
    for index in range(20):
        assert {make_scenes(4, index, [ground])[2].facts.ground for ground in GROUNDS} == set(GROUNDS)
    assert all(make_scenes(4, index, ["woods"])[2].facts.kind not in ("parking", "greening") for index in range(20))
    assert np.array_equal(make_pair(4, 0, GROUNDS).after, make_pair(4, 0).after)


def test_captions_are_written_last(tmp_path: Path) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "data", 4, seed=0, progress=stop)
    assert not (tmp_path / "data" / CAPTIONS_FILE).exists()


def test_directory_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("x")
    with pytest.raises(FileExistsError, match="not an empty directory"):
        generate(tmp_path, 4, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["other.txt"]


@pytest.mark.parametrize(
    ("pairs", "splits", "expected"),
    [
        (1000, {"train": 0.8, "val": 0.1, "test": 0.1}, {"train": 800, "val": 100, "test": 100}),
        (7, {"test": 0.5, "train": 0.5}, {"train": 4, "test": 3}),
        (1, {"train": 0.8, "val": 0.1, "test": 0.1}, {"train": 1, "val": 0, "test": 0}),
        (3, {"test": 1.0}, {"test": 3}),
    ],
)
def test_split_counts_are_rounded_shares(pairs: int, splits: dict[str, float], expected: dict[str, int]) -> None:
    counts = split_counts(pairs, splits)
    assert counts == expected
    assert list(counts) == list(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": 0}, "pairs must be 1 or more"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"workers": 0}, "workers must be 1 or more"),
        ({"splits": {"train": 0.5, "val": 0.2}}, "must sum to 1"),
        ({"splits": {"train": 1.5, "val": -0.5}}, "none be negative"),
        ({"splits": {"train": float("nan")}}, "must sum to 1"),
        ({"splits": {"train": 0.5, "dev": 0.5}}, "unknown split 'dev'"),
        ({"splits": {}}, "must sum to 1"),
    ],
)
def test_invalid_arguments_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"pairs": 4, "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        generate(tmp_path / "data", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "data").exists()
