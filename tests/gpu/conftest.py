"""Tests of the engine on a GPU against the engine on the CPU, for every available backend and precision.

`make test-gpu` runs these tests; tests of missing backends and precisions are skipped with the reason. Environment
variables:

    RSICRC_GPU_MODEL    model folder (`rsicrc-export CKPT --precision fp16 --precision bf16 --precision int8 …`)
    RSICRC_GPU_DEVICE   device, cuda:0 by default; with cpu, the same tests run on the processor
    RSICRC_GPU_BATCHES  number of batches of the stress test, 1,000 by default

Required packages: NumPy, Pillow, tokenizers and pytest; cuda-bindings and one of onnxruntime-gpu, tensorrt and
tensorrt_rtx.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from common import gpu
from numpy.typing import NDArray

import rsicrc
from rsicrc import BackendError, Caption, Engine
from rsicrc.manifest import EXACT
from tests.gpu import available

Pairs = list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]
OpenEngine = Callable[[str, str], Engine]

DEVICE = os.environ.get("RSICRC_GPU_DEVICE", "cuda:0")
BATCHES = int(os.environ.get("RSICRC_GPU_BATCHES", "1000"))
MAX_BATCH = 64
BEAMS = (1, 5)
_MODEL = os.environ.get("RSICRC_GPU_MODEL", "")
_PRECISIONS = (EXACT, "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Expected:
    """Results of the CPU in float32.

    Attributes:
        engine: The engine on the CPU.
        captions: Captions of all pairs by number of beams, with as many sentences as beams.
        embeddings: Embeddings of all pairs, float32 [pairs, d].
    """

    engine: Engine
    captions: dict[int, list[Caption]]
    embeddings: NDArray[np.float32]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test for all backends and precisions; unavailable ones are skipped, so that the report lists them."""
    if "backend" in metafunc.fixturenames:
        names = available.BACKENDS if gpu.is_gpu(DEVICE) else (available.ONNX_RUNTIME, available.OPENVINO)
        metafunc.parametrize("backend", names, scope="session")
    if "precision" in metafunc.fixturenames:
        metafunc.parametrize("precision", _PRECISIONS, scope="session")


@pytest.fixture(scope="session")
def folder() -> Path:
    """Return the model folder."""
    if not _MODEL:
        pytest.skip("no model folder: $RSICRC_GPU_MODEL names one, `make test-gpu` makes one")
    return Path(_MODEL)


@pytest.fixture(scope="session")
def open_engine(folder: Path) -> OpenEngine:
    """Return a function that opens an engine on the device, cached by backend and precision."""

    @cache
    def reason(backend: str, precision: str) -> str:
        if missing := available.backends(DEVICE)[backend]:
            return missing
        names = available.precisions(folder, DEVICE)
        return "" if precision in names else f"{folder.name} has no graphs in {precision}, only in {', '.join(names)}"

    @cache
    def opened(backend: str, precision: str) -> Engine:
        if missing := reason(backend, precision):
            pytest.skip(f"{backend} {precision}: {missing}")
        try:
            return rsicrc.load(folder, DEVICE, backend=backend, precision=precision)
        except BackendError as error:
            if precision == EXACT:
                raise
            pytest.skip(f"{backend} {precision}: {error}")  # not every backend computes in every precision

    return opened


@pytest.fixture(scope="session")
def engine(open_engine: OpenEngine, backend: str, precision: str) -> Engine:
    """Return the engine of a backend and a precision."""
    return open_engine(backend, precision)


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    """Synthetic scenes if the training package is installed, else coarse noise."""
    try:
        from rsicrc_train.synth import make_pair
    except ImportError:
        coarse = np.random.default_rng(5).integers(0, 256, (MAX_BATCH, 2, 8, 8, 3), np.uint8)
        return [tuple(pair) for pair in coarse.repeat(32, axis=2).repeat(32, axis=3)]
    return [(pair.before, pair.after) for pair in (make_pair(4711, number) for number in range(MAX_BATCH))]


@pytest.fixture(scope="session")
def expected(folder: Path, pairs: Pairs) -> Expected:
    """Results of the CPU in float32."""
    for backend, missing in available.backends(gpu.CPU).items():
        if not missing:
            cpu = rsicrc.load(folder, gpu.CPU, backend=backend)
            captions = {beams: cpu.caption(pairs, beams=beams, n_best=beams) for beams in BEAMS}
            return Expected(cpu, captions, cpu.embed_images(pairs))
    pytest.skip("neither onnxruntime nor openvino is installed for the results of the CPU; only golden.npz is compared")
