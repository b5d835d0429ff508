"""Tests of pairs composed from photographs: splits, bytes, masks, unchanged pairs, captions, and the command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from rsicrc.datasets.levir_cc import CAPTIONS_FILE, NO_CHANGE_SENTENCES, read_levir
from rsicrc.errors import DataError, ImageError
from rsicrc_train.composites.dataset import compose
from rsicrc_train.composites.land import find_land
from rsicrc_train.composites.outlines import parcel, place_of
from rsicrc_train.composites.pairs import compose_pair
from rsicrc_train.composites.photographs import PhotographLibrary, divide, find_photographs
from rsicrc_train.composites.sentences import GROUNDS, SUBJECTS, Facts, describe
from rsicrc_train.synth.pairs import is_changed

LANDS = ("forest", "chaparral", "mediumresidential", "parkinglot", "harbor")
PER_LAND = 4
PLURAL = ("are", "have", "appear", "disappear", "replace")
SINGULAR = ("is", "has", "appears", "disappears", "replaces")


def draw_photograph(seed: int) -> NDArray[np.uint8]:
    """Return a colored random pattern of coarse and fine texture, uint8 [140, 140, 3]."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(40, 200, (6, 6, 3)).astype(np.float32), (140, 140))
    return np.asarray(np.clip(coarse + rng.normal(0, 15, coarse.shape), 0, 255), np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, land in enumerate(LANDS):
        for k in range(PER_LAND):
            cv2.imwrite(str(folder / f"{land}{k:02d}.png"), draw_photograph(10 * number + k))
    return folder


@pytest.fixture(scope="module")
def library(photos: Path) -> PhotographLibrary:
    return PhotographLibrary(find_photographs(photos))


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def changed_indices(seed: int) -> Iterator[int]:
    return (index for index in range(1000) if is_changed(seed, index))


def test_land_is_found_in_names() -> None:
    assert find_land("forest").ground == "woods"
    assert find_land("Dense-Residential 07").thing == "many houses"
    assert find_land("IMG_2041").role == "other"


def test_land_of_a_photograph_comes_from_its_folder_or_name(tmp_path: Path) -> None:
    (tmp_path / "forest").mkdir()
    for name in ("forest/harbor1.png", "parkinglot3.png"):
        cv2.imwrite(str(tmp_path / name), draw_photograph(0))
    assert [photograph.land.role for photograph in find_photographs(tmp_path)] == ["ground", "built"]


def test_no_photograph_is_in_two_splits(photos: Path) -> None:
    found = find_photographs(photos)
    divided = divide(found, {"train": 30, "val": 10, "test": 10}, seed=0)
    paths = [photograph.path for members in divided.values() for photograph in members]
    assert sorted(paths) == sorted(photograph.path for photograph in found)
    assert len(divided["train"]) > len(divided["val"]) > 0


@pytest.mark.slow  # starts two processes
def test_same_seed_gives_same_bytes_with_any_number_of_workers(photos: Path, tmp_path: Path) -> None:
    done: list[int] = []
    compose(tmp_path / "a", photos, 6, seed=4, drawn=0.3)
    compose(tmp_path / "b", photos, 6, seed=4, drawn=0.3, workers=2, progress=done.append)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sum(done) == 6


def test_data_set_has_the_levir_cc_layout_and_masks(photos: Path, tmp_path: Path) -> None:
    compose(tmp_path, photos, 10, seed=1)
    pairs = [pair for split in ("train", "val", "test") for pair in read_levir(tmp_path, split)]
    assert sum(pair.changed for pair in pairs) == 5
    for pair in pairs:
        image, mask = (
            cv2.imread(str(path)) for path in (pair.before, pair.after.parents[1] / "label" / pair.after.name)
        )
        assert image is not None
        assert mask is not None
        assert image.shape == mask.shape == (256, 256, 3)
        assert bool(mask.any()) == pair.changed
        assert (pair.sentences == NO_CHANGE_SENTENCES) == (not pair.changed)


def test_mask_holds_the_change(library: PhotographLibrary) -> None:
    """Outside the mask, the dates differ as those of unchanged pairs do; inside, they differ more."""
    inside, outside = [], []
    for index in list(changed_indices(3))[:12]:
        pair = compose_pair(library, 3, index)
        assert pair.mask is not None
        before, after = (_normalized(image) for image in (pair.before, pair.after))
        difference = np.abs(before - after).mean(axis=2)
        if 0 < pair.mask.mean() < 0.9:
            inside.append(difference[pair.mask].mean())
            outside.append(difference[~pair.mask].mean())
    assert np.mean(inside) > 1.2 * np.mean(outside)


def test_unchanged_dates_differ_in_pixels(library: PhotographLibrary) -> None:
    index = next(index for index in range(100) if not is_changed(3, index))
    pair = compose_pair(library, 3, index)
    assert not np.array_equal(pair.before, pair.after)
    assert pair.mask is not None
    assert not pair.mask.any()


def test_photographs_without_known_land_still_make_pairs(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"IMG_{number}.png"), draw_photograph(number))
    library = PhotographLibrary(find_photographs(tmp_path))
    sentences = [compose_pair(library, 0, index).sentences for index in range(6)]
    assert all(len(five) == 5 for five in sentences)


def test_captions_are_grammatical() -> None:
    rng = np.random.default_rng(0)
    seen: set[str] = set()
    for thing in SUBJECTS:
        for ground in GROUNDS:
            for road in ("", "old", "new"):
                for removed in (False, True):
                    facts = Facts(thing, 0, removed, ground, "left", road, cleared=ground == "woods", whole=road == "")
                    seen.update(describe(rng, facts))
    assert len(seen) > 500
    for sentence in seen:
        assert sentence == " ".join(sentence.split()).lower()
        first, *rest = re.split(f" ({'|'.join((*PLURAL, *SINGULAR))}) ", f"{sentence} ", maxsplit=1)
        assert rest, f"no verb in {sentence!r}"
        head = first.split(" with ")[0]
        plural = " and " in head or (head.endswith("s") and not head.endswith("grass") and " row " not in head)
        assert rest[0] in (PLURAL if plural else SINGULAR), sentence


def test_place_is_that_of_the_mask() -> None:
    mask = np.zeros((256, 256), np.float32)
    mask[10:40, 200:250] = 1
    assert place_of(mask) == "top right"
    assert place_of(np.ones((256, 256), np.float32)) == ""
    assert 0 < parcel(np.random.default_rng(0), "lot").mean() < 0.5


def test_bad_photographs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        compose(tmp_path / "out", tmp_path / "nowhere", 4, seed=0)
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match="holds 0 photographs"):
        compose(tmp_path / "out", tmp_path / "photos", 4, seed=0)
    for number in range(2):
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), np.zeros((100, 300, 3), np.uint8))
    with pytest.raises(DataError, match="2 photographs are too few for 3 splits"):
        compose(tmp_path / "out", tmp_path / "photos", 4, seed=0, splits={"train": 0.5, "val": 0.25, "test": 0.25})
    with pytest.raises(ImageError, match="300 × 100 pixels"):
        compose(tmp_path / "out", tmp_path / "photos", 4, seed=0, splits={"train": 1.0})
    assert not (tmp_path / "out" / CAPTIONS_FILE).exists()


def test_synth_command_composes_pairs(photos: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from rsicrc_train.cli import app

    arguments = ["synth", str(tmp_path / "data"), "--pairs", "4", "--splits", "train=1.0"]
    ended = CliRunner().invoke(app, [*arguments, "--photos", str(photos)])
    assert ended.exit_code == 0, ended.output
    assert len(json.loads((tmp_path / "data" / CAPTIONS_FILE).read_text())["images"]) == 4


def _normalized(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    blurred = cv2.GaussianBlur(image.astype(np.float64), (0, 0), 2)
    return np.asarray((blurred - blurred.mean((0, 1))) / (blurred.std((0, 1)) + 1e-3))
