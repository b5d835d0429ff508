"""What the backends of a GPU have in common: values stay in its memory, and work is queued on one stream.

A backend of this kind says how its runtime binds addresses to a graph (`Program`); where the numbers lie, how they get
there and back, and the loop of the search are the same for all.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rsicrc.backends import Array
from rsicrc.backends.arrays import DeviceArray, take_array
from rsicrc.backends.cuda import Device, Memory, Stream, device_number
from rsicrc.backends.device_loop import DeviceLoop, SearchBuffers
from rsicrc.backends.device_memory import ALIGNMENT, Layout, Lease, Pool, Uploads
from rsicrc.backends.host_loop import ROWS
from rsicrc.backends.lazy import OpenGraphs
from rsicrc.cpu import available_cpus
from rsicrc.errors import ArgumentError, BackendError, DeviceMemoryError
from rsicrc.inputs.prefetch import Batch, BatchReader
from rsicrc.manifest import GraphSpec, Manifest

Tensors = Mapping[str, DeviceArray]


class Program(Protocol):
    """A graph in a runtime, with working memory for one run at a time."""

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        """Return what queues a run that reads and writes these tensors.

        Raises:
            BackendError: the graph does not run with these sizes.
        """
        ...

    def is_recordable(self) -> bool:
        """Whether a bound run, that ran once, may be recorded from its stream."""
        ...


class OpenedGraph(Protocol):
    """A graph that a runtime has loaded.

    Attributes:
        rows: the fewest and the most entries of the axis B.
    """

    rows: tuple[int, int]

    def program(self, stream: Stream, *, records: bool) -> Program:
        """Make a program of it whose runs are queued on a stream.

        Args:
            stream: the stream.
            records: its runs are always of one size and over the same addresses, so the runtime may record them.

        Raises:
            DeviceMemoryError: there is no room on the GPU.
        """
        ...


class DeviceBackend(ABC):
    """The graphs of a model folder on one GPU; values are `DeviceArray`s.

    Attributes:
        name: as given to `rsicrc.load`.
        device: "cuda:N".
        threads: threads that images are read with; the graphs need none.
        stream: the CUDA stream that all work is queued on.
        records: whether the search's steps are recorded as CUDA graphs; may be turned off to compare.
    """

    name: str
    # What a runtime can do: write a cache where it reads it; return before a run is done.
    _in_place = False
    _is_asynchronous = True

    def __init__(self, folder: Path, manifest: Manifest, device: str, threads: int | None) -> None:
        self._device = Device(device_number(device))
        self.device = f"cuda:{self._device.number}"
        self.threads = threads or available_cpus()
        self.records = True
        self._folder, self._manifest = folder, manifest
        self._stream, self._copies = Stream(), Stream()
        self.stream: int | None = self._stream.handle
        self._pool = Pool()
        self._uploads = Uploads(self._device.number)
        self._opened = OpenGraphs(self._open)
        self._programs = OpenGraphs(lambda graph: self._opened[graph].program(self._stream, records=False))
        self._free: defaultdict[tuple[Any, ...], list[SearchBuffers]] = defaultdict(list)
        self._lock = threading.RLock()

    @abstractmethod
    def _open(self, graph: str) -> OpenedGraph:
        """Load a graph."""

    def run(self, graph: str, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run a graph; see `rsicrc.backends.Backend`. It may still be running when this returns.

        Raises:
            BackendError: the graph does not take these inputs, or failed.
            DeviceMemoryError: there is no room on the GPU.
        """
        spec = self._manifest.graphs[graph]
        with self._working():
            program = self._programs[graph]
            inputs = {name: self._placed(value) for name, value in feeds.items()}
            layout = Layout(spec.outputs, _axes(graph, spec, inputs))
            block = self._pool.take(layout.bytes)
            results = layout.tensors(block.address, self._device.number, block, self.stream)
            leases = [each.owner for each in inputs.values() if isinstance(each.owner, Lease)]
            for lease in leases:
                lease.begin_use(self._stream)
            program.bind(inputs, results)()
            for lease in leases:
                lease.end_use(self._stream)
        return {name: results[name] for name in (spec.outputs if outputs is None else outputs)}

    def loop(
        self, graph: str, axes: Mapping[str, int], first: Mapping[str, Array], fixed: Mapping[str, Any]
    ) -> DeviceLoop:
        """Begin a loop; see `rsicrc.backends.Backend`. Sizes seen before allocate nothing.

        Raises:
            BackendError: the graph does not run with these sizes.
            DeviceMemoryError: there is no room on the GPU.
        """
        spec = self._manifest.graphs[graph]
        with self._working():
            rows = _bucket(axes[ROWS], self._opened[graph].rows)
            # Caches have their full length from the first step on: one shape for the whole search.
            sizes = {**axes, ROWS: rows, "P": (self._manifest.max_len - 1) * axes["K"]}
            free = self._free[graph, rows, axes["K"], self.records]
            buffers = free.pop() if free else self._buffers(graph, spec, sizes)
            buffers.begin(axes[ROWS], first, {name: self._located(value) for name, value in fixed.items()})
        return DeviceLoop(buffers, axes[ROWS], self._working, lambda: free.append(buffers))

    def close(self) -> None:
        """Release the graphs and the buffers once the queued work is done; see `rsicrc.backends.Backend`."""
        with self._working():
            self._stream.synchronize()
            self._programs.close()
            self._opened.close()
            self._free.clear()

    def numpy(self, value: Any) -> Array:
        """Return a value as a numpy array, once what computes it is done."""
        if isinstance(value, np.ndarray):
            return value
        result = np.empty(value.shape, value.dtype)
        with self._working():
            self._stream.download(result.ctypes.data, value.address, value.nbytes)
            self._stream.synchronize()
        return result

    def take(self, array: Any) -> DeviceArray:
        """Begin to bring an array to the device; see `rsicrc.backends.Backend`."""
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
        """Return values one after the other, complete, in memory of their own; see `rsicrc.backends.Backend`."""
        with self._working():
            memory = Memory(sum(value.nbytes for value in values))
            place = memory.address
            for value in values:
                self._stream.copy(place, value.address, value.nbytes)
                place += value.nbytes
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
        first, second = (self._opened[graph].program(self._stream, records=self.records) for _ in range(2))
        return SearchBuffers(
            spec,
            sizes,
            (first, second),
            self._stream,
            self._copies,
            self._device.number,
            in_place=self._in_place,
            records=self.records,
            ahead=self._is_asynchronous,
        )

    def _placed(self, value: Any) -> DeviceArray:
        """Return an input in memory that any runtime takes."""
        located = self._located(value)
        if isinstance(located, DeviceArray) and located.address % ALIGNMENT == 0:
            return located
        block = self._pool.take(located.nbytes)
        dtype = str(located.dtype)
        if isinstance(located, DeviceArray):
            self._stream.copy(block.address, located.address, located.nbytes)
        else:
            self._stream.upload(block.address, located.ctypes.data, located.nbytes)
        return DeviceArray(block.address, tuple(located.shape), dtype, self._device.number, block)

    def _located(self, value: Any) -> Array | DeviceArray:
        taken = take_array(value, self.device, self.stream)
        return taken if isinstance(taken, DeviceArray) else np.asarray(taken, order="C")

    def _working(self) -> _Working:
        return _Working(self._lock, self._device, self._release)

    def _release(self) -> None:
        """Free what is kept for later."""
        self._stream.synchronize()
        self._free.clear()
        self._pool.clear()
        self._uploads.clear()


class _Working:
    """One thread at a time works with a device; where it has no memory, what was kept for later is freed."""

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
    """Fill a batch up to a power of two, so that few sizes are recorded; a profile may end below it."""
    least, most = limits
    size = 1 << (rows - 1).bit_length()
    return max(least, rows if rows > most else min(size, most))


def _axes(graph: str, spec: GraphSpec, inputs: Tensors) -> dict[str, int]:
    """Read the sizes of the axes that vary from the shapes of the inputs."""
    axes: dict[str, int] = {}
    for name, value in inputs.items():
        wanted = spec.inputs[name]
        fits = len(wanted.shape) == len(value.shape) and value.dtype == wanted.dtype
        if not fits or any(
            axes.setdefault(axis, size) != size if isinstance(axis, str) else axis != size
            for axis, size in zip(wanted.shape, value.shape, strict=True)
        ):
            raise BackendError(
                f"graph {graph!r} takes {name} as {wanted.dtype} {list(wanted.shape)}, "
                f"not {value.dtype} {list(value.shape)}"
            )
    missing = [name for name in spec.inputs if name not in inputs]
    if missing:
        raise ArgumentError(f"graph {graph!r} needs {missing[0]}, too")
    return axes
