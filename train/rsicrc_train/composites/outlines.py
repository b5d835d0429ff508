"""Outlines of parcels and roads as masks, and their places in the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from rsicrc_train.composites.photographs import SIZE

Mask = NDArray[np.float32]
"""Coverage from 0 to 1, float32 [SIZE, SIZE]."""

Extent = Literal["all", "half", "parcel", "lot"]

_POINTS = 24
_EDGES: dict[Extent, tuple[int, int]] = {"parcel": (84, 170), "lot": (46, 110), "half": (0, 0), "all": (0, 0)}
_MIDDLE = (0.38, 0.62)  # share of the edge within which a place is in the middle


def parcel(rng: np.random.Generator, extent: Extent) -> Mask:
    """Draw the mask of a parcel: a turned rectangle or an irregular area, with a hard or a feathered edge.

    Args:
        rng: Random generator.
        extent: The whole image, one side of it, a parcel, or a small lot.
    """
    mask: NDArray[np.uint8] = np.zeros((SIZE, SIZE), np.uint8)
    if extent == "all":
        return np.ones((SIZE, SIZE), np.float32)
    if extent == "half":
        cv2.fillPoly(mask, [_side(rng)], 255)
    else:
        low, high = _EDGES[extent]
        width, height = rng.uniform(low, high, 2)
        center = rng.uniform((0.35 * width, 0.35 * height), (SIZE - 0.35 * width, SIZE - 0.35 * height))
        cv2.fillPoly(mask, [_area(rng, center, width, height)], 255)
    soft = rng.uniform(0.4, 4.0) if rng.random() < 0.6 else 0.4
    return _coverage(cv2.GaussianBlur(mask, (0, 0), soft))


def line(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw the center line of a road across the image, straight or bent, float32 [n, 2] (x, y)."""
    angle = rng.uniform(-0.45, 0.45) + (np.pi / 2 if rng.random() < 0.5 else 0.0)
    direction = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-direction[1], direction[0]])
    along = np.linspace(-SIZE, SIZE, 33)
    bend = rng.normal(0, 0.0009) if rng.random() < 0.5 else 0.0
    middle = rng.uniform(0.22 * SIZE, 0.78 * SIZE, 2)
    points = middle + along[:, None] * direction + (bend * along**2)[:, None] * across
    return np.asarray(points, np.float32)


def stroke(points: NDArray[np.float32], width: float) -> Mask:
    """Return the mask of a line of a width in pixels."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.polylines(mask, [fixed(points)], False, 255, max(1, round(width)), cv2.LINE_AA, _SHIFT)
    return _coverage(mask)


def polygon(points: NDArray[np.float32]) -> Mask:
    """Return the mask of a polygon [n, 2]."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(mask, [fixed(points)], 255, cv2.LINE_AA, _SHIFT)
    return _coverage(mask)


def place_of(mask: Mask) -> str:
    """Return the place of a mask: `top left`, `left`, …, `center`; "" for more than a third of the image."""
    weight = float(mask.sum())
    if weight > SIZE * SIZE / 3 or weight == 0:
        return ""
    grid = (np.arange(SIZE) + 0.5) / SIZE
    row, column = (float((mask.sum(axis=axis) * grid).sum() / weight) for axis in (1, 0))
    low, high = _MIDDLE
    words = [("top", row < low), ("bottom", row > high), ("left", column < low), ("right", column > high)]
    return " ".join(word for word, holds in words if holds) or "center"


def union(masks: Sequence[Mask]) -> Mask:
    """Return the largest coverage of several masks; zeros for none."""
    return np.asarray(np.maximum.reduce([np.zeros((SIZE, SIZE), np.float32), *masks]), np.float32)


_SHIFT = 4  # fractional bits of the coordinates that OpenCV draws


def fixed(points: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return points in the fixed-point coordinates of OpenCV's drawing functions."""
    return np.asarray(np.rint(points * (1 << _SHIFT)), np.int32)


def _coverage(mask: object) -> Mask:
    """Return a mask of bytes as numbers from 0 to 1."""
    return np.asarray(mask, np.float32) / np.float32(255)


def _side(rng: np.random.Generator) -> NDArray[np.int32]:
    """Return a polygon that covers one side of the image, with a rough border."""
    across = np.linspace(-20, SIZE + 20, 12)
    border = rng.uniform(0.35, 0.65) * SIZE + rng.uniform(-0.3, 0.3) * (across - SIZE / 2)
    border = border + np.cumsum(rng.normal(0, rng.choice([0.0, 5.0]), len(across)))
    points = np.concatenate([np.stack([across, border], 1), [[SIZE + 20, -20], [-20, -20]]])
    if rng.random() < 0.5:
        points = points[:, ::-1]
    if rng.random() < 0.5:
        points = SIZE - points
    return np.asarray(np.rint(points), np.int32)


def _area(rng: np.random.Generator, center: NDArray[np.float64], width: float, height: float) -> NDArray[np.int32]:
    """Return a rectangle turned by up to 30°, or a rough closed curve, as a polygon."""
    if rng.random() < 0.6:
        points = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    else:
        angle = np.linspace(0, 2 * np.pi, _POINTS, endpoint=False)
        waves = np.arange(2, 6)[:, None]
        radius = 0.5 + (rng.normal(0, 0.06, (4, 1)) * np.cos(waves * angle + rng.uniform(0, 6.3, (4, 1)))).sum(0)
        points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    tilt = rng.uniform(-0.5, 0.5)
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    return np.asarray(np.rint(points * (width, height) @ turn + center), np.int32)
