"""The CUDA layer: what it refuses and how, against the real cuda-bindings where those can say it without a GPU."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import rsicrc
from rsicrc import BackendError, DeviceMemoryError
from rsicrc.backends import cuda
from tests.runtime.fake_cuda import FakeCuda

REAL = cuda._runtime


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "_runtime", lambda: fake)
    return fake


@pytest.fixture
def uncached() -> Iterator[None]:
    REAL.cache_clear()
    yield
    REAL.cache_clear()


def has_driver() -> bool:
    try:
        return cuda.driver_version() is not None
    except BackendError:
        return False


def test_names() -> None:
    assert [cuda.device_number(name) for name in ("cuda", "cuda:0", "cuda:12")] == [0, 0, 12]
    for name in ("gpu", "cuda:", "cuda:x", "cuda:-1", "cpu", ""):
        with pytest.raises(BackendError, match="there is cpu, cuda, cuda:0"):
            cuda.device_number(name)


def test_without_cuda_bindings(monkeypatch: pytest.MonkeyPatch, uncached: None) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(BackendError, match=r"^cuda-bindings is not installed .*: `pip install 'rsicrc\[gpu\]'`"):
        cuda.Device(0)


@pytest.mark.skipif(has_driver(), reason="this machine has a driver")
def test_the_real_bindings_without_a_driver(model_folder: Path) -> None:
    pytest.importorskip("cuda.bindings.runtime")
    for use in (cuda.device_count, lambda: cuda.Device(0), lambda: rsicrc.load(model_folder, "cuda")):
        with pytest.raises(BackendError, match=r"^there is no NVIDIA driver: install one .*device='cpu'$"):
            use()
    # What has no check of its own in front of it still fails in our way.
    for make in (cuda.Stream, cuda.Event, lambda: cuda.Memory(8), lambda: cuda.PinnedMemory(8)):
        with pytest.raises(BackendError, match="failed: CUDA driver version is insufficient"):
            make()


@pytest.mark.parametrize(
    ("error", "driver", "message"),
    [
        (
            35,
            11040,
            r"driver is too old: it knows CUDA 11\.4 and cuda-bindings here needs 13: update the driver, or `pip",
        ),
        (100, 13000, "finds no GPU .*CUDA_VISIBLE_DEVICES"),
        (999, 13000, "CUDA cannot start: error 999: check the driver with `nvidia-smi`"),
    ],
)
def test_what_is_wrong_with_a_driver(
    fake: FakeCuda, monkeypatch: pytest.MonkeyPatch, error: int, driver: int, message: str
) -> None:
    monkeypatch.setattr(fake, "cudaGetDeviceCount", lambda: (error, None), raising=False)
    monkeypatch.setattr(fake, "cudaDriverGetVersion", lambda: (0, driver), raising=False)
    with pytest.raises(BackendError, match=message) as caught:
        cuda.device_count()
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there(fake: FakeCuda) -> None:
    assert cuda.Device(0).title == "Fake GPU 9.0"
    with pytest.raises(BackendError, match="no cuda:99: there is 1 GPU, counted from 0"):
        cuda.Device(99)


def test_no_room(fake: FakeCuda) -> None:
    fake.room = 1000
    kept = cuda.Memory(600)
    with pytest.raises(DeviceMemoryError, match="out of memory: lower the batch size") as caught:
        cuda.Memory(600)
    assert isinstance(caught.value, MemoryError)
    del kept
    assert cuda.Memory(600).bytes == 600


def test_a_recording_that_fails_leaves_the_stream_usable(fake: FakeCuda) -> None:
    stream = cuda.Stream()
    memory, host = cuda.Memory(4), np.zeros(4, np.uint8)

    def work() -> None:
        stream.clear(memory.address, 4)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cuda.Recording(stream, work)
    stream.download(host.ctypes.data, memory.address, 4)
    assert host.any()  # what was to be recorded was not done
    recording = cuda.Recording(stream, lambda: stream.clear(memory.address, 4))
    recording.launch(stream)
    stream.download(host.ctypes.data, memory.address, 4)
    assert not host.any()


def test_the_stand_in_has_the_real_names_and_as_many_arguments() -> None:
    """So that what runs over the stand-in does not fail over the real bindings for a misspelled name."""
    real = pytest.importorskip("cuda.bindings.runtime")
    source = inspect.getsource(cuda)
    used = set(re.findall(r"\bcuda[A-Z]\w+", source)) - {"cudaErrorNoDevice", "cudaErrorInsufficientDriver"}
    used -= {"cudaErrorMemoryAllocation"}
    functions = {name for name in used if callable(vars(FakeCuda).get(name))}
    constants = {"cudaMemcpyKind", "cudaStreamCaptureMode"}
    members = {name for name in used - functions - constants if not hasattr(real, name)}
    enums = (real.cudaMemcpyKind, real.cudaStreamCaptureMode)
    assert members == {name for name in members if any(hasattr(enum, name) for enum in enums)}
    assert len(functions) > 20
    for name in functions:
        signature = (getattr(real, name).__doc__ or "").splitlines()[0]
        arguments = [each for each in signature.partition("(")[2].rstrip(")").split(",") if each.strip()]
        assert len(arguments) == len(inspect.signature(vars(FakeCuda)[name]).parameters) - 1, signature
    for name, number in (("NoDevice", 100), ("InsufficientDriver", 35), ("MemoryAllocation", 2)):
        assert int(getattr(real.cudaError_t, f"cudaError{name}")) == number
    assert (int(real.cudaStreamNonBlocking), int(real.cudaEventDisableTiming)) == (1, 2)
