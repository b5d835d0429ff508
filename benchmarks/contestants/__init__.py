"""The contestants: ways to caption a pair with the same model, each in the best form that its users would write.

A contestant lives in a module with a function `build(setup) -> Contestant`; benchmarks/README.md says what each is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from contestants.base import Contestant, Setup


@dataclass(frozen=True)
class Entry:
    """A contestant by name.

    Attributes:
        name: for tables.
        module: its module in this package.
        precision: number format of its products: "fp32", "fp16", "bf16", "int8".
        about: one line.
        backend: of the engine; empty for the others.
        alone: takes one pair at a time, greedily.
    """

    name: str
    module: str
    precision: str
    about: str
    backend: str = ""
    alone: bool = False


OTHERS = (
    Entry("published", "published", "fp32", "the published way: PyTorch, one pair, greedy, no cache", alone=True),
    Entry("pytorch", "pytorch", "fp32", "the same, batched, with an uncached batched beam search"),
    Entry("pytorch-bf16", "pytorch", "bf16", "the same under bfloat16 autocast"),
    Entry("compile-bf16", "compiled", "bf16", "torch.compile under bfloat16 autocast, key-value cache, static shapes"),
    Entry(
        "graph-bf16", "graph", "bf16", "PyTorch and CUDA graphs: weights in bfloat16, key-value cache, static shapes"
    ),
    Entry("huggingface", "huggingface", "fp32", "generate of transformers with its cache"),
    Entry("onnx-plain", "plain_onnx", "fp32", "torch.onnx.export of the model as it is, on ONNX Runtime, no cache"),
)
ENGINE = "rsicrc"
NAMES = (*(entry.name for entry in OTHERS), ENGINE)


def entries(names: Sequence[str], backends: Sequence[str], precisions: Sequence[str]) -> list[Entry]:
    """The contestants of these names; `rsicrc` is one for every backend and precision."""
    chosen = [entry for entry in OTHERS if entry.name in names]
    if ENGINE in names:
        chosen += [
            Entry(f"rsicrc {backend} {precision}", "engine", precision, "this project's engine", backend)
            for backend in backends
            for precision in precisions
        ]
    return chosen


def build(entry: Entry, setup: Setup) -> Contestant:
    """Open a contestant."""
    return cast(Contestant, import_module(f"contestants.{entry.module}").build(setup))
