"""Options of a scene: area, bands, grid, stretch and validity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from rsicrc.errors import ArgumentError

MOST_OVERLAP = 0.9


class SceneSettings(TypedDict, total=False):
    """Single fields of `SceneOptions`, as keyword arguments."""

    bands: tuple[int, int, int] | None
    bbox: tuple[float, float, float, float] | None
    bbox_crs: str
    aoi: Path | str | None
    resolution: float | None
    overlap: float
    stretch: tuple[float, float] | None
    stretch_from: Path | str | None
    align: bool
    min_valid: float
    any_resolution: bool
    dates: tuple[str, ...]


@dataclass(frozen=True)
class SceneOptions:
    """Options of a scene.

    Attributes:
        bands: Numbers of the red, green and blue band, from 1; None finds them by their color interpretation.
        bbox: Bounds (x_min, y_min, x_max, y_max) of the area to caption, in `bbox_crs`; None for the whole overlap.
        bbox_crs: Reference system of `bbox`, for example "EPSG:4326".
        aoi: GeoJSON file with polygons (longitude and latitude); only tiles that touch one of the polygons are used.
        resolution: Pixel size of the common grid in meters; by default that of the model.
        overlap: Smallest overlap of neighboring tiles as a share of their side.
        stretch: Percentiles of the values that become 0 and 255, for files with more than 8 bits; None takes the range
            of the data type.
        stretch_from: An earlier output, whose stretch is used again.
        align: Correct the measured shift between the dates.
        min_valid: Smallest share of valid pixels of a tile.
        any_resolution: Take pixels as they are, also if they are much coarser or finer than those of the training.
        dates: Time of each file (ISO 8601); by default from the files.

    Raises:
        ArgumentError: A value is out of its range.
    """

    bands: tuple[int, int, int] | None = None
    bbox: tuple[float, float, float, float] | None = None
    bbox_crs: str = "EPSG:4326"
    aoi: Path | str | None = None
    resolution: float | None = None
    overlap: float = 0.25
    stretch: tuple[float, float] | None = (2.0, 98.0)
    stretch_from: Path | str | None = None
    align: bool = False
    min_valid: float = 0.5
    any_resolution: bool = False
    dates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bands is not None and (len(self.bands) != 3 or min(self.bands) < 1):
            raise ArgumentError(f"bands must be three numbers from 1, red, green and blue, not {self.bands}")
        if self.bbox is not None and not (
            all(map(math.isfinite, self.bbox)) and self.bbox[0] < self.bbox[2] and self.bbox[1] < self.bbox[3]
        ):
            raise ArgumentError(f"bbox must be x_min, y_min, x_max, y_max with min < max, not {self.bbox}")
        if self.resolution is not None and not 0 < self.resolution < math.inf:
            raise ArgumentError(f"resolution must be a number of meters above 0, not {self.resolution}")
        if not 0 <= self.overlap <= MOST_OVERLAP:
            raise ArgumentError(f"overlap must be from 0 to {MOST_OVERLAP}, not {self.overlap}")
        if self.stretch is not None and not 0 <= self.stretch[0] < self.stretch[1] <= 100:
            raise ArgumentError(f"stretch must be two percentiles, low < high, from 0 to 100, not {self.stretch}")
        if not 0 < self.min_valid <= 1:
            raise ArgumentError(f"min_valid must be above 0 and at most 1, not {self.min_valid}")
