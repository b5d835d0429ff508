"""A large georeferenced pair of images as GeoTIFF files, with its changes as GeoJSON."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import ArgumentError, DataError
from rsicrc_train.synth.cells import Change, draw_cell
from rsicrc_train.synth.dataset import require_empty
from rsicrc_train.synth.terrain import SIZE

BEFORE_FILE, AFTER_FILE, CHANGES_FILE = "before.tif", "after.tif", "changes.geojson"
PIXEL_SIZE = 0.5
"""Side of a pixel in meters."""

_CRS, _LEFT, _TOP = "EPSG:32632", 500_000.0, 5_400_000.0
# Neighboring cells overlap and are blended there, so that the scene has no hard seams. The step is also the side of the
# blocks of the files (a multiple of 16), so that every block is written once.
_BLEND = 16
_STEP = SIZE - _BLEND
_LARGEST = 200_000
_WGS84_DIGITS = 7
_DATES = {BEFORE_FILE: "2018:06:01 10:00:00", AFTER_FILE: "2022:06:01 10:00:00"}

Image = NDArray[np.uint8]


def generate_scene(
    directory: Path, width: int, height: int, seed: int, progress: Callable[[int], None] | None = None
) -> None:
    """Write a large pair: `before.tif`, `after.tif`, and last `changes.geojson` with the true changes.

    The files are RGB, uint8, tiled, in UTM zone 32 N with pixels of half a meter. Only two rows of cells are in memory.
    The same seed and size give the same bytes. `changes.geojson` has a rectangle for each change, in WGS 84, with the
    properties `kind`, `caption`, `captions` and `pixels` (left, top, right, bottom in pixels of the files, the last two
    exclusive). Captions describe places within a cell of 256 pixels, not within the scene.

    Args:
        directory: Directory to write to; created if it does not exist.
        width: Width in pixels, from 256.
        height: Height in pixels, from 256.
        seed: Seed of the generator, from 0.
        progress: Callback with the number of rows of pixels done since the last call.

    Raises:
        ArgumentError: The seed or a side is out of range.
        FileExistsError: The directory is not empty.
        DataError: rasterio is not installed.
        OSError: A file cannot be written.
    """
    if seed < 0:
        raise ArgumentError(f"seed must be 0 or more, not {seed}")
    if not (SIZE <= width <= _LARGEST and SIZE <= height <= _LARGEST):
        raise ArgumentError(f"a scene has sides of {SIZE} to {_LARGEST} pixels, not {width} × {height}")
    if find_spec("rasterio") is None:
        raise DataError("scenes need rasterio, which is not installed: pip install 'rsicrc[geo]'")
    directory = Path(directory)
    require_empty(directory)
    directory.mkdir(parents=True, exist_ok=True)

    import rasterio
    from rasterio.windows import Window

    features: list[dict[str, Any]] = []
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=64 << 20, GDAL_NUM_THREADS=1))
        files = [stack.enter_context(_create(directory / name, width, height)) for name in (BEFORE_FILE, AFTER_FILE)]
        for top, images, changes in _strips(seed, width, height):
            rows = images[0].shape[0]
            for file, image in zip(files, images, strict=True):
                file.write(image.transpose(2, 0, 1), window=Window(0, top, width, rows))
            features += [_feature(change, box) for change, box in changes]
            if progress is not None:
                progress(rows)
    target = directory / CHANGES_FILE
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    partial.replace(target)


def _create(path: Path, width: int, height: int) -> Any:
    """Open a new GeoTIFF file for writing."""
    import rasterio

    file = rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=3,
        dtype="uint8",
        crs=_CRS,
        transform=rasterio.Affine(PIXEL_SIZE, 0, _LEFT, 0, -PIXEL_SIZE, _TOP),
        photometric="RGB",
        tiled=True,
        blockxsize=_STEP,
        blockysize=_STEP,
        compress="deflate",
        zlevel=1,
        predictor=2,
        bigtiff="if_safer",
    )
    file.update_tags(TIFFTAG_DATETIME=_DATES[path.name])
    return file


Box = tuple[int, int, int, int]


def _strips(seed: int, width: int, height: int) -> Iterator[tuple[int, list[Image], list[tuple[Change, Box]]]]:
    """Yield strips from top to bottom: first row, both images [rows, width, 3], and changes with their boxes."""
    overhang: list[Image] = []
    for row, top in enumerate(range(0, height, _STEP)):
        strips, changes = _draw_row(seed, row, width, is_whole=top + SIZE <= height)
        for strip, above in zip(strips, overhang, strict=False):
            _blend(above, strip, axis=0)
        overhang = [strip[_STEP:] for strip in strips]
        rows = min(_STEP, height - top)
        yield top, [strip[:rows] for strip in strips], changes


def _draw_row(seed: int, row: int, width: int, is_whole: bool) -> tuple[list[Image], list[tuple[Change, Box]]]:
    """Draw a row of cells: both images [256, width, 3], and the changes with their boxes in pixels of the scene.

    Cells that the edge of the scene cuts have no change, because a change that is cut off cannot be described.
    """
    columns = -(-width // _STEP)
    strips: list[Image] = [np.zeros((SIZE, columns * _STEP + _BLEND, 3), np.uint8) for _ in range(2)]
    changes = []
    for column in range(columns):
        left = column * _STEP
        cell = draw_cell(seed, row, column, can_change=is_whole and left + SIZE <= width)
        for strip, image in zip(strips, (cell.before, cell.after), strict=True):
            if column:
                _blend(strip[:, left : left + _BLEND], image, axis=1)
            strip[:, left : left + SIZE] = image
        top = row * _STEP
        for change in cell.changes:
            x0, y0, x1, y1 = change.box
            changes.append((change, (x0 + left, y0 + top, x1 + left, y1 + top)))
    return [strip[:, :width] for strip in strips], changes


def _blend(earlier: Image, image: Image, axis: int) -> None:
    """Mix the pixels of an earlier image into the first rows (axis 0) or columns (axis 1) of an image, in place."""
    share = (np.arange(_BLEND, dtype=np.float32) + 0.5) / _BLEND
    share = share.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    edge = image[:_BLEND] if axis == 0 else image[:, :_BLEND]
    edge[...] = np.rint(edge * share + earlier * (1 - share)).astype(np.uint8)


def _feature(change: Change, box: Box) -> dict[str, Any]:
    """Return the GeoJSON feature of a change, its rectangle counterclockwise."""
    from rasterio.warp import transform

    left, top, right, bottom = box
    x, y = [left, right, right, left, left], [bottom, bottom, top, top, bottom]
    longitudes, latitudes = transform(
        _CRS, "EPSG:4326", [_LEFT + PIXEL_SIZE * v for v in x], [_TOP - PIXEL_SIZE * v for v in y]
    )
    ring = [[round(a, _WGS84_DIGITS), round(b, _WGS84_DIGITS)] for a, b in zip(longitudes, latitudes, strict=True)]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "kind": change.kind,
            "caption": change.sentences[0],
            "captions": list(change.sentences),
            "pixels": [left, top, right, bottom],
        },
    }
