"""Land and water as textures, cut from large banks that are generated once per process."""

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Color = tuple[float, float, float]
"""RGB color, 0 to 255 per channel."""

SIZE = 256
"""Side of a scene in pixels; a pixel is about half a meter."""

BANK = 768
_BANK_SEED = 20240
# Octaves of the noise as (cells across the bank, amplitude), coarse to fine.
_OCTAVES: dict[str, tuple[tuple[int, float], ...]] = {
    "bareland": ((6, 0.6), (14, 0.5), (40, 0.35), (110, 0.3), (300, 0.25), (768, 0.3)),
    "meadow": ((7, 0.5), (24, 0.5), (70, 0.35), (170, 0.4), (400, 0.4), (768, 0.4)),
    "field": ((9, 0.3), (60, 0.15), (300, 0.2), (768, 0.25)),
    "rubble": ((30, 0.3), (120, 0.6), (260, 0.7), (768, 0.6)),
    "water": ((4, 0.5), (12, 0.25), (150, 0.06), (400, 0.06)),
}
_CONTRAST = {"bareland": 17.0, "meadow": 17.0, "field": 9.0, "rubble": 20.0, "water": 5.0}


def noise(rng: np.random.Generator, size: int, octaves: tuple[tuple[int, float], ...]) -> NDArray[np.float32]:
    """Return smooth noise [size, size], zero mean and unit deviation, summed from octaves of (cells, amplitude)."""
    total = np.zeros((size, size), np.float32)
    for cells, amplitude in octaves:
        grid = rng.standard_normal((cells, cells), dtype=np.float32)
        total += amplitude * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    total -= total.mean()
    return np.asarray(total / total.std(), np.float32)


@cache
def texture(kind: str) -> NDArray[np.uint8]:
    """Return the bank of one kind of ground: RGB uint8 [768, 768, 3] around a mean of 128, colored by `floor`."""
    rng = np.random.default_rng((_BANK_SEED, sorted(_OCTAVES).index(kind)))
    light = noise(rng, BANK, _OCTAVES[kind])
    hue = noise(rng, BANK, ((7, 1.0), (25, 0.6), (90, 0.4)))
    if kind == "bareland":
        # Faint wheel tracks, typical of bare land near construction sites.
        for _ in range(26):
            start, end = rng.uniform(0, BANK, (2, 2))
            bend = (start + end) / 2 + rng.normal(0, 60, 2)
            t = np.linspace(0, 1, 24)[:, None]
            curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
            for offset in (0.0, 5.0):
                points = np.rint((curve + offset) * 16).astype(np.int32)
                layer = np.zeros_like(light)
                cv2.polylines(layer, [points], False, 1.0, 2, cv2.LINE_AA, 4)
                light += layer * np.float32(rng.choice([-0.7, 0.9]))
    if kind == "field":
        rows = np.sin(np.arange(BANK, dtype=np.float32) * (2 * np.pi / 6.0))
        light += 0.9 * rows[:, None]
    scale = _CONTRAST[kind]
    tints = np.array([2.5, 0.0, -3.0], np.float32)
    image = 128 + scale * light[..., None] + hue[..., None] * tints * (scale / 14)
    return np.asarray(np.clip(image, 0, 255).astype(np.uint8))


def crop(bank: NDArray[np.uint8], origin: tuple[int, int], flip: int = 0) -> NDArray[np.uint8]:
    """Cut a piece [256, 256, …] of a bank at (x, y), flipped: bit 0 left-right, bit 1 up-down, bit 2 transposed."""
    x, y = origin
    piece = bank[y : y + SIZE, x : x + SIZE]
    if flip & 4:
        piece = np.asarray(cv2.transpose(piece), np.uint8)
    if flip & 3:
        piece = np.asarray(cv2.flip(piece, (-1, 1, 0, -1)[flip & 3]), np.uint8)
    return piece


def _recolor(piece: NDArray[np.uint8], color: Color) -> NDArray[np.uint8]:
    """Shift a texture from its mean of 128 to a mean RGB color."""
    mean = np.asarray(color, np.float32)
    contrast = 0.4 + mean / 210  # dark ground has less contrast than bright ground
    matrix = np.column_stack([np.diag(contrast), mean - 128 * contrast])
    return np.asarray(cv2.transform(piece, matrix), np.uint8)


def tinted(gray: NDArray[np.uint8], dark: Color, bright: Color) -> NDArray[np.uint8]:
    """Color a gray image [256, 256] as RGB, from `dark` for 0 to `bright` for 255."""
    low, high = np.asarray(dark, np.float32), np.asarray(bright, np.float32)
    # OpenCV transforms three channels to three several times faster than one channel to three.
    matrix = np.column_stack([np.diag((high - low) / 255), low])
    return np.asarray(cv2.transform(cv2.merge([gray, gray, gray]), matrix), np.uint8)


def floor(
    kind: str,
    origin: tuple[int, int],
    flip: int,
    color: Color,
    wear: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """Return ground of one kind for the whole scene.

    Args:
        kind: A key of the texture banks, such as "meadow".
        origin: Position of the piece in the bank, (x, y) below 512.
        flip: Flips of the piece, see `crop`.
        color: Mean RGB color, 0 to 255.
        wear: Origin of a second piece that is mixed in faintly, so that the texture differs between two images.

    Returns:
        uint8 [256, 256, 3] RGB.
    """
    piece = crop(texture(kind), origin, flip)
    if wear is not None:
        piece = np.asarray(cv2.addWeighted(piece, 0.8, crop(texture(kind), wear), 0.35, -0.15 * 128), np.uint8)
    return _recolor(piece, color)
