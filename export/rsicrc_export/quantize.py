"""From an exact graph to an int8 one, so that the result of a pair depends on nothing but the pair.

The image encoder gets fixed scales for its activations, measured on real pairs: convolutions and products with weights
run in int8, per-channel scales for the weights. Attention products, norms, the softmax and the pool stay float32.

The graphs of words keep float32 activations in their files: each weight matrix is stored in int8 blocks, and the
runtime gives every row of activations its own scales. (One scale for a whole activation tensor, as in ONNX Runtime's
dynamic quantization, would let a neighbor in the batch change a pair's result.)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

# Weights of one output that share a scale: the largest of these that needs no padding. With 128 instead of 32 a step of
# the published decoder took 4.9 ms instead of 6.8 in ONNX Runtime, and one of 32 pairs × 5 beams 178 ms instead of 233.
BLOCKS = (128, 64, 32)
LEVELS = 127  # of either sign
_ZERO = 128  # unsigned bytes with this zero point, the layout of MatMulNBits
_CONTRIB = "com.microsoft"
_ROUNDED_LAYERS = ("MatMul", "Gemm")
_WEIGHTED = ("Conv", *_ROUNDED_LAYERS)
_STEM = 3
_SENSITIVE = (".pool.", ".residual.narrow.", ".residual.wide.")


def quantize_activations(source: Path, target: Path, images: NDArray[np.uint8]) -> None:
    """Quantize the image encoder with fixed scales.

    Args:
        source: the exact graph.
        target: where to write the other.
        images: calibration pairs, uint8 [N, 2, size, size, 3].
    """
    os.environ.setdefault("NNCF_CI", "1")  # it would report its use to its makers
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    # Not by its set_log_level: that also turns down handlers that others have put there.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = onnx.load(source)
    # Not the weights alone: the largest activation that calibration saw still fits. Clipping rare ones (the default)
    # costs ten times as much in the embeddings of the pairs that have them.
    advanced = nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
    )
    quantized = nncf.quantize(
        model,
        nncf.Dataset([{"images": pair[np.newaxis]} for pair in images]),
        subset_size=len(images),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        model_type=nncf.ModelType.TRANSFORMER,
        target_device=nncf.TargetDevice.CPU,
        ignored_scope=nncf.IgnoredScope(names=kept_layers(model.graph)),
        advanced_parameters=advanced,
    )
    _describe_nothing(quantized)
    onnx.save(quantized, target)


def quantize_weights(source: Path, target: Path) -> None:
    """Store every weight matrix of a graph of words in int8 blocks.

    Args:
        source: the exact graph.
        target: where to write the other.
    """
    model = onnx.load(source)
    graph = model.graph
    matrices = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2}
    nodes = []
    for node in graph.node:
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        if node.op_type in _ROUNDED_LAYERS and node.input[1] in matrices:
            weight = numpy_helper.to_array(matrices[node.input[1]])
            nodes += _blockwise(graph, node, weight if transposed else weight.T)
        else:
            nodes.append(node)
    replace_nodes(graph, nodes)
    model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
    onnx.save(model, target)


def replace_nodes(graph: Any, nodes: Sequence[Any]) -> None:
    """Give a graph other nodes, and drop the weights that none of them reads."""
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def rounded_layers(graph: Any) -> list[Any]:
    """The convolutions and the products with a weight of an image encoder."""
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1}
    return [node for node in graph.node if node.op_type in _WEIGHTED and node.input[1] in weights]


def kept_layers(graph: Any) -> list[str]:
    """The names of the layers of an image encoder that are not worth rounding.

    Products of two activations; the pool, a row per pair, of which the embedding is; and what loses most by rounding
    for the little that it costs: the trunk's first convolutions, which see the pixels, and the narrow products of the
    residual block, whose activations are the widest (docs/precisions.md has the figures).
    """
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    kept = [node.name for node in graph.node if node.op_type == "Conv" and ".trunk." in node.input[1]][:_STEM]
    for node in graph.node:
        if node.op_type in _ROUNDED_LAYERS:
            weight = node.input[1]
            if weight not in matrices or any(part in weight for part in _SENSITIVE):
                kept.append(node.name)
    return kept


def _blockwise(graph: Any, node: Any, weight: NDArray[np.float32]) -> list[Any]:
    """The nodes that stand for a product with `weight` [out, in], and perhaps the sum with a bias."""
    outputs, inputs = weight.shape
    packed, scales = pack(weight, block := block_size(inputs))
    names = [f"{node.name}.weight", f"{node.name}.scales"]
    graph.initializer.extend([numpy_helper.from_array(packed, names[0]), numpy_helper.from_array(scales, names[1])])
    biased = len(node.input) > 2
    product = f"{node.output[0]}.product" if biased else node.output[0]
    sizes = {"K": inputs, "N": outputs, "bits": 8, "block_size": block, "accuracy_level": 4}
    nodes = [
        helper.make_node("MatMulNBits", [node.input[0], *names], [product], name=node.name, domain=_CONTRIB, **sizes)
    ]
    if biased:
        nodes.append(helper.make_node("Add", [product, node.input[2]], node.output, name=f"{node.name}.bias"))
    return nodes


def block_size(inputs: int) -> int:
    """How many weights of an output with so many inputs share a scale."""
    return next((size for size in BLOCKS if inputs % size == 0), BLOCKS[-1])


def pack(weight: NDArray[np.float32], block: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantize a matrix in blocks along its inputs.

    Args:
        weight: float32 [out, in].
        block: how many weights share a scale.

    Returns:
        Bytes [out, blocks, block], of which 128 is zero, and a scale for each block [out, blocks].
    """
    outputs, inputs = weight.shape
    padded = np.pad(weight, ((0, 0), (0, -inputs % block)))
    blocks = padded.reshape(outputs, -1, block)
    scales = np.abs(blocks).max(axis=2) / LEVELS
    levels = np.rint(blocks / np.where(scales == 0, 1, scales)[..., np.newaxis])
    return (levels + _ZERO).astype(np.uint8), scales.astype(np.float32)


def _describe_nothing(model: Any) -> None:
    """Take out what only describes the conversion."""
    del model.metadata_props[:]
    model.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
