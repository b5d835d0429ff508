"""Errors that occur only on a GPU: one line with a remedy, or a logged fallback."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from common import gpu

import rsicrc
from rsicrc import BackendError, DeviceMemoryError, Engine, RsicrcError
from rsicrc.backends import cuda
from rsicrc.backends.tensorrt import library, plans
from rsicrc.backends.tensorrt.profiles import Profile
from rsicrc.manifest import EXACT, Manifest
from tests.gpu import available
from tests.gpu.conftest import DEVICE, MAX_BATCH, OpenEngine, Pairs

pytestmark = pytest.mark.gpu

FREE = 32 << 20  # bytes; the first convolution of 64 pairs needs more
_BLOCK = 1 << 30


@contextmanager
def filled(remaining: int) -> Iterator[None]:
    """Occupy the memory of the GPU, except about `remaining` bytes, while the block runs."""
    device = cuda.Device(cuda.device_number(DEVICE))
    blocks: list[cuda.Memory] = []
    # The driver may be unable to allocate all the memory that it reports as free in one block.
    with suppress(DeviceMemoryError):
        while (size := min(_BLOCK, device.memory()[0] - remaining)) > 0:
            blocks.append(cuda.Memory(size))
    try:
        yield
    finally:
        blocks.clear()


@pytest.fixture
def tensorrt_folder(open_engine: OpenEngine) -> Path:
    """Return the model folder; the test is skipped without a GPU and TensorRT."""
    engine = open_engine(available.TENSORRT if gpu.is_gpu(DEVICE) else available.ONNX_RUNTIME, EXACT)
    if not gpu.is_gpu(DEVICE):
        pytest.skip("needs a GPU: plans are built for GPUs")
    return engine.folder


@pytest.fixture
def engines(tensorrt_folder: Path, tmp_path: Path) -> Path:
    """Return a folder with plans of float32 for this GPU, of few sizes so that they are built fast."""
    build(tensorrt_folder, tmp_path / "engines", Profile((1, 2, 2), (1, 1, 1)))
    return tmp_path / "engines"


def device_name() -> str:
    return cuda.Device(cuda.device_number(DEVICE)).title


def build(folder: Path, engines: Path, profile: Profile) -> None:
    plans.ensure_plans(folder, Manifest.load(folder), library.open_library(), device_name(), profile, engines=engines)


def open_tensorrt(folder: Path, engines: Path) -> Engine:
    return rsicrc.load(folder, DEVICE, backend=available.TENSORRT, engines=engines)


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text.strip()
    return text


def test_plans_of_another_device_are_refused(tensorrt_folder: Path, engines: Path) -> None:
    index = engines / "engines.json"
    document = json.loads(index.read_text())
    for plan in document["engines"]:
        plan.update(device="NVIDIA Other 1.0", compute_capabilities=[])
    index.write_text(json.dumps(document))
    with pytest.raises(BackendError, match=r"NVIDIA Other 1\.0, not ") as caught:
        open_tensorrt(tensorrt_folder, engines)
    one_line(caught.value)


def test_missing_plans_are_built_in_the_cache_and_logged(
    tensorrt_folder: Path,
    pairs: Pairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("RSICRC_CACHE", str(tmp_path / "cache"))
    with caplog.at_level(logging.INFO, logger="rsicrc"):
        captions = rsicrc.load(tensorrt_folder, DEVICE, backend=available.TENSORRT).caption(pairs[:2], beams=1)
    assert len(captions) == 2
    assert "building a plan" in caplog.text
    assert list((tmp_path / "cache" / "compiled").rglob("*.plan"))


def test_changed_plan_is_refused(tensorrt_folder: Path, engines: Path) -> None:
    for plan in engines.glob("*.plan"):
        content = bytearray(plan.read_bytes())
        content[len(content) // 2] ^= 1
        plan.write_bytes(content)
    with pytest.raises(RsicrcError, match="changed since it was built") as caught:
        open_tensorrt(tensorrt_folder, engines)
    one_line(caught.value)


def test_batch_outside_the_profile_is_refused(tensorrt_folder: Path, engines: Path, pairs: Pairs) -> None:
    engine = open_tensorrt(tensorrt_folder, engines)
    assert len(engine.caption(pairs[:2], beams=1, batch_size=2)) == 2
    with pytest.raises(RsicrcError, match="profile") as caught:
        engine.embed_images(pairs[:4], batch_size=4)
    one_line(caught.value)
    with pytest.raises(RsicrcError, match="profile") as caught:
        engine.caption(pairs[:2], beams=3, batch_size=2)
    one_line(caught.value)
    assert len(engine.caption(pairs[:2], beams=1, batch_size=2)) == 2


def test_batch_is_halved_if_memory_is_short(
    open_engine: OpenEngine, backend: str, pairs: Pairs, caplog: pytest.LogCaptureFixture
) -> None:
    """The batch is halved once and logged, or one clear error is raised; the engine works again with free memory."""
    reference = open_engine(backend, EXACT)
    if not gpu.is_gpu(DEVICE):
        pytest.skip("tests the memory of a GPU")
    expected = [caption.text for caption in reference.caption(pairs, beams=5, batch_size=MAX_BATCH)]
    engine = rsicrc.load(reference.folder, DEVICE, backend=backend)
    engine.caption(pairs[:1], beams=5, batch_size=1)
    with caplog.at_level(logging.INFO, logger="rsicrc"), filled(FREE):
        try:
            texts = [caption.text for caption in engine.caption(pairs, beams=5, batch_size=MAX_BATCH)]
            message = None
        except BackendError as error:
            texts, message = expected, one_line(error)
    assert texts == expected
    assert message is None or "memory" in message
    halvings = [record for record in caplog.records if "halv" in record.getMessage() or "half" in record.getMessage()]
    assert len(halvings) <= 1
    assert [caption.text for caption in engine.caption(pairs, beams=5, batch_size=MAX_BATCH)] == expected


def test_missing_device_is_reported(open_engine: OpenEngine, backend: str) -> None:
    folder = open_engine(backend, EXACT).folder
    reason = "cuda:99" if gpu.is_gpu(DEVICE) else "no NVIDIA driver|on the CPU only"
    with pytest.raises(BackendError, match=reason) as caught:
        rsicrc.load(folder, "cuda:99", backend=backend).embed_texts(["the road"])
    one_line(caught.value)
