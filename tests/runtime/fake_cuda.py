"""Fakes of `cuda.bindings.runtime` over host memory, and of TensorRT over ONNX Runtime on the CPU.

Queued work is run as late as CUDA allows: when something waits for it. A missing wait or copy therefore changes the
results. Error codes are those of the real library.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from rsicrc.backends.arrays import item_size
from rsicrc.backends.host_loop import shape_of
from rsicrc.backends.tensorrt.library import Library
from rsicrc.backends.tensorrt.plan_list import PlanFile
from rsicrc.manifest import GraphSpec, Manifest

OK, NO_MEMORY = 0, 2
Work = Callable[[], None]


@dataclass
class _Point:
    """An event: the stream, and the number of its work items before the event."""

    stream: int = 0
    count: int = 0


@dataclass
class _Queue:
    work: list[Work] = field(default_factory=list)
    done: int = 0
    captured: list[Work] | None = None


class FakeCuda:
    """The functions of `cuda.bindings.runtime` that `rsicrc.backends.cuda` calls.

    Attributes:
        calls: Number of calls by function.
        copies: Number of copies by direction ("up", "down", "across").
        copied: Number of copied bytes by direction.
        allocated: Sizes of the allocations on the device, by address.
        pinned: Sizes of the allocations of pinned host memory, by address.
        capacity: Memory of the device in bytes.
        peak: Maximum memory in use, in bytes.
        devices: Number of devices.
        is_eager: Work is run at once, for a runtime that runs its own work at once.
    """

    cudaMemcpyKind = SimpleNamespace(  # noqa: N815
        cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down", cudaMemcpyDeviceToDevice="across"
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(self, capacity: int = 1 << 33, *, is_eager: bool = False) -> None:
        self.capacity, self.is_eager = capacity, is_eager
        self.devices = 1
        self.peak = 0
        self.calls: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.copied: Counter[str] = Counter()
        self.allocated: dict[int, int] = {}
        self.pinned: dict[int, int] = {}
        self._memory: dict[int, Any] = {}
        self._numbers = itertools.count(16)
        self._working = threading.RLock()
        self._queues: dict[int, _Queue] = {1: _Queue()}  # the legacy default stream
        self._events: dict[int, _Point] = {}

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("cuda"):
            object.__getattribute__(self, "calls")[name] += 1
        return object.__getattribute__(self, name)

    def cudaGetDeviceCount(self) -> tuple[int, int]:  # noqa: N802
        return OK, self.devices

    def cudaDriverGetVersion(self) -> tuple[int, int]:  # noqa: N802
        return OK, 13000

    def cudaRuntimeGetVersion(self) -> tuple[int, int]:  # noqa: N802
        return OK, 13050

    def cudaGetDeviceProperties(self, _device: int) -> tuple[int, Any]:  # noqa: N802
        return OK, SimpleNamespace(name=b"Fake GPU", major=9, minor=0)

    def cudaSetDevice(self, _device: int) -> tuple[int]:  # noqa: N802
        return (OK,)

    def cudaMemGetInfo(self) -> tuple[int, int, int]:  # noqa: N802
        return OK, self.capacity - sum(self.allocated.values()), self.capacity

    def cudaGetLastError(self) -> tuple[int]:  # noqa: N802
        return (OK,)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:  # noqa: N802
        return OK, f"error {error}".encode()

    def cudaMalloc(self, size: int) -> tuple[int, int | None]:  # noqa: N802
        if sum(self.allocated.values()) + size > self.capacity:
            return NO_MEMORY, None
        address = self._allocate(size)
        self.allocated[address] = size
        self.peak = max(self.peak, sum(self.allocated.values()))
        return OK, address

    def cudaMallocHost(self, size: int) -> tuple[int, int]:  # noqa: N802
        address = self._allocate(size)
        self.pinned[address] = size
        return OK, address

    def cudaFree(self, address: int) -> tuple[int]:  # noqa: N802
        self._drain()
        del self.allocated[address], self._memory[address]
        return (OK,)

    def cudaFreeHost(self, address: int) -> tuple[int]:  # noqa: N802
        self._drain()
        del self.pinned[address], self._memory[address]
        return (OK,)

    def cudaStreamCreateWithFlags(self, _flags: int) -> tuple[int, int]:  # noqa: N802
        number = next(self._numbers)
        self._queues[number] = _Queue()
        return OK, number

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:  # noqa: N802
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:  # noqa: N802
        self._run(stream, len(self._queues[stream].work))
        return (OK,)

    def cudaStreamWaitEvent(self, stream: int, event: int, _flags: int) -> tuple[int]:  # noqa: N802
        point = self._events[event]
        other, count = point.stream, point.count
        self.queue(stream, lambda: self._run(other, count))
        return (OK,)

    def cudaEventCreateWithFlags(self, _flags: int) -> tuple[int, int]:  # noqa: N802
        number = next(self._numbers)
        self._events[number] = _Point()
        return OK, number

    def cudaEventDestroy(self, event: int) -> tuple[int]:  # noqa: N802
        del self._events[event]
        return (OK,)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:  # noqa: N802
        self._events[event] = _Point(stream, len(self._queues[stream].work))
        return (OK,)

    def cudaEventSynchronize(self, event: int) -> tuple[int]:  # noqa: N802
        point = self._events[event]
        self._run(point.stream, point.count)
        return (OK,)

    def cudaMemsetAsync(self, target: int, value: int, size: int, stream: int) -> tuple[int]:  # noqa: N802
        self._require_device(target, size)

        def work() -> None:
            ctypes.memset(target, value, size)

        self.queue(stream, work)
        return (OK,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: str, stream: int) -> tuple[int]:  # noqa: N802
        for address, on_device in ((target, kind != "down"), (source, kind != "up")):
            if on_device:
                self._require_device(address, size)
        # As in the real driver, unpinned memory is read at once, and a copy to it is complete on return.
        early = ctypes.string_at(source, size) if kind == "up" and not self._is_in(self.pinned, source, size) else None

        def work() -> None:
            self.copies[kind] += 1
            self.copied[kind] += size
            ctypes.memmove(target, source if early is None else early, size)

        self.queue(stream, work)
        if kind == "down" and not self._is_in(self.pinned, target, size):
            self.cudaStreamSynchronize(stream)
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, _mode: int) -> tuple[int]:  # noqa: N802
        self._queues[stream].captured = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, list[Work] | None]:  # noqa: N802
        captured, self._queues[stream].captured = self._queues[stream].captured, None
        return OK, captured

    def cudaGraphInstantiate(self, graph: list[Work], _flags: int) -> tuple[int, list[Work]]:  # noqa: N802
        return OK, graph

    def cudaGraphDestroy(self, _graph: list[Work]) -> tuple[int]:  # noqa: N802
        return (OK,)

    def cudaGraphExecDestroy(self, _graph: list[Work]) -> tuple[int]:  # noqa: N802
        return (OK,)

    def cudaGraphLaunch(self, graph: list[Work], stream: int) -> tuple[int]:  # noqa: N802
        for work in graph:
            self.queue(stream, work)
        return (OK,)

    def queue(self, stream: int, work: Work) -> None:
        """Queue work, or capture it."""
        queue = self._queues[stream]
        if self.is_eager and queue.captured is None:
            work()
            return
        (queue.work if queue.captured is None else queue.captured).append(work)

    def _run(self, stream: int, count: int) -> None:
        queue = self._queues.get(stream)
        with self._working:
            while queue is not None and queue.done < count:
                work, queue.work[queue.done] = queue.work[queue.done], _nothing
                queue.done += 1
                work()

    def _drain(self) -> None:
        for number, queue in self._queues.items():
            self._run(number, len(queue.work))

    def _allocate(self, size: int) -> int:
        memory = np.full(size + 256, 0xA5, np.uint8)  # fresh memory is not zero
        address: int = -(-memory.ctypes.data // 256) * 256
        self._memory[address] = memory
        return address

    def _require_device(self, address: int, size: int) -> None:
        assert self._is_in(self.allocated, address, size), "not memory of the device"

    @staticmethod
    def _is_in(allocations: dict[int, int], address: int, size: int) -> bool:
        return any(start <= address and address + size <= start + length for start, length in allocations.items())


def _nothing() -> None:
    pass


class FakeLogger:
    """Stand-in for the logger of `make_logger`."""

    errors: tuple[str, ...] = ()
    reason = "it gave no reason"


@dataclass
class FakeTensorRt:
    """A TensorRT whose plans are ONNX files, and whose engines run them on the CPU over the given addresses.

    Attributes:
        cuda: CUDA whose streams the work is queued on.
        graphs: Graphs of the manifest.
        max_pairs: Maximum number of pairs in the profile.
        host_tensors: Inputs that the engines read from host memory.
        runs: Number of runs by graph.
    """

    cuda: FakeCuda
    graphs: dict[str, GraphSpec]
    max_pairs: int = 64
    host_tensors: frozenset[str] = frozenset()
    runs: Counter[str] = field(default_factory=Counter)

    TensorLocation = SimpleNamespace(HOST=1, DEVICE=0)
    ILogger = SimpleNamespace(Severity=SimpleNamespace(INTERNAL_ERROR=0, ERROR=1))

    @property
    def library(self) -> Library:
        return Library("tensorrt", "10.13.3", self)

    def Runtime(self, _logger: Any) -> Any:  # noqa: N802
        return SimpleNamespace(deserialize_cuda_engine=self._engine)

    def _engine(self, plan: bytes) -> FakeEngine:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(plan, options, providers=["CPUExecutionProvider"])
        inputs = {each.name for each in session.get_inputs()}
        (name,) = (name for name, graph in self.graphs.items() if set(graph.inputs) == inputs)
        return FakeEngine(self, name, self.graphs[name], session)


def onnx_plans(folder: Path, manifest: Manifest) -> dict[str, PlanFile]:
    """Return plans for `FakeTensorRt`: the ONNX files of all graphs."""
    files = {name: graph.file for name, graph in manifest.graphs.items()}
    return {name: PlanFile(folder / file, manifest.files[file].sha256) for name, file in files.items()}


class FakeEngine:
    def __init__(self, library: FakeTensorRt, name: str, graph: GraphSpec, session: Any) -> None:
        self.library, self.name, self.graph, self.session = library, name, graph, session

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        most = {"B": self.library.max_pairs, "K": 8, "P": 10_000, "N": 256, "n": 100}
        return [shape_of(self.graph.inputs[name], axes) for axes in (dict.fromkeys(most, 1), most, most)]

    def get_tensor_location(self, name: str) -> int:
        return int(name in self.library.host_tensors)

    def create_execution_context(self) -> FakeContext:
        return FakeContext(self)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % 256 == 0
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        """Queue a run with the current addresses and shapes; the memory is read when the work is run."""
        engine, addresses = self.engine, dict(self.addresses)
        library = engine.library
        assert set(addresses) == {*engine.graph.inputs, *engine.graph.outputs}
        axes: dict[str, int] = {}
        for name, spec in engine.graph.inputs.items():
            shape = self.shapes.get(name, ())
            axes.update({axis: size for axis, size in zip(spec.shape, shape, strict=True) if isinstance(axis, str)})
        tensors = {**engine.graph.inputs, **engine.graph.outputs}
        for name, spec in tensors.items():
            size = int(np.prod(shape_of(spec, axes))) * item_size(spec.dtype)
            memory = library.cuda.pinned if name in library.host_tensors else library.cuda.allocated
            assert FakeCuda._is_in(memory, addresses[name], size), f"{name} is in the wrong memory"

        def work() -> None:
            library.runs[engine.name] += 1

            def array(name: str) -> Any:
                shape, dtype = shape_of(tensors[name], axes), np.dtype(tensors[name].dtype)
                size = int(np.prod(shape)) * dtype.itemsize
                memory = (ctypes.c_uint8 * size).from_address(addresses[name])
                return np.ctypeslib.as_array(memory).view(dtype).reshape(shape)

            results = engine.session.run(
                list(engine.graph.outputs), {name: array(name) for name in engine.graph.inputs}
            )
            for name, result in zip(engine.graph.outputs, results, strict=True):
                array(name)[...] = result

        library.cuda.queue(stream, work)
        return True
