"""Tests of the index, which are skipped without the extra `search`."""

from importlib.util import find_spec

import pytest

if find_spec("lancedb") is None:  # not importorskip: the import of LanceDB takes more than a second
    pytest.skip("needs rsicrc[search]: lancedb is not installed", allow_module_level=True)
