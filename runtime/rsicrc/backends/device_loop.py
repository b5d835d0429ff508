"""A loop whose state stays in GPU memory; each step copies only a few hundred bytes to the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends.arrays import DeviceArray
from rsicrc.backends.cuda import CudaGraph, Event, Memory, PinnedMemory, Stream
from rsicrc.backends.device_memory import BlockLayout
from rsicrc.backends.host_loop import CACHES, NEXT, ROWS
from rsicrc.backends.program import Program
from rsicrc.backends.protocol import Array
from rsicrc.manifest import GraphSpec

_POSITION, _UNFINISHED, _DONE = "position", "unfinished", "done"
# Outputs that the host reads after every step. The finished sentences are read only after steps that finish some pairs.
_EVERY_STEP = ("tokens", "parents", "scores", _UNFINISHED)
_FINISHED = "finished_"


@dataclass(frozen=True)
class LoopSettings:
    """Capabilities of a GPU runtime that a loop uses.

    Attributes:
        in_place: The graph may write a cache at the address that it reads the cache from.
        captures: Steps are captured as CUDA graphs.
        ahead: A step is queued before the host has read the previous step, so that the GPU never waits for the host.
    """

    in_place: bool
    captures: bool
    ahead: bool


@dataclass(frozen=True)
class DeviceQueues:
    """The GPU that a loop runs on.

    Attributes:
        device: Number of the GPU.
        stream: Stream of the graphs.
        copies: Second stream, for copies that need not wait for the graphs.
    """

    device: int
    stream: Stream
    copies: Stream


class _StepLayout:
    """Layouts of the tensors of a loop for one size.

    Attributes:
        states: Names of the states.
        state: Layout of the states without the caches; the outputs that the host reads after every step come first,
            then the outputs that it reads after some steps.
        caches: Layout of the caches.
        by_row: Layout of the constant inputs with an axis B.
        scalars: Layout of the constant inputs without an axis B.
        positions: Layout of the input `position` for the two directions, `position0` and `position1`.
        every_step: Size of the part of `state` that the host reads after every step, in bytes.
        readable: Size of the part of `state` that the host may read, in bytes.
    """

    def __init__(self, graph: GraphSpec, axes: Mapping[str, int]) -> None:
        specs = {**graph.inputs, _UNFINISHED: graph.outputs[_UNFINISHED]}

        def layout(names: list[str]) -> BlockLayout:
            return BlockLayout({name: specs[name] for name in names}, axes)

        self.states = [name for name in graph.inputs if NEXT + name in graph.outputs]
        caches = [name for name in self.states if name.startswith(CACHES)]
        readable = [*_EVERY_STEP, *(name for name in self.states if name.startswith(_FINISHED)), _DONE]
        rest = [name for name in self.states if name not in readable and name not in caches]
        constants = [name for name in graph.inputs if name not in self.states and name != _POSITION]
        self.state, self.caches = layout([*readable, *rest]), layout(caches)
        self.by_row = layout([name for name in constants if ROWS in specs[name].shape])
        self.scalars = layout([name for name in constants if ROWS not in specs[name].shape])
        self.positions = BlockLayout({f"{_POSITION}{side}": specs[_POSITION] for side in range(2)}, axes)
        self.every_step = self.state.end(_EVERY_STEP[-1])
        self.readable = self.state.end(readable[-1])


class _DeviceBuffers:
    """All tensors of a loop in one allocation of GPU memory, and their addresses.

    Attributes:
        memory: The allocation.
        addresses: Address of each block: `state0`, `state1`, `caches0`, `by_row`, `scalars`, `positions`, and `caches1`
            unless the caches are updated in place.
    """

    def __init__(self, layout: _StepLayout, *, in_place: bool) -> None:
        blocks = {"state0": layout.state, "state1": layout.state, "caches0": layout.caches}
        blocks |= {} if in_place else {"caches1": layout.caches}
        blocks |= {"scalars": layout.scalars, "positions": layout.positions, "by_row": layout.by_row}
        self.memory = Memory(sum(block.bytes for block in blocks.values()))
        self.addresses: dict[str, int] = {}
        address = self.memory.address
        for name, block in blocks.items():
            self.addresses[name] = address
            address += block.bytes
        if in_place:
            self.addresses["caches1"] = self.addresses["caches0"]


class _HostBuffers:
    """Pinned host memory of a loop, and arrays over it.

    Attributes:
        first: Initial state.
        read: For each of the two sets of states, the part that the host reads.
        scalars: Constant inputs without an axis B.
        positions: The input `position` for the two directions.
        first_views: Arrays over `first`, by name.
        read_views: Arrays over `read`, by name.
        scalar_views: Arrays over `scalars`, by name.
        position_views: Arrays over `positions`, by name.
    """

    def __init__(self, layout: _StepLayout) -> None:
        self.first = PinnedMemory(layout.state.bytes)
        self.read = [PinnedMemory(layout.readable) for _ in range(2)]
        self.scalars = PinnedMemory(layout.scalars.bytes)
        self.positions = PinnedMemory(layout.positions.bytes)
        for pinned in (self.scalars, self.positions):
            pinned.array[:] = 0
        self.first_views = layout.state.views(self.first.array)
        self.read_views = [layout.state.views(pinned.array) for pinned in self.read]
        self.scalar_views = layout.scalars.views(self.scalars.array)
        self.position_views = layout.positions.views(self.positions.array)


class SearchBuffers:
    """Buffers for beam searches of one fixed size: double-buffered state, constant inputs, two captured steps.

    A step in direction 0 reads state 0 and writes state 1; a step in direction 1 reads state 1 and writes state 0. All
    addresses are fixed, so the steps are captured once and launched in every search of this size. A batch may be
    smaller: the rows that pad it are marked as done from the start, so that they are not counted as unfinished pairs.

    Args:
        graph: The decoder graph.
        axes: Sizes of all variable axes.
        programs: Two programs of the graph, one for each direction.
        queues: The GPU and its streams.
        settings: Capabilities of the runtime.

    Raises:
        BackendError: The graph does not run with these sizes.
        DeviceMemoryError: The GPU is out of memory.
    """

    def __init__(
        self,
        graph: GraphSpec,
        axes: Mapping[str, int],
        programs: tuple[Program, Program],
        queues: DeviceQueues,
        settings: LoopSettings,
    ) -> None:
        self._stream, self._copies = queues.stream, queues.copies
        self._ahead = settings.ahead
        self.steps = axes["P"] // axes["K"]
        self._layout = _StepLayout(graph, axes)
        self._device = _DeviceBuffers(self._layout, in_place=settings.in_place)
        self._host = _HostBuffers(self._layout)
        self._uploaded, self._downloaded = Event(), Event()
        self._done = [Event(), Event()]
        self._stream.clear(self._device.memory.address, self._device.memory.bytes)
        self._enqueue = self._bind(programs, queues.device)
        # Run once before capture: the first run at a new size allocates memory, which is not allowed while capturing.
        for side in range(2):
            self._queue(side)
        self._stream.synchronize()
        self._cuda_graphs = [self._capture(programs[side], side) if settings.captures else None for side in range(2)]

    def begin(self, rows: int, first: Mapping[str, Array], fixed: Mapping[str, Array | DeviceArray]) -> None:
        """Queue the copies of the initial state and the constant inputs of a search.

        Args:
            rows: Number of rows that are used.
            first: States whose initial value matters, for `rows` rows; entries beyond the size of an array are zero.
            fixed: Constant inputs, for `rows` rows.
        """
        layout, addresses, host = self._layout, self._device.addresses, self._host
        self._uploaded.synchronize()  # the uploads of the previous search may still read the pinned memory
        for name, view in host.first_views.items():
            view[...] = 0
            if name in first:
                values = first[name]
                view[tuple(map(slice, values.shape))] = values
                view[rows:] = view[0]
        host.first_views[_DONE][rows:] = True
        self._stream.upload(addresses["state0"], host.first.address, layout.state.bytes)
        self._stream.clear(addresses["caches0"], layout.caches.bytes)
        for name, value in fixed.items():
            if name in host.scalar_views:
                host.scalar_views[name][...] = value
            elif isinstance(value, DeviceArray):
                self._stream.copy(self._by_row[name].address, value.address, value.nbytes)
            else:
                self._stream.upload(self._by_row[name].address, value.ctypes.data, value.nbytes)
        self._stream.upload(addresses["scalars"], host.scalars.address, layout.scalars.bytes)
        self._uploaded.record(self._stream.handle)
        self._queued = 0
        self._read_position: int | None = None

    def queue_step(self, position: int) -> None:
        """Queue a step unless it is queued already, and the next step too if steps are queued ahead."""
        while self._queued <= min(position + self._ahead, self.steps - 1):
            side = self._queued % 2
            self._host.position_views[f"{_POSITION}{side}"][...] = self._queued
            cuda_graph = self._cuda_graphs[side]
            if cuda_graph is None:
                self._queue(side)
            else:
                cuda_graph.launch(self._stream)
            self._done[1 - side].record(self._stream.handle)
            self._queued += 1

    def await_step(self, position: int) -> None:
        """Wait until a step is done and the outputs that are read after every step are in host memory."""
        self._done[(position + 1) % 2].synchronize()

    def read(self, position: int, name: str) -> Array:
        """Return an output of a step for all rows."""
        side = (position + 1) % 2
        if name not in _EVERY_STEP and self._read_position != position:
            # On the second stream: the next step may be running on the first one. It only reads this set of states.
            start = self._layout.every_step
            target, source = self._host.read[side].address, self._device.addresses[f"state{side}"]
            self._copies.download(target + start, source + start, self._layout.readable - start)
            self._downloaded.record(self._copies.handle)
            self._downloaded.synchronize()
            self._read_position = position
        return self._host.read_views[side][name]

    def _bind(self, programs: tuple[Program, Program], device: int) -> list[Callable[[], None]]:
        """Bind the programs to the buffers, and return a function for each direction that queues its run."""
        layout, host = self._layout, self._host

        def tensors(block: BlockLayout, name: str, pinned: int = 0) -> dict[str, DeviceArray]:
            return block.tensors(self._device.addresses[name], device, None, None, pinned)

        states: list[dict[str, Any]] = [
            {**tensors(layout.state, f"state{side}"), **tensors(layout.caches, f"caches{side}")} for side in range(2)
        ]
        self._by_row = tensors(layout.by_row, "by_row")
        self._positions = tensors(layout.positions, "positions", host.positions.address)
        constants = {**self._by_row, **tensors(layout.scalars, "scalars", host.scalars.address)}
        enqueue = []
        for side, program in enumerate(programs):
            source, target = states[side], states[1 - side]
            inputs = {name: source[name] for name in layout.states}
            outputs = {NEXT + name: target[name] for name in layout.states}
            position = {_POSITION: self._positions[f"{_POSITION}{side}"]}
            enqueue.append(
                program.bind({**constants, **inputs, **position}, {**outputs, _UNFINISHED: target[_UNFINISHED]})
            )
        return enqueue

    def _queue(self, side: int) -> None:
        position = self._positions[f"{_POSITION}{side}"]
        self._stream.upload(position.address, position.host, position.nbytes)
        self._enqueue[side]()
        target = 1 - side
        self._stream.download(
            self._host.read[target].address, self._device.addresses[f"state{target}"], self._layout.every_step
        )

    def _capture(self, program: Program, side: int) -> CudaGraph | None:
        return CudaGraph(self._stream, lambda: self._queue(side)) if program.can_capture() else None


class DeviceLoop:
    """A loop over `SearchBuffers`; see `rsicrc.backends.Loop`.

    Dropped rows stay in the batch but are no longer read: steps are captured for whole batches, and a step does not
    change the rows of pairs that are done.

    Args:
        buffers: The buffers.
        rows: Number of rows that are used.
        working: Context manager of the backend for work with the GPU.
        release: Function that returns the buffers to the backend.
    """

    def __init__(
        self,
        buffers: SearchBuffers,
        rows: int,
        working: Callable[[], AbstractContextManager[None]],
        release: Callable[[], None],
    ) -> None:
        self._buffers, self._working, self._release = buffers, working, release
        self._rows = np.arange(rows)
        self._position = -1
        self._failed = False

    def step(self, position: int) -> None:
        """Run the graph once; see `rsicrc.backends.Loop`. Positions count up from 0."""
        if position != self._position + 1:
            raise ValueError(f"step {position} does not follow {self._position}")
        self._failed = True
        with self._working():
            self._buffers.queue_step(position)
        self._buffers.await_step(position)
        self._failed = False
        self._position = position

    def read(self, name: str) -> Array:
        """Return a state or another output; see `rsicrc.backends.Loop`. Caches cannot be read."""
        with self._working():
            values = self._buffers.read(self._position, name)
        return values[self._rows] if values.ndim else values

    def select_rows(self, rows: NDArray[np.int64], axes: Mapping[str, int]) -> None:
        """Keep only these rows; see `rsicrc.backends.Loop`. Caches have their full length from the first step on."""
        self._rows = self._rows[rows]

    def close(self) -> None:
        """Return the buffers to the backend, unless a step failed: work may then still be running on them."""
        if not self._failed:
            self._release()
