"""Augmentation that keeps a pair consistent with its captions.

Both images of a pair get the same flips and turns, otherwise the change would be hidden among irrelevant differences.
Brightness and color vary for each image independently, as seasons and sensors do. A caption that names a side ("in the
top left corner") is turned together with the images, word by word. If the turned caption may be wrong, the pair is not
turned that way:

- A flip exchanges left and right, or top and bottom, upper and lower, above and below. A word counts only in the
  position of a side, so "a right angle" stays unchanged, and "some have left" forbids the flip.
- A quarter turn or a transposition would need other phrases ("at the top" but "on the left"), so it is applied only to
  pairs whose captions name no side and no direction.
- Compass directions, and "behind" and "in front of" (above and below in the image), forbid turns that change them.

Before and after images are exchanged only for unchanged pairs: captions of a change would be wrong in reverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Turn(NamedTuple):
    """One of the eight symmetries of a square.

    Attributes:
        transposed: Exchange rows and columns, before any flip.
        across: Exchange left and right.
        upright: Exchange top and bottom.
    """

    transposed: bool
    across: bool
    upright: bool


TURNS = tuple(Turn(bool(n & 4), bool(n & 1), bool(n & 2)) for n in range(8))  # the first is the identity

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
# "left" or "top" names a side if it follows one of these words; in "have left" and "on top of" it does not.
_LEADS = frozenset(
    {"the", "its", "at", "in", "to", "from", "and", "or", "far", "middle", "center", "centre", *_ACROSS, *_UPRIGHT}
)
_ANGLES = frozenset({"angle", "angles", "angled"})


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training pair; by default none.

    Attributes:
        turns: Apply flips and quarter turns, the same to both images, as far as the captions can be turned, too.
        jitter: Strength of the variation of brightness, contrast, gamma and tint of each image, from 0 to 1.
        swap: Exchange the before and after images of unchanged pairs at random.
        seed: Seed of the random numbers, which depend only on the seed, the epoch and the pair.
    """

    turns: bool = False
    jitter: float = 0.0
    swap: bool = False
    seed: int = 0

    def generator(self, epoch: int, index: int) -> np.random.Generator:
        """Return the random generator of one pair in one epoch: equal in every worker and in a resumed run."""
        return np.random.default_rng((self.seed, epoch, index))


def turn_images(images: NDArray[np.uint8], turn: Turn) -> NDArray[np.uint8]:
    """Turn square images.

    Args:
        images: Images, uint8 [N, size, size, 3].
        turn: Turn that is applied to all images.

    Returns:
        uint8 [N, size, size, 3].
    """
    if turn.transposed:
        images = images.swapaxes(1, 2)
    return images[:, :: -1 if turn.upright else 1, :: -1 if turn.across else 1]


def turn_sentence(sentence: str, turn: Turn) -> str | None:
    """Return the sentence that describes the turned images, or None if it is uncertain.

    Args:
        sentence: Caption in lower case, without punctuation.
        turn: Turn that is applied to the images.
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
        image: Image, uint8 [size, size, 3].
        strength: Strength from 0 to 1. At 1, gamma and contrast vary by a third and brightness by ±40 of 255.
        rng: Random generator.

    Returns:
        uint8 [size, size, 3].
    """
    gamma, contrast = np.exp(strength * rng.uniform(-0.3, 0.3, 2))
    offset = strength * (rng.uniform(-40, 40) + rng.uniform(-12, 12, 3))
    levels = 255 * (np.arange(256) / 255)[:, np.newaxis] ** gamma
    table = np.clip(np.rint((levels - 128) * contrast + 128 + offset), 0, 255).astype(np.uint8)
    # A look-up table per channel is much faster than arithmetic on every pixel.
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
