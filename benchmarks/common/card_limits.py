"""What a GPU can do at best, measured through PyTorch: large matrix products in each precision, and moving memory.

Times are those of CUDA events around several runs, so that launching is not in them. On a CPU (where the tests run it)
a clock takes their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import torch

SIZE = 8192  # edge of the square matrices
BUFFER = 1 << 31  # bytes: many times the cache
_RUNS, _TURNS = 5, 4

Job = Callable[[], object]


def products(device: str, size: int = SIZE) -> Iterator[tuple[str, float]]:
    """Measure products of random matrices, for zeros would draw less power and run faster.

    Args:
        device: "cuda:0".
        size: edge of the matrices.

    Yields:
        Precision → seconds of one product. "tf32" is float32 rounded to ten bits, which float32 here is not.
    """
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    for precision, job in _jobs(device, size):
        matmul.allow_tf32 = precision == "tf32"
        try:
            yield precision, shortest(device, job)
        except (RuntimeError, NotImplementedError):  # no such product on this device
            continue
        finally:
            matmul.allow_tf32 = before


def bandwidth(device: str, size: int = BUFFER) -> float:
    """Measure bytes a second: the better of reading a large buffer and copying it, which reads and writes."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return max(
        size / shortest(device, source.sum),
        2 * size / shortest(device, lambda: target.copy_(source)),
    )


def shortest(device: str, job: Job) -> float:
    """Return the seconds of one run: the best of some turns of some runs each, after a turn that does not count."""
    return min([_turn(device, job) for _ in range(_TURNS + 1)][1:])


def _jobs(device: str, size: int) -> Iterator[tuple[str, Job]]:
    a, b = torch.randn(2, size, size, device=device)
    yield "fp32", lambda: a @ b
    if torch.device(device).type == "cuda":
        yield "tf32", lambda: a @ b
    for precision, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        c, d = a.to(dtype), b.to(dtype)
        yield precision, lambda c=c, d=d: c @ d  # type: ignore[misc]
    x, y = torch.randint(-127, 127, (2, size, size), dtype=torch.int8, device=device)
    y = y.t()  # the int8 product wants the second matrix by columns
    yield "int8", lambda: torch._int_mm(x, y)


def _turn(device: str, job: Job) -> float:
    if torch.device(device).type != "cuda":
        start = perf_counter()
        for _ in range(_RUNS):
            job()
        return (perf_counter() - start) / _RUNS
    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(_RUNS):
            job()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / _RUNS
