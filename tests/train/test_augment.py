"""Tests of the augmentation: images and captions turn together, and captions stay true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsicrc.datasets.levir_cc import CaptionedPair, read_levir
from rsicrc.errors import DataError
from rsicrc.preprocessing import Preprocessing
from rsicrc.text.vocabulary import SPECIAL_WORDS, Vocabulary
from rsicrc_train.augment import TURNS, Augmentation, Turn, jitter, turn_images, turn_sentence
from rsicrc_train.data import PairDataset, build_vocabulary, collate
from rsicrc_train.recipes import Recipe, Training
from rsicrc_train.trainer import Trainer

ACROSS, UPRIGHT, HALF = Turn(False, True, False), Turn(False, False, True), Turn(False, True, True)
PLAIN = Preprocessing(32)


def vocabulary_of(words: str) -> Vocabulary:
    return Vocabulary.from_words((*SPECIAL_WORDS, *words.split()))


@pytest.mark.parametrize(
    ("sentence", "across", "upright"),
    [
        ("a house in the top left corner", "a house in the top right corner", "a house in the bottom left corner"),
        ("at the lower-right-hand side", "at the lower-left-hand side", "at the upper-right-hand side"),
        (
            "a road above the pond on the right",
            "a road above the pond on the left",
            "a road below the pond on the right",
        ),
        ("two roads meet at a right angle", "two roads meet at a right angle", "two roads meet at a right angle"),
        ("a vertical road appears", "a vertical road appears", "a vertical road appears"),
        ("many trees have left", None, "many trees have left"),
        ("houses on top of the bareland", "houses on top of the bareland", None),
        ("a road in the north", None, None),
        ("the cube behind the ball is gone", "the cube behind the ball is gone", None),
    ],
)
def test_sentence_turns_with_its_images(sentence: str, across: str | None, upright: str | None) -> None:
    assert turn_sentence(sentence, ACROSS) == across
    assert turn_sentence(sentence, UPRIGHT) == upright
    assert turn_sentence(sentence, TURNS[0]) == sentence
    if across is not None and upright is not None:
        assert turn_sentence(across, UPRIGHT) == turn_sentence(sentence, HALF)


def test_quarter_turn_is_refused_if_a_side_or_direction_is_named() -> None:
    for turn in TURNS[4:]:
        assert turn_sentence("a house on the left", turn) is None
        assert turn_sentence("a horizontal road", turn) is None
        assert turn_sentence("a house in the middle", turn) == "a house in the middle"


def test_turns_are_the_eight_symmetries_of_a_square() -> None:
    square = np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 3)
    turned = [turn_images(square, turn) for turn in TURNS]
    assert len({each.tobytes() for each in turned}) == 8
    assert np.array_equal(turned[TURNS.index(ACROSS)], square[:, :, ::-1])
    assert np.array_equal(turned[TURNS.index(UPRIGHT)], square[:, ::-1])
    rotations = [np.rot90(square, count, axes=(1, 2)).tobytes() for count in range(4)]
    assert set(rotations) <= {each.tobytes() for each in turned}


def test_jitter_changes_brightness_and_keeps_the_order_of_levels() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[np.newaxis, :, np.newaxis], 3, axis=2)
    assert np.array_equal(jitter(ramp, 0.0, np.random.default_rng(0)), ramp)
    for seed in range(20):
        other = jitter(ramp, 1.0, np.random.default_rng(seed)).astype(int)
        assert (np.diff(other, axis=1) >= 0).all()
        assert 0 < np.abs(other - ramp).mean() < 90
    with pytest.raises(DataError, match="jitter must be a number from 0 to 1"):
        Training(jitter=2.0)


@pytest.fixture
def pairs(tmp_path: Path) -> list[CaptionedPair]:
    """Return a changed pair with a red square in the top left corner of the later image, and an unchanged one."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "before.png")
    pixels[:8, :8, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "after.png")
    before, after = tmp_path / "before.png", tmp_path / "after.png"
    return [
        CaptionedPair(before, after, ("a house in the top left corner",), changed=True),
        CaptionedPair(before, after, ("no change",), changed=False),
    ]


def corner(image: np.ndarray) -> str:
    row, column = np.unravel_index(image[..., 0].argmax(), image.shape[:2])
    return f"{'top' if row < 16 else 'bottom'} {'left' if column < 16 else 'right'}"


def test_augmented_captions_match_the_augmented_images(pairs: list[CaptionedPair]) -> None:
    vocabulary = vocabulary_of("a house in the top bottom left right corner no change")
    dataset = PairDataset(pairs, vocabulary, PLAIN, 1, Augmentation(turns=True, swap=True))
    seen, swapped, turned = set(), set(), set()
    for dataset.epoch in range(40):
        images, (ids,), label, (number,) = dataset[0]
        assert vocabulary.decode(ids) == dataset.texts[number] == f"a house in the {corner(images[1])} corner"
        assert (label, images[0].max()) == (0, 0)
        seen.add(dataset.texts[number])
        images = dataset[1].images
        swapped.add(bool(images[0].max()))
        turned.add(images.max(axis=0).tobytes())
    assert len(seen) == 4
    assert swapped == {False, True}
    assert len(turned) == 4  # the square appears in all four corners


def test_sentences_are_not_turned_into_unknown_words(pairs: list[CaptionedPair]) -> None:
    vocabulary = vocabulary_of("a house in the top left corner no change bottom")
    dataset = PairDataset(pairs, vocabulary, PLAIN, 1, Augmentation(turns=True))
    assert {corner(dataset[0].images[1]) for dataset.epoch in range(20)} == {"top left", "bottom left"}


def test_augmentation_depends_only_on_seed_epoch_and_pair(pairs: list[CaptionedPair]) -> None:
    vocabulary = vocabulary_of("a house in the top left corner no change")
    options = Augmentation(turns=True, jitter=0.5, swap=True, seed=3)
    one, other = (PairDataset(pairs, vocabulary, PLAIN, 1, options) for _ in range(2))
    one.epoch = other.epoch = 7
    first = collate([one[1], one[0]])
    again = collate([other[0], other[1]])
    assert first.images[0].equal(again.images[1])
    assert first.images[1].equal(again.images[0])
    other.epoch = 8
    assert not first.images[0].equal(collate([other[1]]).images[0])
    plain = PairDataset(pairs, vocabulary, PLAIN, 1)
    assert plain[0].images.tobytes() == plain[0].images.tobytes()
    assert len(plain.texts) == 2


def test_recipe_augments_only_training_pairs(scenes: Path, recipe: Recipe, tmp_path: Path) -> None:
    training = replace(recipe.training, turns=True, jitter=0.5, swap=True, seed=4)
    trainer = Trainer(scenes, tmp_path, replace(recipe, training=training), resume=False, init=None, device="cpu")
    assert trainer.datasets["train"].augmentation == Augmentation(turns=True, jitter=0.5, swap=True, seed=4)
    assert trainer.datasets["val"].augmentation == Augmentation()


@pytest.mark.shared
def test_levir_cc_captions_turn_and_turn_back(shared_folder: Path) -> None:
    """Measure the share of LEVIR-CC's changed pairs that can be turned, and check that flips can be undone."""
    pairs = [pair for pair in read_levir(shared_folder / "data" / "captions", "train") if pair.changed]
    vocabulary = Vocabulary.from_words(build_vocabulary(text for pair in pairs for text in pair.sentences))
    dataset = PairDataset(pairs, vocabulary, PLAIN, 5, Augmentation(turns=True))
    shares = {
        turn: np.mean([all((number, turn) in dataset._turned for number in own) for own in dataset.sentences])
        for turn in (ACROSS, UPRIGHT, TURNS[4])
    }
    assert shares == pytest.approx({ACROSS: 0.998, UPRIGHT: 0.888, TURNS[4]: 0.404}, abs=0.002)
    for turn in (ACROSS, UPRIGHT):
        texts = [dataset.texts[number] for number, applied in dataset._turned if applied == turn]
        texts = [text for text in texts if "higher" not in text]
        restored = [turn_sentence(turn_sentence(text, turn) or "", turn) == text for text in texts]
        assert np.mean(restored) > 0.999
