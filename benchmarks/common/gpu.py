"""Facts of an NVIDIA GPU: name, compute capability, memory in use."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache

from common.processes import environment
from rsicrc.backends import cuda
from rsicrc.errors import BackendError, DeviceMemoryError, RsicrcError

CPU = "cpu"
_BLOCK = 1 << 28  # bytes


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: Name, such as "NVIDIA H200".
        capability: Compute capability, such as (9, 0).
        memory: Total memory in bytes.
        cuda: Newest CUDA version that the driver supports, such as (13, 0).
    """

    name: str
    capability: tuple[int, int]
    memory: int
    cuda: tuple[int, int]


def is_gpu(device: str) -> bool:
    """Return True if a device of `rsicrc.load` is a GPU."""
    return device.partition(":")[0] == "cuda"


def problem(device: str) -> str:
    """Return the reason why a GPU cannot be used; empty if it can."""
    try:
        describe(device)
    except BackendError as error:
        return str(error)
    return ""


@cache
def describe(device: str) -> Gpu:
    """Return the facts of a GPU.

    They are read in another process: a CUDA context takes hundreds of megabytes of the GPU, which would be counted in
    every measurement of memory.

    Raises:
        BackendError: There is no such GPU, or CUDA cannot be used.
    """
    command = [sys.executable, "-m", "common.gpu", device]
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())  # noqa: S603
    if process.returncode:
        raise BackendError((process.stderr.strip().splitlines() or ["CUDA cannot be used"])[-1])
    facts = json.loads(process.stdout)
    return Gpu(facts["name"], tuple(facts["capability"]), facts["memory"], tuple(facts["cuda"]))


def read(device: str) -> Gpu:
    """Read the facts of a GPU in this process; see `describe`."""
    gpu = cuda.Device(cuda.device_number(device))
    return Gpu(gpu.name, gpu.capability, gpu.memory()[1], cuda.driver_version() or (0, 0))


def used(device: str) -> int:
    """Return how many bytes of a GPU's memory are in use, by all processes together.

    Raises:
        BackendError: There is no such GPU, or CUDA cannot be used.
    """
    free, total = cuda.Device(cuda.device_number(device)).memory()
    return total - free


@contextmanager
def filled(device: str, leave: int) -> Iterator[None]:
    """Allocate a GPU's free memory, all but about `leave` bytes, while the block runs.

    Raises:
        BackendError: There is no such GPU, or CUDA cannot be used.
    """
    gpu, blocks = cuda.Device(cuda.device_number(device)), []
    with suppress(DeviceMemoryError):  # free memory may be fragmented
        while (size := min(_BLOCK, gpu.memory()[0] - leave)) > 0:
            blocks.append(cuda.Memory(size))
    try:
        yield
    finally:
        blocks.clear()


def main() -> None:
    """Print the facts of a GPU as JSON."""
    try:
        sys.stdout.write(json.dumps(vars(read(sys.argv[1]))) + "\n")
    except RsicrcError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
