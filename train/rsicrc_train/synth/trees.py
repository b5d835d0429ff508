"""Trees: two banks of tree crowns (closed wood and single trees), from which a scene shows a part."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from rsicrc_train.synth.terrain import SIZE, Color, noise, tinted

BANK = 640
_PAD = 16
_ROW = SIZE + 2 * _PAD
_BANK_SEED = 20241


@dataclass(frozen=True, slots=True)
class _Canopy:
    """A bank of tree crowns, all arrays [640, 640].

    Each pixel stores the center of its tree, so that a tree at the border of a wood is shown completely or not at all.

    Attributes:
        inside: 255 on a crown, else 0; uint8.
        slope_x: Slope of the crown's surface to the right, uint8 around 128.
        slope_y: Slope downwards, uint8 around 128.
        tint: Brightness of the tree and of its leaves, uint8 around 128.
        rank: One value per tree, uint8; a tree is shown where the density of the scene is above its rank.
        center: Flat index of the tree's center in a padded scene at the bank's origin, int32.
        species: One value per tree, uint8, which sets the order of coloring in autumn.
    """

    inside: NDArray[np.uint8]
    slope_x: NDArray[np.uint8]
    slope_y: NDArray[np.uint8]
    tint: NDArray[np.uint8]
    rank: NDArray[np.uint8]
    center: NDArray[np.int32]
    species: NDArray[np.uint8]


@cache
def _canopy(dense: bool) -> _Canopy:
    """Return the bank of a closed wood (dense) or of single trees."""
    rng = np.random.default_rng((_BANK_SEED, int(dense)))
    spacing, small, large = (10.5, 6.0, 9.5) if dense else (24.0, 4.5, 10.0)
    cells = int(BANK / spacing) + 2
    grid = np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), -1).reshape(-1, 2)
    jitter = 0.42 if dense else 0.3
    points = (grid + rng.uniform(-jitter, jitter, grid.shape)) * spacing
    rng.shuffle(points)
    radii = small + (large - small) * rng.random(len(points)) ** 1.5
    label = np.zeros((BANK, BANK), np.int32)
    for number, ((x, y), radius) in enumerate(zip(points, radii, strict=True), 1):
        cv2.circle(label, (round(x * 16), round(y * 16)), round(radius * 16), number, -1, cv2.LINE_8, 4)
    # Distorted coordinates turn circles into ragged crowns.
    ys, xs = np.indices((BANK, BANK), dtype=np.float32)
    octaves = ((70, 1.0), (140, 0.7))
    bent = (xs + 1.7 * noise(rng, BANK, octaves), ys + 1.7 * noise(rng, BANK, octaves))
    warped = cv2.remap(label.astype(np.float32), *bent, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    label = warped.astype(np.int32)

    table = np.vstack([[0.0, 0.0], points]).astype(np.float32)
    radius_of = np.concatenate([[1.0], radii]).astype(np.float32)
    center_x, center_y, radius_map = table[label, 0], table[label, 1], radius_of[label]
    away = ((bent[0] - center_x) ** 2 + (bent[1] - center_y) ** 2) / (1.1 * radius_map) ** 2
    height = radius_map * np.sqrt(np.clip(1 - away, 0, None)) + 0.8 * noise(rng, BANK, ((150, 1.0), (300, 0.8)))
    height[label == 0] = 0
    height = cv2.GaussianBlur(height, (0, 0), 0.7)
    slopes = [cv2.Sobel(height, cv2.CV_32F, dx, 1 - dx, ksize=3) / 8 for dx in (1, 0)]
    slope_x, slope_y = (np.clip(128 + 50 * slope, 0, 255).astype(np.uint8) for slope in slopes)
    own = rng.normal(0, 13, len(points) + 1).astype(np.float32)
    tint = 128 + own[label] + 9 * noise(rng, BANK, ((320, 1.0), (640, 1.0))) + 14 * (0.5 - away)
    rank = rng.integers(0, 255, len(points) + 1).astype(np.uint8)
    flat = np.rint(center_y).astype(np.int32) * _ROW + np.rint(center_x).astype(np.int32)
    inside = np.where(label > 0, 255, 0).astype(np.uint8)
    species = rng.integers(0, 255, len(points) + 1).astype(np.uint8)
    return _Canopy(inside, slope_x, slope_y, np.clip(tint, 0, 255).astype(np.uint8), rank[label], flat, species[label])


def crowns(dense: bool, origin: tuple[int, int], density: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a mask of the tree crowns of a scene.

    Args:
        dense: Use the bank of closed woods, else of single trees.
        origin: Position of the scene in the bank, (x, y) below 384.
        density: Share of the trees with their center at a pixel that is shown, uint8 [256, 256], 255 for all.

    Returns:
        uint8 [256, 256], 255 on a crown.
    """
    bank = _canopy(dense)
    x, y = origin
    window = np.s_[y : y + SIZE, x : x + SIZE]
    padded = cv2.copyMakeBorder(density, _PAD, _PAD, _PAD, _PAD, cv2.BORDER_REPLICATE)
    centers = bank.center[window] + (_PAD * (_ROW + 1) - (y * _ROW + x))
    density_at_center = np.take(padded.reshape(-1), centers, mode="clip")
    shown = cv2.compare(density_at_center, bank.rank[window], cv2.CMP_GT)
    return np.asarray(cv2.bitwise_and(shown, bank.inside[window]), np.uint8)


def leaves(
    dense: bool,
    origin: tuple[int, int],
    light: tuple[float, float],
    dark: Color,
    bright: Color,
    turned: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.uint8]:
    """Return the look of the trees from above for the whole scene, to be masked by `crowns`.

    Args:
        dense: Use the bank of closed woods, else of single trees.
        origin: Position of the scene in the bank, (x, y) below 384.
        light: Direction to the sun in the image plane (x right, y down); longer when the sun is low.
        dark: RGB of a leaf in the shade.
        bright: RGB of a leaf in the sun.
        turned: Share of the trees that are yellow or brown, and share of the trees without leaves.

    Returns:
        uint8 [256, 256, 3] RGB.
    """
    bank = _canopy(dense)
    x, y = origin
    window = np.s_[y : y + SIZE, x : x + SIZE]
    # A surface that falls towards the sun is bright: brightness is proportional to minus the slope along the light.
    a, b = -0.8 * light[0], -0.8 * light[1]
    slope = cv2.addWeighted(bank.slope_x[window], a, bank.slope_y[window], b, 118 - 128 * (a + b))
    value = cv2.addWeighted(slope, 1.0, bank.tint[window], 1.2, -128 * 1.2)
    gray, kinds = np.asarray(value, np.uint8), bank.species[window]
    image = tinted(gray, dark, bright)
    # Conifers stay green; trees that color early are yellow, later ones brown.
    looks = (
        (204.0, 255.0, (10.0, 22.0, 16.0), (88.0, 122.0, 84.0)),
        (0.0, 204 * 0.6 * turned[0], (40.0, 30.0, 8.0), (206.0, 168.0, 74.0)),
        (204 * 0.6 * turned[0], 204 * turned[0], (34.0, 20.0, 10.0), (176.0, 116.0, 66.0)),
        (204 * (1 - turned[1]), 204.0, (40.0, 34.0, 28.0), (140.0, 126.0, 108.0)),
    )
    for low, high, shade, sun in looks:
        if high > low:
            cv2.copyTo(tinted(gray, shade, sun), cv2.inRange(kinds, low, high - 1), image)
    return image
