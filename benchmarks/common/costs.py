"""Cost of an ONNX graph: its parameters, and its multiply-accumulates (MACs), counted from the file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_SMALL = 64  # initializers up to this many elements are shapes and scalars, which shape inference needs


@dataclass(frozen=True)
class Cost:
    """Cost of a graph for inputs of given sizes.

    Attributes:
        parameters: Number of weights, with biases and tables.
        macs: Multiply-accumulates of convolutions and matrix products.
        reads: Number of times that the graph reads a whole matrix or kernel, by name; a table look-up does not count.
    """

    parameters: int
    macs: int
    reads: Mapping[str, int]


def graph_cost(path: Path, sizes: Mapping[str, int]) -> Cost:
    """Count the cost of a graph.

    Args:
        path: ONNX file.
        sizes: Length of every dynamic axis, by name, for example `{"B": 1}`.

    Raises:
        KeyError: `sizes` leaves out an axis.
    """
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    _fix_axes(graph, sizes)
    shapes = _infer_shapes(model)
    macs, reads = 0, Counter[str]()
    for node in graph.node:
        if node.op_type in _PRODUCTS:
            macs += _macs(node, shapes)
            reads.update(name for name in node.input[:2] if name in weights)
        elif node.op_type == "Transpose" and node.input[0] in weights:
            reads.update(node.input[:1])
    parameters = sum(math.prod(shape) for shape in weights.values() if math.prod(shape) > _SMALL)
    return Cost(parameters, macs, dict(reads))


def _fix_axes(graph: Any, sizes: Mapping[str, int]) -> None:
    for value in graph.input:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_value = sizes[axis.dim_param]
    # The exporter's shapes of intermediate values have symbolic axes, which would override the inferred ones.
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def _infer_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    graph = model.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    # Large weights become inputs without contents, because shape inference copies the whole model.
    large = [tensor for tensor in graph.initializer if math.prod(tensor.dims) > _SMALL]
    small = [tensor for tensor in graph.initializer if math.prod(tensor.dims) <= _SMALL]
    graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in large)
    del graph.initializer[:]
    graph.initializer.extend(small)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        shapes[value.name] = tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
    return shapes


def _macs(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    out, weight = shapes[node.output[0]], shapes[node.input[1]]
    if not all(out):
        raise ValueError(f"the shape of {node.output[0]} is unknown: {out}")
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(weight[1:])
    return math.prod(out) * shapes[node.input[0]][-1]
