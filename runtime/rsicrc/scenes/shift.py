"""Shift between two dates, measured by phase correlation (Kuglin and Hines, 1975)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Gray = NDArray[np.float32]
_LEAST_CONTRAST = 2.0  # standard deviation of gray values; flatter parts have no position
_PEAK_WIDTH = 1.2  # standard deviation in pixels to which the peak is smoothed, so that it can be placed between pixels
# Height of the peak in standard deviations of the surface. The highest of 65,536 values of noise is at about 4.5.
_LEAST_PEAK = 8.0


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

    The correlations of all parts are added, so that a shift counts which most parts share.

    Args:
        parts: Gray values [h, w] of the same part of both dates, earlier and later; all of one size.

    Returns:
        The shift; None if the parts have too little contrast, or no shift stands out.
    """
    usable = [part for part in parts if min(float(part[0].std()), float(part[1].std())) >= _LEAST_CONTRAST]
    if not usable:
        return None
    surface = np.mean([_correlation(before, after) for before, after in usable], axis=0)
    height, width = surface.shape
    row, column = (int(position) for position in np.unravel_index(int(surface.argmax()), surface.shape))
    if surface[row, column] - surface.mean() < _LEAST_PEAK * surface.std():
        return None
    columns = column + _vertex(surface[row, [column - 1, column, (column + 1) % width]])
    rows = row + _vertex(surface[[row - 1, row, (row + 1) % height], column])
    return Shift((columns + width / 2) % width - width / 2, (rows + height / 2) % height - height / 2)


def _correlation(before: Gray, after: Gray) -> NDArray[np.float64]:
    """Return the phase correlation [h, w]: its peak is at the position of `before` relative to `after`."""
    height, width = before.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    first, second = (np.fft.rfft2((image - image.mean()) * window) for image in (before, after))
    product = first * np.conj(second)
    # Amplitudes far below the mean are noise, which must not weigh as much as structure.
    product /= np.abs(product) + 1e-3 * np.abs(product).mean() + 1e-12
    frequencies = np.fft.fftfreq(height)[:, np.newaxis] ** 2 + np.fft.rfftfreq(width) ** 2
    smoothing = np.exp(-2 * (np.pi * _PEAK_WIDTH) ** 2 * frequencies)
    surface: NDArray[np.float64] = np.fft.irfft2(product * smoothing, s=before.shape)
    return surface


def _vertex(values: NDArray[np.float64]) -> float:
    """Return the position of the peak of a Gaussian relative to the middle one of three values."""
    low, middle, high = np.log(np.maximum(values, values.max() * 1e-3))
    curvature = 2 * middle - low - high
    return 0.0 if curvature <= 0 else float((high - low) / (2 * curvature))
