"""fp16 and bf16: the float32 parts of the graphs, unchanged models, the emulation of bf16, and the accuracy limit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

from rsicrc.errors import BackendError
from rsicrc.manifest import DECODER, GRAPH_NAMES, IMAGE_ENCODER, SCORER, TEXT_ENCODER, Manifest, Variant
from rsicrc_export import precisions
from rsicrc_export.bf16_emulation import round_results
from rsicrc_export.decoder_graphs import DecoderStepGraph
from rsicrc_export.half_precision import cast_to_half
from rsicrc_export.onnx_export import build_graph
from rsicrc_export.parity import example_images
from rsicrc_train import checkpoint
from tests.export.command import run_export
from tests.export.test_decoder_graphs import TRUNKS
from tests.models import random_checkpoint

FLOAT32 = {"Softmax", "LogSoftmax", "LayerNormalization", "ReduceL2", "ReduceSum", "Pow", "TopK", "Sqrt"}
PRODUCTS = {"Conv", "MatMul", "Gemm"}
HALF_PRECISIONS = [
    pytest.param("fp16", TensorProto.FLOAT16, "float16", id="fp16"),
    pytest.param("bf16", TensorProto.BFLOAT16, "bfloat16", id="bf16"),
]


def typed_nodes(path: Path) -> list[tuple[Any, dict[str, int]]]:
    """Return the nodes of a graph, each with the types of all values."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return [(node, types) for node in graph.node]


def test_float32_graphs_have_no_half_types_and_no_idle_casts(model_folder: Path) -> None:
    for graph in Manifest.load(model_folder).graphs.values():
        for node, types in typed_nodes(model_folder / graph.file):
            assert {types.get(name) for name in node.output}.isdisjoint({TensorProto.FLOAT16, TensorProto.BFLOAT16})
            if node.op_type == "Cast":
                assert types[node.input[0]] != types[node.output[0]]


@pytest.mark.parametrize(("precision", "half", "dtype"), HALF_PRECISIONS)
def test_products_are_16_bit_and_norms_are_float32(
    variants_folder: Path, precision: str, half: int, dtype: str
) -> None:
    variant = Manifest.load(variants_folder).variants[precision]
    for name, graph in variant.graphs.items():
        onnx.checker.check_model(variants_folder / graph.file, full_check=True)
        nodes = typed_nodes(variants_folder / graph.file)
        for node, types in nodes:
            kind = types[node.output[0]]
            if node.op_type in PRODUCTS:
                assert kind == half, f"{name}: {node.name}"
            elif node.op_type in FLOAT32 and kind != TensorProto.INT64:
                assert kind == TensorProto.FLOAT, f"{name}: {node.name}"
        assert {node.op_type for node, _ in nodes} >= {"LayerNormalization", "Softmax", "MatMul"}
        for key, spec in {**graph.inputs, **graph.outputs}.items():
            halved = key.removeprefix("next_").startswith(("cross_", "self_"))
            assert (spec.dtype == dtype) == halved, key
            assert spec.dtype in (dtype, "float32", "int64", "bool", "uint8")


@pytest.mark.parametrize(("precision", "half", "dtype"), HALF_PRECISIONS)
def test_pixels_are_cast_first_and_normalized_in_float32(
    variants_folder: Path, precision: str, half: int, dtype: str
) -> None:
    """TensorRT supports only Cast on uint8, and folded weights would be too small for a 16-bit type."""
    graph = Manifest.load(variants_folder).variants[precision].graphs[IMAGE_ENCODER]
    nodes = typed_nodes(variants_folder / graph.file)
    (first,) = [node for node, _ in nodes if "images" in node.input and node.op_type != "Shape"]
    assert first.op_type == "Cast"
    assert nodes[0][1][first.output[0]] == TensorProto.FLOAT
    following = [node.op_type for node, _ in nodes if first.output[0] in node.input]
    assert following == ["Sub"]


def test_half_precision_weights_do_not_change_the_model() -> None:
    model = random_checkpoint(1).build_model().requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = build_graph(model, DECODER, "fp16")
    assert isinstance(graph, DecoderStepGraph)
    assert graph.output.table is graph.words.embedding
    for name, value in graph.state_dict().items():
        assert value.dtype == (torch.float32 if "norm" in name else torch.float16), name
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        assert torch.equal(after[name], value)


@pytest.mark.parametrize("name", ["resnet-3x3", "torchvision-8x8", "vit-16x16", "vit-quick"])
@pytest.mark.parametrize(("precision", "least"), [("fp16", 0.9999), ("bf16", 0.99)])
def test_trunks_in_half_precision_are_close_to_float32(name: str, precision: str, least: float) -> None:
    model = random_checkpoint(3, TRUNKS[name]).build_model().requires_grad_(False)
    images = torch.from_numpy(example_images(4, model.config.image_trunk.image_size))
    exact = build_graph(model, IMAGE_ENCODER, "fp32")(images)[0]
    half = build_graph(model, IMAGE_ENCODER, precision)(images)[0]
    assert half.dtype == torch.float32
    assert (exact * half).sum(dim=1).min() > least


def test_float32_attention_equals_the_attention_of_a_vit() -> None:
    """Compared in float32, where no rounding occurs."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(24, 3, batch_first=True)
    nn.init.normal_(attention.in_proj_bias)
    x = torch.randn(2, 5, 24)
    with torch.no_grad():
        expected = attention(x, x, x, need_weights=False)[0]
        found = cast_to_half(nn.ModuleDict({"attention": attention}), torch.float32)["attention"](x, x, x)[0]
    torch.testing.assert_close(found, expected)


def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to the nearest bfloat16 numbers."""
    return torch.from_numpy(values).to(torch.bfloat16).float().numpy()


def test_bf16_emulation_rounds_every_result(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(3, 8)).astype(np.float32)
    weight = rounded(random.normal(size=(8, 4)).astype(np.float32))
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["half"], to=TensorProto.BFLOAT16),
            helper.make_node("MatMul", ["half", "weight"], ["product"]),
            helper.make_node("Transpose", ["product"], ["turned"], perm=[1, 0]),
            helper.make_node("Mul", ["turned", "turned"], ["square"]),
            helper.make_node("Cast", ["square"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Sqrt", ["wide"], ["root"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 8])],
        [
            helper.make_tensor_value_info("root", TensorProto.FLOAT, [4, 3]),
            helper.make_tensor_value_info("square", TensorProto.BFLOAT16, [4, 3]),
        ],
        [helper.make_tensor("weight", TensorProto.BFLOAT16, weight.shape, weight.flatten())],
        value_info=[
            helper.make_tensor_value_info(name, TensorProto.BFLOAT16, shape)
            for name, shape in (("half", [3, 8]), ("product", [3, 4]), ("turned", [4, 3]))
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), tmp_path / "a.onnx")
    round_results(tmp_path / "a.onnx", tmp_path / "b.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "b.onnx"), providers=["CPUExecutionProvider"])
    root, square = session.run(None, {"x": x})
    product = rounded(rounded(x) @ weight).T
    expected = rounded(product * product)
    assert np.array_equal(square, expected)
    assert not np.array_equal(square, product * product)
    np.testing.assert_allclose(root, np.sqrt(expected), rtol=1e-6)  # float32 in the graph, so not rounded


def test_manifest_contains_the_accuracy_of_half_precision(variants_folder: Path) -> None:
    recorded = Manifest.load(variants_folder).variants
    for precision in ("fp16", "bf16"):
        cost = recorded[precision].parity
        assert cost["compared_on"] == "8 made-up pairs and 10 of pairs.csv"
        assert cost["image_embedding_cosine"]["mean"] >= precisions.TOLERANCES[precision].cosine
        assert 0 <= cost["word_log_prob_difference"]["mean"] <= cost["word_log_prob_difference"]["largest"] < 0.5
    assert "rounded to bfloat16" in recorded["bf16"].parity["compared_in"]
    # bf16 has three bits fewer than fp16, so equal values would be an error.
    assert recorded["bf16"].parity["image_embedding_cosine"] != recorded["fp16"].parity["image_embedding_cosine"]


def test_half_precision_beyond_its_accuracy_limit_is_refused(
    model_folder: Path, checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    monkeypatch.setattr(precisions, "TOLERANCES", {"fp16": precisions.Tolerance(cosine=0.5, loss=-1.0)})
    model = checkpoint.load(checkpoint_file).build_model().requires_grad_(False)
    message = r"^fp16 loses too much accuracy .*: caption loss -?\d\.\d+ nats .*: export without --precision fp16$"
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(precisions.PrecisionError, match=message) as caught:
        precisions.add_variants(folder, Manifest.load(folder), model, ["fp16"], None)
    assert (caught.value.precisions, caught.value.manifest.precisions) == (("fp16",), ("fp32",))
    assert sorted(path.name for path in folder.iterdir()) == before


def test_refused_precision_does_not_stop_the_others(
    model_folder: Path, checkpoint_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs of fp16 that fail at run time are refused as well."""

    def add_half(folder: Path, manifest: Manifest, _model: object, precision: str, _calibration: object) -> Manifest:
        for name in GRAPH_NAMES:
            (folder / f"{name}.{precision}.onnx").write_text("")
        if precision == "fp16":
            raise BackendError("a score is NaN")
        return replace(manifest, variants={precision: Variant(manifest.graphs)})

    folder = shutil.copytree(model_folder, tmp_path / "model")
    monkeypatch.setattr(precisions, "_add_half", add_half)
    model = checkpoint.load(checkpoint_file).build_model()
    with pytest.raises(precisions.PrecisionError, match=r"^fp16: a score is NaN$") as caught:
        precisions.add_variants(folder, Manifest.load(folder), model, ["fp16", "bf16"], None)
    assert caught.value.manifest.precisions == ("fp32", "bf16")
    assert not list(folder.glob("*.fp16.*"))
    assert len(list(folder.glob("*.bf16.*"))) == len(GRAPH_NAMES)


def test_half_precision_needs_no_calibration(
    checkpoint_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Random weights amplify rounding. The exported graphs do not depend on the limits.
    lenient = {name: precisions.Tolerance(cosine=0.5, loss=10.0) for name in precisions.TOLERANCES}
    monkeypatch.setattr(precisions, "TOLERANCES", lenient)
    assert run_export(checkpoint_file, "-o", tmp_path / "model", *("--precision", "fp16") * 2) == 0
    assert capsys.readouterr().err.count("decoder: exporting in fp16") == 1
    manifest = Manifest.load(tmp_path / "model")
    assert manifest.precisions == ("fp32", "fp16")
    assert {graph.file for graph in manifest.variants["fp16"].graphs.values()} == {
        f"{name}.fp16.onnx" for name in (IMAGE_ENCODER, TEXT_ENCODER, DECODER, SCORER)
    }
    assert set(manifest.variants["fp16"].graphs) == set(GRAPH_NAMES)
    assert replace(manifest, variants={}).precisions == ("fp32",)
