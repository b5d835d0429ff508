"""Skips the tests of the exporter where its libraries are not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import pytest

MISSING = [name for name in ("torch", "onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]


class SkippedModule(pytest.Module):
    """A test module that is skipped instead of imported."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        pytest.skip(f"needs rsicrc[export]: {', '.join(MISSING)} not installed", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if MISSING:
        module: pytest.Module = SkippedModule.from_parent(parent, path=module_path)
        return module
    return None
