"""Memory on a GPU: many tensors in one block, blocks that are used again, and uploads that run beside the work."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends.arrays import DeviceArray, item_size
from rsicrc.backends.cuda import Event, Memory, PinnedMemory, Stream
from rsicrc.backends.host_loop import shape_of
from rsicrc.manifest import TensorSpec

ALIGNMENT = 256  # of every tensor, as TensorRT asks for
_SMALLEST = 1 << 16


class Layout:
    """Where tensors lie in one block of memory, in the order in which they are named.

    Attributes:
        bytes: of the whole block.
        shapes: by name.
    """

    def __init__(self, specs: Mapping[str, TensorSpec], axes: Mapping[str, int]) -> None:
        self._dtypes = {name: spec.dtype for name, spec in specs.items()}
        self.shapes = {name: shape_of(spec, axes) for name, spec in specs.items()}
        self._starts: dict[str, int] = {}
        self._ends: dict[str, int] = {}
        end = 0
        for name, shape in self.shapes.items():
            self._starts[name] = -(-end // ALIGNMENT) * ALIGNMENT
            end = self._starts[name] + int(np.prod(shape, dtype=np.int64)) * item_size(self._dtypes[name])
            self._ends[name] = end
        self.bytes = -(-end // ALIGNMENT) * ALIGNMENT

    def end(self, name: str) -> int:
        """Return where a tensor ends, in bytes from the block's beginning."""
        return self._ends[name]

    def tensors(
        self, address: int, device: int, owner: Any, stream: int | None = None, host: int = 0
    ) -> dict[str, DeviceArray]:
        """Return the tensors of a block at an address, which has a copy in pinned memory if `host` is not 0."""
        return {
            name: DeviceArray(
                address + start, self.shapes[name], self._dtypes[name], device, owner, stream, host and host + start
            )
            for name, start in self._starts.items()
        }

    def views(self, block: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Return arrays over a block of the host's memory; as far as it reaches."""
        return {
            name: block[start : self._ends[name]].view(self._dtypes[name]).reshape(self.shapes[name])
            for name, start in self._starts.items()
            if self._ends[name] <= len(block)
        }


class Block:
    """Memory that a pool lends; it goes back when nothing refers to the block.

    Attributes:
        address: of the first byte.
    """

    def __init__(self, address: int) -> None:
        self.address = address


class Pool:
    """Blocks of device memory for one stream.

    A block may be lent again while the stream still works with it: what its next user queues comes after that.
    """

    def __init__(self) -> None:
        self._free: defaultdict[int, list[Memory]] = defaultdict(list)

    def take(self, size: int) -> Block:
        """Lend at least `size` bytes.

        Raises:
            DeviceMemoryError: the device has no more.
        """
        size = max(_SMALLEST, 1 << (size - 1).bit_length()) if size > 1 else _SMALLEST
        try:
            memory = self._free[size].pop()
        except IndexError:
            memory = Memory(size)
        block = Block(memory.address)
        weakref.finalize(block, self._free[size].append, memory).atexit = False
        return block

    def clear(self) -> None:
        """Free what is not lent."""
        for memories in self._free.values():
            memories.clear()


class _Slot:
    """A pinned block, one on the device, and when each may be written again."""

    def __init__(self, size: int) -> None:
        self.pinned, self.memory = PinnedMemory(size), Memory(size)
        self.uploaded, self.used = Event(), Event()


class Lease:
    """Keeps what an upload uses. It goes back when nothing refers to the lease."""

    def __init__(self, slot: _Slot) -> None:
        self._slot = slot

    def begin_use(self, stream: Stream) -> None:
        """Let a stream wait until the upload is done."""
        stream.wait(self._slot.uploaded)

    def end_use(self, stream: Stream) -> None:
        """Say that a stream has queued its reading."""
        self._slot.used.record(stream.handle)


class Uploads:
    """Copies of arrays to the device on a stream of their own, so that they run beside the work.

    Two slots take turns where one array is uploaded while another is in use.
    """

    def __init__(self, device: int) -> None:
        self._device = device
        self._stream = Stream()
        self._free: list[_Slot] = []

    def begin(self, array: NDArray[Any]) -> DeviceArray:
        """Begin an upload; the array may be changed when this returns. Its owner is a `Lease`.

        Raises:
            DeviceMemoryError: there is no room.
        """
        slot = self._take(array.nbytes)
        slot.uploaded.synchronize()  # the pinned bytes may still be on their way from the last time
        np.copyto(slot.pinned.array[: array.nbytes].view(array.dtype).reshape(array.shape), array)
        self._stream.wait(slot.used)
        self._stream.upload(slot.memory.address, slot.pinned.address, array.nbytes)
        slot.uploaded.record(self._stream.handle)
        lease = Lease(slot)
        weakref.finalize(lease, self._free.append, slot).atexit = False
        return DeviceArray(slot.memory.address, array.shape, array.dtype.name, self._device, lease)

    def clear(self) -> None:
        """Free what is not in use."""
        self._free.clear()

    def _take(self, size: int) -> _Slot:
        while self._free:
            slot = self._free.pop()
            if slot.memory.bytes >= size:
                return slot
        return _Slot(size)
