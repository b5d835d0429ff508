"""What this machine can do at best: large matrix products in each precision, and reading memory.

Whichever installed library is quickest sets the limit. Run as a program it prints one JSON object:

    python -m common.machine --device cpu --threads 2
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from common import card
from rsicrc.cpu import cpu_fields, cpu_flags

SIZES = (1536, 3072)  # edges of the square matrices; the larger one is well beyond the caches
_REPEATS = 6
_ENOUGH = 2.0  # seconds
_BUFFER = 1 << 29  # bytes
_LAUNCH = 10e-6  # seconds; what a step on a GPU may cost beside reading its weights
_FLAGS = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "BF16", "avx2": "AVX2"}

Job = Callable[[], object]


@dataclass(frozen=True)
class Limits:
    """The machine's own limits.

    Attributes:
        gmacs: precision → 10⁹ multiply-accumulates a second.
        by: precision → the library that reached it.
        bandwidth: 10⁹ bytes a second, read.
        launch: seconds that a step takes whatever it computes; 0 on a CPU.
    """

    gmacs: dict[str, float]
    by: dict[str, str]
    bandwidth: float
    launch: float = 0.0

    def best(self, other: Limits) -> Limits:
        """The higher of each: other work on the machine can only lower what is measured."""
        gmacs, by = dict(self.gmacs), dict(self.by)
        for precision, rate in other.gmacs.items():
            if rate > gmacs.get(precision, 0.0):
                gmacs[precision], by[precision] = rate, other.by[precision]
        return Limits(gmacs, by, max(self.bandwidth, other.bandwidth), self.launch)


def device_name(device: str, threads: int) -> str:
    """For tables: processor or GPU, what it has, threads."""
    if card.is_card(device):
        found = card.describe(device)
        version, cuda = (".".join(map(str, numbers)) for numbers in (found.capability, found.cuda))
        return f"{found.name} (compute capability {version}, {found.memory / 2**30:.0f} GiB, CUDA {cuda})"
    name = cpu_fields().get("model name") or platform.processor() or platform.machine()
    has = [label for flag, label in _FLAGS.items() if flag in cpu_flags()]
    if "AVX-512" in has:
        has.remove("AVX2")
    return f"{name} ({', '.join(has)}), {threads} threads" if has else f"{name}, {threads} threads"


def slug(device: str) -> str:
    """A device's name for a file."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)", "", device).lower()).strip("-")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default=card.CPU)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    try:
        limits = measure_card(arguments.device) if card.is_card(arguments.device) else measure(arguments.threads)
    except ImportError as error:
        raise SystemExit(f"skipped: limits, which are measured with PyTorch: {error}") from error
    sys.stdout.write(json.dumps(vars(limits)) + "\n")


def measure(threads: int) -> Limits:
    """Measure all limits of the processor; about ten seconds on two quiet cores."""
    limits = Limits({}, {}, _bandwidth(threads))
    for library in (_torch, _onnxruntime, _openvino):
        try:
            for precision, size, job in library(threads):
                rate = size**3 / _shortest(job) / 1e9
                limits = limits.best(Limits({precision: rate}, {precision: library.__name__.strip("_")}, 0.0))
        except (ImportError, RuntimeError, NotImplementedError) as error:
            sys.stderr.write(f"{library.__name__.strip('_')}: not measured ({type(error).__name__}: {error})\n")
    return limits


def measure_card(device: str, **sizes: int) -> Limits:
    """Measure all limits of a GPU; a few seconds. `sizes` are those of `common.card_limits`."""
    from common import card_limits

    size, buffer = sizes.get("product", card_limits.SIZE), sizes.get("buffer", card_limits.BUFFER)
    gmacs = {precision: size**3 / seconds / 1e9 for precision, seconds in card_limits.products(device, size)}
    moved = card_limits.bandwidth(device, buffer) / 1e9
    return Limits(gmacs, dict.fromkeys(gmacs, "torch"), moved, _LAUNCH)


def _torch(threads: int) -> Iterator[tuple[str, int, Job]]:
    import torch

    torch.set_num_threads(threads)
    for size in SIZES:
        a, b = torch.randn(2, size, size)
        yield "fp32", size, lambda a=a, b=b: a @ b  # type: ignore[misc]
        c, d = a.bfloat16(), b.bfloat16()
        yield "bf16", size, lambda c=c, d=d: c @ d  # type: ignore[misc]
        x, y = torch.randint(-127, 127, (2, size, size), dtype=torch.int8)
        yield "int8", size, lambda x=x, y=y: torch._int_mm(x, y)  # type: ignore[misc]


def _onnxruntime(threads: int) -> Iterator[tuple[str, int, Job]]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    kinds = {"fp32": ("MatMul", np.float32, TensorProto.FLOAT), "int8": ("MatMulInteger", np.uint8, TensorProto.UINT8)}
    for precision, (operator, dtype, kind) in kinds.items():
        size = SIZES[-1]
        weights = np.random.default_rng(0).integers(-100, 100, (size, size))
        weight = numpy_helper.from_array(weights.astype(np.float32 if precision == "fp32" else np.int8), "b")
        graph = helper.make_graph(
            [helper.make_node(operator, ["a", "b"], ["c"])],
            "product",
            [helper.make_tensor_value_info("a", kind, [size, size])],
            [helper.make_tensor_value_info("c", TensorProto.FLOAT if precision == "fp32" else TensorProto.INT32, None)],
            [weight],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feed = {"a": np.abs(weights).astype(dtype)}
        yield precision, size, lambda session=session, feed=feed: session.run(None, feed)  # type: ignore[misc]


def _openvino(threads: int) -> Iterator[tuple[str, int, Job]]:
    import openvino
    from openvino import opset13 as ops

    core, size = openvino.Core(), SIZES[-1]
    weight = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    for precision, name in (("fp32", "f32"), ("bf16", "bf16"), ("int8", "f32")):
        x = ops.parameter([size, size], openvino.Type.f32)
        a, b = x, ops.constant(weight)
        if precision == "int8":  # the plugin turns quantized operands into an integer product
            low, high = ops.constant(np.float32(-4)), ops.constant(np.float32(4))
            a = ops.fake_quantize(x, low, high, low, high, 256)
            b = ops.fake_quantize(b, low, high, low, high, 255)
        model = openvino.Model([ops.matmul(a, b, False, False)], [x], precision)
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": name, "INFERENCE_NUM_THREADS": threads}
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        yield precision, size, lambda request=request: request.infer([weight])  # type: ignore[misc]


def _bandwidth(threads: int) -> float:
    """The better of summing a large buffer and copying it, which reads and writes."""
    import torch

    torch.set_num_threads(threads)
    source = torch.ones(_BUFFER // 4)
    target = torch.empty_like(source)
    reading = _BUFFER / _shortest(source.sum)
    copying = 2 * _BUFFER / _shortest(lambda: target.copy_(source))
    return max(reading, copying) / 1e9


def _shortest(job: Job) -> float:
    times: list[float] = []
    while len(times) < _REPEATS and sum(times) < _ENOUGH:
        start = perf_counter()
        job()
        times.append(perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
