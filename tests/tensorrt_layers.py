"""What TensorRT made of a graph: the layers in its build log, and what in the ONNX graph they came from.

A layer of tensorrt_rtx is one kernel. Its name lists its operations, shortened to four letters or less
(`__myl_CastReshTranAdd`), and its metadata the nodes of the ONNX graph that went into it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

_LAYER = re.compile(r"^\s*Name: (?P<name>\S+), LayerType: (?P<kind>\w+),(?P<rest>.*)$", re.MULTILINE)
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_MOVING = {"Move", "Resh", "Tran", "Slic", "Conc", "Repl", "Cast"}
_NO_WORK = {"shape_call", "signal", "wait"}  # bookkeeping between kernels


@dataclass(frozen=True)
class Layer:
    """One kernel.

    Attributes:
        name: without the number that makes it unique.
        kind: "gemm", "correlation" (a convolution), "kgen" (generated), "runtime_fusion" (a product with what follows)…
        nodes: names of the ONNX nodes in it.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]

    @property
    def operations(self) -> tuple[str, ...]:
        """What a generated kernel does, in order: Cast, Resh, Tran, Add…; empty for the library's own kernels."""
        return tuple(re.findall(r"[A-Z][a-z0-9]+", self.name.removeprefix("__myl_"))) if "__myl_" in self.name else ()

    @property
    def is_attention(self) -> bool:
        """Whether it is a fused attention: both products and the softmax."""
        return re.match(r"_ge(mm|mv)_mha", self.name) is not None

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution, with what was fused to it."""
        return self.kind == "correlation" or "Corr" in self.operations

    @property
    def only_moves(self) -> bool:
        """Whether it computes nothing: it copies, transposes, casts, or pads."""
        return bool(self.operations) and set(self.operations) <= _MOVING


@dataclass(frozen=True)
class Attention:
    """An attention in an ONNX graph: names of the score product, the softmax and the product with the values."""

    scores: str
    softmax: str
    mixed: str


def read_layers(log: Iterable[str]) -> list[Layer]:
    """Return the kernels that a verbose build log lists."""
    return [
        Layer(re.sub(r"_myl\d+_\d+$", "", match["name"]), match["kind"], tuple(_NODE.findall(match["rest"])))
        for match in _LAYER.finditer("\n".join(log))
        if match["kind"] not in _NO_WORK
    ]


def attentions(path: Path) -> Iterator[Attention]:
    """Find the attentions of an ONNX graph whose weights nothing but the product with the values uses.

    The scores must be a product of two activations: the image encoder's pool, whose query is a weight, is none.
    """
    graph = onnx.load(path, load_external_data=False).graph
    makers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Softmax":
            continue
        scores = _product_behind(node.input[0], makers)
        uses = list(_uses(graph, node.output[0]))
        if scores and weights.isdisjoint(scores.input) and [use.op_type for use in uses] == ["MatMul"]:
            yield Attention(scores.name, node.name, uses[0].name)


def convolutions(path: Path) -> Iterator[tuple[str, bool, str | None]]:
    """Return every convolution of an ONNX graph: its name, whether it has a bias, and its ReLU's name if any."""
    graph = onnx.load(path, load_external_data=False).graph
    for node in graph.node:
        if node.op_type == "Conv":
            uses = list(_uses(graph, node.output[0]))
            relu = uses[0].name if len(uses) == 1 and uses[0].op_type == "Relu" else None
            yield node.name, len(node.input) == 3, relu


def residual_relus(path: Path) -> Iterator[str]:
    """Return the name of every ReLU of an ONNX graph that follows the sum of a convolution and something else."""
    graph = onnx.load(path, load_external_data=False).graph
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        source = makers.get(node.input[0])
        if node.op_type != "Relu" or source is None or source.op_type != "Add":
            continue
        if "Conv" in [makers[name].op_type for name in source.input if name in makers]:
            yield node.name


def _product_behind(name: str, makers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The product that a tensor comes from by casts and added masks alone."""
    node = makers.get(name)
    if node is None or node.op_type == "MatMul":
        return node
    if node.op_type not in ("Add", "Cast"):
        return None
    found = (_product_behind(each, makers) for each in node.input)
    return next((product for product in found if product is not None), None)


def _uses(graph: onnx.GraphProto, name: str) -> Iterator[onnx.NodeProto]:
    """The nodes that use a tensor, casts left out."""
    for node in graph.node:
        if name in node.input:
            if node.op_type == "Cast":
                yield from _uses(graph, node.output[0])
            else:
                yield node
