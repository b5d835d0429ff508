"""Shift between two dates, measured by phase correlation (Kuglin and Hines, 1975)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Gray = NDArray[np.float32]
_LEAST_CONTRAST = 2.0  # standard deviation of gray values; flatter parts have no position
_LEAST_PARTS = 2
_AGREEMENT = 1.0  # pixels between the shift of a part and the common shift
_NEIGHBORS = 2  # pixels on each side of the peak that place it between pixels


@dataclass(frozen=True)
class Shift:
    """Position of the content of the earlier date relative to the later date.

    Attributes:
        columns: Pixels to the right.
        rows: Pixels downward.
    """

    columns: float
    rows: float

    @property
    def length(self) -> float:
        """Length in pixels."""
        return float(np.hypot(self.columns, self.rows))


def measure_shift(parts: Sequence[tuple[Gray, Gray]]) -> Shift | None:
    """Return the common shift of several parts of two dates.

    Args:
        parts: Gray values [h, w] of the same part of both dates, earlier and later.

    Returns:
        The median of the shifts that agree; None if the parts have too little contrast or do not agree.
    """
    found = [
        phase_correlation(before, after)
        for before, after in parts
        if min(float(before.std()), float(after.std())) >= _LEAST_CONTRAST
    ]
    if len(found) < _LEAST_PARTS:
        return None
    shifts = np.array(found)
    center = np.median(shifts, axis=0)
    close = np.hypot(*(shifts - center).T) <= _AGREEMENT
    if close.sum() < max(_LEAST_PARTS, len(found) / 2):
        return None
    columns, rows = np.median(shifts[close], axis=0).tolist()
    return Shift(columns, rows)


def phase_correlation(before: Gray, after: Gray) -> tuple[float, float]:
    """Return the shift (columns, rows) of the content of `before` relative to `after`, in pixels.

    Args:
        before: float32 [h, w].
        after: float32 [h, w].
    """
    height, width = before.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    first, second = (np.fft.rfft2((image - image.mean()) * window) for image in (before, after))
    product = first * np.conj(second)
    # Amplitudes far below the mean are noise, which must not weigh as much as structure.
    product /= np.abs(product) + 1e-3 * np.abs(product).mean() + 1e-12
    surface = np.fft.irfft2(product, s=before.shape)
    peak_row, peak_column = np.unravel_index(int(surface.argmax()), surface.shape)
    steps = np.arange(-_NEIGHBORS, _NEIGHBORS + 1)
    around = surface[np.ix_((peak_row + steps) % height, (peak_column + steps) % width)]
    weights = np.maximum(around, 0)
    total = float(weights.sum())
    row = peak_row + float((weights.sum(axis=1) * steps).sum()) / total
    column = peak_column + float((weights.sum(axis=0) * steps).sum()) / total
    return (column + width / 2) % width - width / 2, (row + height / 2) % height - height / 2
