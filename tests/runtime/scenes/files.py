"""Small georeferenced files for the tests of scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import from_origin
from rasterio.warp import Resampling, calculate_default_transform, reproject

from rsicrc.manifest import Manifest

UTM = "EPSG:32633"
ORIGIN = (500_000.0, 5_200_000.0)
PIXEL = 0.5
Image = NDArray[Any]


def texture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return a smooth random color image, uint8 [height, width, 3]; its structures are some 10 pixels wide."""
    random = np.random.default_rng(seed)
    cells = 12
    coarse = random.integers(20, 236, (height // cells + 3, width // cells + 3, 3)).astype(np.float64)
    for axis, length in enumerate((height, width)):
        positions = np.arange(length) / cells
        low = positions.astype(int)
        share = (positions - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        coarse = coarse.take(low, axis) * (1 - share) + coarse.take(low + 1, axis) * share
    image: NDArray[np.uint8] = coarse.round().astype(np.uint8)
    return image


def save(path: Path, image: Image, **changes: Any) -> Path:
    """Write an image [h, w, bands] as a tiled GeoTIFF in UTM with pixels of 0.5 m, or with other settings."""
    height, width, bands = image.shape
    profile = {
        "driver": "GTiff",
        "dtype": image.dtype.name,
        "count": bands,
        "height": height,
        "width": width,
        "crs": UTM,
        "transform": from_origin(*ORIGIN, PIXEL, PIXEL),
        "tiled": True,
        "blockxsize": 128,
        "blockysize": 128,
        "compress": "deflate",
        **({"photometric": "RGB"} if bands >= 3 else {}),
    }
    tags = changes.pop("tags", {})
    descriptions = changes.pop("descriptions", None)
    with rasterio.open(path, "w", **{**profile, **changes}) as dataset:
        dataset.write(image.transpose(2, 0, 1))
        dataset.update_tags(**tags)
        if descriptions:
            dataset.descriptions = descriptions
    return path


def save_warped(path: Path, image: Image, crs: str, **changes: Any) -> Path:
    """Write an image in another reference system, with nodata 0 outside."""
    height, width, bands = image.shape
    source = from_origin(*ORIGIN, PIXEL, PIXEL)
    bounds = rasterio.transform.array_bounds(height, width, source)
    transform, columns, rows = calculate_default_transform(UTM, crs, width, height, *bounds)
    target = np.zeros((bands, rows, columns), image.dtype)
    reproject(
        image.transpose(2, 0, 1),
        target,
        src_transform=source,
        src_crs=UTM,
        dst_transform=transform,
        dst_crs=crs,
        resampling=Resampling.cubic,
    )
    return save(path, target.transpose(1, 2, 0), crs=CRS.from_user_input(crs), transform=transform, nodata=0, **changes)


def set_scale(folder: Path, pixel_size: float | None = PIXEL, image_side: int | None = 128) -> Path:
    """Write the pixel size and the side of the training images into a model folder."""
    manifest = replace(Manifest.load(folder, verify=False), pixel_size=pixel_size, image_side=image_side)
    manifest.write(folder)
    return folder
