"""Plans built by tensorrt_rtx, which needs no GPU for it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from rsicrc.backends.tensorrt.building import build_plan
from rsicrc.backends.tensorrt.library import TENSORRT_RTX, Library, open_library
from rsicrc.backends.tensorrt.plans import find_plan, read_plans
from rsicrc.backends.tensorrt.profiles import Profile
from rsicrc.errors import BackendError
from rsicrc.manifest import TEXT_ENCODER, Manifest

pytest.importorskip("tensorrt_rtx")


@pytest.fixture(scope="module")
def library() -> Library:
    return open_library(TENSORRT_RTX)


def save_graph(path: Path, node: onnx.NodeProto, dtype: int = TensorProto.FLOAT) -> Path:
    """A graph of one node on x [B, 4]."""
    ends = [helper.make_tensor_value_info(name, dtype, ["B", 4]) for name in "xy"]
    graph = helper.make_graph([node], "one", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("of.nobody", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


SHAPES = {"x": ((1, 4), (2, 4), (8, 4))}


def test_a_graph_becomes_a_plan(library: Library, tmp_path: Path) -> None:
    lines: list[str] = []
    path = save_graph(tmp_path / "relu.onnx", helper.make_node("Relu", ["x"], ["y"]))
    plan = build_plan(library, path, SHAPES, capabilities=("8.0", "8.9"), listen=lines.append)
    assert len(plan) > 1000
    assert any("MinShape: [1,4], OptShape: [2,4], MaxShape: [8,4]" in line for line in lines)


def test_an_operator_that_it_does_not_know_is_one_line(library: Library, tmp_path: Path) -> None:
    node = helper.make_node("Nonsense", ["x"], ["y"], name="the_node", domain="of.nobody")
    with pytest.raises(
        BackendError, match=r"odd.onnx: tensorrt_rtx \S+ does not take it: the_node \(Nonsense\): "
    ) as caught:
        build_plan(library, save_graph(tmp_path / "odd.onnx", node), SHAPES)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_graph_is_one_line(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "torn.onnx"
    path.write_bytes(b"\x08\x0a torn")
    with pytest.raises(BackendError, match=r"torn.onnx: tensorrt_rtx \S+ does not take it: "):
        build_plan(library, path, SHAPES)


def test_a_profile_that_does_not_fit_the_graph_is_refused(library: Library, tmp_path: Path) -> None:
    path = save_graph(tmp_path / "relu.onnx", helper.make_node("Relu", ["x"], ["y"]))
    with pytest.raises(BackendError, match=r"relu.onnx: tensorrt_rtx"):
        build_plan(library, path, {"x": ((1, 4), (2, 5), (8, 4))})


def test_progress_and_interruption(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsicrc.backends.tensorrt.building._SECONDS_BETWEEN_LINES", -1.0)
    path = save_graph(tmp_path / "relu.onnx", helper.make_node("Relu", ["x"], ["y"]))
    lines: list[str] = []
    build_plan(library, path, SHAPES, report=lines.append)
    assert any(re.fullmatch(r"relu.onnx: .*, step \d+ of \d+", line) for line in lines)

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(library, path, SHAPES, report=interrupt)


@pytest.mark.slow
def test_export_leaves_plans_in_the_folder(
    model_folder: Path, tmp_path: Path, library: Library, caplog: pytest.LogCaptureFixture
) -> None:
    """All four graphs of the small model, by the command's own builder, and found again for a GPU of this kind."""
    from rsicrc_export.tensorrt_plans import PlanBuilder

    folder = shutil.copytree(model_folder, tmp_path / "model")
    manifest = Manifest.load(folder)
    caplog.set_level("INFO", logger="rsicrc.export")
    builder = PlanBuilder(library, None, (Profile((1, 2, 4), (1, 3, 3)),))
    builder.build(folder, manifest)
    assert {plan.graph for plan in read_plans(folder)} == set(manifest.graphs)
    assert all("8.9" in plan.capabilities and "9.0" not in plan.capabilities for plan in read_plans(folder))
    path = find_plan(
        folder, manifest, TEXT_ENCODER, library, "NVIDIA GeForce RTX 4090 8.9", Profile((1, 1, 1), (1, 1, 1))
    )
    assert path.stat().st_size > 1000
    lines = len(caplog.messages)
    assert lines
    builder.build(folder, manifest)
    assert len(caplog.messages) == lines
    assert Manifest.load(folder) == manifest
