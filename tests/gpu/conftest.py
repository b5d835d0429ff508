"""The engine on a GPU beside the engine on the CPU: on every backend that is here, in every precision of the folder.

`make test-gpu` runs these; what is missing is skipped, and the reason said. The environment says on what:

    RSICRC_GPU_MODEL    the model folder (`rsicrc-export CKPT --precision fp16 --precision bf16 --precision int8 …`)
    RSICRC_GPU_DEVICE   cuda:0 by default; with cpu, the same tests rehearse on the processor
    RSICRC_GPU_BATCHES  of the stress test, 1,000 by default

Needed: NumPy, Pillow, tokenizers and pytest; cuda-bindings and one of onnxruntime-gpu, tensorrt and tensorrt_rtx.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from common import card, present
from numpy.typing import NDArray

import rsicrc
from rsicrc import BackendError, Caption, Engine
from rsicrc.manifest import EXACT

Pairs = list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]
Open = Callable[[str, str], Engine]

DEVICE = os.environ.get("RSICRC_GPU_DEVICE", "cuda:0")
BATCHES = int(os.environ.get("RSICRC_GPU_BATCHES", "1000"))
MOST = 64
BEAMS = (1, 5)
_MODEL = os.environ.get("RSICRC_GPU_MODEL", "")
_PRECISIONS = (EXACT, "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Expected:
    """What the CPU says in float32.

    Attributes:
        engine: it.
        captions: beams → of all pairs, as many sentences as beams.
        embeddings: of all pairs.
    """

    engine: Engine
    captions: dict[int, list[Caption]]
    embeddings: NDArray[np.float32]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every backend and precision there may be; what is not there is skipped, so that it is seen."""
    if "backend" in metafunc.fixturenames:
        names = present.BACKENDS if card.is_card(DEVICE) else (present.ONNX_RUNTIME, present.OPENVINO)
        metafunc.parametrize("backend", names, scope="session")
    if "precision" in metafunc.fixturenames:
        metafunc.parametrize("precision", _PRECISIONS, scope="session")


@pytest.fixture(scope="session")
def folder() -> Path:
    """The model folder."""
    if not _MODEL:
        pytest.skip("no model folder: $RSICRC_GPU_MODEL names one, `make test-gpu` makes one")
    return Path(_MODEL)


@pytest.fixture(scope="session")
def open_engine(folder: Path) -> Open:
    """Engines on the device; the same one for the same backend and precision."""

    @cache
    def reason(backend: str, precision: str) -> str:
        if missing := present.backends(DEVICE)[backend]:
            return missing
        there = present.precisions(folder, DEVICE)
        return "" if precision in there else f"{folder.name} has no graphs in {precision}, only in {', '.join(there)}"

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
def engine(open_engine: Open, backend: str, precision: str) -> Engine:
    """The engine of a backend and a precision."""
    return open_engine(backend, precision)


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    """Generated scenes where they can be drawn, else coarse noise."""
    try:
        from rsicrc_train.synth import make_pair
    except ImportError:
        coarse = np.random.default_rng(5).integers(0, 256, (MOST, 2, 8, 8, 3), np.uint8)
        return [tuple(pair) for pair in coarse.repeat(32, axis=2).repeat(32, axis=3)]
    return [(pair.before, pair.after) for pair in (make_pair(4711, number) for number in range(MOST))]


@pytest.fixture(scope="session")
def expected(folder: Path, pairs: Pairs) -> Expected:
    """The CPU's answers."""
    for backend, missing in present.backends(card.CPU).items():
        if not missing:
            cpu = rsicrc.load(folder, card.CPU, backend=backend)
            captions = {beams: cpu.caption(pairs, beams=beams, n_best=beams) for beams in BEAMS}
            return Expected(cpu, captions, cpu.embed_images(pairs))
    pytest.skip("neither onnxruntime nor openvino is here to say what the CPU says; golden.npz alone is compared")
