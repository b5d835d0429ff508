"""int8-fp16: Q/DQ pairs for TensorRT, only around layers that have weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsicrc
from rsicrc.manifest import IMAGE_ENCODER, Manifest


@pytest.fixture(scope="module")
def graph(variants_folder: Path) -> Any:
    import onnx

    path = variants_folder / "image_encoder.int8-fp16.onnx"
    onnx.checker.check_model(path, full_check=True)
    return onnx.load(path).graph


def test_scales_are_positive_float16_with_zero_points_of_0(graph: Any) -> None:
    from onnx import numpy_helper

    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        _, scale, zero = (tensors.get(name) for name in node.input)
        assert scale is not None
        assert scale.dtype == np.float16
        assert np.all(scale > 0)
        assert np.all(np.isfinite(scale))
        assert zero is not None
        assert zero.dtype == np.int8
        assert not zero.any()


def test_weights_have_one_scale_per_output(graph: Any, variants_folder: Path) -> None:
    import onnx
    from onnx import numpy_helper

    source = onnx.load(variants_folder / "image_encoder.fp16.onnx").graph
    exact = {tensor.name: numpy_helper.to_array(tensor).astype(np.float32) for tensor in source.initializer}
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    restored = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors]
    consumers = {node.input[1]: node for node in graph.node if node.op_type in ("Conv", "MatMul")}
    assert len(restored) > 10
    for node in restored:
        packed, scales, _ = (tensors[name] for name in node.input)
        (axis,) = (attribute.i for attribute in node.attribute if attribute.name == "axis")
        layer = consumers[node.output[0]]
        assert axis == (0 if layer.op_type == "Conv" else 1)
        assert packed.dtype == np.int8
        assert packed.min() >= -127
        assert scales.shape == (packed.shape[axis],)
        shape = [-1 if dim == axis else 1 for dim in range(packed.ndim)]
        steps = scales.astype(np.float32).reshape(shape)
        weight = exact[node.input[0].removesuffix(".bytes")]
        # Half a step, and the rounding of the scale for the largest weight of a channel.
        assert np.all(np.abs(packed * steps - weight) <= 0.57 * steps)


def test_layers_without_weights_are_not_quantized(graph: Any) -> None:
    made = {output: node for node in graph.node for output in node.output}
    rounded: list[Any] = []
    exact: list[Any] = []
    for node in graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            sources = [made[name].op_type if name in made else "" for name in node.input[:2]]
            both = sources == ["DequantizeLinear"] * 2
            assert both or "DequantizeLinear" not in sources, node.name
            (rounded if both else exact).append(node)
        elif node.op_type != "DequantizeLinear":
            # Other nodes, such as residual sums and norms, read the float16 values.
            assert all(made[name].op_type != "DequantizeLinear" for name in node.input if name in made), node.op_type
    names = [node.input[1] for node in exact if "module" in node.input[1]]
    assert sum(".trunk.visual." in name for name in names) == 3  # the stem
    assert {name.split(".")[1] for name in names} == {"trunk", "residual", "pool", "merge", "memory"}
    assert {node.op_type for node in rounded} == {"Conv", "MatMul"}
    assert len(rounded) == 29


def test_onnxruntime_runs_int8_fp16_for_comparison(variants_folder: Path) -> None:
    import onnx
    from onnx import TensorProto

    from rsicrc.backends.onnxruntime import OnnxRuntimeBackend
    from rsicrc.engine import Engine
    from rsicrc_train.synth import make_pair

    manifest = Manifest.load(variants_folder)
    variant = manifest.variants["int8-fp16"]
    text_graphs = {name: graph.file for name, graph in variant.graphs.items() if name != IMAGE_ENCODER}
    assert text_graphs == {name: manifest.variants["fp16"].graphs[name].file for name in text_graphs}
    assert variant.parity["image_embedding_cosine"]["mean"] > 0.995
    at = manifest.at("int8-fp16")
    assert {spec.dtype for spec in at.graphs[IMAGE_ENCODER].outputs.values()} == {"float16", "float32"}
    other = Engine(variants_folder, at, OnnxRuntimeBackend(variants_folder, at, 1))
    pairs = [(pair.before, pair.after) for pair in (make_pair(900, number) for number in range(4))]
    exact = rsicrc.load(variants_folder, backend="onnxruntime", threads=1)
    cosines = (exact.embed_images(pairs) * other.embed_images(pairs)).sum(axis=1)
    assert cosines.min() > 0.99
    assert cosines.max() < 0.999999  # quantization changes the result
    (tensor,) = [
        tensor
        for tensor in onnx.load(variants_folder / at.graphs[IMAGE_ENCODER].file).graph.initializer
        if tensor.name == "module.fusion.0.query_key.bytes"
    ]
    assert tensor.data_type == TensorProto.INT8
