"""NVIDIA's compute-sanitizer over a few captions, if it is installed and supports the device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from common import gpu

from rsicrc.manifest import EXACT
from tests.gpu.conftest import DEVICE, OpenEngine

pytestmark = pytest.mark.gpu

ERROR_CODE = 77
CODE = """
import sys
import numpy as np
import rsicrc
folder, device, backend = sys.argv[1:]
engine = rsicrc.load(folder, device, backend=backend)
images = np.random.default_rng(0).integers(0, 256, (3, 2, 96, 96, 3), np.uint8)
engine.caption([tuple(pair) for pair in images], beams=3, batch_size=3)
engine.embed_texts(["the road"])
"""


def test_memcheck_finds_no_errors(open_engine: OpenEngine, backend: str) -> None:
    if not gpu.is_gpu(DEVICE):
        pytest.skip("compute-sanitizer is for GPUs")
    sanitizer = shutil.which("compute-sanitizer", path=_path())
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    folder = open_engine(backend, EXACT).folder  # builds the plans, so that no plan is built under the tool
    command = [sanitizer, "--tool", "memcheck", "--error-exitcode", str(ERROR_CODE), sys.executable, "-c", CODE]
    done = subprocess.run([*command, str(folder), DEVICE, backend], capture_output=True, text=True, timeout=540)
    report = done.stdout + done.stderr
    if "Device not supported" in report or "not supported on this" in report:
        pytest.skip("compute-sanitizer does not support this device")
    assert done.returncode == 0, report[-3000:]


def _path() -> str:
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    return os.pathsep.join([os.environ.get("PATH", ""), *(str(Path(home) / "bin") for home in homes if home)])
