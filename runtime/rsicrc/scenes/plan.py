"""The plan of a scene for one model: the common grid, tiles, stretches and shifts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rsicrc.errors import SceneError, printable
from rsicrc.inputs.tiles import Box, tile_boxes
from rsicrc.manifest import Manifest
from rsicrc.scenes.area import Area
from rsicrc.scenes.grid import (
    SAME_SIZE,
    Bounds,
    Grid,
    box_bounds,
    footprint,
    ground_size,
    intersection,
    make_grid,
    map_system,
)
from rsicrc.scenes.options import SceneOptions
from rsicrc.scenes.shift import Shift, measure_shift
from rsicrc.scenes.source import Source, open_dataset, raster_settings
from rsicrc.scenes.stretch import Stretch, measure_stretches
from rsicrc.scenes.warped import Mask, Values, read_box

_MOST_TILES = 4_000_000
_SAMPLES = 24  # tiles from which stretches and shifts are measured
_DENSER = 8  # factor on their number if none has valid pixels
_LEAST_SAMPLE = 0.5  # valid share of a tile from which a shift is measured
_COARSEST = 2.0  # factor between the pixel sizes of a scene and of the training


@dataclass(frozen=True)
class ScenePlan:
    """The common grid of all dates, and the tiles on it.

    Attributes:
        sources: The dates, in the order of time.
        options: The options of the scene.
        grid: The grid.
        side: Side of a tile in pixels of the grid.
        boxes: (left, top, right, bottom) of each tile in pixels, row by row.
        pairs: Positions in `sources` of the earlier and the later date of each pair.
        stretches: Stretch of each date; None for files of 8 bit.
        shifts: Measured shift of each pair in pixels; None if it could not be measured.
        offsets: Position of each date's content that is corrected while reading, in pixels (columns, rows).
        overlap: Share of the area of the latest image that all dates cover.
        notes: Warnings about the grid and the bands.
    """

    sources: tuple[Source, ...]
    options: SceneOptions
    grid: Grid
    side: int
    boxes: Sequence[Box]
    pairs: Sequence[tuple[int, int]]
    stretches: Sequence[Stretch | None]
    shifts: Sequence[Shift | None]
    offsets: Sequence[tuple[float, float]]
    overlap: float
    notes: Sequence[str]

    def grid_of(self, date: int) -> Grid:
        """Return the grid from which the pixels of a date are read: the common grid, with the shift corrected."""
        columns, rows = self.offsets[date]
        return self.grid if columns == rows == 0 else self.grid.moved(columns, rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts that outputs record, as plain containers for JSON."""
        return {
            "sources": [source.name for source in self.sources],
            "times": [source.time for source in self.sources],
            "bands": [list(source.bands) for source in self.sources],
            "crs": self.grid.name,
            "transform": list(self.grid.transform)[:6],
            "size": [self.grid.width, self.grid.height],
            "pixel_size": self.grid.pixel_size,
            "tile": self.side,
            "stretch": [None if each is None else each.to_dict() for each in self.stretches],
            "shift": [None if each is None else [each.columns, each.rows] for each in self.shifts],
            "aligned": self.options.align,
        }

    def line(self) -> str:
        """Return the plan in one line: grid, overlap, tiles, bands, stretch and shift."""
        grid = self.grid
        bands = "; ".join(dict.fromkeys(",".join(map(str, source.bands)) for source in self.sources))
        known = [each for each in self.stretches if each is not None]
        low_high = [
            ", ".join(f"{low:g} to {high:g}" for low, high in zip(each.low, each.high, strict=True))
            for each in dict.fromkeys(known)
        ]
        shifts = ", ".join("not measurable" if each is None else f"{each.length:.2f} px" for each in self.shifts)
        return (
            f"grid {grid.name}, {grid.width} x {grid.height} pixels of {grid.pixel_size:g} m; "
            f"overlap {self.overlap:.0%} of the latest image; {len(self.boxes)} tiles of {self.side} x {self.side}; "
            f"bands {bands}; stretch {'; '.join(low_high) or 'none (8 bit)'}; shift between the dates {shifts}"
        )


def make_plan(
    sources: Sequence[Source],
    options: SceneOptions,
    manifest: Manifest,
    stretches: Sequence[Mapping[str, Any] | None] | None = None,
) -> ScenePlan:
    """Choose the grid and the tiles, and measure stretches and shifts from a fixed sample of tiles.

    Args:
        sources: The dates, in the order of time.
        options: The options.
        manifest: Manifest of the model.
        stretches: Stretches of an earlier output.

    Raises:
        SceneError: The dates do not overlap, or their pixels are too coarse for the model.
    """
    crs = map_system(sources[-1])
    notes = _band_notes(sources)
    area = Area(options.aoi, crs) if options.aoi is not None else None
    common, share = _common_area(sources, options, crs, area)
    pixel_size, size_notes = _pixel_size(sources, options, manifest)
    side = manifest.image_side or manifest.preprocessing.size
    tiles = math.prod(
        (high - low) / (pixel_size * side / 2) + 1 for low, high in ((common[0], common[2]), (common[1], common[3]))
    )
    if tiles > _MOST_TILES:
        raise SceneError(f"about {tiles:.0f} tiles are too many for one run: give parts with --bbox")
    grid = make_grid(sources[-1], crs, common, pixel_size, side)
    boxes = tile_boxes(grid.width, grid.height, side, options.overlap)
    if area is not None:
        boxes = [box for box in boxes if area.touches(grid, box)]
        if not boxes:
            raise SceneError(f"{options.aoi}: no polygon lies where the dates overlap")
    plan = ScenePlan(
        sources=tuple(sources),
        options=options,
        grid=grid,
        side=side,
        boxes=boxes,
        pairs=[(date, date + 1) for date in range(len(sources) - 1)],
        stretches=[None] * len(sources),
        shifts=[None] * (len(sources) - 1),
        offsets=[(0.0, 0.0)] * len(sources),
        overlap=share,
        notes=[*notes, *size_notes],
    )
    return _measured(plan, stretches)


def _common_area(sources: Sequence[Source], options: SceneOptions, crs: Any, area: Area | None) -> tuple[Bounds, float]:
    """Return the bounds that all dates and the requested areas share, and the covered share of the latest image."""
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    prints = [footprint(source, crs) for source in sources]
    common = intersection(prints)
    if common is None:
        raise SceneError(
            f"{printable(sources[0].name)} and {printable(sources[-1].name)} do not overlap: "
            f"{_shown(prints[0])} and {_shown(prints[-1])} in {crs.to_string()[:40]}"
        )
    share = _size(common) / _size(prints[-1])
    if options.bbox is not None:
        try:
            box_crs = CRS.from_user_input(options.bbox_crs)
        except CRSError as error:
            raise SceneError(f"--bbox-crs {options.bbox_crs}: not a reference system, such as EPSG:4326") from error
        inside = intersection([common, box_bounds(options.bbox, box_crs, crs)])
        if inside is None:
            raise SceneError("--bbox lies outside the area that the dates share: check the order x,y and --bbox-crs")
        common = inside
    if area is not None:
        inside = intersection([common, area.bounds])
        if inside is None:
            raise SceneError(f"{options.aoi}: lies outside the area that the dates share")
        common = inside
    return common, share


def _pixel_size(sources: Sequence[Source], options: SceneOptions, manifest: Manifest) -> tuple[float, list[str]]:
    """Return the pixel size of the grid in meters, and warnings.

    Raises:
        SceneError: The pixels are coarser than those of the training by more than a factor of two.
    """
    sizes = [math.sqrt(math.prod(ground_size(source))) for source in sources]
    native = _nominal_size(sources[-1], sizes[-1])
    wanted = manifest.pixel_size
    if wanted is None:
        size = options.resolution or native
        note = "the model folder does not say the pixel size of its training images"
        return size, [f"{note}: pixels of {size:g} m are taken as they are"]
    coarsest, name = max(
        zip([*sizes, options.resolution or 0], [*(s.name for s in sources), "--resolution"], strict=True)
    )
    if coarsest > _COARSEST * wanted * (1 + SAME_SIZE):
        text = f"{printable(name)}: pixels of {coarsest:.3g} m, but the model was trained on {wanted:g} m"
        if not options.any_resolution:
            raise SceneError(
                f"{text}: its captions would mean nothing. "
                "Give finer images, or --any-resolution to take them as they are"
            )
        return options.resolution or native, [f"{text}: the captions may be wrong"]
    if options.any_resolution:
        return options.resolution or native, []
    size = options.resolution or wanted
    return (native if abs(native / size - 1) <= SAME_SIZE else size), []


def _nominal_size(source: Source, measured: float) -> float:
    """Return the pixel size of a file: as its transform has it if the grid uses that, else as measured."""
    if map_system(source) == source.crs and math.isclose(source.transform.a, -source.transform.e, rel_tol=1e-6):
        return float(source.transform.a * source.crs.linear_units_factor[1])
    return float(f"{measured:.3g}")


def _band_notes(sources: Sequence[Source]) -> list[str]:
    unnamed = [source for source in sources if not source.named]
    if unnamed and len({source.count for source in sources}) > 1:
        raise SceneError(
            f"{printable(sources[0].name)} has {sources[0].count} bands and {printable(sources[-1].name)} "
            f"{sources[-1].count}, and they have no names: give red, green and blue with --bands"
        )
    return [
        f"{printable(source.name)}: the bands have no color names; bands 1, 2 and 3 are taken as red, green and blue "
        "(--bands takes others)"
        for source in unnamed
    ]


def _measured(plan: ScenePlan, stretches: Sequence[Mapping[str, Any] | None] | None) -> ScenePlan:
    """Return the plan with stretches and shifts; with `align`, the shifts are corrected and measured again."""
    samples = _samples(plan)
    if stretches is not None:
        if [each is None for each in stretches] != [source.dtype == "uint8" for source in plan.sources]:
            raise SceneError(f"{plan.options.stretch_from}: its stretches are for other dates or data types")
        known = [None if each is None else Stretch.from_dict(each) for each in stretches]
    else:
        known = measure_stretches(plan.sources, samples, plan.options.stretch)
    plan = replace(plan, stretches=known)
    shifts = _shifts(plan, samples)
    if plan.options.align and any(shifts):
        plan = replace(plan, offsets=_offsets(shifts))
        shifts = _shifts(plan, _samples(plan))
    notes = [
        f"{printable(plan.sources[later].name)}: the dates are shifted by {shift.length:.1f} pixels "
        f"({shift.columns:+.1f} columns, {shift.rows:+.1f} rows)"
        + ("; --align corrects a shift of the whole image" if not plan.options.align else " after --align")
        for (_, later), shift in zip(plan.pairs, shifts, strict=True)
        if shift is not None and shift.length > 1
    ]
    return replace(plan, shifts=shifts, notes=[*plan.notes, *notes])


def _offsets(shifts: Sequence[Shift | None]) -> list[tuple[float, float]]:
    """Return the position of each date relative to the last one: the sum of the shifts after it."""
    offsets = [(0.0, 0.0)]
    for shift in reversed(shifts):
        columns, rows = offsets[0]
        if shift is not None:
            columns, rows = columns + shift.columns, rows + shift.rows
        offsets.insert(0, (columns, rows))
    return offsets


def _samples(plan: ScenePlan) -> list[list[tuple[Values, Mask]]]:
    """Read the same evenly spaced tiles of every date, without tiles that have no pixel that is valid in all dates.

    More tiles are read as long as none has such a pixel.

    Raises:
        SceneError: No tile has such a pixel.
    """
    count = min(_SAMPLES, len(plan.boxes))
    while True:
        samples = list(_common_parts(plan, count))
        if samples:
            return [[parts[date] for parts in samples] for date in range(len(plan.sources))]
        if count == len(plan.boxes):
            raise SceneError("no valid pixel where the dates overlap: all are nodata or transparent")
        count = min(_DENSER * count, len(plan.boxes))


def _common_parts(plan: ScenePlan, count: int) -> Iterator[list[tuple[Values, Mask]]]:
    half = len(plan.boxes) // (2 * count)
    with raster_settings(*(source.name for source in plan.sources)), ExitStack() as opened:
        datasets = [opened.enter_context(open_dataset(source.path, source.name)) for source in plan.sources]
        for number in range(count):
            box = plan.boxes[number * len(plan.boxes) // count + half]
            parts = [
                read_box(dataset, source, plan.grid_of(date), box)
                for date, (dataset, source) in enumerate(zip(datasets, plan.sources, strict=True))
            ]
            if np.logical_and.reduce([valid for _, valid in parts]).any():
                yield parts


def _shifts(plan: ScenePlan, samples: Sequence[Sequence[tuple[Values, Mask]]]) -> list[Shift | None]:
    return [measure_shift(list(_gray_parts(plan, samples, earlier, later))) for earlier, later in plan.pairs]


def _gray_parts(
    plan: ScenePlan, samples: Sequence[Sequence[tuple[Values, Mask]]], earlier: int, later: int
) -> Iterator[tuple[Any, Any]]:
    for before, after in zip(samples[earlier], samples[later], strict=True):
        valid = before[1] & after[1]
        if valid.mean() < _LEAST_SAMPLE:
            continue
        grays = []
        for (values, _), date in ((before, earlier), (after, later)):
            stretch = plan.stretches[date]
            gray = (values if stretch is None else stretch.apply(values)).mean(axis=2, dtype=np.float32)
            grays.append(np.where(valid, gray, gray[valid].mean()).astype(np.float32))
        yield grays[0], grays[1]


def _size(bounds: Bounds) -> float:
    return (bounds[2] - bounds[0]) * (bounds[3] - bounds[1])


def _shown(bounds: Bounds) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in bounds) + ")"
