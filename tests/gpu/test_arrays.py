"""Pixels and vectors on the GPU stay there: DLPack and `__cuda_array_interface__`, and the streams they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import card
from numpy.typing import NDArray

from rsicrc.manifest import EXACT, GOLDEN_FILE, IMAGE_ENCODER
from tests.gpu.conftest import DEVICE, Open

pytestmark = pytest.mark.gpu

LONG = 200_000_000  # clock ticks: a tenth of a second, in which a reader that does not wait sees zeros


@pytest.fixture
def images(folder: Path) -> NDArray[np.uint8]:
    if not card.is_card(DEVICE):
        pytest.skip("this is about arrays on a GPU")
    pixels: NDArray[np.uint8] = np.load(folder / GOLDEN_FILE)["images"]
    return pixels


@pytest.fixture
def torch(images: NDArray[np.uint8]) -> Any:
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip("the torch that is installed is without CUDA")
    return module


def test_torch(open_engine: Open, backend: str, images: NDArray[np.uint8], torch: Any) -> None:
    there = open_engine(backend, EXACT).backend
    expected = there.numpy(there.run(IMAGE_ENCODER, {"images": images})["image_embedding"])
    pixels = torch.from_numpy(images).to(DEVICE)
    value = there.run(IMAGE_ENCODER, {"images": pixels})["image_embedding"]
    np.testing.assert_allclose(there.numpy(value), expected, atol=1e-6)
    vectors = torch.from_dlpack(value)
    assert vectors.device == torch.device(DEVICE)
    np.testing.assert_allclose(vectors.cpu().numpy(), expected, atol=1e-6)


def test_what_a_stream_still_computes_is_waited_for(
    open_engine: Open, backend: str, images: NDArray[np.uint8], torch: Any
) -> None:
    there = open_engine(backend, EXACT).backend
    expected = there.numpy(there.run(IMAGE_ENCODER, {"images": images})["image_embedding"])
    source = torch.from_numpy(images).to(DEVICE)
    pixels = torch.zeros_like(source)
    torch.cuda.synchronize(DEVICE)
    with torch.cuda.device(DEVICE), torch.cuda.stream(torch.cuda.Stream(DEVICE)):
        torch.cuda._sleep(LONG)
        pixels.copy_(source)
        value = there.run(IMAGE_ENCODER, {"images": pixels})["image_embedding"]
        np.testing.assert_allclose(torch.from_dlpack(value).cpu().numpy(), expected, atol=1e-6)


def test_cupy(open_engine: Open, backend: str, images: NDArray[np.uint8]) -> None:
    cupy: Any = pytest.importorskip("cupy")
    there = open_engine(backend, EXACT).backend
    expected = there.numpy(there.run(IMAGE_ENCODER, {"images": images})["image_embedding"])
    with cupy.cuda.Device(int(DEVICE.partition(":")[2] or 0)):
        value = there.run(IMAGE_ENCODER, {"images": cupy.asarray(images)})["image_embedding"]
        np.testing.assert_allclose(cupy.asnumpy(cupy.from_dlpack(value)), expected, atol=1e-6)
