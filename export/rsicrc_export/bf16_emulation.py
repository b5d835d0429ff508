"""Emulation of bfloat16 graphs on machines without bfloat16: float32 graphs in which every result is rounded.

A GPU multiplies bfloat16 numbers exactly, adds in float32 and rounds the stored result. A float32 graph with the same
nodes and weights does the same if each result is cast to bfloat16 and back; only the order of sums differs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rsicrc_export.quantize import replace_nodes

# Operators that only move or select numbers, and so need no rounding.
_MOVES = ("Concat", "Expand", "Reshape", "ScatterND", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
_SELECTS = ("Gather", "GatherElements", "MaxPool", "Relu")


def round_results(source: Path, target: Path) -> None:
    """Write a float32 graph that emulates a bfloat16 graph.

    Args:
        source: The bfloat16 graph.
        target: The file to write. Its inputs and outputs are float32 where those of `source` are bfloat16.
    """
    model = onnx.load(source)
    graph = model.graph
    # From the shapes that the exporter recorded: shape inference does not support bfloat16 in every operator.
    rounded = {value.name for value in graph.value_info if _is_bfloat16(value)}
    rounded |= {value.name for value in graph.output if _is_bfloat16(value)}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for value in (*graph.input, *graph.output):
        if _is_bfloat16(value):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                    attribute.i = TensorProto.FLOAT
        if node.op_type not in _MOVES + _SELECTS:
            nodes += [step for index in range(len(node.output)) for step in _round(node, index, rounded)]
    replace_nodes(graph, nodes)
    del graph.value_info[:]
    onnx.save(model, target)


def _round(node: Any, index: int, rounded: set[str]) -> list[Any]:
    """Rename an output of a node, and return the two casts that restore it under its old name."""
    name = node.output[index]
    if name not in rounded:
        return []
    node.output[index] = f"{name}.wide"
    return [
        helper.make_node("Cast", [f"{name}.wide"], [f"{name}.half"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT),
    ]


def _is_bfloat16(value: Any) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.BFLOAT16)
