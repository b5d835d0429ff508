"""Regions of connected change in the change raster, with the caption of their strongest tile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.scenes.change_raster import change_rows, raster_size, raster_transform
from rsicrc.scenes.features import AREA, Feature, signed_area
from rsicrc.scenes.reader import CELL
from rsicrc.scenes.result import SceneResult
from rsicrc.scenes.tile import SceneTile


def change_regions(result: SceneResult) -> list[Feature]:
    """Return the outlines of connected cells whose value is at least the change threshold.

    The mask of one pair of dates is in memory, one byte for a cell of 8 × 8 pixels.
    """
    from rasterio.features import shapes

    transform = raster_transform(result)
    factor = result.plan.grid.crs.linear_units_factor[1] ** 2
    features = []
    for pair, dates in enumerate(result.plan.pairs):
        # All captioned tiles: a calibration may decide that the tile of a cell above the threshold has not changed.
        tiles = [tile for tile in result.tiles if tile.pair == pair and tile.similarity is not None]
        plan = replace(result.plan, pairs=[dates])
        mask = np.zeros(raster_size(result), np.uint8)
        for start, rows in change_rows(replace(result, plan=plan, tiles=[replace(tile, pair=0) for tile in tiles])):
            mask[start : start + rows.shape[1]] = rows[0] >= result.threshold
        boxes = np.array([tile.box for tile in tiles]).reshape(-1, 4)
        outlines = shapes(mask, mask=mask > 0, connectivity=8)
        for number, (outline, _) in enumerate(outlines):
            cells = [_oriented(ring, clockwise=position > 0) for position, ring in enumerate(outline["coordinates"])]
            strongest = _strongest(tiles, boxes, mask, cells[0])
            rings = tuple(tuple(transform @ (x, y) for x, y in reversed(ring)) for ring in cells)
            area = factor * sum(signed_area(ring) for ring in rings)
            properties = {**strongest.to_dict(), "id": f"{pair}-region-{number}", AREA: round(area, 3)}
            features.append(Feature(rings, properties))
    return features


def _oriented(ring: list[Any], *, clockwise: bool) -> list[tuple[float, float]]:
    """Return a ring in cells, whose rows run downward: counterclockwise on the map after it is reversed."""
    points = [(float(x), float(y)) for x, y in ring]
    return points if (signed_area(points) > 0) != clockwise else points[::-1]


def _strongest(
    tiles: list[SceneTile], boxes: NDArray[Any], mask: NDArray[np.uint8], outline: list[tuple[float, float]]
) -> SceneTile:
    """Return the tile with the largest change score among those that overlap an outline."""
    from rasterio.features import rasterize

    points = np.array(outline)
    (left, top), (right, bottom) = points.min(axis=0).astype(int), points.max(axis=0).astype(int)
    inside = rasterize(
        [{"type": "Polygon", "coordinates": [[(x - left, y - top) for x, y in outline]]}], (bottom - top, right - left)
    )
    inside &= mask[top:bottom, left:right]
    rows, columns = np.nonzero(inside)
    near = np.flatnonzero(
        (boxes[:, 0] < right * CELL)
        & (boxes[:, 2] > left * CELL)
        & (boxes[:, 1] < bottom * CELL)
        & (boxes[:, 3] > top * CELL)
    )
    x, y = (columns + left + 0.5) * CELL, (rows + top + 0.5) * CELL
    for index in sorted(near.tolist(), key=lambda index: -(tiles[index].change_score or 0.0)):
        box = boxes[index]
        if ((x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])).any():
            return tiles[index]
    raise ValueError("no tile overlaps the region")
