"""A loop whose state stays on a GPU: of a step the host gets a few numbers, in one small copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends import Array
from rsicrc.backends.arrays import DeviceArray
from rsicrc.backends.cuda import Event, Memory, PinnedMemory, Recording, Stream
from rsicrc.backends.device_memory import Layout
from rsicrc.backends.host_loop import CACHES, NEXT, ROWS
from rsicrc.manifest import GraphSpec

if TYPE_CHECKING:
    from rsicrc.backends.device import Program

_POSITION, _UNFINISHED, _DONE = "position", "unfinished", "done"
# Read after every step; and, where some pairs are done, once more.
_EACH_STEP = ("tokens", "parents", "scores", _UNFINISHED)
_AT_TIMES = "finished_"


class SearchBuffers:
    """What a search of one size keeps: its state twice, its inputs, and a step each way.

    What one turn writes the other reads. Everything lies at fixed addresses, so a turn is recorded once and launched in
    every search of this size. A batch may be smaller: the rows that fill it up are done from the start, so that the
    count of unfinished pairs leaves them out.

    Args:
        graph: the graph that feeds itself.
        axes: sizes of all axes that vary.
        programs: two of the graph.
        stream: the work's.
        copies: another, for copies that need not wait for the work.
        device: the GPU's number.
        in_place: the caches are one for both turns; else each has its own.
        records: record the turns.
        ahead: queue a step before the host has looked at the one before it, so that the GPU never waits for the host.

    Raises:
        BackendError: the graph does not run with these sizes.
        DeviceMemoryError: there is no room.
    """

    def __init__(
        self,
        graph: GraphSpec,
        axes: Mapping[str, int],
        programs: tuple[Program, Program],
        stream: Stream,
        copies: Stream,
        device: int,
        *,
        in_place: bool,
        records: bool,
        ahead: bool,
    ) -> None:
        self._stream, self._copies, self._ahead = stream, copies, ahead
        self.steps = axes["P"] // axes["K"]
        names = [name for name in graph.inputs if NEXT + name in graph.outputs]
        caches = [name for name in names if name.startswith(CACHES)]
        looked_at = [*_EACH_STEP, *(name for name in names if name.startswith(_AT_TIMES)), _DONE]
        rest = [name for name in names if name not in looked_at and name not in caches]
        specs = {**graph.inputs, _UNFINISHED: graph.outputs[_UNFINISHED]}
        self._small = Layout({name: specs[name] for name in (*looked_at, *rest)}, axes)
        self._each_step = self._small.end(_EACH_STEP[-1])
        self._looked_at = self._small.end(looked_at[-1])
        cache_layout = Layout({name: specs[name] for name in caches}, axes)
        fixed = [name for name in graph.inputs if name not in names and name != _POSITION]
        numbers = [name for name in fixed if ROWS not in specs[name].shape]
        self._numbers = Layout({name: specs[name] for name in numbers}, axes)
        positions = Layout({f"{_POSITION}{turn}": specs[_POSITION] for turn in range(2)}, axes)
        by_row = Layout({name: specs[name] for name in fixed if name not in numbers}, axes)

        pieces = {"small0": self._small, "small1": self._small, "caches0": cache_layout}
        pieces |= {} if in_place else {"caches1": cache_layout}
        pieces |= {"numbers": self._numbers, "positions": positions, "by_row": by_row}
        self._memory = Memory(sum(piece.bytes for piece in pieces.values()))
        places, place = {}, self._memory.address
        for name, piece in pieces.items():
            places[name], place = place, place + piece.bytes
        stream.clear(self._memory.address, self._memory.bytes)
        self._caches = (places["caches0"], cache_layout.bytes)
        self._places = places

        self._first = PinnedMemory(self._small.bytes)
        self._seen = [PinnedMemory(self._looked_at) for _ in range(2)]
        self._pinned_numbers = PinnedMemory(self._numbers.bytes)
        self._pinned_positions = PinnedMemory(positions.bytes)
        for pinned in (self._pinned_numbers, self._pinned_positions):
            pinned.array[:] = 0
        self._views = [self._small.views(seen.array) for seen in self._seen]
        self._first_views = self._small.views(self._first.array)
        self._number_views = self._numbers.views(self._pinned_numbers.array)
        self._position_views = positions.views(self._pinned_positions.array)
        self._uploaded, self._read = Event(), Event()
        self._done = [Event(), Event()]

        def tensors(layout: Layout, name: str, host: int = 0) -> dict[str, DeviceArray]:
            return layout.tensors(places[name], device, None, None, host)

        last = "caches0" if in_place else "caches1"
        sides = [
            {**tensors(self._small, "small0"), **tensors(cache_layout, "caches0")},
            {**tensors(self._small, "small1"), **tensors(cache_layout, last)},
        ]
        self._by_row = tensors(by_row, "by_row")
        inputs = {**self._by_row, **tensors(self._numbers, "numbers", self._pinned_numbers.address)}
        self._positions = tensors(positions, "positions", self._pinned_positions.address)
        self._enqueue = [
            programs[turn].bind(
                {
                    **inputs,
                    **{name: sides[turn][name] for name in names},
                    _POSITION: self._positions[f"{_POSITION}{turn}"],
                },
                {
                    **{NEXT + name: sides[1 - turn][name] for name in names},
                    _UNFINISHED: sides[1 - turn][_UNFINISHED],
                },
            )
            for turn in range(2)
        ]
        # Once as it is: the first run with new sizes makes what a recording must not.
        for turn in range(2):
            self._queue(turn)
        stream.synchronize()
        self._recordings = [self._record(programs[turn], turn) if records else None for turn in range(2)]

    def begin(self, rows: int, first: Mapping[str, Array], fixed: Mapping[str, Array | DeviceArray]) -> None:
        """Queue what a search needs before its first step.

        Args:
            rows: how many rows are used.
            first: the states that do not begin with any finite numbers, of `rows` rows; where they have fewer places
                than the caches, the others are zero.
            fixed: the inputs that stay as they are, of `rows` rows.
        """
        self._uploaded.synchronize()  # the search before this one may not have been
        for name, view in self._first_views.items():
            view[...] = 0
            if name in first:
                values = first[name]
                view[tuple(map(slice, values.shape))] = values
                view[rows:] = view[0]
        self._first_views[_DONE][rows:] = True
        self._stream.upload(self._places["small0"], self._first.address, self._small.bytes)
        self._stream.clear(*self._caches)
        for name, value in fixed.items():
            if name in self._number_views:
                self._number_views[name][...] = value
            elif isinstance(value, DeviceArray):
                self._stream.copy(self._by_row[name].address, value.address, value.nbytes)
            else:
                self._stream.upload(self._by_row[name].address, value.ctypes.data, value.nbytes)
        self._stream.upload(self._places["numbers"], self._pinned_numbers.address, self._numbers.bytes)
        self._uploaded.record(self._stream.handle)
        self._queued = 0
        self._whole: int | None = None

    def queue_step(self, position: int) -> None:
        """Queue a step, where it is not queued yet, and perhaps the next one."""
        while self._queued <= min(position + self._ahead, self.steps - 1):
            turn = self._queued % 2
            self._position_views[f"{_POSITION}{turn}"][...] = self._queued
            recording = self._recordings[turn]
            if recording is None:
                self._queue(turn)
            else:
                recording.launch(self._stream)
            self._done[1 - turn].record(self._stream.handle)
            self._queued += 1

    def await_step(self, position: int) -> None:
        """Wait until a step is done, and its few numbers are here."""
        self._done[(position + 1) % 2].synchronize()

    def read(self, position: int, name: str) -> Array:
        """Return what a step left, for all rows."""
        side = (position + 1) % 2
        if name not in _EACH_STEP and self._whole != position:
            # On the other stream: the step after this one may be under way. It does not touch this side.
            start = self._each_step
            address = self._places[f"small{side}"]
            self._copies.download(self._seen[side].address + start, address + start, self._looked_at - start)
            self._read.record(self._copies.handle)
            self._read.synchronize()
            self._whole = position
        return self._views[side][name]

    def _queue(self, turn: int) -> None:
        position = self._positions[f"{_POSITION}{turn}"]
        self._stream.upload(position.address, position.host, position.nbytes)
        self._enqueue[turn]()
        self._stream.download(self._seen[1 - turn].address, self._places[f"small{1 - turn}"], self._each_step)

    def _record(self, program: Program, turn: int) -> Recording | None:
        return Recording(self._stream, lambda: self._queue(turn)) if program.is_recordable() else None


class DeviceLoop:
    """A loop over `SearchBuffers`; see `rsicrc.backends.Loop`.

    Rows that leave are no longer read, but go on in the batch: the steps are recorded for whole batches, and a row that
    is done changes nothing.
    """

    def __init__(
        self,
        buffers: SearchBuffers,
        rows: int,
        working: Callable[[], AbstractContextManager[None]],
        give_back: Callable[[], None],
    ) -> None:
        self._buffers, self._working, self._give_back = buffers, working, give_back
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
        """Return a state or an output; see `rsicrc.backends.Loop`. Caches stay where they are."""
        with self._working():
            values = self._buffers.read(self._position, name)
        return values[self._rows] if values.ndim else values

    def select_rows(self, rows: NDArray[np.int64], axes: Mapping[str, int]) -> None:
        """Go on with some rows; see `rsicrc.backends.Loop`. Caches have their full length already."""
        self._rows = self._rows[rows]

    def close(self) -> None:
        """Give the buffers back, unless a step failed over them."""
        if not self._failed:
            self._give_back()
