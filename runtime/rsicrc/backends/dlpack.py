"""DLPack capsules: the C structure by which libraries pass each other arrays (dmlc.github.io/dlpack, version 0.x).

numpy reads and makes those of host memory; these functions are for the others.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13  # kinds of device
_NAME = b"dltensor"
_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"}
_NUMBERS = {name: number for number, name in _KINDS.items()}


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

# What was given away, by the address of its structure: it lives until the receiver calls the deleter.
_given: dict[int, tuple[Any, ...]] = {}


@dataclass(frozen=True)
class Contents:
    """What a capsule says.

    Attributes:
        address: of the first element.
        shape: sizes.
        strides: in elements; None where the array is contiguous, row by row.
        dtype: as numpy names it, for example "uint8".
        device: kind and number.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: str
    device: tuple[int, int]


def read_capsule(capsule: Any) -> Contents:
    """Say what is in a capsule. It stays unused: its owner frees the array with the capsule.

    Raises:
        TypeError: not an unused capsule.
    """
    if not _api.PyCapsule_IsValid(capsule, _NAME):
        raise TypeError("not an unused DLPack capsule")
    tensor = ctypes.cast(_api.PyCapsule_GetPointer(capsule, _NAME), ctypes.POINTER(_Managed)).contents.tensor
    kind = _KINDS.get(tensor.code, f"kind{tensor.code}-")
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
        address: of the first element.
        shape: sizes.
        dtype: as numpy names it.
        device: kind and number.
        owner: is kept until the receiver is done with the array.
    """
    kind = dtype.rstrip("0123456789")
    managed = _Managed()
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    managed.tensor = _Tensor(
        address, *device, len(shape), _NUMBERS[kind], int(dtype[len(kind) :] or 8), 1, sizes, None, 0
    )
    managed.deleter = _deleter
    place = ctypes.addressof(managed)
    _given[place] = (managed, sizes, owner)
    return _api.PyCapsule_New(place, _NAME, _destructor)


def _forget(managed: Any) -> None:
    _given.pop(ctypes.addressof(managed.contents), None)


def _forget_unused(capsule: int) -> None:
    # A capsule that somebody took is renamed, and its taker calls the deleter.
    is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
    if is_valid(capsule, _NAME):
        _given.pop(pointer(capsule, _NAME), None)


_deleter, _destructor = _Deleter(_forget), _Destructor(_forget_unused)
