"""The image encoder cut into `image_trunk` and `pair_fusion`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from rsicrc.errors import ExportError, ModelFolderError
from rsicrc.manifest import GRAPH_NAMES, IMAGE_ENCODER, IMAGE_TRUNK, PAIR_FUSION, PER_IMAGE, Manifest
from rsicrc_export.model_folder import export_checkpoint
from rsicrc_export.per_image import TOLERANCES, add_per_image_graphs
from rsicrc_export.source import Source


def test_parts_are_added_next_to_the_unchanged_encoder(model_folder: Path, per_image_folder: Path) -> None:
    before, after = Manifest.load(model_folder), Manifest.load(per_image_folder)
    assert list(after.graphs) == [*GRAPH_NAMES, *PER_IMAGE]
    assert {name: after.files[name] for name in before.files} == dict(before.files)
    assert after.parity["per_image"]["largest_relative_difference"] <= TOLERANCES["float32"]
    tokens = after.graphs[IMAGE_TRUNK].outputs
    assert tokens == after.graphs[PAIR_FUSION].inputs
    assert after.graphs[PAIR_FUSION].outputs == after.graphs[IMAGE_ENCODER].outputs


def test_parts_hold_every_weight_once(per_image_folder: Path) -> None:
    whole, *parts = (
        {t.name: t.SerializeToString() for t in onnx.load(per_image_folder / f"{name}.onnx").graph.initializer}
        for name in (IMAGE_ENCODER, *PER_IMAGE)
    )
    assert parts[0] | parts[1] == whole
    shared = parts[0].keys() & parts[1].keys()
    assert sum(len(whole[name]) for name in shared) < 1000  # shapes and axes


def test_parts_that_differ_are_refused(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)

    def save_changed(model: onnx.ModelProto, path: Path) -> None:
        for tensor in model.graph.initializer:
            if tensor.name.endswith("trunk.positions"):
                tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) + np.float32(1)).tobytes()
        path.write_bytes(model.SerializeToString())

    monkeypatch.setattr("rsicrc_export.per_image.onnx.save", save_changed)
    with pytest.raises(ExportError, match=r"image_trunk and pair_fusion in fp32 differ from image_encoder by"):
        add_per_image_graphs(folder, Manifest.load(folder))


def test_manifest_with_one_part_is_refused(per_image_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(per_image_folder, folder)
    manifest = Manifest.load(folder)
    graphs = dict(manifest.graphs)
    del graphs[PAIR_FUSION]
    document = {**manifest.to_dict(), "graphs": {name: graph.to_dict() for name, graph in graphs.items()}}
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ModelFolderError, match="image_trunk is declared alone"):
        Manifest.load(folder)


@pytest.mark.slow
def test_export_writes_the_parts_on_request(checkpoint_file: Path, tmp_path: Path) -> None:
    manifest = export_checkpoint(Source.read(checkpoint_file), tmp_path / "model", per_image=True)
    assert Manifest.load(tmp_path / "model") == manifest
    assert set(PER_IMAGE) <= manifest.graphs.keys()


@pytest.mark.slow
def test_parts_exist_in_every_precision(variants_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(variants_folder, folder)
    add_per_image_graphs(folder, Manifest.load(folder)).write(folder)
    manifest = Manifest.load(folder)
    assert set(manifest.variants) == {"fp16", "bf16", "int8", "int8-fp16"}
    for precision in manifest.precisions:
        graphs = manifest.at(precision).graphs
        assert set(graphs) == {*GRAPH_NAMES, *PER_IMAGE}
        assert all((folder / graphs[name].file).is_file() for name in PER_IMAGE)
