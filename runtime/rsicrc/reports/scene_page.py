"""The page of a scene: one HTML file with both dates, the change raster and the tiles, without any other file.

The size of the page is bounded: overviews and rasters have at most `_LONGEST` pixels on their longer side, and only the
strongest tiles have crops of their own; the crops of the others are enlarged from the overview.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from rsicrc.files import replacing
from rsicrc.results import rounded
from rsicrc.scenes.reader import CELL, TileReader

if TYPE_CHECKING:
    from rsicrc.scenes.plan import ScenePlan
    from rsicrc.scenes.result import SceneResult
    from rsicrc.scenes.tile import SceneTile

ENDINGS = (".html", ".htm")
MOST_CROPS = 200
_LONGEST = 2048  # pixels of an overview or a raster
_CROP = 256
_QUALITY = 80
_STRIP = 512  # rows of an overview that are read at once
_NO_DATA, _MOST = 255, 254
_LEVELS = 2  # step between the values of the raster: fewer values need fewer bytes
_TEMPLATE = Path(__file__).with_suffix(".html")


def write_scene_page(result: SceneResult, path: Path, *, overwrite: bool = False) -> None:
    """Write the page of a captioned scene.

    Args:
        result: The captioned tiles, of all pairs of dates.
        path: The file (.html).
        overwrite: Replace an existing file.

    Raises:
        SceneError: The file exists, the ending is unknown, or a file of the scene is damaged.
        OSError: The file cannot be written; an existing file is unchanged.
    """
    from rsicrc.scenes.result import check_output

    check_output(path, ENDINGS, overwrite=overwrite)
    # `<` could end the element that holds the data.
    document = json.dumps(_data(result), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    page = _TEMPLATE.read_text(encoding="utf-8").replace("@DATA@", document)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _data(result: SceneResult) -> dict[str, Any]:
    plan = result.plan
    names = [Path(source.name).name for source in plan.sources]
    dates = [
        name if source.time is None else f"{source.time[:10]} ({name})"
        for name, source in zip(names, plan.sources, strict=True)
    ]
    rasters, extent = _rasters(result)
    return {
        "title": f"Changes from {dates[0]} to {dates[-1]}",
        "size": [plan.grid.width, plan.grid.height],
        "dates": dates,
        "pairs": [list(pair) for pair in plan.pairs],
        "threshold": result.threshold,
        "overviews": [_picture(image, "JPEG") for image in _overviews(plan)],
        "rasters": rasters,
        "raster_extent": extent,
        "tiles": _tiles(result),
    }


def _tiles(result: SceneResult) -> list[dict[str, Any]]:
    """Return the tiles with the properties that the page shows; the strongest changed tiles have crops."""
    strongest = sorted(result.selected(False), key=lambda tile: -(tile.change_score or 0))[:MOST_CROPS]
    crops = dict(zip((tile.id for tile in strongest), _crops(result.plan, strongest), strict=True))
    centers = _centers(result)
    return [
        rounded(
            {
                "id": tile.id,
                "pair": tile.pair,
                "box": list(tile.box),
                "caption": tile.caption,
                "score": tile.change_score,
                "caption_score": tile.score,
                "changed": tile.changed,
                "error": tile.error,
                "center": center,
                **({"crops": crops[tile.id]} if tile.id in crops else {}),
            }
        )
        for tile, center in zip(result.tiles, centers, strict=True)
    ]


def _centers(result: SceneResult) -> list[str]:
    """Return latitude and longitude of the center of each tile, as text."""
    from rasterio.crs import CRS

    from rsicrc.scenes.grid import project

    corners = np.array([tile.ring[:4] for tile in result.tiles], np.float64).reshape(-1, 4, 2)
    positions = project(result.plan.grid.crs, CRS.from_epsg(4326), corners.mean(axis=1))
    return [f"{latitude:.6f}, {longitude:.6f}" for longitude, latitude in positions.tolist()]


def _crops(plan: ScenePlan, tiles: list[SceneTile]) -> Iterator[list[str]]:
    """Yield the images of both dates of each tile."""
    with closing(TileReader(plan)) as reader:
        for tile in tiles:
            images = (Image.fromarray(reader.read(date, tile.box)[0]) for date in plan.pairs[tile.pair])
            yield [_picture(image.resize((_CROP, _CROP), Image.Resampling.BICUBIC), "JPEG") for image in images]


def _overviews(plan: ScenePlan) -> Iterator[Image.Image]:
    """Yield each date on a coarser grid, read by strips; GDAL uses the overviews of the files."""
    from affine import Affine

    grid = plan.grid
    factor = max(1.0, max(grid.width, grid.height) / _LONGEST)
    width, height = max(1, math.ceil(grid.width / factor)), max(1, math.ceil(grid.height / factor))
    across, down = grid.width / width, grid.height / height
    coarse = replace(
        grid,
        transform=grid.transform @ Affine.scale(across, down),
        width=width,
        height=height,
        pixel_size=grid.pixel_size * factor,
    )
    offsets = [(columns / across, rows / down) for columns, rows in plan.offsets]
    with closing(TileReader(replace(plan, grid=coarse, offsets=offsets))) as reader:
        for date in range(len(plan.sources)):
            overview = Image.new("RGB", (width, height))
            for top in range(0, height, _STRIP):
                pixels, _ = reader.read(date, (0, top, width, min(top + _STRIP, height)))
                overview.paste(Image.fromarray(pixels), (0, top))
            yield overview


def _rasters(result: SceneResult) -> tuple[list[str], list[int]]:
    """Return the change raster of each pair of dates, and its size in pixels of the grid.

    A pixel of a reduced raster is the largest of its values, so that small changes stay visible.
    """
    from rsicrc.scenes.change_raster import NODATA, change_rows, raster_size

    height, width = raster_size(result)
    factor = math.ceil(max(height, width) / _LONGEST)
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    reduced = np.full((len(result.plan.pairs), rows, columns), NODATA, np.float32)
    for start, values in change_rows(result):
        for offset in range(values.shape[1]):
            padded = np.full((len(values), columns * factor), NODATA, np.float32)
            padded[:, :width] = values[:, offset]
            target = reduced[:, (start + offset) // factor]
            np.maximum(target, padded.reshape(len(values), columns, factor).max(axis=2), out=target)
    levels = (np.rint(reduced.clip(0, 1) * (_MOST // _LEVELS)) * _LEVELS).astype(np.uint8)
    levels[reduced == NODATA] = _NO_DATA
    pictures = [_picture(Image.fromarray(each), "PNG") for each in levels]
    return pictures, [columns * factor * CELL, rows * factor * CELL]


def _picture(image: Image.Image, kind: str) -> str:
    """Return an image as a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=_QUALITY, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
