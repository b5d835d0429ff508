"""Tests of scenes, which are skipped without the extra `geo`."""

from importlib.util import find_spec

import pytest

if find_spec("rasterio") is None:  # `rsicrc.scenes` raises an error of its own, which is no ModuleNotFoundError
    pytest.skip("needs rsicrc[geo]: rasterio is not installed", allow_module_level=True)
