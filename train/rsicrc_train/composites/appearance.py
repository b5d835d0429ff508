"""Appearance of a photograph on one date: season, light, haze, sensor and position; no change of the scene."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rsicrc_train.composites.photographs import SIZE, Image

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def grow(rng: np.random.Generator, image: Image, texture: Image, strength: float) -> Image:
    """Replace a share of the fine texture of plants by that of another photograph, as another season would.

    Args:
        rng: Random generator.
        image: View of the scene.
        texture: View of any ground, from which only the fine texture is taken.
        strength: Largest share that is replaced, from 0 to 1.
    """
    share = rng.uniform(0, strength)
    cells = int(rng.integers(14, 50))
    plants = np.float32(share) * _plants(image)[..., None]
    fine = image - _coarse(image, cells)
    other = (texture - _coarse(texture, cells)) @ _LUMA
    mixed: Image = image + plants * (other[..., None] - fine)
    return mixed


def season(rng: np.random.Generator, image: Image) -> Image:
    """Turn plants greener or browner, and shade the ground by smooth random patterns."""
    if rng.random() < 0.5:
        tint = np.array([rng.normal(0, 16), rng.normal(0, 10), rng.normal(0, 10)], np.float32)
        image = image + _plants(image)[..., None] * tint
    if rng.random() < 0.5:
        image = image * np.exp(np.float32(rng.normal(0.1, 0.05)) * smooth(rng, 5))[..., None]
    return image


def photograph(rng: np.random.Generator, image: Image) -> NDArray[np.uint8]:
    """Return the image as the camera of one date takes it, uint8 [SIZE, SIZE, 3].

    Position (shift of up to 3 pixels, a small rotation, an uneven relief), haze, gamma, color cast with an own gain of
    green, exposure, contrast with clipping, blur or sharpening, noise, and JPEG compression.
    """
    image = _moved(rng, image) / np.float32(255)
    if rng.random() < 0.12:
        haze = np.float32(rng.uniform(0.05, 0.35)) * np.clip(0.6 + 0.5 * smooth(rng, 3), 0, 1)[..., None]
        image = image + haze * (np.float32(0.88) - image)
    image = np.clip(image, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.22)))
    image *= np.exp(rng.normal(0, 0.18) + rng.normal(0, 0.07, 3)).astype(np.float32)
    mean, contrast = image.mean(), np.float32(np.exp(rng.normal(0.05, 0.22)))
    image = (image - mean) * contrast + np.float32(mean + rng.normal(0, 0.05))
    draw = rng.random()
    if draw < 0.4:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.3)), np.float32)
    elif draw < 0.7:
        image = image + np.float32(rng.uniform(0.4, 1.5)) * (
            image - cv2.GaussianBlur(image, (0, 0), rng.uniform(0.8, 2))
        )
    image = image + np.float32(rng.uniform(0.002, 0.02)) * rng.standard_normal(image.shape, np.float32)
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.3:
        _, packed = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(55, 95))))
        pixels = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return pixels


def smooth(rng: np.random.Generator, cells: int) -> NDArray[np.float32]:
    """Return a smooth random pattern [SIZE, SIZE] of about unit variance, from a grid of `cells` × `cells` numbers."""
    coarse = rng.normal(0, 1, (cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC), np.float32)


def blend_colors(rng: np.random.Generator, image: Image, like: Image) -> Image:
    """Bring mean and deviation of an image's colors a random part of the way to those of another image."""
    share = rng.uniform(0.1, 0.6)
    (mean, deviation), (other_mean, other_deviation) = (_levels(part) for part in (image, like))
    factor = 1 - share + share * other_deviation / deviation
    blended: Image = (image - mean) * factor + (mean + share * (other_mean - mean))
    return blended


def _coarse(image: Image, cells: int) -> Image:
    """Return an image without details smaller than about a cell of a grid of `cells` × `cells`."""
    small = cv2.resize(image, (cells, cells), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR), np.float32)


def _levels(image: Image) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and deviation of each channel."""
    mean, deviation = cv2.meanStdDev(image)
    return mean[:, 0].astype(np.float32), deviation[:, 0].astype(np.float32) + 1


def _plants(image: Image) -> NDArray[np.float32]:
    """Return how much every pixel looks like plants or soil, from 0 to 1: greenish or brownish, and not bright."""
    soft = _coarse(image, SIZE // 4)
    green = soft[..., 1] - soft[..., 2]
    bright = soft @ _LUMA
    return np.asarray(np.clip((green + 4) / 16, 0, 1) * np.clip((190 - bright) / 60, 0, 1), np.float32)


def _moved(rng: np.random.Generator, image: Image) -> Image:
    """Shift an image by up to 3 pixels, turn and scale it slightly, and let its relief lean for some images."""
    columns, rows = np.meshgrid(np.arange(SIZE, dtype=np.float32), np.arange(SIZE, dtype=np.float32))
    turn, scale = rng.normal(0, 0.004, 2)
    dx, dy = rng.uniform(-3, 3, 2)
    x = columns * (1 + scale) - turn * (rows - SIZE / 2) + dx
    y = rows * (1 + scale) + turn * (columns - SIZE / 2) + dy
    if rng.random() < 0.4:
        x, y = x + rng.uniform(0, 1.5) * smooth(rng, 8), y + rng.uniform(0, 1.5) * smooth(rng, 8)
    x, y = x.astype(np.float32), y.astype(np.float32)
    return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), np.float32)
