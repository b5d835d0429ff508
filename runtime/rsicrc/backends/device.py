"""Base class of the backends on a GPU: values stay in GPU memory, and all work is queued on one stream.

A subclass defines how its runtime binds addresses to a graph (`rsicrc.backends.program`). Memory, copies and the loop
of the beam search are shared.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rsicrc.backends.arrays import DeviceArray, take_array
from rsicrc.backends.cuda import Device, Memory, Stream, device_number
from rsicrc.backends.device_loop import DeviceLoop, DeviceQueues, LoopSettings, SearchBuffers
from rsicrc.backends.device_memory import ALIGNMENT, BlockLayout, MemoryPool, Uploader, UploadLease
from rsicrc.backends.host_loop import ROWS
from rsicrc.backends.lazy import LazyGraphs
from rsicrc.backends.program import OpenedGraph, Tensors
from rsicrc.backends.protocol import Array
from rsicrc.cpu import available_cpus
from rsicrc.errors import ArgumentError, BackendError, DeviceMemoryError
from rsicrc.inputs.prefetch import Batch, BatchReader
from rsicrc.manifest import GraphSpec, Manifest


class DeviceBackend(ABC):
    """The graphs of a model folder on one GPU; values are `DeviceArray`s.

    Attributes:
        name: Name as given to `rsicrc.load`.
        device: "cuda:N".
        threads: Number of threads that read images; the graphs need none.
        stream: Handle of the CUDA stream that all work is queued on.
        uses_cuda_graphs: True if the steps of the beam search are captured as CUDA graphs; set it to False to compare.

    Args:
        folder: The model folder.
        manifest: The manifest, at the requested precision.
        device: "cuda" or "cuda:N".
        threads: Number of threads that read images; None for as many as this process may use.

    Raises:
        BackendError: There is no driver or no such GPU; the message has a remedy.
    """

    name: str
    # Capabilities of the runtime: a cache may be written where it is read; a run returns before it is done.
    _in_place = False
    _is_asynchronous = True

    def __init__(self, folder: Path, manifest: Manifest, device: str, threads: int | None) -> None:
        self._device = Device(device_number(device))
        self.device = f"cuda:{self._device.number}"
        self.threads = threads or available_cpus()
        self.uses_cuda_graphs = True
        self._folder, self._manifest = folder, manifest
        self._stream = Stream()
        self._queues = DeviceQueues(self._device.number, self._stream, copies=Stream())
        self.stream: int | None = self._stream.handle
        self._pool = MemoryPool()
        self._uploads = Uploader(self._device.number)
        self._opened = LazyGraphs(self._open)
        self._programs = LazyGraphs(lambda graph: self._opened[graph].program(self._stream, capture=False))
        self._free: defaultdict[tuple[Any, ...], list[SearchBuffers]] = defaultdict(list)
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        precision = self._manifest.precision
        return f"{type(self).__name__}(device={self.device!r}, precision={precision!r}, threads={self.threads})"

    @abstractmethod
    def _open(self, graph: str) -> OpenedGraph:
        """Load a graph."""

    def run(self, graph: str, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Queue a run of a graph; see `rsicrc.backends.Backend`. The run may not be done after the return.

        Raises:
            BackendError: The graph does not accept these inputs, or failed.
            DeviceMemoryError: The GPU is out of memory.
        """
        spec = self._manifest.graphs[graph]
        with self._working():
            program = self._programs[graph]
            inputs = {name: self._aligned(value) for name, value in feeds.items()}
            layout = BlockLayout(spec.outputs, _axes(graph, spec, inputs))
            block = self._pool.allocate(layout.bytes)
            results = layout.tensors(block.address, self._device.number, block, self.stream)
            leases = [each.owner for each in inputs.values() if isinstance(each.owner, UploadLease)]
            for lease in leases:
                lease.begin_use(self._stream)
            program.bind(inputs, results)()
            for lease in leases:
                lease.end_use(self._stream)
        return {name: results[name] for name in (spec.outputs if outputs is None else outputs)}

    def loop(
        self, graph: str, axes: Mapping[str, int], first: Mapping[str, Array], fixed: Mapping[str, Any]
    ) -> DeviceLoop:
        """Begin a loop; see `rsicrc.backends.Backend`. The buffers of an earlier loop of the same size are reused.

        Raises:
            BackendError: The graph does not run with these sizes.
            DeviceMemoryError: The GPU is out of memory.
        """
        spec = self._manifest.graphs[graph]
        with self._working():
            rows = _bucket(axes[ROWS], self._opened[graph].rows)
            # The caches have their full length from the first step on, so that all steps have the same shapes.
            sizes = {**axes, ROWS: rows, "P": (self._manifest.max_len - 1) * axes["K"]}
            free = self._free[graph, rows, axes["K"], self.uses_cuda_graphs]
            buffers = free.pop() if free else self._buffers(graph, spec, sizes)
            buffers.begin(axes[ROWS], first, {name: self._contiguous(value) for name, value in fixed.items()})
        return DeviceLoop(buffers, axes[ROWS], self._working, partial(free.append, buffers))

    def close(self) -> None:
        """Release the graphs and the buffers once the queued work is done; see `rsicrc.backends.Backend`."""
        with self._working():
            self._stream.synchronize()
            self._programs.close()
            self._opened.close()
            self._free.clear()

    def numpy(self, value: Any) -> Array:
        """Wait until a value is computed, and return it as a numpy array."""
        if isinstance(value, np.ndarray):
            return value
        result = np.empty(value.shape, value.dtype)
        with self._working():
            self._stream.download(result.ctypes.data, value.address, value.nbytes)
            self._stream.synchronize()
        return result

    def take(self, array: Any) -> DeviceArray:
        """Begin to copy an array to the device; see `rsicrc.backends.Backend`."""
        with self._working():
            taken = take_array(array, self.device, self.stream)
            return taken if isinstance(taken, DeviceArray) else self._uploads.begin(taken)

    def prefetch(self, batches: BatchReader) -> Iterator[Batch]:
        """Upload each batch, and also the following batch if that has been read already.

        The upload of the following batch runs while the graphs process the current batch.
        """
        current = self._uploaded(batches)
        while current is not None:
            following = self._uploaded(batches) if batches.ready() else None
            yield current
            current = following or self._uploaded(batches)

    def joined(self, values: Sequence[Any]) -> DeviceArray:
        """Return values joined along the first axis, complete and in new memory; see `rsicrc.backends.Backend`."""
        with self._working():
            memory = Memory(sum(value.nbytes for value in values))
            target = memory.address
            for value in values:
                self._stream.copy(target, value.address, value.nbytes)
                target += value.nbytes
            self._stream.synchronize()
        shape = (sum(len(value) for value in values), *values[0].shape[1:])
        return DeviceArray(memory.address, shape, values[0].dtype, self._device.number, memory)

    def _uploaded(self, batches: BatchReader) -> Batch | None:
        batch = next(batches, None)
        if batch is None or not len(batch.images):
            return batch
        try:
            return replace(batch, images=self.take(batch.images))
        except DeviceMemoryError:
            # The graphs will need the same memory, and the engine handles the error then.
            return batch

    def _buffers(self, graph: str, spec: GraphSpec, sizes: Mapping[str, int]) -> SearchBuffers:
        opened, capture = self._opened[graph], self.uses_cuda_graphs
        programs = opened.program(self._stream, capture=capture), opened.program(self._stream, capture=capture)
        settings = LoopSettings(self._in_place, capture, ahead=self._is_asynchronous)
        return SearchBuffers(spec, sizes, programs, self._queues, settings)

    def _aligned(self, value: Any) -> DeviceArray:
        """Return an input at an aligned address on the GPU, copied only where necessary."""
        array = self._contiguous(value)
        if isinstance(array, DeviceArray) and array.address % ALIGNMENT == 0:
            return array
        block = self._pool.allocate(array.nbytes)
        if isinstance(array, DeviceArray):
            self._stream.copy(block.address, array.address, array.nbytes)
        else:
            self._stream.upload(block.address, array.ctypes.data, array.nbytes)
        return DeviceArray(block.address, tuple(array.shape), str(array.dtype), self._device.number, block)

    def _contiguous(self, value: Any) -> Array | DeviceArray:
        taken = take_array(value, self.device, self.stream)
        return taken if isinstance(taken, DeviceArray) else np.asarray(taken, order="C")

    def _working(self) -> _Working:
        return _Working(self._lock, self._device, self._release)

    def _release(self) -> None:
        """Free the memory that is cached for reuse."""
        self._stream.synchronize()
        self._free.clear()
        self._pool.clear()
        self._uploads.clear()


class _Working:
    """A lock for work with a GPU; if the GPU runs out of memory, the memory that is cached for reuse is freed."""

    def __init__(self, lock: threading.RLock, device: Device, release: Callable[[], None]) -> None:
        self._lock, self._device, self._release = lock, device, release

    def __enter__(self) -> None:
        self._lock.acquire()
        self._device.enter()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        try:
            if kind is not None and issubclass(kind, DeviceMemoryError):
                self._release()
        finally:
            self._lock.release()


def _bucket(rows: int, limits: tuple[int, int]) -> int:
    """Return the padded batch size: a power of two, so that few sizes are captured, within the limits of the graph."""
    least, most = limits
    size = 1 << (rows - 1).bit_length()
    return max(least, rows if rows > most else min(size, most))


def _axes(graph: str, spec: GraphSpec, inputs: Tensors) -> dict[str, int]:
    """Return the sizes of the variable axes, from the shapes of the inputs."""
    axes: dict[str, int] = {}
    for name, value in inputs.items():
        expected = spec.inputs[name]
        fits = len(expected.shape) == len(value.shape) and value.dtype == expected.dtype
        if not fits or any(
            axes.setdefault(axis, size) != size if isinstance(axis, str) else axis != size
            for axis, size in zip(expected.shape, value.shape, strict=True)
        ):
            raise BackendError(
                f"graph {graph!r} takes {name} as {expected.dtype} {list(expected.shape)}, "
                f"not {value.dtype} {list(value.shape)}"
            )
    missing = [name for name in spec.inputs if name not in inputs]
    if missing:
        raise ArgumentError(f"graph {graph!r} needs {missing[0]}, too")
    return axes
