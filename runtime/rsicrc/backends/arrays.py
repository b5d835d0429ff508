"""Exchange of arrays with other libraries without a copy, by DLPack and `__cuda_array_interface__`.

PyTorch, CuPy and JAX support DLPack; PyCUDA and Numba support `__cuda_array_interface__`. An array on the engine's
device is read in place, and streams are synchronized as the two protocols require.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends.cuda import wait
from rsicrc.backends.dlpack import DL_CPU, DL_CUDA, DL_CUDA_HOST, DL_CUDA_MANAGED, make_capsule, read_capsule
from rsicrc.errors import ArgumentError


class _SupportsDlpack(Protocol):
    def __dlpack__(self, *args: Any, **options: Any) -> Any: ...


class _SupportsCudaInterface(Protocol):
    @property
    def __cuda_array_interface__(self) -> Any: ...


ForeignArray: TypeAlias = _SupportsDlpack | _SupportsCudaInterface

_BFLOAT16 = "bfloat16"
_HOST = (DL_CPU, DL_CUDA_HOST)
_LEGACY_STREAM = 1


def item_size(dtype: str) -> int:
    """Return the size in bytes of one element of a type, given by its name in numpy or in a graph."""
    return 2 if dtype == _BFLOAT16 else np.dtype(dtype).itemsize


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """A contiguous array in GPU memory, for `torch.from_dlpack`, `torch.as_tensor`, `cupy.asarray` and others.

    Attributes:
        address: Address of the first element.
        shape: Sizes of the axes.
        dtype: Name of the type as in numpy.
        device: Number of the GPU.
        owner: Object that keeps the memory allocated.
        stream: Handle of the CUDA stream that may still be writing the array; None if the array is complete.
        host: Address of the same values in host memory, for the few inputs that a runtime may read there; 0 if none.
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
        """Size of all elements in bytes."""
        return math.prod(self.shape) * item_size(self.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> DeviceArray:
        """Return consecutive rows over the same memory."""
        start, stop, _ = rows.indices(len(self))
        step = self.nbytes // max(1, len(self))
        return replace(self, address=self.address + start * step, shape=(max(0, stop - start), *self.shape[1:]))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Description of the array by version 3 of the interface, with the stream to wait for."""
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.address, False),
            "version": 3,
            "strides": None,
            "stream": self.stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (DL_CUDA, self.device)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Return a capsule, and make the receiver's stream wait for ours (None: the default stream; -1: no wait)."""
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError("this array is exported only on its own device and without a copy")
        if self.stream is not None and stream != -1:
            wait(_LEGACY_STREAM if stream is None else stream, self.stream)
        return make_capsule(self.address, self.shape, self.dtype, self.__dlpack_device__(), self)


def is_array(value: Any) -> bool:
    """Return True for an array of any library that supports one of the two protocols, and for numpy arrays."""
    protocols = ("__cuda_array_interface__", "__dlpack__")
    return isinstance(value, np.ndarray) or any(hasattr(value, protocol) for protocol in protocols)


def take_array(value: Any, device: str, stream: int | None) -> NDArray[Any] | DeviceArray:
    """Return an array of another library as a view of the same memory.

    Args:
        value: An array for which `is_array` holds. It must not be changed while it is used.
        device: Device that will read the array: "cpu", or "cuda:N".
        stream: Handle of the CUDA stream that will read the array, which is made to wait until the array is written;
            None on a CPU.

    Returns:
        A numpy array if the array is in host memory, else a `DeviceArray`.

    Raises:
        ArgumentError: The array is on another device, or not contiguous.
    """
    if isinstance(value, (np.ndarray, DeviceArray)):
        taken: NDArray[Any] | DeviceArray = value
    elif hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
        taken = _by_dlpack(value, device, stream)
    else:
        taken = _by_interface(value, device, stream)
    if isinstance(taken, DeviceArray) and f"cuda:{taken.device}" != device:
        raise _wrong_device(f"cuda:{taken.device}", device)
    return taken


def take_pixels(value: Any, size: int, device: str, stream: int | None) -> NDArray[np.uint8] | DeviceArray:
    """Return a batch of preprocessed pairs as a view: uint8 [N, 2, size, size, 3], before and after, RGB.

    Args:
        value: See `take_array`.
        size: Height and width of the model's images, in pixels.
        device: See `take_array`.
        stream: See `take_array`.

    Raises:
        ArgumentError: The array is on another device, not contiguous, or has another type or shape.
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
    if int(kind) not in (DL_CUDA, DL_CUDA_MANAGED) or stream is None:
        raise _wrong_device(f"cuda:{number}" if int(kind) == DL_CUDA else "another device", device)
    # The exporting library makes our stream wait until the array is written.
    capsule = value.__dlpack__(stream=stream)
    contents = read_capsule(capsule)
    if contents.strides is not None:
        _require_contiguous(contents.shape, contents.strides)
    return DeviceArray(contents.address, contents.shape, contents.dtype, contents.device[1], owner=(value, capsule))


def _by_interface(value: Any, device: str, stream: int | None) -> DeviceArray:
    fields = value.__cuda_array_interface__
    if stream is None:
        raise _wrong_device("a GPU", device)
    dtype = np.dtype(fields["typestr"])
    shape = tuple(int(size) for size in fields["shape"])
    if fields.get("strides") is not None:
        _require_contiguous(shape, tuple(int(step) // dtype.itemsize for step in fields["strides"]))
    # Before version 3 the interface has no field for the stream; such arrays are written on the default stream.
    written_on = fields.get("stream") if fields.get("version", 0) >= 3 else _LEGACY_STREAM
    if written_on is not None:
        wait(stream, int(written_on))
    # The interface has no field for the GPU: it is the GPU that is current in the calling thread.
    return DeviceArray(int(fields["data"][0]), shape, dtype.name, int(device.partition(":")[2]), owner=value)


def _require_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    expected = 1
    for size, step in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and step != expected:
            raise ArgumentError("the array is not contiguous in row-major order: make it contiguous first")
        expected *= size


def _wrong_device(there: str, here: str) -> ArgumentError:
    return ArgumentError(
        f"the array is on {there} and the engine works on {here}: copy the array to the host, or load the engine on "
        f"{there} with device="
    )
