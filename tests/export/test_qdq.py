"""int8-fp16: Q/DQ as TensorRT takes it, around the layers that have weights and around nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import rsicrc
from rsicrc.backends.onnxruntime import OnnxRuntimeBackend
from rsicrc.engine import Engine
from rsicrc.manifest import IMAGE_ENCODER, Manifest
from rsicrc_train.synth import make_pair


@pytest.fixture(scope="module")
def graph(variants_folder: Path) -> Any:
    path = variants_folder / "image_encoder.int8-fp16.onnx"
    onnx.checker.check_model(path, full_check=True)
    return onnx.load(path).graph


def test_scales_are_as_tensorrt_wants_them(graph: Any) -> None:
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


def test_every_weight_has_a_scale_per_output(graph: Any, variants_folder: Path) -> None:
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
        # Half a step, and for the largest of a channel what the rounding of its scale leaves.
        assert np.all(np.abs(packed * steps - weight) <= 0.57 * steps)


def test_only_layers_with_weights_are_rounded(graph: Any) -> None:
    made = {output: node for node in graph.node for output in node.output}
    rounded, exact = [], []
    for node in graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            sources = [made[name].op_type if name in made else "" for name in node.input[:2]]
            both = sources == ["DequantizeLinear"] * 2
            assert both or "DequantizeLinear" not in sources, node.name
            (rounded if both else exact).append(node)
        elif node.op_type != "DequantizeLinear":
            # Nothing else reads what was rounded: residual sums and norms take the float16 values.
            assert all(made[name].op_type != "DequantizeLinear" for name in node.input if name in made), node.op_type
    names = [node.input[1] for node in exact if "module" in node.input[1]]
    assert sum(".trunk.visual." in name for name in names) == 3  # the stem
    assert {name.split(".")[1] for name in names} == {"trunk", "residual", "pool", "merge", "memory"}
    assert {node.op_type for node in rounded} == {"Conv", "MatMul"}
    assert len(rounded) == 32


def test_it_runs_on_a_cpu_for_comparison(variants_folder: Path) -> None:
    manifest = Manifest.load(variants_folder)
    variant = manifest.variants["int8-fp16"]
    words = {name: graph.file for name, graph in variant.graphs.items() if name != IMAGE_ENCODER}
    assert words == {name: manifest.variants["fp16"].graphs[name].file for name in words}
    assert variant.parity["image_embedding_cosine"]["mean"] > 0.995
    at = manifest.at("int8-fp16")
    assert {spec.dtype for spec in at.graphs[IMAGE_ENCODER].outputs.values()} == {"float16", "float32"}
    other = Engine(variants_folder, at, OnnxRuntimeBackend(variants_folder, at, 1))
    pairs = [(pair.before, pair.after) for pair in (make_pair(900, number) for number in range(4))]
    exact = rsicrc.load(variants_folder, backend="onnxruntime", threads=1)
    cosines = (exact.embed_images(pairs) * other.embed_images(pairs)).sum(axis=1)
    assert cosines.min() > 0.99
    assert cosines.max() < 0.999999  # it is rounded
    (tensor,) = [
        tensor
        for tensor in onnx.load(variants_folder / at.graphs[IMAGE_ENCODER].file).graph.initializer
        if tensor.name == "module.fusion.0.query_key.bytes"
    ]
    assert tensor.data_type == TensorProto.INT8
