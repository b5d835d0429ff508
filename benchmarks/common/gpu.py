"""Facts of an NVIDIA GPU: name, compute capability, memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

from common.processes import environment
from rsicrc.backends import cuda
from rsicrc.errors import BackendError, RsicrcError

CPU = "cpu"


@dataclass(frozen=True)
class Gpu:
    """A GPU: name, compute capability, memory in bytes, and the newest CUDA version that the driver supports."""

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
    """Return the facts of a GPU, read in another process.

    A CUDA context in this process would take hundreds of megabytes of the GPU, and measurements would count them.

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
    """Return how many bytes of a GPU's memory are in use, by all processes together."""
    free, total = cuda.Device(cuda.device_number(device)).memory()
    return total - free


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(vars(read(sys.argv[1]))) + "\n")
    except RsicrcError as error:
        raise SystemExit(str(error)) from error
