"""DLPack capsules: the C structure in which libraries exchange arrays (dmlc.github.io/dlpack, version 0.x).

Numpy reads and makes capsules of host memory only; these functions are for all devices.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Device types of DLPack: kDLCPU, kDLCUDA, kDLCUDAHost, kDLCUDAManaged.
DL_CPU, DL_CUDA, DL_CUDA_HOST, DL_CUDA_MANAGED = 1, 2, 3, 13
_NAME = b"dltensor"
_TYPE_NAMES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"}
_TYPE_CODES = {name: code for code, name in _TYPE_NAMES.items()}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_api = ctypes.pythonapi
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, _Destructor)
_api.PyCapsule_IsValid.argtypes = (ctypes.py_object, ctypes.c_char_p)
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)

# Exported structures by address, kept until the receiver calls the deleter.
_exported: dict[int, tuple[Any, ...]] = {}


@dataclass(frozen=True)
class Contents:
    """Description of an array in a capsule.

    Attributes:
        address: Address of the first element.
        shape: Sizes of the axes.
        strides: Strides in elements; None if the array is contiguous in row-major order.
        dtype: Name of the type as in numpy, for example "uint8".
        device: DLPack's device type, and the number of the device.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: str
    device: tuple[int, int]


def read_capsule(capsule: Any) -> Contents:
    """Describe the array in a capsule without taking it over: the capsule still owns the array.

    Raises:
        TypeError: The object is not an unused capsule.
    """
    if not _api.PyCapsule_IsValid(capsule, _NAME):
        raise TypeError("not an unused DLPack capsule")
    tensor = ctypes.cast(_api.PyCapsule_GetPointer(capsule, _NAME), ctypes.POINTER(_Managed)).contents.tensor
    kind = _TYPE_NAMES.get(tensor.code, f"type{tensor.code}-")
    return Contents(
        (tensor.data or 0) + tensor.byte_offset,
        tuple(tensor.shape[axis] for axis in range(tensor.ndim)),
        tuple(tensor.strides[axis] for axis in range(tensor.ndim)) if tensor.strides else None,
        "bool" if kind == "bool" else f"{kind}{tensor.bits}" + (f"x{tensor.lanes}" if tensor.lanes != 1 else ""),
        (tensor.device_type, tensor.device_id),
    )


def make_capsule(address: int, shape: Sequence[int], dtype: str, device: tuple[int, int], owner: Any) -> Any:
    """Return a capsule for a contiguous array.

    Args:
        address: Address of the first element.
        shape: Sizes of the axes.
        dtype: Name of the type as in numpy.
        device: DLPack's device type, and the number of the device.
        owner: Object that is kept until the receiver releases the array.
    """
    kind = dtype.rstrip("0123456789")
    managed = _Managed()
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    managed.tensor = _Tensor(
        address, *device, len(shape), _TYPE_CODES[kind], int(dtype[len(kind) :] or 8), 1, sizes, None, 0
    )
    managed.deleter = _deleter
    address = ctypes.addressof(managed)
    _exported[address] = (managed, sizes, owner)
    return _api.PyCapsule_New(address, _NAME, _destructor)


def _release(managed: Any) -> None:
    _exported.pop(ctypes.addressof(managed.contents), None)


def _release_unused(capsule: int) -> None:
    # The receiver of a capsule renames it and calls the deleter itself.
    is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
    if is_valid(capsule, _NAME):
        _exported.pop(pointer(capsule, _NAME), None)


_deleter, _destructor = _Deleter(_release), _Destructor(_release_unused)
