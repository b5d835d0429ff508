"""Implementations of the same model: baselines as their users would write them, and this project's engine.

Each is a module with a function `build(setup) -> Implementation`; benchmarks/README.md describes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from baselines.implementation import Implementation, Setup


@dataclass(frozen=True)
class Entry:
    """An implementation by name.

    Attributes:
        name: Name in tables.
        module: Module of this package.
        precision: Number format of the products: "fp32", "fp16", "bf16", "int8".
        about: Description in one line.
        backend: Backend of the engine; empty for the baselines.
        alone: True if it captions one pair at a time, greedily.
    """

    name: str
    module: str
    precision: str
    about: str
    backend: str = ""
    alone: bool = False


BASELINES = (
    Entry("published", "pytorch", "fp32", "the published method: PyTorch, one pair, greedy, no cache", alone=True),
    Entry("pytorch", "pytorch", "fp32", "PyTorch with a batched beam search without a cache"),
    Entry("pytorch-bf16", "pytorch", "bf16", "the same under bfloat16 autocast"),
    Entry("compile-bf16", "torch_compile", "bf16", "torch.compile under autocast, key-value cache, static shapes"),
    Entry("graph-bf16", "cuda_graphs", "bf16", "PyTorch and CUDA graphs: bfloat16 weights, key-value cache"),
    Entry("huggingface", "huggingface", "fp32", "generate of transformers with its cache"),
    Entry("onnx-plain", "plain_onnx", "fp32", "torch.onnx.export of the unchanged model, on ONNX Runtime, no cache"),
)
ENGINE = "rsicrc"
NAMES = (*(entry.name for entry in BASELINES), ENGINE)


def entries(names: Sequence[str], backends: Sequence[str], precisions: Sequence[str]) -> list[Entry]:
    """Return the entries of some names; `rsicrc` gives one for every backend and precision."""
    chosen = [entry for entry in BASELINES if entry.name in names]
    if ENGINE in names:
        chosen += [
            Entry(f"rsicrc {backend} {precision}", "engine", precision, "this project's engine", backend)
            for backend in backends
            for precision in precisions
        ]
    return chosen


def build(entry: Entry, setup: Setup) -> Implementation:
    """Open an implementation."""
    return cast(Implementation, import_module(f"baselines.{entry.module}").build(setup))
