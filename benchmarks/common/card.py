"""An NVIDIA GPU as its driver shows it, without any other library: is it there, what is it, how full is its memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

CPU = "cpu"
_LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # attributes of a device
_PIECE = 1 << 28


class CardError(RuntimeError):
    """There is no such GPU, or its driver refused; one line."""


@dataclass(frozen=True)
class Card:
    """What a GPU is.

    Attributes:
        name: "NVIDIA H200".
        capability: compute capability, (9, 0).
        memory: bytes.
        cuda: the newest CUDA that the driver knows, (13, 0).
    """

    name: str
    capability: tuple[int, int]
    memory: int
    cuda: tuple[int, int]


def is_card(device: str) -> bool:
    """Whether a device of `rsicrc.load` is a GPU."""
    return device.partition(":")[0] == "cuda"


def problem(device: str) -> str:
    """Say why a GPU cannot be used; empty if it can."""
    try:
        describe(device)
    except CardError as error:
        return str(error)
    return ""


def describe(device: str) -> Card:
    """Ask what a GPU is.

    Raises:
        CardError: it is not there.
    """
    driver, handle = _driver(), _handle(device)
    name, memory, version = ctypes.create_string_buffer(256), ctypes.c_size_t(), ctypes.c_int()
    _check(driver.cuDeviceGetName(name, len(name), handle), "cuDeviceGetName")
    _check(driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle), "cuDeviceTotalMem")
    _check(driver.cuDriverGetVersion(ctypes.byref(version)), "cuDriverGetVersion")
    capability = (_attribute(handle, _MAJOR), _attribute(handle, _MINOR))
    cuda = (version.value // 1000, version.value % 1000 // 10)
    return Card(name.value.decode(), capability, memory.value, cuda)


def used(device: str) -> int:
    """Return how many bytes of a GPU's memory are taken, by whatever program.

    Raises:
        CardError: it is not there.
    """
    free, total = _memory(device)
    return total - free


@contextmanager
def filled(device: str, leave: int) -> Iterator[None]:
    """Take a GPU's memory for a while, all but about `leave` bytes of what is free.

    Raises:
        CardError: it is not there.
    """
    driver, taken = _driver(), []
    with _context(device):
        try:
            while (size := min(_PIECE, _memory(device)[0] - leave)) > 0:
                pointer = ctypes.c_uint64()
                if driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size)):
                    break  # what the driver cannot give in one piece is free only on paper
                taken.append(pointer)
            yield
        finally:
            for pointer in taken:
                driver.cuMemFree_v2(pointer)


@cache
def _driver() -> Any:
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise CardError(f"no NVIDIA driver here ({_LIBRARY} is missing)") from error
    if code := driver.cuInit(0):
        raise CardError(f"the NVIDIA driver finds no GPU (cuInit: error {code}): look at `nvidia-smi`")
    return driver


def _handle(device: str) -> ctypes.c_int:
    driver, count, handle = _driver(), ctypes.c_int(), ctypes.c_int()
    _check(driver.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    text = device.partition(":")[2] or "0"
    if not is_card(device) or not text.isdecimal() or int(text) >= count.value:
        raise CardError(f"no device {device!r}: the driver shows {count.value} GPUs, cuda:0 and on")
    _check(driver.cuDeviceGet(ctypes.byref(handle), int(text)), "cuDeviceGet")
    return handle


@cache
def _primary(device: str) -> ctypes.c_void_p:
    """The context that CUDA's own runtime and all libraries over it share; retained until the process ends."""
    context = ctypes.c_void_p()
    _check(_driver().cuDevicePrimaryCtxRetain(ctypes.byref(context), _handle(device)), "cuDevicePrimaryCtxRetain")
    return context


@contextmanager
def _context(device: str) -> Iterator[None]:
    driver = _driver()
    _check(driver.cuCtxPushCurrent_v2(_primary(device)), "cuCtxPushCurrent")
    try:
        yield
    finally:
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _memory(device: str) -> tuple[int, int]:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    with _context(device):
        _check(_driver().cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)), "cuMemGetInfo")
    return free.value, total.value


def _attribute(handle: ctypes.c_int, number: int) -> int:
    value = ctypes.c_int()
    _check(_driver().cuDeviceGetAttribute(ctypes.byref(value), number, handle), "cuDeviceGetAttribute")
    return value.value


def _check(code: int, call: str) -> None:
    if code:
        raise CardError(f"{call} failed in the NVIDIA driver: error {code}")
