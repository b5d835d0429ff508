"""int8 quantization of float32 graphs for CPUs, in which the result of a pair depends on that pair only.

Image encoder: activations have fixed scales, measured on real pairs. Convolutions and products with weights are
computed in int8, with one scale per output channel of the weights. Attention products, norms, softmax and the pool stay
float32.

Text graphs: activations stay float32 in the file. Each weight matrix is stored in int8 blocks, and the runtime computes
scales for every row of activations. (One scale for a whole activation tensor, as in the dynamic quantization of ONNX
Runtime, would make the result of a pair depend on the other pairs of its batch.)
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from rsicrc.errors import ExportError

# Number of weights of one output that share a scale: the largest of these that needs no padding. In ONNX Runtime, with
# 128 instead of 32, a step of the published decoder took 4.9 ms instead of 6.8 ms for one beam, and 178 ms instead of
# 233 ms for 32 pairs × 5 beams.
BLOCKS = (128, 64, 32)
LEVELS = 127  # for each sign
_ZERO = 128  # zero point of the unsigned bytes of MatMulNBits
_CONTRIB = "com.microsoft"
_PRODUCTS = ("MatMul", "Gemm")
_WEIGHTED = ("Conv", *_PRODUCTS)
_STEM = 3
_TELEMETRY = "openvino_telemetry"
_SENSITIVE = (".pool.", ".residual.narrow.", ".residual.wide.")


def quantize_activations(source: Path, target: Path, images: NDArray[np.uint8]) -> None:
    """Quantize the image encoder with fixed scales.

    Args:
        source: The float32 graph.
        target: The file to write.
        images: Calibration pairs, uint8 [N, 2, size, size, 3].

    Raises:
        ExportError: NNCF cannot quantize the graph.
    """
    nncf = _import_nncf()
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    model = onnx.load(source)
    # The scales cover the largest activation of the calibration pairs. Clipping rare activations (the default) makes
    # the error of the embeddings of such pairs ten times as large.
    advanced = nncf.AdvancedQuantizationParameters(
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
    )
    try:
        with _only_errors("nncf"):
            quantized = nncf.quantize(
                model,
                nncf.Dataset([{"images": pair[np.newaxis]} for pair in images]),
                subset_size=len(images),
                preset=nncf.QuantizationPreset.PERFORMANCE,
                model_type=nncf.ModelType.TRANSFORMER,
                target_device=nncf.TargetDevice.CPU,
                ignored_scope=nncf.IgnoredScope(names=float_layers(model.graph)),
                advanced_parameters=advanced,
            )
    except Exception as error:  # the exceptions of NNCF share no base class
        raise ExportError(f"NNCF cannot quantize {source.name}: {type(error).__name__}: {error}") from error
    _strip_metadata(quantized)
    onnx.save(quantized, target)


def _import_nncf() -> Any:
    """Import NNCF without the module that reports its use over the network and writes into the home folder.

    NNCF also imports OpenVINO, whose converter does the same; see `rsicrc.backends.openvino_runtime`.
    """
    with suppress(ImportError):
        importlib.import_module("rsicrc.backends.openvino_runtime")
    os.environ["NNCF_CI"] = "1"  # disables the telemetry of NNCF
    if "nncf" in sys.modules or _TELEMETRY in sys.modules:
        return importlib.import_module("nncf")
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # Python raises ModuleNotFoundError for such an entry
    try:
        return importlib.import_module("nncf")
    finally:
        del sys.modules[_TELEMETRY]


def quantize_weights(source: Path, target: Path) -> None:
    """Store every weight matrix of a text graph in int8 blocks.

    Args:
        source: The float32 graph.
        target: The file to write.
    """
    model = onnx.load(source)
    graph = model.graph
    matrices = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2}
    nodes = []
    for node in graph.node:
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        if node.op_type in _PRODUCTS and node.input[1] in matrices:
            weight = numpy_helper.to_array(matrices[node.input[1]])
            nodes += _blockwise(graph, node, weight if transposed else weight.T)
        else:
            nodes.append(node)
    replace_nodes(graph, nodes)
    model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
    onnx.save(model, target)


def replace_nodes(graph: Any, nodes: Sequence[Any]) -> None:
    """Replace the nodes of a graph, and remove the weights that no node reads."""
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def weight_layers(graph: Any) -> list[Any]:
    """Return the nodes of an image encoder that are convolutions or products with a weight."""
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1}
    return [node for node in graph.node if node.op_type in _WEIGHTED and node.input[1] in weights]


def float_layers(graph: Any) -> list[str]:
    """Return the names of the layers of an image encoder that are not quantized.

    These are products of two activations; the attention pool, which computes the embedding from one row per pair; and
    the layers that lose most accuracy for the least time saved: the first convolutions of the trunk, whose input are
    the pixels, and the 1×1 convolutions of the residual block, which have the widest range of activations
    (docs/measurements/precisions.md).
    """
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    names = [node.name for node in graph.node if node.op_type == "Conv" and ".trunk." in node.input[1]][:_STEM]
    for node in graph.node:
        if node.op_type in _PRODUCTS:
            weight = node.input[1]
            if weight not in matrices or any(part in weight for part in _SENSITIVE):
                names.append(node.name)
    return names


def _blockwise(graph: Any, node: Any, weight: NDArray[np.float32]) -> list[Any]:
    """Return the nodes that replace a product with `weight` [out, in] and its bias, if it has one."""
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
    """Return the number of weights that share a scale, for a number of inputs."""
    return next((size for size in BLOCKS if inputs % size == 0), BLOCKS[-1])


def pack(weight: NDArray[np.float32], block: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantize a matrix in blocks along its inputs.

    Args:
        weight: The matrix, float32 [out, in].
        block: Number of weights that share a scale.

    Returns:
        Bytes [out, blocks, block] with the zero point 128, and the scales of the blocks [out, blocks].
    """
    outputs, inputs = weight.shape
    padded = np.pad(weight, ((0, 0), (0, -inputs % block)))
    blocks = padded.reshape(outputs, -1, block)
    scales = np.abs(blocks).max(axis=2) / LEVELS
    levels = np.rint(blocks / np.where(scales == 0, 1, scales)[..., np.newaxis])
    return (levels + _ZERO).astype(np.uint8), scales.astype(np.float32)


@contextmanager
def _only_errors(name: str) -> Iterator[None]:
    """Drop the records below ERROR that this thread sends to a logger, and leave its level and handlers unchanged."""
    thread = threading.get_ident()

    def passes(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or record.thread != thread

    logger = logging.getLogger(name)
    logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)


def _strip_metadata(model: Any) -> None:
    """Remove metadata of the conversion."""
    del model.metadata_props[:]
    model.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
