"""int8 quantization of a float16 image encoder for TensorRT: Q/DQ pairs in an otherwise unchanged graph.

Values are signed bytes with zero point 0. Each activation tensor has one scale, measured on real pairs. Weights are
stored as bytes, with one scale for each output channel. Q/DQ pairs are placed only at the inputs of layers, never at
their outputs, so that TensorRT can fuse the rounding into the preceding operation: a convolution with its ReLU, or a
residual sum.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from rsicrc_export.quantize import LEVELS, float_layers, replace_nodes, weight_layers

_OPSET = 19  # the first with float16 in QuantizeLinear; the other operators of these graphs are unchanged since 18
_IR_VERSION = 9
_BATCH = 8
# Not quantized, in addition to `float_layers`: these two products compute all that the decoder reads of the images
# (docs/precisions.md).
_SENSITIVE = (".merge.", ".memory")
_SMALLEST = np.float16(2.0**-14)  # smallest scale: smaller float16 numbers have fewer digits
_ZERO = "zero_point"


def quantize_half(source: Path, target: Path, images: NDArray[np.uint8]) -> None:
    """Quantize a float16 image encoder.

    Args:
        source: The float16 graph.
        target: The file to write.
        images: Calibration pairs, uint8 [N, 2, size, size, 3].
    """
    model = onnx.load(source)
    graph = model.graph
    excluded = float_layers(graph)
    layers = [
        node
        for node in weight_layers(graph)
        if node.name not in excluded and not any(part in node.input[1] for part in _SENSITIVE)
    ]
    ranges = _ranges(model, list(dict.fromkeys(layer.input[0] for layer in layers)), images)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    chosen = {id(layer) for layer in layers}
    nodes: list[Any] = []
    done: set[str] = set()
    for node in graph.node:
        if id(node) in chosen:
            activation, weight = node.input[:2]
            if activation not in done:
                nodes += _round_activation(graph, activation, ranges[activation])
            if weight not in done:
                nodes.append(_store_weight(graph, weights[weight], axis=0 if node.op_type == "Conv" else 1))
            done |= {activation, weight}
            node.input[0], node.input[1] = _rounded(activation), _rounded(weight)
        nodes.append(node)
    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.int8), _ZERO))
    replace_nodes(graph, nodes)
    _require_opset(model)
    onnx.save(model, target)


def _ranges(model: Any, names: Collection[str], images: NDArray[np.uint8]) -> dict[str, float]:
    """Measure the largest magnitude of each tensor over all pairs."""
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    for name in names:
        magnitude, largest = f"{name}.magnitude", f"{name}.largest"
        probe.graph.node.append(helper.make_node("Abs", [name], [magnitude]))
        probe.graph.node.append(helper.make_node("ReduceMax", [magnitude], [largest], keepdims=0))
        probe.graph.output.append(helper.make_tensor_value_info(largest, onnx.TensorProto.FLOAT16, []))
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [session.run(None, {"images": part}) for part in _parts(images)]
    return dict(zip(names, np.max(np.array(found, np.float32), axis=0).tolist(), strict=True))


def _parts(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(images), _BATCH):
        yield images[start : start + _BATCH]


def _round_activation(graph: Any, name: str, largest: float) -> list[Any]:
    scale = np.maximum(np.float16(largest / LEVELS), _SMALLEST)
    graph.initializer.append(numpy_helper.from_array(np.array(scale), f"{name}.scale"))
    parameters = [f"{name}.scale", _ZERO]
    return [
        helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}.bytes"], name=f"{name}.quantize"),
        helper.make_node("DequantizeLinear", [f"{name}.bytes", *parameters], [_rounded(name)], name=f"{name}.restore"),
    ]


def _store_weight(graph: Any, tensor: Any, axis: int) -> Any:
    """Store a weight as bytes with one scale for each index of `axis`; return the node that dequantizes it."""
    weight = numpy_helper.to_array(tensor).astype(np.float32)
    others = tuple(dim for dim in range(weight.ndim) if dim != axis)
    scales = np.maximum((np.abs(weight).max(axis=others) / LEVELS).astype(np.float16), _SMALLEST)
    steps = np.expand_dims(scales.astype(np.float32), others)
    packed = np.rint(weight / steps).clip(-LEVELS, LEVELS).astype(np.int8)
    names = [f"{tensor.name}.{part}" for part in ("bytes", "scale", _ZERO)]
    for array, name in zip((packed, scales, np.zeros(scales.shape, np.int8)), names, strict=True):
        graph.initializer.append(numpy_helper.from_array(array, name))
    return helper.make_node(
        "DequantizeLinear", names, [_rounded(tensor.name)], name=f"{tensor.name}.restore", axis=axis
    )


def _rounded(name: str) -> str:
    return f"{name}.rounded"


def _require_opset(model: Any) -> None:
    for opset in model.opset_import:
        if opset.domain == "" and opset.version < _OPSET:
            opset.version = _OPSET
    model.ir_version = max(model.ir_version, _IR_VERSION)
