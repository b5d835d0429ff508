"""Peak rates of a CPU or a GPU: large matrix products in each precision, and memory bandwidth.

The faster of PyTorch and OpenVINO sets the peak of a CPU; PyTorch measures that of a GPU. As a program, the module
prints one JSON object:

    python -m common.peaks DEVICE THREADS
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from common.gpu import CPU, is_gpu

SIZES = (1536, 3072)  # of the square matrices on a CPU; the larger ones are far larger than its caches
GPU_SIZE = 8192
BUFFER, GPU_BUFFER = 1 << 29, 1 << 31  # bytes
LAUNCH = 10e-6  # seconds to launch a decoder step on a GPU
_REPEATS, _SECONDS = 6, 2.0  # at most, for each product
_RUNS_ON_GPU = 5  # in one measurement, so that launching does not count

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
        gmacs, by = dict(self.gmacs), dict(self.by)
        for precision, rate in other.gmacs.items():
            if rate > gmacs.get(precision, 0.0):
                gmacs[precision], by[precision] = rate, other.by[precision]
        return Peaks(gmacs, by, max(self.bandwidth, other.bandwidth), self.launch)


def main(device: str, threads: str) -> None:
    """Measure, and print the peaks."""
    try:
        peaks = measure_gpu(device) if is_gpu(device) else measure_cpu(int(threads))
    except ImportError as error:
        raise SystemExit(f"skipped: peak rates need PyTorch: {error}") from error
    sys.stdout.write(json.dumps(vars(peaks)) + "\n")


def measure_cpu(threads: int) -> Peaks:
    """Measure the peaks of the CPU, which takes about ten seconds on two idle cores."""
    import torch

    torch.set_num_threads(threads)
    peaks = Peaks({}, {}, _bandwidth(CPU, BUFFER))
    for library in (_torch, _openvino):
        name = library.__name__.strip("_")
        try:
            for precision, size, job in library(threads):
                rate = size**3 / _shortest(job) / 1e9
                peaks = peaks.best(Peaks({precision: rate}, {precision: name}, 0.0))
        except (ImportError, RuntimeError, NotImplementedError) as error:
            sys.stderr.write(f"{name}: not measured ({type(error).__name__}: {error})\n")
    return peaks


def measure_gpu(device: str, size: int = GPU_SIZE, buffer: int = GPU_BUFFER) -> Peaks:
    """Measure the peaks of a GPU with square matrices of `size` rows and a buffer of many times the cache's size."""
    gmacs = {}
    for precision, job in _torch_products(device, size):
        try:
            gmacs[precision] = size**3 / _shortest(job, device) / 1e9
        except (RuntimeError, NotImplementedError):  # the device has no such product
            continue
    return Peaks(gmacs, dict.fromkeys(gmacs, "torch"), _bandwidth(device, buffer), LAUNCH)


def _torch(_threads: int) -> Iterator[tuple[str, int, Job]]:
    return ((precision, size, job) for size in SIZES for precision, job in _torch_products(CPU, size))


def _torch_products(device: str, size: int) -> Iterator[tuple[str, Job]]:
    """Yield products of random matrices: with zeros, a GPU takes less power and runs faster."""
    import torch

    matmul: Any = torch.backends.cuda.matmul
    a, b = torch.randn(2, size, size, device=device)
    yield "fp32", lambda: a @ b
    dtypes = {"bf16": torch.bfloat16}
    x, y = torch.randint(-127, 127, (2, size, size), dtype=torch.int8, device=device)
    if is_gpu(device):
        matmul.allow_tf32 = True
        yield "tf32", lambda: a @ b
        matmul.allow_tf32 = False
        dtypes["fp16"] = torch.float16
        y = y.t()  # a GPU requires column-major order here
    for precision, dtype in dtypes.items():
        c, d = a.to(dtype), b.to(dtype)
        yield precision, lambda c=c, d=d: c @ d  # type: ignore[misc]
    yield "int8", lambda: torch._int_mm(x, y)


def _openvino(threads: int) -> Iterator[tuple[str, int, Job]]:
    import openvino
    from openvino import opset13 as ops

    core, size = openvino.Core(), SIZES[-1]
    weight = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    for precision, hint in (("fp32", "f32"), ("bf16", "bf16"), ("int8", "f32")):
        x = ops.parameter([size, size], openvino.Type.f32)
        a, b = x, ops.constant(weight)
        if precision == "int8":  # the CPU plugin turns quantized operands into an int8 product
            low, high = ops.constant(np.float32(-4)), ops.constant(np.float32(4))
            a = ops.fake_quantize(x, low, high, low, high, 256)
            b = ops.fake_quantize(b, low, high, low, high, 255)
        model = openvino.Model([ops.matmul(a, b, False, False)], [x], precision)
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        yield precision, size, lambda request=request: request.infer([weight])  # type: ignore[misc]


def _bandwidth(device: str, size: int) -> float:
    """Return the higher rate of reading a buffer, and of copying it, which reads and writes."""
    import torch

    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    reading = size / _shortest(source.sum, device)
    copying = 2 * size / _shortest(lambda: target.copy_(source), device)
    return max(reading, copying) / 1e9


def _shortest(job: Job, device: str = CPU) -> float:
    """Return the seconds of the fastest run."""
    measured: list[float] = []
    start = perf_counter()
    while len(measured) < _REPEATS and perf_counter() - start < _SECONDS:
        measured.append(_seconds_on_gpu(job, device) if is_gpu(device) else _seconds(job))
    return min(measured)


def _seconds(job: Job) -> float:
    start = perf_counter()
    job()
    return perf_counter() - start


def _seconds_on_gpu(job: Job, device: str) -> float:
    import torch

    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        for _ in range(_RUNS_ON_GPU):
            job()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / _RUNS_ON_GPU


if __name__ == "__main__":
    main(*sys.argv[1:])
