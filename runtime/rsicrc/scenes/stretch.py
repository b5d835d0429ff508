"""Stretches of pixel values to 8 bit: one per date and band for the whole scene, recorded in its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import SceneError
from rsicrc.scenes.source import Source
from rsicrc.scenes.warped import Mask, Values
from rsicrc.untrusted.fields import number, sequence

_WHITE = 255
_LARGEST = 1e38


@dataclass(frozen=True)
class Stretch:
    """A linear map of the values of three bands to 0 … 255.

    Attributes:
        low: Value of each band that becomes 0.
        high: Value of each band that becomes 255.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Stretch:
        """Read the output of `to_dict`."""
        low, high = (
            tuple(number(value, name, -_LARGEST, _LARGEST) for value in sequence(fields[name], name, 3))
            for name in ("low", "high")
        )
        if len(low) != 3 or len(high) != 3:
            raise ValueError("a stretch has three low and three high values")
        return cls((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        return {"low": list(self.low), "high": list(self.high)}

    def apply(self, values: Values) -> NDArray[np.uint8]:
        """Return values [h, w, 3] as uint8."""
        low, high = np.array(self.low, np.float32), np.array(self.high, np.float32)
        scaled = (values.astype(np.float32) - low) * (np.float32(_WHITE) / np.maximum(high - low, np.float32(1e-30)))
        rounded: NDArray[np.uint8] = (np.clip(scaled, 0, _WHITE) + np.float32(0.5)).astype(np.uint8)
        return rounded


def measure_stretches(
    sources: Sequence[Source], samples: Sequence[Sequence[tuple[Values, Mask]]], percentiles: tuple[float, float] | None
) -> list[Stretch | None]:
    """Return the stretch of each date.

    Files of 8 bit have none. Files whose values are comparable share one.

    Args:
        sources: The dates.
        samples: For each date the values [h, w, 3] and the masks [h, w] of the same parts of the grid.
        percentiles: Percentiles of the valid values that become 0 and 255; None takes the range of the data type.

    Raises:
        SceneError: A file with decimal numbers has no range of its data type.
    """
    stretches: list[Stretch | None] = []
    for source in sources:
        if source.dtype == "uint8":
            stretches.append(None)
        elif percentiles is None:
            stretches.append(_full_range(source))
        else:
            alike = [one for other, one in zip(sources, samples, strict=True) if other.sensor == source.sensor]
            stretches.append(_percentiles([part for parts in alike for part in parts], percentiles))
    return stretches


def _full_range(source: Source) -> Stretch:
    kind = np.dtype(source.dtype)
    if kind.kind == "f":
        raise SceneError(f"{source.name}: {source.dtype} has no range of values: give percentiles with --stretch 2,98")
    limits = np.iinfo(kind)
    return Stretch((float(limits.min),) * 3, (float(limits.max),) * 3)


def _percentiles(parts: Sequence[tuple[Values, Mask]], percentiles: tuple[float, float]) -> Stretch:
    valid = np.concatenate([values[mask] for values, mask in parts])
    low, high = np.percentile(valid, percentiles, axis=0)
    # One range for all bands: with a range for each band, colors would change (bare land becomes gray), and the model
    # would report changes that are none (docs/measurements/scenes.md).
    return Stretch((float(low.min()),) * 3, (float(high.max()),) * 3)
