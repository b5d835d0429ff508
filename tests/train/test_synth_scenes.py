"""Tests of the content of generated images, and of the truth of their captions."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from rsicrc.datasets.levir_cc import NO_CHANGE_SENTENCES
from rsicrc_train.synth.captions import describe
from rsicrc_train.synth.change_facts import PLACES, Facts, roof_of
from rsicrc_train.synth.changes import KINDS
from rsicrc_train.synth.pairs import is_changed, make_pair, make_scenes
from rsicrc_train.synth.patterns import CLAUSES, PATTERNS
from rsicrc_train.synth.render import render
from rsicrc_train.synth.weather import Weather, photograph

VOCABULARY = Path(__file__).parents[3] / "shared" / "data" / "captions" / "vocab.json"
CALM = Weather(
    azimuth=-1.2,
    elevation=0.9,
    drought=0.5,
    gains=(1.0, 1.0, 1.0),
    gamma=1.0,
    contrast=1.0,
    haze=0.0,
    blur=0.5,
    grain=0.0,
    shift=(0.0, 0.0),
    seed=1,
)


def visible(index: int) -> tuple[NDArray[np.bool_], Facts]:
    """Return a mask of the visible change under equal weather, and the facts of the captions."""
    before, after, edit = make_scenes(11, index)
    first, second = (render(scene, CALM).astype(int) for scene in (before, after))
    return np.abs(first - second).max(2) > 24, edit.facts


def place_of(mask: NDArray[np.bool_]) -> str:
    y, x = (float(axis.mean()) for axis in np.nonzero(mask))
    row, column = ("top", "", "bottom")[int(y * 3 // 256)], ("left", "", "right")[int(x * 3 // 256)]
    return f"{row} {column}".strip() or "center"


def test_every_change_is_visible_at_the_place_in_its_caption() -> None:
    kinds = set()
    for index in (i for i in range(800) if is_changed(11, i)):
        mask, facts = visible(index)
        kinds.add(facts.kind)
        # 0.4 % of the scene are 260 pixels: half a small house.
        assert mask.mean() > 0.004, (index, facts)
        # A road that is extended to the right changes from the center on.
        if facts.place and facts.kind != "extension":
            assert place_of(mask) == facts.place, (index, facts)
    assert kinds == {*PATTERNS, "two changes"}


def test_shares_of_the_kinds_sum_to_one() -> None:
    shares = np.array([share for share, _, _ in KINDS])
    assert np.isclose(shares.sum(), 1)
    assert shares.max() < 0.25


def test_one_of_two_consecutive_pairs_is_changed() -> None:
    flags = [is_changed(5, index) for index in range(200)]
    assert all(a != b for a, b in zip(flags[::2], flags[1::2], strict=True))
    # The parity of the file name does not predict the change.
    assert 30 < sum(flags[::2]) < 70


def test_unchanged_pairs_differ_in_pixels_but_show_the_same_scene() -> None:
    for index in (i for i in range(12) if not is_changed(5, i)):
        before, after, _ = make_scenes(5, index)
        assert before is after
        pair = make_pair(5, index)
        assert pair.sentences == NO_CHANGE_SENTENCES
        assert pair.kinds == ()
        assert np.abs(pair.before.astype(int) - pair.after).mean() > 2


def test_pair_is_a_function_of_seed_and_index() -> None:
    for index in range(4):
        first, second = make_pair(9, index), make_pair(9, index)
        assert np.array_equal(first.before, second.before)
        assert np.array_equal(first.after, second.after)
        assert (first.sentences, first.changed, first.kinds) == (second.sentences, second.changed, second.kinds)


def test_first_sentence_is_determined_by_the_facts() -> None:
    facts = Facts("houses", "meadow", "top left", 4)
    sentences = {describe(np.random.default_rng(seed), facts) for seed in range(20)}
    assert {five[0] for five in sentences} == {"several houses are built on the meadow in the top left corner"}
    assert len({five[3] for five in sentences}) > 5


def test_two_changes_share_one_sentence_in_the_order_of_their_places() -> None:
    parts = (Facts("house", "meadow", "top", 1), Facts("trees", "meadow", "left"))
    five = describe(np.random.default_rng(0), Facts("two changes", "meadow", parts=parts))
    assert five[0] == "a house is built at the top and the trees on the left are removed"
    assert len(set(five)) > 2


def test_two_changes_are_each_visible_at_their_place() -> None:
    found = 0
    for index in (i for i in range(300) if is_changed(11, i)):
        _, _, edit = make_scenes(11, index)
        if not edit.facts.parts:
            continue
        found += 1
        mask, _ = visible(index)
        for part, area in zip(edit.facts.parts, edit.reserved, strict=True):
            (x0, y0), (x1, y1) = np.clip(area.min(0), 0, 255).astype(int), np.clip(area.max(0), 0, 255).astype(int)
            inside = np.zeros_like(mask)
            inside[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
            assert inside.mean() > 0.002, (index, part)
            assert place_of(inside) == part.place
        assert make_pair(11, index).kinds == tuple(part.kind for part in edit.facts.parts)
    assert found > 3


def test_first_sentence_does_not_depend_on_roof_or_neighbors() -> None:
    facts = Facts("house", "meadow", "right", 1)
    named = replace(facts, roof="red", beside="road")
    for seed in range(20):
        first, second = (describe(np.random.default_rng(seed), each) for each in (facts, named))
        assert first[0] == second[0] == "on the right a house is built on the meadow"
        assert "roof" not in " ".join(first)
    sentences = {s for seed in range(30) for s in describe(np.random.default_rng(seed), named)}
    assert any("with a red roof" in sentence for sentence in sentences)
    assert any("beside the road" in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("color", "name"),
    [((186, 74, 66), "red"), ((96, 128, 172), "blue"), ((222, 222, 218), "white"), ((152, 150, 146), "")],
)
def test_roof_colors_have_names(color: tuple[float, float, float], name: str) -> None:
    assert roof_of(color) == name


def all_sentences() -> list[str]:
    found = set(NO_CHANGE_SENTENCES)
    for kind in PATTERNS:
        for seed in range(60):
            rng = np.random.default_rng(seed)
            ground = ("bareland", "meadow", "woods")[seed % 3]
            facts = Facts(kind, ground, PLACES[seed % 9], 1 + seed % 5, ("horizontal", "vertical")[seed % 2])
            facts = replace(facts, roof=("", "red", "blue", "white")[seed % 4], beside=("", "road", "pond")[seed % 3])
            found.update(describe(rng, facts))
    for kind in CLAUSES:
        for seed in range(40):
            parts = (Facts(kind, "meadow", PLACES[seed % 9], 1), Facts("trees", "meadow", "right"))
            found.update(describe(np.random.default_rng(seed), Facts("two changes", "meadow", parts=parts)))
    return sorted(found)


def test_sentences_are_lower_case_words() -> None:
    for sentence in all_sentences():
        assert sentence == " ".join(sentence.split())
        assert all(word.isascii() and word.islower() and word.isalpha() for word in sentence.split()), sentence


@pytest.mark.shared
@pytest.mark.skipif(not VOCABULARY.exists(), reason="the shared folder is not beside the checkout")
def test_words_are_in_the_levir_cc_vocabulary() -> None:
    vocabulary = json.loads(VOCABULARY.read_text())
    words = {word for sentence in all_sentences() for word in sentence.split()}
    assert words <= set(vocabulary)
    assert len(words) > 80


@pytest.mark.parametrize("shift", [(0.0, 0.0), (2.0, -2.0), (0.6, -1.3), (-1.99, 0.01)])
def test_camera_shifts_the_image(shift: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 255, (256, 256, 3)).astype(np.uint8), (0, 0), 3)
    moved = photograph(np.asarray(image, np.uint8), replace(CALM, shift=shift))
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    expected = cv2.warpAffine(image, matrix, (256, 256))
    difference = np.abs(moved.astype(int) - expected)[8:-8, 8:-8]
    assert difference.max() <= 4
