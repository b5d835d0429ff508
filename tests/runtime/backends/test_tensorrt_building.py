"""Plans built by tensorrt_rtx, which needs no GPU to build plans."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rsicrc.backends.tensorrt.building import build_plan
from rsicrc.backends.tensorrt.library import TENSORRT_RTX, Library, open_library
from rsicrc.backends.tensorrt.plan_list import read_plans
from rsicrc.backends.tensorrt.plans import find_plan
from rsicrc.backends.tensorrt.profiles import Profile
from rsicrc.errors import BackendError
from rsicrc.manifest import TEXT_ENCODER, Manifest


@pytest.fixture(scope="module")
def library() -> Library:
    pytest.importorskip("tensorrt_rtx", reason="needs rsicrc[tensorrt-rtx]")
    return open_library(TENSORRT_RTX)


def save_graph(path: Path, operator: str, **attributes: Any) -> Path:
    """Write a graph of one node from x to y, float32 [B, 4]."""
    onnx: Any = pytest.importorskip("onnx", reason="needs rsicrc[export]")
    helper = onnx.helper
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", 4]) for name in "xy"]
    graph = helper.make_graph([node], "one", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("unknown.domain", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


SHAPES = {"x": ((1, 4), (2, 4), (8, 4))}


def test_old_builder_is_not_collected_in_the_logger(library: Library, tmp_path: Path) -> None:
    """TensorRT calls the logger with a lock held that the destructor of a builder takes."""
    code = """
import gc, sys
from pathlib import Path
from rsicrc.backends.tensorrt.building import build_plan
from rsicrc.backends.tensorrt.library import make_logger, open_library
library = open_library("tensorrt_rtx")
gc.disable()
cycle = [library.module.Builder(make_logger(library))]
cycle.append(cycle)
del cycle
gc.set_threshold(1)
gc.enable()
build_plan(library, Path(sys.argv[1]), {"x": ((1, 4), (2, 4), (8, 4))}, library_log=lambda line: [].append([line]))
print("built", gc.isenabled())
"""
    path = save_graph(tmp_path / "relu.onnx", "Relu")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "built True\n"), done.stderr


def test_plan_is_built_for_the_shapes(library: Library, tmp_path: Path) -> None:
    lines: list[str] = []
    path = save_graph(tmp_path / "relu.onnx", "Relu")
    plan, timings = build_plan(library, path, SHAPES, capabilities=("8.0", "8.9"), library_log=lines.append)
    assert timings is None  # the kernels are timed on the GPU that runs the plan
    assert len(plan) > 1000
    assert any("MinShape: [1,4], OptShape: [2,4], MaxShape: [8,4]" in line for line in lines)


def test_unknown_operator_is_reported_in_one_line(library: Library, tmp_path: Path) -> None:
    path = save_graph(tmp_path / "odd.onnx", "Nonsense", name="the_node", domain="unknown.domain")
    with pytest.raises(
        BackendError, match=r"odd.onnx: tensorrt_rtx \S+ does not accept it: the_node \(Nonsense\): "
    ) as caught:
        build_plan(library, path, SHAPES)
    assert "\n" not in str(caught.value)


def test_file_that_is_not_a_graph_is_reported_in_one_line(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "torn.onnx"
    path.write_bytes(b"\x08\x0a torn")
    with pytest.raises(BackendError, match=r"torn.onnx: tensorrt_rtx \S+ does not accept it: "):
        build_plan(library, path, SHAPES)


def test_profile_that_does_not_fit_the_graph_is_refused(library: Library, tmp_path: Path) -> None:
    path = save_graph(tmp_path / "relu.onnx", "Relu")
    with pytest.raises(BackendError, match=r"relu.onnx: tensorrt_rtx"):
        build_plan(library, path, {"x": ((1, 4), (2, 5), (8, 4))})


def test_build_reports_progress_and_can_be_interrupted(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsicrc.backends.tensorrt.building._SECONDS_BETWEEN_LINES", -1.0)
    path = save_graph(tmp_path / "relu.onnx", "Relu")
    lines: list[str] = []
    build_plan(library, path, SHAPES, report=lines.append)
    assert any(re.fullmatch(r"relu.onnx: .*, step \d+ of \d+", line) for line in lines)

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(library, path, SHAPES, report=interrupt)


@pytest.mark.slow
@pytest.mark.parametrize("named", [False, True])
def test_export_writes_plans_into_the_cache_or_a_named_folder(
    model_folder: Path,
    tmp_path: Path,
    library: Library,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    named: bool,
) -> None:
    """Plans of all four graphs are built by the command's own builder, and found again for a GPU of this kind."""
    from rsicrc_export.tensorrt_plans import PlanBuilder

    monkeypatch.setenv("RSICRC_CACHE", str(tmp_path / "cache"))
    engines = tmp_path / "plans" if named else None
    before = sorted(path.name for path in model_folder.iterdir())
    manifest = Manifest.load(model_folder)
    caplog.set_level(logging.INFO, "rsicrc.export")
    builder = PlanBuilder(library, None, (Profile((1, 2, 4), (1, 3, 3)),), engines)
    builder.build(model_folder, manifest)
    assert sorted(path.name for path in model_folder.iterdir()) == before
    lists = [path.parent for path in tmp_path.rglob("engines.json")]
    assert lists == [engines] if named else len(lists) == len(manifest.graphs)
    plans = [plan for folder in lists for plan in read_plans(folder)]
    assert {plan.graph for plan in plans} == set(manifest.graphs)
    assert all("8.9" in plan.capabilities and "9.0" not in plan.capabilities for plan in plans)
    found = find_plan(
        manifest, TEXT_ENCODER, library, "NVIDIA GeForce RTX 4090 8.9", Profile((1, 1, 1), (1, 1, 1)), engines
    )
    assert len(found.read()) > 1000
    reported = len(caplog.messages)
    assert reported
    builder.build(model_folder, manifest)
    assert len(caplog.messages) == reported
