"""Layers in the build log of TensorRT, and the nodes of the ONNX graph that each layer comes from.

A layer of tensorrt_rtx is one kernel. Its name lists its operations, shortened to at most four letters
(`__myl_CastReshTranAdd`), and its metadata lists the nodes of the ONNX graph that the kernel computes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

_LAYER = re.compile(r"^\s*Name: (?P<name>\S+), LayerType: (?P<kind>\w+),(?P<rest>.*)$", re.MULTILINE)
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_MOVING = {"Move", "Resh", "Tran", "Slic", "Conc", "Repl", "Cast"}
_NO_KERNEL = {"shape_call", "signal", "wait"}  # synchronization between kernels


@dataclass(frozen=True)
class Layer:
    """One kernel.

    Attributes:
        name: Name without the number that makes it unique.
        kind: "gemm", "correlation" (a convolution), "kgen" (generated), "runtime_fusion" (a product fused with later
            nodes)…
        nodes: Names of the ONNX nodes in the kernel.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]

    @property
    def operations(self) -> tuple[str, ...]:
        """Operations of a generated kernel in order: Cast, Resh, Tran, Add…; empty for the library's own kernels."""
        return tuple(re.findall(r"[A-Z][a-z0-9]+", self.name.removeprefix("__myl_"))) if "__myl_" in self.name else ()

    @property
    def is_attention(self) -> bool:
        """True for a fused attention: both products and the softmax."""
        return re.match(r"_ge(mm|mv)_mha", self.name) is not None

    @property
    def is_convolution(self) -> bool:
        """True for a convolution, with the nodes that are fused with it."""
        return self.kind == "correlation" or "Corr" in self.operations

    @property
    def only_moves(self) -> bool:
        """True if the kernel only copies, transposes, casts or pads."""
        return bool(self.operations) and set(self.operations) <= _MOVING


@dataclass(frozen=True)
class Attention:
    """An attention in an ONNX graph.

    Attributes:
        scores: Name of the product of queries and keys.
        softmax: Name of the softmax.
        output: Name of the product with the values.
    """

    scores: str
    softmax: str
    output: str


def read_layers(log: Iterable[str]) -> list[Layer]:
    """Return the kernels in a verbose build log."""
    return [
        Layer(re.sub(r"_myl\d+_\d+$", "", match["name"]), match["kind"], tuple(_NODE.findall(match["rest"])))
        for match in _LAYER.finditer("\n".join(log))
        if match["kind"] not in _NO_KERNEL
    ]


def attentions(path: Path) -> Iterator[Attention]:
    """Yield the attentions of an ONNX graph whose weights are used only by the product with the values.

    The scores must be a product of two activations, so the pool of the image encoder, whose query is a weight, is left
    out.
    """
    graph = _load(path)
    makers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Softmax":
            continue
        scores = _source_product(node.input[0], makers)
        uses = list(_uses(graph, node.output[0]))
        if scores and weights.isdisjoint(scores.input) and [use.op_type for use in uses] == ["MatMul"]:
            yield Attention(scores.name, node.name, uses[0].name)


def convolutions(path: Path) -> Iterator[tuple[str, bool, str | None]]:
    """Yield the convolutions of an ONNX graph: name, True if there is a bias, and the name of the ReLU or None."""
    graph = _load(path)
    for node in graph.node:
        if node.op_type == "Conv":
            uses = list(_uses(graph, node.output[0]))
            relu = uses[0].name if len(uses) == 1 and uses[0].op_type == "Relu" else None
            yield node.name, len(node.input) == 3, relu


def residual_relus(path: Path) -> Iterator[str]:
    """Yield the names of the ReLUs of an ONNX graph that follow the sum of a convolution and another tensor."""
    graph = _load(path)
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        source = makers.get(node.input[0])
        if node.op_type != "Relu" or source is None or source.op_type != "Add":
            continue
        if "Conv" in [makers[name].op_type for name in source.input if name in makers]:
            yield node.name


def _load(path: Path) -> onnx.GraphProto:
    import onnx

    return onnx.load(path, load_external_data=False).graph


def _source_product(name: str, makers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the product that a tensor is computed from by casts and additions of masks only; None if there is none."""
    node = makers.get(name)
    if node is None or node.op_type == "MatMul":
        return node
    if node.op_type not in ("Add", "Cast"):
        return None
    found = (_source_product(each, makers) for each in node.input)
    return next((product for product in found if product is not None), None)


def _uses(graph: onnx.GraphProto, name: str) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that use a tensor, directly or after a cast."""
    for node in graph.node:
        if name in node.input:
            if node.op_type == "Cast":
                yield from _uses(graph, node.output[0])
            else:
                yield node
