"""Memory of the backend `openvino` while the sizes of batches vary."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino", reason="needs rsicrc[openvino]")

# The first use of the model compiles the graphs; the measured engine restores them, as most starts do.
CODE = """
import ctypes, random, resource, sys
import numpy as np
import rsicrc

def resident():
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # without memory that is free, but not returned to the system yet
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6

with rsicrc.load(sys.argv[1], backend="openvino", threads=1) as engine:
    engine.embed_texts(["the road"])
engine = rsicrc.load(sys.argv[1], backend="openvino", threads=1)
rng = random.Random(0)
longest = engine.manifest.max_len
for number in range(1201):
    shape = (256, longest) if number == 0 else (rng.randint(1, 256), rng.randint(3, longest))
    engine.backend.run("text_encoder", {"input_ids": np.ones(shape, np.int64)})
    if number % 600 == 0:
        print(resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_memory_levels_while_shapes_vary(model_folder: Path) -> None:
    """OpenVINO keeps kernels for each shape: by default, 1200 random shapes need 90 MB, and the growth does not end."""
    done = subprocess.run([sys.executable, "-c", CODE, model_folder], capture_output=True, text=True, check=True)
    first, middle, last = map(float, done.stdout.split())
    assert middle - first < 65
    assert last - middle < 12
