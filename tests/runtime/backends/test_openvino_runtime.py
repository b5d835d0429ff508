"""The import of OpenVINO and the start on a CPU: without anything that inference does not need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino", reason="needs rsicrc[openvino]")


def python(code: str, home: Path) -> str:
    variables = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_sends_and_writes_nothing(tmp_path: Path) -> None:
    code = """
import resource, sys
import rsicrc.backends.openvino
print([name for name in sys.modules if "telemetry" in name or name.startswith("openvino.tools")])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    assert python(code, tmp_path) == "[]\n0"
    assert list(tmp_path.iterdir()) == []


def test_converter_is_imported_when_it_is_called(tmp_path: Path) -> None:
    code = """
import sys
import rsicrc.backends.openvino
from openvino import convert_model
before = "openvino.tools.ovc" in sys.modules
sys.modules["openvino_telemetry"] = None  # so that the test sends no report
try:
    convert_model("absent.onnx")
except Exception:
    pass
print(before, "openvino.tools.ovc" in sys.modules)
"""
    assert python(code, tmp_path) == "False True"


def test_imported_openvino_is_left_as_it_is(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["openvino_telemetry"] = None
import openvino
converter = openvino.convert_model
import rsicrc.backends.openvino
print(openvino.convert_model is converter, converter.__module__)
"""
    assert python(code, tmp_path) == "True openvino.tools.ovc.convert"


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has a driver")
def test_start_without_a_driver_needs_no_cuda_bindings(model_folder: Path, tmp_path: Path) -> None:
    code = f"""
import sys
import rsicrc
engine = rsicrc.load({str(model_folder)!r})
print(engine.backend.name, "cuda.bindings.runtime" in sys.modules)
"""
    assert python(code, tmp_path) == "openvino False"
