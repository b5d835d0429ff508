"""A stand-in for `cuda.bindings.runtime` over the host's memory, and for TensorRT over ONNX Runtime on the CPU.

Work that is queued on a stream is done as late as it may be: when somebody waits for it. So a wait or a copy that is
missing shows in the results. Errors are the real library's numbers.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime

from rsicrc.backends.arrays import item_size
from rsicrc.backends.host_loop import shape_of
from rsicrc.backends.tensorrt.library import Library
from rsicrc.manifest import GraphSpec

OK, NO_MEMORY = 0, 2
Work = Callable[[], None]


@dataclass
class _Point:
    """An event: how much of which stream's work comes before it."""

    stream: int = 0
    count: int = 0


@dataclass
class _Queue:
    work: list[Work] = field(default_factory=list)
    done: int = 0
    recording: list[Work] | None = None


class FakeCuda:
    """The functions of `cuda.bindings.runtime` that `rsicrc.backends.cuda` calls.

    Attributes:
        calls: how often each was called.
        copies: how many copies were done, by kind, and how many bytes.
        allocated: bytes on the device, by address.
        room: bytes that the device has.
        peak: the most bytes that were in use.
        is_eager: work is done at once, for a runtime that does its own at once.
    """

    cudaMemcpyKind = SimpleNamespace(  # noqa: N815
        cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down", cudaMemcpyDeviceToDevice="across"
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(self, room: int = 1 << 33, *, is_eager: bool = False) -> None:
        self.room, self.is_eager = room, is_eager
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
        return OK, self.room - sum(self.allocated.values()), self.room

    def cudaGetLastError(self) -> tuple[int]:  # noqa: N802
        return (OK,)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:  # noqa: N802
        return OK, f"error {error}".encode()

    def cudaMalloc(self, size: int) -> tuple[int, int | None]:  # noqa: N802
        if sum(self.allocated.values()) + size > self.room:
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
        # What is not pinned is read at once, as the driver does; what is written there is complete on return.
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
        self._queues[stream].recording = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, list[Work] | None]:  # noqa: N802
        recorded, self._queues[stream].recording = self._queues[stream].recording, None
        return OK, recorded

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
        """Queue work, or record it."""
        queue = self._queues[stream]
        if self.is_eager and queue.recording is None:
            work()
            return
        (queue.work if queue.recording is None else queue.recording).append(work)

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
        memory = np.full(size + 256, 0xA5, np.uint8)  # as fresh memory is: not zero
        address: int = -(-memory.ctypes.data // 256) * 256
        self._memory[address] = memory
        return address

    def _require_device(self, address: int, size: int) -> None:
        assert self._is_in(self.allocated, address, size), "no memory of the device"

    @staticmethod
    def _is_in(places: dict[int, int], address: int, size: int) -> bool:
        return any(start <= address and address + size <= start + length for start, length in places.items())


def _nothing() -> None:
    pass


class FakeLogger:
    """What `make_logger` gives for the stand-in."""

    errors: tuple[str, ...] = ()
    reason = "it gave no reason"


@dataclass
class FakeTensorRt:
    """A TensorRT whose plans are ONNX files and whose engines run them on the CPU, over the addresses they get.

    Attributes:
        cuda: whose streams it queues its work on.
        graphs: the manifest's.
        most: the most pairs that its profile admits.
        at_host: inputs that its engines want in the host's memory.
        runs: how often each graph ran.
    """

    cuda: FakeCuda
    graphs: dict[str, GraphSpec]
    most: int = 64
    at_host: frozenset[str] = frozenset()
    runs: Counter[str] = field(default_factory=Counter)

    TensorLocation = SimpleNamespace(HOST=1, DEVICE=0)
    ILogger = SimpleNamespace(Severity=SimpleNamespace(INTERNAL_ERROR=0, ERROR=1))

    @property
    def library(self) -> Library:
        return Library("tensorrt", "10.13.3", self)

    def Runtime(self, _logger: Any) -> Any:  # noqa: N802
        return SimpleNamespace(deserialize_cuda_engine=self._engine)

    def _engine(self, plan: bytes) -> FakeEngine:
        inputs = {each.name for each in onnx.load_model_from_string(plan).graph.input}
        (name,) = (name for name, graph in self.graphs.items() if set(graph.inputs) == inputs)
        return FakeEngine(self, name, self.graphs[name], plan)


class FakeEngine:
    def __init__(self, library: FakeTensorRt, name: str, graph: GraphSpec, plan: bytes) -> None:
        self.library, self.name, self.graph = library, name, graph
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(plan, options, providers=["CPUExecutionProvider"])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        most = {"B": self.library.most, "K": 8, "P": 10_000, "N": 256, "n": 100}
        return [shape_of(self.graph.inputs[name], axes) for axes in (dict.fromkeys(most, 1), most, most)]

    def get_tensor_location(self, name: str) -> int:
        return int(name in self.library.at_host)

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
        """Queue a run over the addresses and shapes of now; what is at them is read when it is done."""
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
            memory = library.cuda.pinned if name in library.at_host else library.cuda.allocated
            assert FakeCuda._is_in(memory, addresses[name], size), f"{name} is not where it belongs"

        def work() -> None:
            library.runs[engine.name] += 1

            def array(name: str) -> Any:
                shape, dtype = shape_of(tensors[name], axes), np.dtype(tensors[name].dtype)
                size = int(np.prod(shape)) * dtype.itemsize
                place = (ctypes.c_uint8 * size).from_address(addresses[name])
                return np.ctypeslib.as_array(place).view(dtype).reshape(shape)

            results = engine.session.run(
                list(engine.graph.outputs), {name: array(name) for name in engine.graph.inputs}
            )
            for name, result in zip(engine.graph.outputs, results, strict=True):
                array(name)[...] = result

        library.cuda.queue(stream, work)
        return True
