"""The CUDA layer: its errors, compared with the real cuda-bindings where no GPU is needed."""

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


def test_device_names_are_parsed() -> None:
    assert [cuda.device_number(name) for name in ("cuda", "cuda:0", "cuda:12")] == [0, 0, 12]
    for name in ("gpu", "cuda:", "cuda:x", "cuda:-1", "cpu", ""):
        with pytest.raises(BackendError, match="there is cpu, cuda, cuda:0"):
            cuda.device_number(name)


def test_missing_cuda_bindings_are_reported(monkeypatch: pytest.MonkeyPatch, uncached: None) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(BackendError, match=r"^cuda-bindings is not installed .*: `pip install 'rsicrc\[gpu\]'`"):
        cuda.Device(0)


@pytest.mark.skipif(has_driver(), reason="this machine has a driver")
def test_missing_driver_is_reported_by_the_real_bindings(model_folder: Path) -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="needs rsicrc[gpu] or rsicrc[tensorrt]")
    for use in (cuda.device_count, lambda: cuda.Device(0), lambda: rsicrc.load(model_folder, "cuda")):
        with pytest.raises(BackendError, match=r"^there is no NVIDIA driver: install one .*device='cpu'$"):
            use()
    # Calls without a check of the driver raise BackendError too.
    for make in (cuda.Stream, cuda.Event, lambda: cuda.Memory(8), lambda: cuda.PinnedMemory(8)):
        with pytest.raises(BackendError, match="failed: CUDA driver version is insufficient"):
            make()


@pytest.mark.parametrize(
    ("error", "driver", "message"),
    [
        (
            35,
            11040,
            r"driver is too old: it supports CUDA 11\.4 and cuda-bindings here needs 13: update the driver, or `pip",
        ),
        (100, 13000, "finds no GPU .*CUDA_VISIBLE_DEVICES"),
        (999, 13000, "CUDA cannot start: error 999: check the driver with `nvidia-smi`"),
    ],
)
def test_driver_errors_name_a_remedy(
    fake: FakeCuda, monkeypatch: pytest.MonkeyPatch, error: int, driver: int, message: str
) -> None:
    monkeypatch.setattr(fake, "cudaGetDeviceCount", lambda: (error, None), raising=False)
    monkeypatch.setattr(fake, "cudaDriverGetVersion", lambda: (0, driver), raising=False)
    with pytest.raises(BackendError, match=message) as caught:
        cuda.device_count()
    assert "\n" not in str(caught.value)


def test_missing_device_is_reported(fake: FakeCuda) -> None:
    assert cuda.Device(0).title == "Fake GPU 9.0"
    with pytest.raises(BackendError, match="no cuda:99: there is 1 GPU, counted from 0"):
        cuda.Device(99)


def test_allocation_beyond_the_capacity_is_reported(fake: FakeCuda) -> None:
    fake.capacity = 1000
    first = cuda.Memory(600)
    with pytest.raises(DeviceMemoryError, match="out of memory: lower the batch size") as caught:
        cuda.Memory(600)
    assert isinstance(caught.value, MemoryError)
    del first
    assert cuda.Memory(600).bytes == 600


def test_failed_capture_leaves_the_stream_usable(fake: FakeCuda) -> None:
    stream = cuda.Stream()
    memory, host = cuda.Memory(4), np.zeros(4, np.uint8)

    def work() -> None:
        stream.clear(memory.address, 4)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cuda.CudaGraph(stream, work)
    stream.download(host.ctypes.data, memory.address, 4)
    assert host.any()  # the captured work was not run
    cuda_graph = cuda.CudaGraph(stream, lambda: stream.clear(memory.address, 4))
    cuda_graph.launch(stream)
    stream.download(host.ctypes.data, memory.address, 4)
    assert not host.any()


def test_fake_has_the_functions_and_arguments_of_the_real_bindings() -> None:
    """Code that runs over the fake cannot fail over the real bindings because of a misspelled name."""
    real = pytest.importorskip("cuda.bindings.runtime", reason="needs rsicrc[gpu] or rsicrc[tensorrt]")
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
