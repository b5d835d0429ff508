"""One georeferenced raster file: its grid, bands, mask and date, opened with the allowed drivers only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsicrc.errors import SceneError, printable

if TYPE_CHECKING:
    from affine import Affine
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader

# Formats that hold their own pixels. Others, such as VRT, name further files that would be read too.
DRIVERS = ("GTiff", "JP2OpenJPEG")
_REMOTE = {"https://": "/vsicurl/https://", "http://": "/vsicurl/http://", "s3://": "/vsis3/"}
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_BLOCK_BYTES = 1 << 28
_MOST_SIDE = 1 << 24
_CACHE_MEGABYTES = 192
_SETTINGS: dict[str, Any] = {"GDAL_CACHEMAX": _CACHE_MEGABYTES, "GDAL_PAM_ENABLED": True}
# Reads of remote files: no listing of folders, ranges merged and cached, and a limit of time.
_REMOTE_SETTINGS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_VERSION": "2",
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_CONNECTTIMEOUT": 10,
    "GDAL_HTTP_TIMEOUT": 60,
    "VSI_CACHE": True,
    "VSI_CACHE_SIZE": 5_000_000,
    "CPL_VSIL_CURL_CACHE_SIZE": 100_000_000,
}


@dataclass(frozen=True)
class Source:
    """A raster of one date.

    Attributes:
        name: File as the caller named it.
        path: File as GDAL names it.
        crs: Reference system.
        transform: Pixels to coordinates; a fit to the ground control points if the file has no transform.
        width: Columns.
        height: Rows.
        count: Bands.
        dtype: NumPy name of the type of the pixels.
        bands: Numbers of the red, green and blue band.
        named: True if the bands were found by their names or colors.
        time: Time of the image (ISO 8601), if the file has one.
        sensor: Facts that are equal for files whose values are comparable.
    """

    name: str
    path: str
    crs: CRS
    transform: Affine
    width: int
    height: int
    count: int
    dtype: str
    bands: tuple[int, int, int]
    named: bool
    time: str | None
    sensor: tuple[Any, ...]

    @classmethod
    def read(cls, name: str, bands: tuple[int, int, int] | None, time: str | None = None) -> Source:
        """Read the header of a file.

        Args:
            name: Path, or an address that begins with https:// or s3://.
            bands: Numbers of the red, green and blue band; None finds them.
            time: Time of the image; None takes that of the file.

        Raises:
            SceneError: The file cannot be used.
        """
        shown = printable(name)
        with open_raster(name) as dataset:
            crs, transform = _georeference(dataset, shown)
            _check_layout(dataset, shown)
            chosen, named = (bands, True) if bands else _color_bands(dataset, shown)
            if max(chosen) > dataset.count:
                raise SceneError(f"{shown}: has {dataset.count} bands, not {max(chosen)}: give others with --bands")
            return cls(
                name=name,
                path=dataset.name,
                crs=crs,
                transform=transform,
                width=dataset.width,
                height=dataset.height,
                count=dataset.count - sum(color.name == "alpha" for color in dataset.colorinterp),
                dtype=dataset.dtypes[chosen[0] - 1],
                bands=chosen,
                named=named,
                time=time or _time(dataset),
                sensor=(dataset.dtypes, dataset.scales, dataset.offsets, dataset.descriptions, dataset.units),
            )


@contextmanager
def raster_settings(*names: str) -> Iterator[None]:
    """Set the options of GDAL that reading these files needs, for the block and this thread."""
    import rasterio

    remote = any(name.startswith((*_REMOTE, "/vsi")) for name in names)
    with rasterio.Env(**_SETTINGS, **(_REMOTE_SETTINGS if remote else {})):
        yield


@contextmanager
def open_raster(name: str) -> Iterator[DatasetReader]:
    """Open a raster file with one of the allowed drivers.

    Raises:
        SceneError: The file is missing, damaged, or of another format.
    """
    with raster_settings(name):
        dataset = open_dataset(gdal_path(name), name)
        try:
            yield dataset
        finally:
            dataset.close()


def open_dataset(path: str, name: str) -> DatasetReader:
    """Open a file by the name that GDAL uses; `name` is for messages. The caller closes the dataset."""
    import rasterio
    from rasterio.errors import RasterioError

    reasons = []
    for driver in DRIVERS:
        try:
            return rasterio.open(path, driver=driver)
        except (RasterioError, ValueError) as error:
            reasons.append(printable(str(error)))
    raise SceneError(
        f"{printable(name)}: cannot be opened as GeoTIFF, COG or JPEG 2000 ({reasons[0]}). "
        "Convert other formats with `gdal_translate -of COG`"
    )


def gdal_path(name: str) -> str:
    """Return the path by which GDAL opens a file or an address.

    Raises:
        SceneError: The file is missing, the address is of another kind, or a file next to it is no TIFF file.
    """
    for start, replacement in _REMOTE.items():
        if name.startswith(start):
            return replacement + name.removeprefix(start)
    shown = printable(name)
    if "://" in name or name.startswith("/vsi"):
        raise SceneError(f"{shown}: give a path, or an address that begins with https:// or s3://")
    path = Path(name)
    try:
        if not path.is_file():
            raise SceneError(f"{shown}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    except (OSError, ValueError) as error:
        raise SceneError(f"{shown}: cannot be read ({error})") from error
    _check_companions(path.resolve(), shown)
    return str(path.resolve())


def _check_companions(path: Path, shown: str) -> None:
    """Check the files next to a raster that GDAL opens with it: they must not lead to further files."""
    for suffix in (".ovr", ".msk", ".msk.ovr", ".ovr.msk"):
        for companion in (Path(f"{path}{suffix}"), path.with_suffix(suffix)):
            if companion.is_file():
                with companion.open("rb") as file:
                    if file.read(4) not in _TIFF_STARTS:
                        raise SceneError(f"{shown}: {companion.name} next to it is not a TIFF file: remove it")
    notes = Path(f"{path}.aux.xml")
    if notes.is_file() and b"OVERVIEW_FILE" in notes.read_bytes():
        raise SceneError(f"{shown}: {notes.name} next to it names another file with overviews: remove it")


def _georeference(dataset: DatasetReader, shown: str) -> tuple[CRS, Affine]:
    from rasterio.transform import from_gcps, xy

    points, points_crs = dataset.gcps
    if dataset.transform.is_identity and len(points) >= 3 and points_crs is not None:
        transform = from_gcps(points)
        fitted = np.array([xy(transform, point.row, point.col, offset="ul") for point in points])
        known = np.array([(point.x, point.y) for point in points])
        worst = float(np.hypot(*(fitted - known).T).max()) / math.sqrt(abs(transform.determinant))
        if worst > _WORST_FIT:
            raise SceneError(
                f"{shown}: its ground control points differ by {worst:.1f} pixels from a plane fit. "
                "Rectify it first, for example with `gdalwarp -tps`"
            )
        return points_crs, transform
    if dataset.crs is None:
        reason = "it has no coordinate reference system"
        if dataset.rpcs is not None:
            reason += "; its RPCs need a terrain model"
        raise SceneError(f"{shown}: {reason}. Rectify it or assign one, for example with `gdal_translate -a_srs`")
    if dataset.transform.is_identity:
        raise SceneError(
            f"{shown}: it has no position (neither a transform nor ground control points). Georeference it"
        )
    if dataset.transform.determinant == 0 or not all(map(math.isfinite, dataset.transform)):
        raise SceneError(f"{shown}: its transform is damaged. Georeference it again")
    return dataset.crs, dataset.transform


_WORST_FIT = 2.0  # pixels


def _check_layout(dataset: DatasetReader, shown: str) -> None:
    kinds = {np.dtype(kind).kind for kind in dataset.dtypes if "complex" not in kind}
    if any("complex" in kind for kind in dataset.dtypes) or not kinds <= set("uif"):
        raise SceneError(f"{shown}: its pixels are {dataset.dtypes[0]}, not numbers of color bands")
    if max(dataset.width, dataset.height) > _MOST_SIDE:
        raise SceneError(f"{shown}: {dataset.width} x {dataset.height} pixels: the header is damaged")
    for (rows, columns), kind in zip(dataset.block_shapes, dataset.dtypes, strict=True):
        if rows * columns * np.dtype(kind).itemsize > _MOST_BLOCK_BYTES:
            raise SceneError(
                f"{shown}: a block has {columns} x {rows} pixels, which does not fit into memory. "
                "Convert it with `gdal_translate -of COG`"
            )


def _color_bands(dataset: DatasetReader, shown: str) -> tuple[tuple[int, int, int], bool]:
    colors = [color.name for color in dataset.colorinterp]
    by_color = tuple(colors.index(color) + 1 for color in ("red", "green", "blue") if color in colors)
    if len(by_color) == 3:
        return (by_color[0], by_color[1], by_color[2]), True
    names = [re.split(r"[^a-z0-9]+", (text or "").lower()) for text in dataset.descriptions]
    by_name = [
        next((number for number, words in enumerate(names, 1) if color in words), 0)
        for color in ("red", "green", "blue")
    ]
    if all(by_name):
        return (by_name[0], by_name[1], by_name[2]), True
    count = len(colors) - colors.count("alpha")
    if count < 3:
        raise SceneError(f"{shown}: has {count} band{'s' if count > 1 else ''}; the model needs red, green and blue")
    if count > 4:
        raise SceneError(f"{shown}: none of its {count} bands is named red, green or blue. Give three with --bands")
    return (1, 2, 3), False


def _time(dataset: DatasetReader) -> str | None:
    tags: Mapping[str, str] = {**dataset.tags(), **dataset.tags(ns="IMAGERY")}
    for name in ("ACQUISITIONDATETIME", "TIFFTAG_DATETIME"):
        text = tags.get(name, "").strip()
        if not text:
            continue
        for form in ("%Y:%m:%d %H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"):
            try:
                return datetime.strptime(text[:19], form).isoformat() + "Z"
            except ValueError:
                continue
    return None
