"""CUDA devices, memory, streams, events and graphs over NVIDIA's cuda-bindings, with errors as `BackendError`.

Addresses, streams and events are plain integers, as in TensorRT, ONNX Runtime and the array protocols. All objects
belong to the device's primary context, which PyTorch, CuPy and `pycuda.autoprimaryctx` use too.
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
from rsicrc.untrusted.fields import shown

_NO_DEVICE = 100  # cudaErrorNoDevice
_OLD_DRIVER = 35  # cudaErrorInsufficientDriver
_NO_MEMORY = 2  # cudaErrorMemoryAllocation
_NON_BLOCKING = 1  # a stream that does not wait for the legacy default stream
_NO_TIMING = 2
_ON_CPU = "or use device='cpu'"


def device_number(device: str) -> int:
    """Return N of "cuda:N"; 0 for "cuda".

    Raises:
        BackendError: The name has another form.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or (number == "" and ":" in device) or not (number or "0").isdecimal():
        raise BackendError(f"no device {shown(device)}: there is cpu, cuda, cuda:0, cuda:1, …, and 'auto' chooses")
    return int(number or 0)


def device_count() -> int:
    """Return the number of GPUs, at least 1.

    Raises:
        BackendError: cuda-bindings, the driver or a GPU is missing, or the driver is too old; the message has a remedy.
    """
    runtime = _runtime()
    error, count = runtime.cudaGetDeviceCount()
    if int(error) == 0 and count > 0:
        return int(count)
    supported = driver_version()
    if supported is None:
        raise BackendError(f"there is no NVIDIA driver: install one (https://www.nvidia.com/drivers), {_ON_CPU}")
    if int(error) in (0, _NO_DEVICE):
        raise BackendError(f"the NVIDIA driver finds no GPU (does CUDA_VISIBLE_DEVICES hide it?): add one, {_ON_CPU}")
    if int(error) == _OLD_DRIVER:
        needed = int(runtime.cudaRuntimeGetVersion()[1]) // 1000
        raise BackendError(
            f"the NVIDIA driver is too old: it supports CUDA {supported[0]}.{supported[1]} and cuda-bindings here "
            f"needs {needed}: update the driver, or `pip install 'cuda-bindings<{needed}'`"
        )
    raise BackendError(f"CUDA cannot start: {_text(error)}: check the driver with `nvidia-smi`, {_ON_CPU}")


def driver_version() -> tuple[int, int] | None:
    """Return the newest version of CUDA that the driver supports, (major, minor); None if there is no driver.

    Raises:
        BackendError: cuda-bindings is missing.
    """
    version = int(_runtime().cudaDriverGetVersion()[1])
    return (version // 1000, version // 10 % 100) if version else None


class Device:
    """One GPU. Every thread that works with a GPU must first call `enter`.

    Attributes:
        number: Number of the GPU, counted from 0.
        name: Name of the GPU, for example "NVIDIA H200".
        capability: Compute capability, (major, minor).

    Args:
        number: Number of the GPU.

    Raises:
        BackendError: See `device_count`; or there is no GPU with this number.
    """

    def __init__(self, number: int) -> None:
        count = device_count()
        if number >= count:
            there = "there is 1 GPU" if count == 1 else f"there are {count} GPUs"
            raise BackendError(f"no cuda:{number}: {there}, counted from 0")
        self.number = number
        self.enter()
        properties = _call("cudaGetDeviceProperties", number, doing="reading the properties of the GPU")
        self.name = properties.name.partition(b"\0")[0].decode()
        self.capability = (int(properties.major), int(properties.minor))

    @property
    def title(self) -> str:
        """Name and compute capability, as in the list of TensorRT plans: "NVIDIA H200 9.0"."""
        major, minor = self.capability
        return f"{self.name} {major}.{minor}"

    def enter(self) -> None:
        """Make this GPU the current device of the calling thread."""
        _call("cudaSetDevice", self.number, doing="selecting the GPU")

    def memory(self) -> tuple[int, int]:
        """Return the free and the total memory of the current device in bytes."""
        free, total = _call("cudaMemGetInfo", doing="reading the free memory of the GPU")
        return int(free), int(total)


class Memory:
    """Memory on the current device of the calling thread, freed with this object.

    Attributes:
        address: Address of the first byte, a multiple of 256.
        bytes: Size in bytes.

    Args:
        size: Size in bytes.

    Raises:
        DeviceMemoryError: The GPU is out of memory.
    """

    def __init__(self, size: int) -> None:
        self.bytes = size
        self.address = int(_call("cudaMalloc", max(size, 1), doing=f"allocating {_megabytes(size)} on the GPU"))
        _free_with(self, "cudaFree", self.address)


class PinnedMemory:
    """Page-locked host memory that the GPU reads and writes directly, freed with this object.

    Attributes:
        address: Address of the first byte.
        array: The memory as an array, uint8 [size]. The array does not keep the memory allocated.

    Args:
        size: Size in bytes.

    Raises:
        DeviceMemoryError: The memory cannot be allocated.
    """

    def __init__(self, size: int) -> None:
        self.address = int(_call("cudaMallocHost", max(size, 1), doing=f"pinning {_megabytes(size)} of memory"))
        self.array: NDArray[np.uint8] = _array_at(self.address, size)
        _free_with(self, "cudaFreeHost", self.address)


class Event:
    """A point in the work of a stream."""

    def __init__(self) -> None:
        self.handle = int(_call("cudaEventCreateWithFlags", _NO_TIMING, doing="creating a CUDA event"))
        _free_with(self, "cudaEventDestroy", self.handle)

    def record(self, stream: int) -> None:
        """Place the event after all work that is queued on a stream so far."""
        _call("cudaEventRecord", self.handle, stream, doing="recording a CUDA event")

    def synchronize(self) -> None:
        """Wait until the work before the event is done; return at once if the event was never recorded."""
        _call("cudaEventSynchronize", self.handle, doing="the work on the GPU")


class Stream:
    """A queue of work for the current device of the calling thread. All methods but `synchronize` return at once.

    Attributes:
        handle: Handle of the CUDA stream, as used by other libraries.
    """

    def __init__(self) -> None:
        self.handle = int(_call("cudaStreamCreateWithFlags", _NON_BLOCKING, doing="creating a CUDA stream"))
        _free_with(self, "cudaStreamDestroy", self.handle)

    def upload(self, target: int, source: int, size: int) -> None:
        """Copy bytes from the host to the device. Memory that is not pinned may be changed after the return."""
        self._copy(target, source, size, "cudaMemcpyHostToDevice")

    def download(self, target: int, source: int, size: int) -> None:
        """Copy bytes from the device to the host."""
        self._copy(target, source, size, "cudaMemcpyDeviceToHost")

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy bytes within the device."""
        self._copy(target, source, size, "cudaMemcpyDeviceToDevice")

    def clear(self, target: int, size: int) -> None:
        """Write zeros."""
        if size:
            _call("cudaMemsetAsync", target, 0, size, self.handle, doing="clearing memory of the GPU")

    def wait(self, event: Event) -> None:
        """Make the work that is queued from now on wait for an event."""
        _call("cudaStreamWaitEvent", self.handle, event.handle, 0, doing="waiting for a CUDA event")

    def synchronize(self) -> None:
        """Wait until all queued work is done."""
        _call("cudaStreamSynchronize", self.handle, doing="the work on the GPU")

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        if size:
            kinds = _runtime().cudaMemcpyKind
            _call("cudaMemcpyAsync", target, source, size, getattr(kinds, kind), self.handle, doing="copying")


class CudaGraph:
    """A CUDA graph: work that is captured once from a stream, and then launched as a whole any number of times.

    Args:
        stream: An idle stream to capture from; the work is not run on it.
        work: Function that queues the work. It must not wait or allocate memory.
    """

    def __init__(self, stream: Stream, work: Callable[[], None]) -> None:
        mode = _runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call("cudaStreamBeginCapture", stream.handle, mode, doing="capturing a CUDA graph")
        try:
            work()
        except BaseException:
            error, graph = _runtime().cudaStreamEndCapture(stream.handle)
            if int(error) == 0:
                _runtime().cudaGraphDestroy(graph)
            _runtime().cudaGetLastError()
            raise
        graph = _call("cudaStreamEndCapture", stream.handle, doing="capturing a CUDA graph")
        try:
            self._graph = _call("cudaGraphInstantiate", graph, 0, doing="capturing a CUDA graph")
        finally:
            _runtime().cudaGraphDestroy(graph)
        _free_with(self, "cudaGraphExecDestroy", self._graph)

    def launch(self, stream: Stream) -> None:
        """Queue the captured work on a stream."""
        _call("cudaGraphLaunch", self._graph, stream.handle, doing="launching a CUDA graph")


def wait(stream: int, other: int) -> None:
    """Make the work queued from now on on a stream wait for all work queued so far on another stream."""
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
    """Call a function of CUDA, check its error code and return its other results."""
    error, *values = getattr(_runtime(), name)(*arguments)
    if int(error) != 0:
        _runtime().cudaGetLastError()  # clears the error, which the next call would report again
        if int(error) == _NO_MEMORY:
            raise DeviceMemoryError(f"{doing}: out of memory: lower the batch size or the number of beams")
        raise BackendError(f"{doing} failed: {_text(error)}")
    return values[0] if len(values) == 1 else values


def _text(error: Any) -> str:
    message: bytes = _runtime().cudaGetErrorString(error)[1]
    return message.decode()


def _free_with(owner: object, function: str, handle: Any) -> None:
    # A finalizer cannot report errors. At the end of the process the driver frees all memory by itself.
    weakref.finalize(owner, getattr(_runtime(), function), handle).atexit = False


def _array_at(address: int, size: int) -> NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
