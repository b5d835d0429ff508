"""Arrays of other libraries, taken and given without a copy: DLPack and `__cuda_array_interface__`.

PyTorch, CuPy and JAX speak the first, PyCUDA and Numba the second. What is on the device that an engine works on is
read where it lies; streams are respected as the two protocols say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends.cuda import wait
from rsicrc.backends.dlpack import CPU, CUDA, CUDA_HOST, CUDA_MANAGED, make_capsule, read_capsule
from rsicrc.errors import ArgumentError


class _SpeaksDlpack(Protocol):
    def __dlpack__(self, *args: Any, **options: Any) -> Any: ...


class _SpeaksCuda(Protocol):
    @property
    def __cuda_array_interface__(self) -> Any: ...


ForeignArray: TypeAlias = _SpeaksDlpack | _SpeaksCuda

_BFLOAT16 = "bfloat16"
_HOST = (CPU, CUDA_HOST)
_LEGACY_STREAM = 1


def item_size(dtype: str) -> int:
    """Return the bytes of one element of a type that numpy, or a graph, knows by this name."""
    return 2 if dtype == _BFLOAT16 else np.dtype(dtype).itemsize


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """A contiguous array in a GPU's memory, for `torch.from_dlpack`, `torch.as_tensor`, `cupy.asarray` and others.

    Attributes:
        address: of its first element.
        shape: sizes.
        dtype: as numpy names it.
        device: the GPU's number.
        owner: what keeps its memory.
        stream: the CUDA stream that may still be filling it; None where it is complete.
        host: where the host has the same values, for the few inputs that a runtime may want there; 0 for nowhere.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    device: int
    owner: Any = None
    stream: int | None = None
    host: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return math.prod(self.shape) * item_size(self.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> DeviceArray:
        """Return some consecutive rows, over the same memory."""
        start, stop, _ = rows.indices(len(self))
        step = self.nbytes // max(1, len(self))
        return replace(self, address=self.address + start * step, shape=(max(0, stop - start), *self.shape[1:]))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3, with the stream to wait for."""
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.address, False),
            "version": 3,
            "strides": None,
            "stream": self.stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (CUDA, self.device)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Return a capsule, and let the receiver's stream wait for ours (None: the default stream; -1: none)."""
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError("this array is given as it is: on its device, without a copy")
        if self.stream is not None and stream != -1:
            wait(_LEGACY_STREAM if stream is None else stream, self.stream)
        return make_capsule(self.address, self.shape, self.dtype, self.__dlpack_device__(), self)


def is_array(value: Any) -> bool:
    """Whether this is one array of some library, and no list of anything."""
    kinds = ("__cuda_array_interface__", "__dlpack__")
    return isinstance(value, np.ndarray) or any(hasattr(value, kind) for kind in kinds)


def take_array(value: Any, device: str, stream: int | None) -> NDArray[Any] | DeviceArray:
    """Return somebody else's array, over the same memory.

    Args:
        value: an array for which `is_array` holds. It must not be changed while it is used.
        device: where it will be used: "cpu", or "cuda:N".
        stream: the CUDA stream that will read it, which is made to wait for what fills it; None on a CPU.

    Returns:
        A numpy array if it is in the host's memory, else a `DeviceArray`.

    Raises:
        ArgumentError: it is on another device, or not contiguous.
    """
    if isinstance(value, (np.ndarray, DeviceArray)):
        taken: NDArray[Any] | DeviceArray = value
    elif hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        taken = _by_dlpack(value, device, stream)
    else:
        taken = _by_interface(value, device, stream)
    if isinstance(taken, DeviceArray) and f"cuda:{taken.device}" != device:
        raise _elsewhere(f"cuda:{taken.device}", device)
    return taken


def take_pixels(value: Any, size: int, device: str, stream: int | None) -> NDArray[np.uint8] | DeviceArray:
    """Return a batch of pairs that somebody prepared: uint8 [N, 2, size, size, 3], before and after, RGB.

    Args:
        value: see `take_array`.
        size: the model's side of an image, in pixels.
        device: see `take_array`.
        stream: see `take_array`.

    Raises:
        ArgumentError: see `take_array`; or another type or shape.
    """
    pixels = take_array(value, device, stream)
    if tuple(pixels.shape[1:]) != (2, size, size, 3) or str(pixels.dtype) != "uint8":
        raise ArgumentError(
            f"an array of pairs is uint8 [N, 2, {size}, {size}, 3] for this model, not {pixels.dtype} "
            f"{list(pixels.shape)}: resize first (`rsicrc.preprocessing`), or give a list of (before, after)"
        )
    return pixels if isinstance(pixels, DeviceArray) else np.ascontiguousarray(pixels)


def _by_dlpack(value: Any, device: str, stream: int | None) -> NDArray[Any] | DeviceArray:
    kind, number = value.__dlpack_device__()
    if int(kind) in _HOST:
        return np.from_dlpack(value)
    if int(kind) not in (CUDA, CUDA_MANAGED) or stream is None:
        raise _elsewhere(f"cuda:{number}" if int(kind) == CUDA else "another device", device)
    # The owner lets our stream wait for whatever fills the array.
    capsule = value.__dlpack__(stream=stream)
    contents = read_capsule(capsule)
    if contents.strides is not None:
        _require_contiguous(contents.shape, contents.strides)
    return DeviceArray(contents.address, contents.shape, contents.dtype, contents.device[1], owner=(value, capsule))


def _by_interface(value: Any, device: str, stream: int | None) -> DeviceArray:
    fields = value.__cuda_array_interface__
    if stream is None:
        raise _elsewhere("a GPU", device)
    dtype = np.dtype(fields["typestr"])
    shape = tuple(int(size) for size in fields["shape"])
    if fields.get("strides") is not None:
        _require_contiguous(shape, tuple(int(step) // dtype.itemsize for step in fields["strides"]))
    # Older versions of the interface name no stream; their arrays are filled on the default one.
    filled_on = fields.get("stream") if fields.get("version", 0) >= 3 else _LEGACY_STREAM
    if filled_on is not None:
        wait(stream, int(filled_on))
    # The interface does not say which GPU: it is the one that the caller works with.
    return DeviceArray(int(fields["data"][0]), shape, dtype.name, int(device.partition(":")[2]), owner=value)


def _require_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    expected = 1
    for size, step in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and step != expected:
            raise ArgumentError("the array's rows are not one after the other: make it contiguous first")
        expected *= size


def _elsewhere(there: str, here: str) -> ArgumentError:
    return ArgumentError(
        f"the array is on {there} and the engine works on {here}: copy it to the host, or load the engine there "
        f"with device="
    )
