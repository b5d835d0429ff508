"""Scenes: georeferenced rasters of one place at several dates, captioned tile by tile, written as maps."""

from importlib.util import find_spec

from rsicrc.errors import BackendError

if find_spec("rasterio") is None:
    raise BackendError("rasterio is not installed: `pip install 'rsicrc[geo]'`")
