"""Augmentation that keeps a pair and its captions true.

Both dates turn alike, or the change would drown in differences that mean nothing; light and color change on each date
by itself, as seasons and sensors do. A caption that names a side ("in the top left corner") is turned along with the
picture, word by word; where that is not sure to give a true sentence, the picture is not turned that way:

- a flip exchanges left and right, or top and bottom, upper and lower, above and below; only words that stand where a
  side stands count, so "a right angle" stays, and "some have left" forbids the flip;
- a quarter turn or a transposition would need other phrasing ("at the top" but "on the left"), so a pair takes one only
  where none of its captions names a side or a direction;
- points of the compass, and "behind" and "in front of" for what stands above or below, forbid what would move them.

The order of the dates is exchanged only for unchanged pairs: whatever a caption says of a change is false backwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Turn(NamedTuple):
    """One of the eight ways to lay down a square.

    Attributes:
        transposed: rows become columns, before any flip.
        across: left and right change places.
        upright: top and bottom change places.
    """

    transposed: bool
    across: bool
    upright: bool


TURNS = tuple(Turn(bool(n & 4), bool(n & 1), bool(n & 2)) for n in range(8))  # the first leaves all as it is

_ACROSS = {"left": "right", "right": "left"}
_UPRIGHT = {
    "top": "bottom",
    "bottom": "top",
    "upper": "lower",
    "higher": "lower",
    "lower": "upper",
    "above": "below",
    "below": "above",
}
_DEPTH = frozenset({"behind", "front"})
_WINDS = ("north", "south", "east", "west")
_COMPASS = frozenset(f"{wind}{second}{end}" for wind in _WINDS for second in ("", *_WINDS) for end in ("", "ern"))
_DIRECTIONS = frozenset({"horizontal", "vertical", "horizontally", "vertically"})
# A word like "left" or "top" names a side after one of these; "have left" and "on top of" do not.
_LEADS = frozenset(
    {"the", "its", "at", "in", "to", "from", "and", "or", "far", "middle", "center", "centre", *_ACROSS, *_UPRIGHT}
)
_ANGLES = frozenset({"angle", "angles", "angled"})


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training pair; by default nothing does.

    Attributes:
        turns: flips and quarter turns, the same on both dates, as far as the captions can follow.
        jitter: how much brightness, contrast, gamma and tint vary, on each date by itself; from 0 to 1.
        swap: unchanged pairs show their dates in either order.
        seed: of the draws, which depend on it, on the epoch and on the pair alone.
    """

    turns: bool = False
    jitter: float = 0.0
    swap: bool = False
    seed: int = 0

    def draws(self, epoch: int, index: int) -> np.random.Generator:
        """The source of randomness of one pair in one epoch: the same in every worker, and after a resumption."""
        return np.random.default_rng((self.seed, epoch, index))


def turn_images(images: NDArray[np.uint8], turn: Turn) -> NDArray[np.uint8]:
    """Turn squares.

    Args:
        images: uint8 [N, size, size, 3].
        turn: the way; the same for all.

    Returns:
        uint8 [N, size, size, 3].
    """
    if turn.transposed:
        images = images.swapaxes(1, 2)
    return images[:, :: -1 if turn.upright else 1, :: -1 if turn.across else 1]


def turn_sentence(sentence: str, turn: Turn) -> str | None:
    """Return what a sentence becomes when its pictures are turned; None where that cannot be told for sure.

    Args:
        sentence: lower case, without punctuation.
        turn: the way.
    """
    words = sentence.split()
    if turn == TURNS[0]:
        return sentence
    turned = []
    for previous, word, following in zip(["", *words], words, [*words[1:], ""], strict=False):
        parts = [_turn_word(part, turn, previous, following) for part in word.split("-")]  # "lower-right"
        if None in parts:
            return None
        turned.append("-".join(part for part in parts if part is not None))
    return " ".join(turned)


def jitter(image: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Vary brightness, contrast, gamma and tint of one image.

    Args:
        image: uint8 [size, size, 3].
        strength: from 0 to 1. At 1 gamma and contrast vary by a third and brightness by 40 of 255 either way.
        rng: source of randomness.

    Returns:
        uint8 [size, size, 3].
    """
    gamma, contrast = np.exp(strength * rng.uniform(-0.3, 0.3, 2))
    offset = strength * (rng.uniform(-40, 40) + rng.uniform(-12, 12, 3))
    levels = 255 * (np.arange(256) / 255)[:, np.newaxis] ** gamma
    table = np.clip(np.rint((levels - 128) * contrast + 128 + offset), 0, 255).astype(np.uint8)
    # One table for each channel: far cheaper than arithmetic on every pixel.
    return np.stack([table[:, channel][image[..., channel]] for channel in range(3)], axis=-1)


def _turn_word(word: str, turn: Turn, previous: str, following: str) -> str | None:
    opposite, moves = (_ACROSS.get(word), turn.across) if word in _ACROSS else (_UPRIGHT.get(word), turn.upright)
    if opposite is None:
        oriented = word in _DEPTH or word in _DIRECTIONS
        forbidden = word in _COMPASS or (turn.transposed and oriented) or (turn.upright and word in _DEPTH)
        return None if forbidden else word
    if word == "right" and following in _ANGLES:
        return word
    if turn.transposed:
        return None
    if not moves:
        return word
    placed = word in ("above", "below") or previous in _LEADS or previous.split("-")[-1] in _LEADS
    return opposite if placed else None
