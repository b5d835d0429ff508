"""Houses, buildings, trees and roads that are drawn onto photographs, with the sun and the view of each date."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from rsicrc_train.composites.outlines import Mask, polygon, stroke
from rsicrc_train.composites.photographs import Image

_SHADE = 0.42  # brightness of a shadow
_ROOFS = ((96, 84, 78), (70, 68, 70), (142, 128, 118), (120, 84, 66), (172, 164, 156), (52, 50, 52), (150, 108, 84))
_FLAT = ((206, 204, 200), (172, 172, 172), (228, 226, 222), (140, 140, 142), (188, 176, 160))
_PAVED = ((118, 116, 114), (96, 96, 98), (150, 146, 140), (172, 166, 156))


@dataclass(frozen=True)
class View:
    """Sun and view of one date.

    Attributes:
        shadow: Offset (x, y) of a shadow for each pixel of height.
        lean: Offset (x, y) of a roof for each pixel of height, by the parallax of the view.
    """

    shadow: NDArray[np.float32]
    lean: NDArray[np.float32]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> View:
        """Draw a sun from the south-east to the south-west, and a view within 12° of the vertical."""
        angle, length = rng.uniform(-2.6, -0.5), rng.uniform(0.4, 1.6)
        shadow = length * np.array([np.cos(angle), np.sin(angle)])
        return cls(shadow.astype(np.float32), rng.normal(0, 0.1, 2).astype(np.float32))


@dataclass(frozen=True)
class House:
    """House with a hip roof, or building with a flat roof; it stands on the turned rectangle of its four corners."""

    corners: NDArray[np.float32]
    color: tuple[int, int, int]
    height: float
    flat: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, center: NDArray[np.float64], angle: float, *, large: bool) -> House:
        """Draw a house, or a large building, around a center (x, y)."""
        length, width = rng.uniform(50, 110, 2) if large else (rng.uniform(19, 33), rng.uniform(14, 23))
        half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (length / 2, width / 2)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        palette = _FLAT if large else _ROOFS
        color = np.array(palette[rng.integers(len(palette))]) * rng.uniform(0.8, 1.2) + rng.normal(0, 6, 3)
        corners = (half @ turn + center).astype(np.float32)
        red, green, blue = (int(value) for value in np.clip(color, 20, 245))
        return cls(corners, (red, green, blue), rng.uniform(9, 18) if large else rng.uniform(5, 9), large)

    @property
    def footprint(self) -> Mask:
        """Mask of the ground under the house."""
        return polygon(self.corners)

    def render(self, image: Image, view: View, rng: np.random.Generator) -> None:
        """Draw the shadow and the roof into an image."""
        tip = self.corners + self.height * view.shadow
        shadow = polygon(np.asarray(cv2.convexHull(np.concatenate([self.corners, tip])), np.float32)[:, 0])
        _shade(image, np.asarray(cv2.GaussianBlur(shadow, (0, 0), 0.7), np.float32))
        roof = self.corners + self.height * view.lean
        for facet, light in self._facets(roof, view):
            _paint(image, polygon(facet), np.array(self.color, np.float32) * light, rng, grain=5)

    def _facets(self, roof: NDArray[np.float32], view: View) -> list[tuple[NDArray[np.float32], float]]:
        """Return the polygons of the roof and their brightness, by the direction of the sun."""
        if self.flat:
            inner = roof.mean(0) + 0.93 * (roof - roof.mean(0))
            return [(roof, 0.75), (inner.astype(np.float32), 1.0)]
        (start, end), center = (roof[[0, 1]] + roof[[3, 2]]) / 2, roof.mean(0)
        ridge = center + 0.45 * (start - center), center + 0.45 * (end - center)
        polygons = (
            np.array([roof[0], roof[1], ridge[1], ridge[0]]),
            np.array([roof[1], roof[2], ridge[1]]),
            np.array([roof[2], roof[3], ridge[0], ridge[1]]),
            np.array([roof[3], roof[0], ridge[0]]),
        )
        away = view.shadow / (float(np.linalg.norm(view.shadow)) + 1e-6)
        facets = []
        for facet in polygons:
            outward = facet[:2].mean(0) - center
            facing = -float(outward @ away) / (float(np.linalg.norm(outward)) + 1e-6)
            facets.append((facet.astype(np.float32), 1.0 + 0.3 * facing))
        return facets


@dataclass(frozen=True)
class Road:
    """Road along a line, with a surface of one color and a light border."""

    points: NDArray[np.float32]
    width: float
    color: tuple[int, int, int]
    marked: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, points: NDArray[np.float32]) -> Road:
        """Draw a road along a line."""
        color = np.array(_PAVED[rng.integers(len(_PAVED))]) * rng.uniform(0.85, 1.15)
        red, green, blue = (int(value) for value in np.clip(color, 40, 230))
        return cls(points, rng.uniform(12, 26), (red, green, blue), bool(rng.random() < 0.3))

    @property
    def footprint(self) -> Mask:
        """Mask of the surface."""
        return stroke(self.points, self.width)

    def render(self, image: Image, rng: np.random.Generator) -> None:
        """Draw the road into an image."""
        color = np.array(self.color, np.float32)
        _paint(image, stroke(self.points, self.width + 4), color * 1.25, rng, grain=6)
        _paint(image, self.footprint, color, rng, grain=6)
        if self.marked:
            _paint(image, stroke(self.points, 1), np.array([225, 225, 215], np.float32), rng, grain=6)


@dataclass(frozen=True)
class Tree:
    """Crown of a tree around its center (x, y)."""

    center: NDArray[np.float64]
    radius: float
    color: tuple[int, int, int]

    @classmethod
    def draw(cls, rng: np.random.Generator, center: NDArray[np.float64]) -> Tree:
        """Draw a tree."""
        green = rng.uniform(45, 95)
        color = (int(green * rng.uniform(0.7, 1.0)), int(green), int(green * rng.uniform(0.5, 0.85)))
        return cls(center, rng.uniform(5, 12), color)

    def _disc(self, offset: NDArray[np.float32], scale: float) -> Mask:
        angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        ring = np.stack([np.cos(angle), np.sin(angle)], 1) * self.radius * scale
        return polygon((ring + offset + self.center).astype(np.float32))

    @property
    def footprint(self) -> Mask:
        """Mask of the crown."""
        return self._disc(np.zeros(2, np.float32), 1.0)

    def render(self, image: Image, view: View, rng: np.random.Generator) -> None:
        """Draw the shadow and the crown into an image."""
        _shade(image, self._disc(0.8 * self.radius * view.shadow, 1.0))
        color = np.array(self.color, np.float32)
        _paint(image, self.footprint, color, rng, grain=14)
        _paint(image, self._disc(-0.25 * self.radius * view.shadow, 0.5), color * 1.35, rng, grain=14)


Structure = House | Tree


def draw_cars(image: Image, where: Mask, rng: np.random.Generator) -> None:
    """Draw a few cars into an image where a mask is large."""
    rows, columns = np.nonzero(where > 0.9)
    for _ in range(int(rng.integers(0, 7)) if len(rows) else 0):
        place = int(rng.integers(len(rows)))
        angle = rng.uniform(0, np.pi)
        along = np.array([np.cos(angle), np.sin(angle)]) * 4
        across = np.array([-np.sin(angle), np.cos(angle)]) * 2
        center = np.array([columns[place], rows[place]])
        corners = np.array([center + a * along + b * across for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
        color = np.clip(rng.uniform(20, 245) + rng.normal(0, 12, 3), 0, 255).astype(np.float32)
        _paint(image, polygon(corners.astype(np.float32)), color, rng, grain=2)


def _paint(image: Image, mask: Mask, color: NDArray[np.float32], rng: np.random.Generator, grain: float) -> None:
    """Blend a color into an image where a mask is set, with noise of the deviation `grain`."""
    box = _bounds(mask)
    part = mask[box][..., None]
    noise = rng.normal(0, grain, part.shape).astype(np.float32)
    image[box] += part * (color + noise - image[box])


def _shade(image: Image, mask: Mask) -> None:
    """Darken an image where a mask is set."""
    box = _bounds(mask)
    image[box] *= 1 - (1 - _SHADE) * mask[box][..., None]


def _bounds(mask: Mask) -> tuple[slice, slice]:
    """Return the rows and columns of a mask that are not zero: most structures cover a small part of the image."""
    rows, columns = (np.flatnonzero(mask.max(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0), slice(0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
