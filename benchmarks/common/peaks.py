"""Peak rates of a CPU or a GPU in PyTorch: large matrix products in each precision, and memory bandwidth.

As a program, the module prints one JSON object:

    python -m common.peaks DEVICE THREADS
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

from common.gpu import is_gpu

LAUNCH = 10e-6  # seconds to launch a decoder step on a GPU
_SIZE, _GPU_SIZE = 3072, 8192  # of the square matrices, which are far larger than the caches
_BUFFER, _GPU_BUFFER = 1 << 29, 1 << 31  # bytes
_REPEATS, _SECONDS = 6, 2.0  # at most, for each product
_RUNS_ON_GPU = 20  # in one measurement, so that launching and synchronizing do not count

Job = Callable[[], object]


@dataclass(frozen=True)
class Peaks:
    """Peak rates of a device.

    Attributes:
        gmacs: 10⁹ multiply-accumulates per second, by precision.
        by: Library that reached the rate, by precision.
        bandwidth: Memory bandwidth in 10⁹ bytes per second.
        launch: Seconds that every decoder step takes in addition; 0 on a CPU.
    """

    gmacs: dict[str, float]
    by: dict[str, str]
    bandwidth: float
    launch: float = 0.0

    def best(self, other: Peaks) -> Peaks:
        """Return the higher of each rate: other programs on the machine can only lower a measured rate."""
        gmacs = {name: max(rate, other.gmacs.get(name, 0.0)) for name, rate in self.gmacs.items()}
        return Peaks(
            {**other.gmacs, **gmacs}, {**other.by, **self.by}, max(self.bandwidth, other.bandwidth), self.launch
        )


def main(device: str, threads: str) -> None:
    """Measure, and print the peaks."""
    try:
        import torch
    except ImportError as error:
        raise SystemExit(f"skipped: peak rates need PyTorch: {error}") from error
    torch.set_num_threads(int(threads))
    sizes = (_GPU_SIZE, _GPU_BUFFER) if is_gpu(device) else (_SIZE, _BUFFER)
    sys.stdout.write(json.dumps(vars(measure(device, *sizes))) + "\n")


def measure(device: str, size: int, buffer: int) -> Peaks:
    """Measure the peaks with matrices [size, size] and a buffer of some bytes, which takes a few seconds."""
    gmacs = {}
    for precision, job in _products(device, size):
        try:
            gmacs[precision] = size**3 / _shortest(job, device) / 1e9
        except (RuntimeError, NotImplementedError):  # the device has no such product
            continue
    launch = LAUNCH if is_gpu(device) else 0.0
    return Peaks(gmacs, dict.fromkeys(gmacs, "torch"), _bandwidth(device, buffer), launch)


def _products(device: str, size: int) -> Iterator[tuple[str, Job]]:
    """Yield products of random matrices: with zeros, a GPU takes less power and runs faster."""
    import torch

    a, b = torch.randn(2, size, size, device=device)
    x, y = torch.randint(-127, 127, (2, size, size), dtype=torch.int8, device=device)
    dtypes = {"bf16": torch.bfloat16}
    yield "fp32", lambda: a @ b
    if is_gpu(device):
        dtypes["fp16"] = torch.float16
        y = y.t()  # a GPU requires column-major order here
    for precision, dtype in dtypes.items():
        c, d = a.to(dtype), b.to(dtype)
        yield precision, lambda c=c, d=d: c @ d  # type: ignore[misc]
    yield "int8", lambda: torch._int_mm(x, y)


def _bandwidth(device: str, size: int) -> float:
    """Return the higher rate of reading a buffer, and of copying it, which reads and writes."""
    import torch

    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    reading = size / _shortest(source.sum, device)
    copying = 2 * size / _shortest(lambda: target.copy_(source), device)
    return max(reading, copying) / 1e9


def _shortest(job: Job, device: str) -> float:
    """Return the seconds of the fastest run; on a GPU, the mean of several runs in one measurement."""
    import torch

    runs = _RUNS_ON_GPU if is_gpu(device) else 1
    measured: list[float] = []
    start = perf_counter()
    while len(measured) < _REPEATS and perf_counter() - start < _SECONDS:
        begin = perf_counter()
        for _ in range(runs):
            job()
        if is_gpu(device):
            torch.cuda.synchronize(device)
        measured.append((perf_counter() - begin) / runs)
    return min(measured)


if __name__ == "__main__":
    main(*sys.argv[1:])
