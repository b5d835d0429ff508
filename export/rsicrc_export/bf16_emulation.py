"""A bfloat16 graph for machines that do not compute in bfloat16: in float32, and every result rounded.

A GPU multiplies bfloat16 exactly, sums in float32 and rounds what it stores. So does a float32 graph of the same nodes
with the same weights, if each result goes through bfloat16 and back; the two differ in the order of sums alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rsicrc_export.quantize import replace_nodes

# These only move numbers or choose among them: nothing to round.
_MOVES = ("Concat", "Expand", "Reshape", "ScatterND", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
_CHOOSES = ("Gather", "GatherElements", "MaxPool", "Relu")


def round_results(source: Path, target: Path) -> None:
    """Write the float32 graph that computes what a bfloat16 one does.

    Args:
        source: a graph with weights and results in bfloat16.
        target: where to write the other; its inputs and outputs are float32 where they were bfloat16.
    """
    model = onnx.load(source)
    graph = model.graph
    # Of the exporter's own notes; inference would have to know bfloat16 in every operator.
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
        if node.op_type not in _MOVES + _CHOOSES:
            nodes += [step for place in range(len(node.output)) for step in _round(node, place, rounded)]
    replace_nodes(graph, nodes)
    del graph.value_info[:]
    onnx.save(model, target)


def _round(node: Any, place: int, rounded: set[str]) -> list[Any]:
    name = node.output[place]
    if name not in rounded:
        return []
    node.output[place] = f"{name}.wide"
    return [
        helper.make_node("Cast", [f"{name}.wide"], [f"{name}.half"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT),
    ]


def _is_bfloat16(value: Any) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.BFLOAT16)
