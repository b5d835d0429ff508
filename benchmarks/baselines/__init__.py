"""Implementations of the same model: baselines as their users would write them, and this project's engine.

benchmarks/README.md describes them.
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
        module: Module of this package, and the class in it.
        precision: Number format of the products: "fp32", "fp16", "bf16", "int8".
        backend: Backend of the engine; empty for the baselines.
        alone: True if it captions one pair at a time, greedily.
    """

    name: str
    module: str
    precision: str
    backend: str = ""
    alone: bool = False


BASELINES = (
    Entry("published", "pytorch:PyTorch", "fp32", alone=True),
    Entry("pytorch", "pytorch:PyTorch", "fp32"),
    Entry("pytorch-bf16", "pytorch:PyTorch", "bf16"),
    Entry("compile-bf16", "static_shapes:Compiled", "bf16"),
    Entry("graph-bf16", "static_shapes:CudaGraphs", "bf16"),
    Entry("huggingface", "huggingface:HuggingFace", "fp32"),
    Entry("onnx-plain", "plain_onnx:PlainOnnx", "fp32"),
)
ENGINE = "rsicrc"
NAMES = (*(entry.name for entry in BASELINES), ENGINE)


def entries(names: Sequence[str], backends: Sequence[str], precisions: Sequence[str]) -> list[Entry]:
    """Return the entries of some names; `rsicrc` gives one for every backend and precision."""
    chosen = [entry for entry in BASELINES if entry.name in names]
    if ENGINE in names:
        chosen += [
            Entry(f"rsicrc {backend} {precision}", "engine:RsicrcEngine", precision, backend)
            for backend in backends
            for precision in precisions
        ]
    return chosen


def build(entry: Entry, setup: Setup) -> Implementation:
    """Open an implementation."""
    module, _, name = entry.module.partition(":")
    return cast(Implementation, getattr(import_module(f"baselines.{module}"), name)(setup))
