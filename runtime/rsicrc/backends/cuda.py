"""CUDA, as far as we need it, over NVIDIA's cuda-bindings: memory, streams, events, recorded work; errors as ours.

Addresses, streams and events are plain numbers, as TensorRT, ONNX Runtime and the array interfaces take them. All of it
lives in the device's primary context, the one that PyTorch, CuPy and `pycuda.autoprimaryctx` use too.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import BackendError, DeviceMemoryError

_NO_DEVICE = 100  # cudaErrorNoDevice
_OLD_DRIVER = 35  # cudaErrorInsufficientDriver
_NO_MEMORY = 2  # cudaErrorMemoryAllocation
_NON_BLOCKING = 1  # a stream that does not wait for the legacy default stream
_NO_TIMING = 2
_ON_CPU = "or use device='cpu'"


def device_number(device: str) -> int:
    """Return N of "cuda:N"; "cuda" is the first.

    Raises:
        BackendError: not such a name.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number == "" and ":" in device) or not (number or "0").isdecimal():
        raise BackendError(f"no device {device!r}: there is cpu, cuda, cuda:0, cuda:1, …, and 'auto' chooses")
    return int(number or 0)


def device_count() -> int:
    """Return how many GPUs there are, at least one.

    Raises:
        BackendError: cuda-bindings, the driver or a GPU is missing, or the driver is too old; says what to do.
    """
    runtime = _runtime()
    error, count = runtime.cudaGetDeviceCount()
    if int(error) == 0 and count > 0:
        return int(count)
    known = driver_version()
    if known is None:
        raise BackendError(f"there is no NVIDIA driver: install one (https://www.nvidia.com/drivers), {_ON_CPU}")
    if int(error) in (0, _NO_DEVICE):
        raise BackendError(f"the NVIDIA driver finds no GPU (does CUDA_VISIBLE_DEVICES hide it?): add one, {_ON_CPU}")
    if int(error) == _OLD_DRIVER:
        needed = int(runtime.cudaRuntimeGetVersion()[1]) // 1000
        raise BackendError(
            f"the NVIDIA driver is too old: it knows CUDA {known[0]}.{known[1]} and cuda-bindings here needs "
            f"{needed}: update the driver, or `pip install 'cuda-bindings<{needed}'`"
        )
    raise BackendError(f"CUDA cannot start: {_text(error)}: check the driver with `nvidia-smi`, {_ON_CPU}")


def driver_version() -> tuple[int, int] | None:
    """Return the newest CUDA that the driver knows; None where there is no driver.

    Raises:
        BackendError: cuda-bindings is missing.
    """
    known = int(_runtime().cudaDriverGetVersion()[1])
    return (known // 1000, known // 10 % 100) if known else None


class Device:
    """One GPU, by number. Every thread that works with it enters it first.

    Attributes:
        number: counted from 0.
        name: for example "NVIDIA H200".
        capability: compute capability, (major, minor).

    Raises:
        BackendError: see `device_count`; or there is no such number.
    """

    def __init__(self, number: int) -> None:
        count = device_count()
        if number >= count:
            there = "there is 1 GPU" if count == 1 else f"there are {count} GPUs"
            raise BackendError(f"no cuda:{number}: {there}, counted from 0")
        self.number = number
        self.enter()
        properties = _call("cudaGetDeviceProperties", number, doing="asking for the GPU's name")
        self.name = properties.name.partition(b"\0")[0].decode()
        self.capability = (int(properties.major), int(properties.minor))

    @property
    def title(self) -> str:
        """Name and compute capability, as plans are listed: "NVIDIA H200 9.0"."""
        major, minor = self.capability
        return f"{self.name} {major}.{minor}"

    def enter(self) -> None:
        """Make it the calling thread's device."""
        _call("cudaSetDevice", self.number, doing="choosing the GPU")

    def memory(self) -> tuple[int, int]:
        """Return bytes that are free, and all of them."""
        free, total = _call("cudaMemGetInfo", doing="asking for free memory")
        return int(free), int(total)


class Memory:
    """Bytes on the device of the calling thread, freed with this object.

    Attributes:
        address: of the first byte; a multiple of 256.
        bytes: how many.

    Raises:
        DeviceMemoryError: there is no room.
    """

    def __init__(self, size: int) -> None:
        self.bytes = size
        self.address = int(_call("cudaMalloc", max(size, 1), doing=f"allocating {_megabytes(size)} on the GPU"))
        _free_with(self, "cudaFree", self.address)


class PinnedMemory:
    """Bytes of the host that the GPU reads and writes by itself, freed with this object.

    Attributes:
        address: of the first byte.
        array: uint8, over them. It does not keep them.

    Raises:
        DeviceMemoryError: there is no room.
    """

    def __init__(self, size: int) -> None:
        self.address = int(_call("cudaMallocHost", max(size, 1), doing=f"pinning {_megabytes(size)} of memory"))
        self.array: NDArray[np.uint8] = _array_at(self.address, size)
        _free_with(self, "cudaFreeHost", self.address)


class Event:
    """A point in a stream's work."""

    def __init__(self) -> None:
        self.handle = int(_call("cudaEventCreateWithFlags", _NO_TIMING, doing="making a CUDA event"))
        _free_with(self, "cudaEventDestroy", self.handle)

    def record(self, stream: int) -> None:
        """Set it behind everything that was queued on a stream so far."""
        _call("cudaEventRecord", self.handle, stream, doing="recording a CUDA event")

    def synchronize(self) -> None:
        """Wait until the work before it is done; at once where it was never recorded."""
        _call("cudaEventSynchronize", self.handle, doing="the work on the GPU")


class Stream:
    """A queue of work for the device of the calling thread. All but `synchronize` return at once.

    Attributes:
        handle: as other libraries take it.
    """

    def __init__(self) -> None:
        self.handle = int(_call("cudaStreamCreateWithFlags", _NON_BLOCKING, doing="making a CUDA stream"))
        _free_with(self, "cudaStreamDestroy", self.handle)

    def upload(self, target: int, source: int, size: int) -> None:
        """Copy bytes of the host to the device. What is not pinned may be changed when this returns."""
        self._copy(target, source, size, "cudaMemcpyHostToDevice")

    def download(self, target: int, source: int, size: int) -> None:
        """Copy bytes of the device to the host."""
        self._copy(target, source, size, "cudaMemcpyDeviceToHost")

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy bytes on the device."""
        self._copy(target, source, size, "cudaMemcpyDeviceToDevice")

    def clear(self, target: int, size: int) -> None:
        """Write zeros."""
        if size:
            _call("cudaMemsetAsync", target, 0, size, self.handle, doing="clearing memory of the GPU")

    def wait(self, event: Event) -> None:
        """Let what follows wait for an event."""
        _call("cudaStreamWaitEvent", self.handle, event.handle, 0, doing="waiting for a CUDA event")

    def synchronize(self) -> None:
        """Wait until all is done."""
        _call("cudaStreamSynchronize", self.handle, doing="the work on the GPU")

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        if size:
            kinds = _runtime().cudaMemcpyKind
            _call("cudaMemcpyAsync", target, source, size, getattr(kinds, kind), self.handle, doing="copying")


class Recording:
    """Work that was queued on a stream once, and is launched again as a whole: a CUDA graph.

    Args:
        stream: the stream; it must be idle, and gets none of the work.
        work: queues it. It must not wait or allocate.
    """

    def __init__(self, stream: Stream, work: Callable[[], None]) -> None:
        mode = _runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call("cudaStreamBeginCapture", stream.handle, mode, doing="recording")
        try:
            work()
        except BaseException:
            error, graph = _runtime().cudaStreamEndCapture(stream.handle)
            if int(error) == 0:
                _runtime().cudaGraphDestroy(graph)
            _runtime().cudaGetLastError()
            raise
        graph = _call("cudaStreamEndCapture", stream.handle, doing="recording")
        try:
            self._graph = _call("cudaGraphInstantiate", graph, 0, doing="recording")
        finally:
            _runtime().cudaGraphDestroy(graph)
        _free_with(self, "cudaGraphExecDestroy", self._graph)

    def launch(self, stream: Stream) -> None:
        """Queue the work on a stream."""
        _call("cudaGraphLaunch", self._graph, stream.handle, doing="launching recorded work")


def wait(stream: int, other: int) -> None:
    """Let what follows on a stream wait for everything that was queued on another one so far."""
    event = Event()
    event.record(other)
    _call("cudaStreamWaitEvent", stream, event.handle, 0, doing="waiting for a CUDA stream")


class _NoDriver:
    """CUDA runtime of a machine without an NVIDIA driver: all calls fail as they do there in `cuda.bindings.runtime`.

    Importing cuda-bindings takes 0.05 s of processor time, which a start on a CPU can save.
    """

    def __getattr__(self, name: str) -> Callable[..., tuple[int, Any]]:
        if name == "cudaDriverGetVersion":
            return lambda: (0, 0)
        if name == "cudaGetErrorString":
            return lambda error: (0, b"CUDA driver version is insufficient for CUDA runtime version")
        return lambda *arguments: (_OLD_DRIVER, 0)


@cache
def _runtime() -> Any:
    try:
        if importlib.util.find_spec("cuda.bindings.runtime") is not None and not _has_driver():
            return _NoDriver()
        return importlib.import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        raise BackendError(
            f"cuda-bindings is not installed ({error}): `pip install 'rsicrc[gpu]'` or `pip install 'rsicrc[tensorrt]'`"
        ) from error


def _has_driver() -> bool:
    if sys.platform != "linux":
        return True  # unknown: cuda-bindings finds out
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _call(name: str, *arguments: Any, doing: str) -> Any:
    """Call a function of CUDA's and return what it gives beside its error."""
    error, *values = getattr(_runtime(), name)(*arguments)
    if int(error) != 0:
        _runtime().cudaGetLastError()  # so that the next call does not report this one
        if int(error) == _NO_MEMORY:
            raise DeviceMemoryError(f"{doing}: out of memory: lower the batch size or the number of beams")
        raise BackendError(f"{doing} failed: {_text(error)}")
    return values[0] if len(values) == 1 else values


def _text(error: Any) -> str:
    message: bytes = _runtime().cudaGetErrorString(error)[1]
    return message.decode()


def _free_with(owner: object, function: str, handle: Any) -> None:
    # Errors have nobody to go to here. At the end of the process the driver frees everything by itself.
    weakref.finalize(owner, getattr(_runtime(), function), handle).atexit = False


def _array_at(address: int, size: int) -> NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
