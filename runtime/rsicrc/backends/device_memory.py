"""GPU memory: several tensors in one block, reuse of blocks, and uploads that overlap with the work of the graphs."""

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

ALIGNMENT = 256  # bytes; TensorRT requires it of the address of every tensor
_SMALLEST = 1 << 16


class BlockLayout:
    """Offsets of tensors in one block of memory, in the order in which the tensors are named.

    Attributes:
        bytes: Size of the whole block in bytes.
        shapes: Shapes of the tensors by name.

    Args:
        specs: Shapes and types of the tensors.
        axes: Sizes of the variable axes.
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
        """Return the offset of the end of a tensor, in bytes from the beginning of the block."""
        return self._ends[name]

    def tensors(
        self, address: int, device: int, owner: Any, stream: int | None = None, host: int = 0
    ) -> dict[str, DeviceArray]:
        """Return the tensors of a block on a GPU.

        Args:
            address: Address of the block.
            device: Number of the GPU.
            owner: Object that keeps the block allocated.
            stream: Handle of the CUDA stream that writes the tensors; None if they are complete.
            host: Address of a copy of the block in pinned memory; 0 if there is none.
        """
        return {
            name: DeviceArray(
                address + start, self.shapes[name], self._dtypes[name], device, owner, stream, host and host + start
            )
            for name, start in self._starts.items()
        }

    def views(self, block: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Return arrays over a block in host memory, uint8 [bytes]; tensors beyond its end are left out."""
        return {
            name: block[start : self._ends[name]].view(self._dtypes[name]).reshape(self.shapes[name])
            for name, start in self._starts.items()
            if self._ends[name] <= len(block)
        }


class Block:
    """A block of memory from a pool; the pool reuses the memory when nothing refers to the block.

    Attributes:
        address: Address of the first byte.
    """

    def __init__(self, address: int) -> None:
        self.address = address


class MemoryPool:
    """A pool of device memory for one stream.

    The memory of a block may be reused while the stream still works with it, because the work of the next user is
    queued on the same stream after that.
    """

    def __init__(self) -> None:
        self._free: defaultdict[int, list[Memory]] = defaultdict(list)

    def allocate(self, size: int) -> Block:
        """Return a block of at least `size` bytes.

        Raises:
            DeviceMemoryError: The GPU is out of memory.
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
        """Free the memory that is not in use."""
        for memories in self._free.values():
            memories.clear()


class _StagingBuffer:
    """Pinned memory, device memory, and the events after which each may be overwritten."""

    def __init__(self, size: int) -> None:
        self.pinned, self.memory = PinnedMemory(size), Memory(size)
        self.uploaded, self.used = Event(), Event()


class UploadLease:
    """Owner of an uploaded array; its buffer is reused when nothing refers to the lease."""

    def __init__(self, buffer: _StagingBuffer) -> None:
        self._buffer = buffer

    def begin_use(self, stream: Stream) -> None:
        """Make a stream wait until the upload is done."""
        stream.wait(self._buffer.uploaded)

    def end_use(self, stream: Stream) -> None:
        """Mark the point in a stream after which the buffer may be overwritten."""
        self._buffer.used.record(stream.handle)


class Uploader:
    """Copies of arrays to the device on a stream of their own, which overlap with the work of the graphs.

    Uploads are double-buffered if one array is uploaded while another one is in use.

    Args:
        device: Number of the GPU.
    """

    def __init__(self, device: int) -> None:
        self._device = device
        self._stream = Stream()
        self._free: list[_StagingBuffer] = []

    def begin(self, array: NDArray[Any]) -> DeviceArray:
        """Begin an upload, and return the array on the device, whose owner is an `UploadLease`.

        Args:
            array: The array; it may be changed after the return.

        Raises:
            DeviceMemoryError: The GPU is out of memory.
        """
        buffer = self._buffer_of(array.nbytes)
        buffer.uploaded.synchronize()  # the previous upload may still read the pinned memory
        np.copyto(buffer.pinned.array[: array.nbytes].view(array.dtype).reshape(array.shape), array)
        self._stream.wait(buffer.used)
        self._stream.upload(buffer.memory.address, buffer.pinned.address, array.nbytes)
        buffer.uploaded.record(self._stream.handle)
        lease = UploadLease(buffer)
        weakref.finalize(lease, self._free.append, buffer).atexit = False
        return DeviceArray(buffer.memory.address, array.shape, array.dtype.name, self._device, lease)

    def clear(self) -> None:
        """Free the buffers that are not in use."""
        self._free.clear()

    def _buffer_of(self, size: int) -> _StagingBuffer:
        while self._free:
            buffer = self._free.pop()
            if buffer.memory.bytes >= size:
                return buffer
        return _StagingBuffer(size)
