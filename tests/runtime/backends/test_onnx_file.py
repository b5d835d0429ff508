"""Checks of ONNX files: operators, nodes, shapes and external data of graphs that rsicrc-export did not write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsicrc
from rsicrc.backends.onnx_file import MOST_NODES, check_graph, check_graphs
from rsicrc.errors import ModelFolderError
from rsicrc.manifest import MANIFEST_FILE, FileRecord, Manifest

onnx: Any = pytest.importorskip("onnx", reason="needs rsicrc[export]")

GRAPH = "text_encoder.onnx"


def declare(folder: Path, *names: str) -> None:
    """Write the hashes of changed and new files into the manifest."""
    manifest = Manifest.from_json((folder / MANIFEST_FILE).read_text(), folder)
    replace(manifest, files={**manifest.files, **{name: FileRecord.of(folder / name) for name in names}}).write(folder)


def change(folder: Path, edit: Callable[[Any], object]) -> None:
    model = onnx.load(folder / GRAPH)
    edit(model)
    (folder / GRAPH).write_bytes(model.SerializeToString())
    declare(folder, GRAPH)


def store_outside(folder: Path, location: str) -> Callable[[Any], object]:
    def edit(model: Any) -> None:
        tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
        (folder / Path(location).name).write_bytes(tensor.raw_data)
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)

    return edit


def refused(folder: Path, reason: str) -> None:
    for backend in ("onnxruntime", "auto"):
        message = rf"text_encoder\.onnx: {reason}.*: export the model again"
        with pytest.raises(ModelFolderError, match=message) as caught:
            rsicrc.load(folder, "cpu", backend=backend, threads=1)
        assert len(str(caught.value).splitlines()) == 1


def test_all_exported_graphs_pass(variants_folder: Path) -> None:
    manifest = Manifest.load(variants_folder)
    for precision in manifest.precisions:
        check_graphs(variants_folder, manifest.at(precision))


@pytest.mark.parametrize("kind", ["clip_vit", "torchvision_resnet"])
def test_graphs_of_every_kind_of_network_pass(kind: Any, tmp_path: Path) -> None:
    from rsicrc_export.onnx_export import export_graph
    from rsicrc_train.config import TrunkConfig
    from tests.models import random_checkpoint, with_options

    if kind == "clip_vit":
        trunk = TrunkConfig(kind, (1,), width=64, heads=2, patch=16, image_size=96)
    else:
        trunk = TrunkConfig(kind, (1, 1, 1, 1), width=64, image_size=96)
    model = random_checkpoint(0, with_options(trunk=trunk)).build_model().requires_grad_(False)
    _, files = export_graph(model, "image_encoder", tmp_path)
    check_graph(tmp_path / files[0], {})


@pytest.mark.parametrize("location", ["w.data", "../w.data", "/w.data", "a/w.data"])
def test_undeclared_external_data_is_refused(model_copy: Path, location: str) -> None:
    change(model_copy, store_outside(model_copy, location))
    name = location.replace(".", r"\.")
    refused(model_copy, f"reads data from the file '{name}', which the manifest does not declare")


def test_declared_external_data_is_used(model_copy: Path) -> None:
    expected = rsicrc.load(model_copy, "cpu", backend="onnxruntime", threads=1).embed_texts(["the road"])
    change(model_copy, store_outside(model_copy, "w.data"))
    declare(model_copy, "w.data")
    found = rsicrc.load(model_copy, "cpu", backend="onnxruntime", threads=1).embed_texts(["the road"])
    np.testing.assert_array_equal(found, expected)


def add_loop(model: Any) -> None:
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["c"], ["d"])],
        "body",
        [onnx.helper.make_tensor_value_info("i", 7, []), onnx.helper.make_tensor_value_info("c", 9, [])],
        [onnx.helper.make_tensor_value_info("d", 9, [])],
    )
    model.graph.node.append(onnx.helper.make_node("Loop", ["", "c"], ["x"], body=body))


def add_external_constant(model: Any) -> None:
    tensor = onnx.TensorProto(name="x", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="secret")
    model.graph.node.append(onnx.helper.make_node("Add", [], ["x"], value=tensor))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (add_loop, "has a node with a graph inside"),
        (add_external_constant, "reads data from the file 'secret'"),
        (lambda model: model.graph.node.add(op_type="EvilOp", domain="evil"), "has the operator 'evil:EvilOp'"),
        (lambda model: model.graph.node.add(op_type="Add", domain="evil"), "has the operator 'evil:Add'"),
        (lambda model: model.graph.node.add(op_type="ConstantOfShape"), "has the operator 'ConstantOfShape'"),
        (
            lambda model: model.graph.node.extend([onnx.NodeProto(op_type="Relu")] * 3 * MOST_NODES),
            "has more than 10000 nodes",
        ),
        (
            lambda model: model.graph.initializer.add(name="x", data_type=1, dims=[1 << 40]),
            r"has a tensor of the shape \[1099511627776\] with less data",
        ),
        (lambda model: model.functions.add(name="f"), "has functions"),
        (lambda model: model.graph.sparse_initializer.add(), "has sparse tensors"),
    ],
)
def test_graph_that_the_exporter_does_not_write_is_refused(
    model_copy: Path, edit: Callable[[Any], object], reason: str
) -> None:
    change(model_copy, edit)
    refused(model_copy, reason)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"no graph", b"\x3a\xff\xff\xff\xff\x0f", b"\x38\x00"])
def test_file_that_is_no_graph_is_refused(model_copy: Path, content: bytes) -> None:
    (model_copy / GRAPH).write_bytes(content)
    declare(model_copy, GRAPH)
    refused(model_copy, "")


def test_every_truncated_graph_is_refused_or_read(model_copy: Path) -> None:
    path = model_copy / GRAPH
    content = path.read_bytes()
    for size in np.linspace(1, len(content) - 1, 50).astype(int):
        path.write_bytes(content[:size])
        with pytest.raises(ModelFolderError):
            check_graph(path, {})
