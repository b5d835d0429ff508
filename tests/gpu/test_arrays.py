"""Exchange of pixels and embeddings on the GPU: DLPack, `__cuda_array_interface__`, and their streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import gpu
from numpy.typing import NDArray

from rsicrc.manifest import EXACT, GOLDEN_FILE, IMAGE_ENCODER
from tests.gpu.conftest import DEVICE, OpenEngine

pytestmark = pytest.mark.gpu

DELAY = 200_000_000  # clock ticks, a tenth of a second: a reader that does not wait reads zeros


@pytest.fixture
def images(folder: Path) -> NDArray[np.uint8]:
    if not gpu.is_gpu(DEVICE):
        pytest.skip("tests arrays on a GPU")
    pixels: NDArray[np.uint8] = np.load(folder / GOLDEN_FILE)["images"]
    return pixels


@pytest.fixture
def torch(images: NDArray[np.uint8]) -> Any:
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip("the installed torch has no CUDA")
    return module


def test_torch_arrays_are_read_and_returned(
    open_engine: OpenEngine, backend: str, images: NDArray[np.uint8], torch: Any
) -> None:
    runner = open_engine(backend, EXACT).backend
    expected = runner.numpy(runner.run(IMAGE_ENCODER, {"images": images})["image_embedding"])
    pixels = torch.from_numpy(images).to(DEVICE)
    value = runner.run(IMAGE_ENCODER, {"images": pixels})["image_embedding"]
    np.testing.assert_allclose(runner.numpy(value), expected, atol=1e-6)
    vectors = torch.from_dlpack(value)
    assert vectors.device == torch.device(DEVICE)
    np.testing.assert_allclose(vectors.cpu().numpy(), expected, atol=1e-6)


def test_engine_waits_for_the_stream_of_an_array(
    open_engine: OpenEngine, backend: str, images: NDArray[np.uint8], torch: Any
) -> None:
    runner = open_engine(backend, EXACT).backend
    expected = runner.numpy(runner.run(IMAGE_ENCODER, {"images": images})["image_embedding"])
    source = torch.from_numpy(images).to(DEVICE)
    pixels = torch.zeros_like(source)
    torch.cuda.synchronize(DEVICE)
    with torch.cuda.device(DEVICE), torch.cuda.stream(torch.cuda.Stream(DEVICE)):
        torch.cuda._sleep(DELAY)
        pixels.copy_(source)
        value = runner.run(IMAGE_ENCODER, {"images": pixels})["image_embedding"]
        np.testing.assert_allclose(torch.from_dlpack(value).cpu().numpy(), expected, atol=1e-6)


def test_cupy_arrays_are_read_and_returned(open_engine: OpenEngine, backend: str, images: NDArray[np.uint8]) -> None:
    cupy: Any = pytest.importorskip("cupy")
    runner = open_engine(backend, EXACT).backend
    expected = runner.numpy(runner.run(IMAGE_ENCODER, {"images": images})["image_embedding"])
    with cupy.cuda.Device(int(DEVICE.partition(":")[2] or 0)):
        value = runner.run(IMAGE_ENCODER, {"images": cupy.asarray(images)})["image_embedding"]
        np.testing.assert_allclose(cupy.asnumpy(cupy.from_dlpack(value)), expected, atol=1e-6)
