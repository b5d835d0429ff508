"""Kernels that TensorRT generates from the graphs of the trained example model, read from the build log without a GPU.

The names of layers may change with the version of the library, which constraints.txt fixes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rsicrc.backends.tensorrt.building import build_plan
from rsicrc.backends.tensorrt.library import TENSORRT_RTX, open_library
from rsicrc.backends.tensorrt.profiles import Profile
from rsicrc.errors import BackendError
from rsicrc.manifest import DECODER, IMAGE_ENCODER, SCORER, TEXT_ENCODER
from tests.conftest import EXAMPLE
from tests.tensorrt_layers import Layer, attentions, convolutions, read_layers, residual_relus

pytestmark = pytest.mark.slow

PRECISIONS = ("fp32", "fp16", "bf16")
HALF_PRECISIONS = PRECISIONS[1:]
GRAPHS = (IMAGE_ENCODER, TEXT_ENCODER, DECODER, SCORER)
# Attentions of the example model: one within the images and one across them in the fusion layer; self-attention in both
# decoder layers, and cross-attention in the second one. The text encoder is the first decoder layer. The weights of the
# scorer's last attention are an output of the graph, so this attention cannot be fused.
ATTENTIONS = {IMAGE_ENCODER: 2, TEXT_ENCODER: 1, DECODER: 3, SCORER: 2}
# Maximum number of kernels that only move data, in fp32, fp16 and bf16 (docs/measurements/tensorrt.md). In float32 most
# of them pad the 49 positions of a map for a product. bf16 needs ten casts, because the library has no average pooling
# in bfloat16.
MOVES = {IMAGE_ENCODER: (17, 9, 19), TEXT_ENCODER: (0, 0, 0), DECODER: (20, 11, 11), SCORER: (16, 9, 9)}


@dataclass(frozen=True)
class Built:
    path: Path
    layers: list[Layer]
    plan_bytes: int

    def with_node(self, node: str) -> list[Layer]:
        return [layer for layer in self.layers if node in layer.nodes]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Built]:
    from rsicrc_export.onnx_export import export_graph
    from rsicrc_train import checkpoint

    folder = tmp_path_factory.mktemp("graphs")
    source = checkpoint.load(EXAMPLE)
    model = source.build_model().requires_grad_(False)
    pytest.importorskip("tensorrt_rtx", reason="needs rsicrc[tensorrt-rtx]")
    library = open_library(TENSORRT_RTX)

    @cache
    def build(name: str, precision: str) -> Built:
        spec, _ = export_graph(model, name, folder, precision)
        log: list[str] = []
        plan, _ = build_plan(
            library, folder / spec.file, Profile().shapes(name, spec, source.config.max_len), library_log=log.append
        )
        return Built(folder / spec.file, read_layers(log), len(plan))

    return build


@pytest.mark.parametrize("precision", HALF_PRECISIONS)
@pytest.mark.parametrize("name", GRAPHS)
def test_attention_is_one_kernel(built: Callable[[str, str], Built], name: str, precision: str) -> None:
    graph = built(name, precision)
    found = list(attentions(graph.path))
    assert len(found) == ATTENTIONS[name]
    for attention in found:
        for node in (attention.scores, attention.softmax, attention.output):
            (layer,) = graph.with_node(node)
            assert layer.is_attention, f"{node} is in {layer.name}"
    assert sum(layer.is_attention for layer in graph.layers) == len(found)


@pytest.mark.parametrize("name", GRAPHS)
def test_attention_in_float32_is_at_most_three_kernels(built: Callable[[str, str], Built], name: str) -> None:
    graph = built(name, "fp32")
    for attention in attentions(graph.path):
        (softmax,) = graph.with_node(attention.softmax)
        if not softmax.is_attention:
            for product in (attention.scores, attention.output):  # other kernels pad its inputs or cut off the padding
                assert [layer.kind for layer in graph.with_node(product)].count("gemm") == 1


@pytest.mark.parametrize(("dtype", "has_kernel"), [("FLOAT", False), ("FLOAT16", True)])
def test_fused_attention_needs_half_precision(tmp_path: Path, dtype: str, has_kernel: bool) -> None:
    """The library has no kernel for ONNX's operator Attention in float32, which is why such attention is not fused."""
    pytest.importorskip("tensorrt_rtx", reason="needs rsicrc[tensorrt-rtx]")
    onnx: Any = pytest.importorskip("onnx", reason="needs rsicrc[export]")
    helper = onnx.helper
    number = getattr(onnx.TensorProto, dtype)
    tensors = [helper.make_tensor_value_info(name, number, ["B", 6, "P", 32]) for name in "qkvo"]
    graph = helper.make_graph([helper.make_node("Attention", ["q", "k", "v"], ["o"])], "g", tensors[:3], tensors[3:])
    path = tmp_path / "attention.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), path)
    library = open_library(TENSORRT_RTX)
    shapes = dict.fromkeys("qkv", ((1, 6, 8, 32), (1, 6, 8, 32), (8, 6, 64, 32)))
    if has_kernel:
        log: list[str] = []
        build_plan(library, path, shapes, library_log=log.append)
        assert any(layer.is_attention for layer in read_layers(log))
    else:
        with pytest.raises(BackendError, match=r"cannot build it: .*Attention"):
            build_plan(library, path, shapes)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_convolutions_are_fused_with_bias_and_relu(built: Callable[[str, str], Built], precision: str) -> None:
    graph = built(IMAGE_ENCODER, precision)
    found = list(convolutions(graph.path))
    assert len(found) > 20
    for convolution, has_bias, relu in found:
        layer = graph.with_node(convolution)[
            -1
        ]  # a separate bias would come later; kernels that pad channels come earlier
        assert has_bias
        assert layer.is_convolution
        assert relu is None or relu in layer.nodes, f"{convolution} is not fused with {relu}"
    assert sum(relu is not None for _, _, relu in found) == 14
    relus = list(residual_relus(graph.path))
    assert len(relus) == 5
    for name in relus:
        (layer,) = graph.with_node(name)
        assert layer.is_convolution


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", GRAPHS)
def test_no_kernel_only_casts(built: Callable[[str, str], Built], name: str, precision: str) -> None:
    layers = built(name, precision).layers
    casts = [layer for layer in layers if layer.operations and set(layer.operations) <= {"Cast", "Resh"}]
    assert len(casts) <= (10 if (name, precision) == (IMAGE_ENCODER, "bf16") else 0)
    assert not [layer.name for layer in layers if "eformat" in layer.kind]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", GRAPHS)
def test_kernels_that_only_move_data_are_few(built: Callable[[str, str], Built], name: str, precision: str) -> None:
    moves = Counter("".join(layer.operations) for layer in built(name, precision).layers if layer.only_moves)
    assert moves.total() <= MOVES[name][PRECISIONS.index(precision)], dict(moves)
