"""GPU facts, roofline, targets and report of the benchmarks, without a GPU; and `make test-gpu` on the CPU."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from baselines.implementation import Setup
from common import assets, gpu, peaks, table, targets
from common.gpu import Gpu
from common.gpu_report import GpuReport
from common.peaks import Peaks
from common.roofline import Counts, Roofline
from common.runner import Results, device_name, slug

from rsicrc.backends import cuda
from rsicrc.errors import BackendError
from tests.gpu import available

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
GIB = 1 << 30


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a CUDA runtime with one GPU, of whose 4 GiB one is in use, for this process."""
    pytest.importorskip("onnx", reason="needs rsicrc[export]")
    from tests.runtime.fake_cuda import FakeCuda

    fake = FakeCuda(4 * GIB)
    monkeypatch.setattr(cuda, "_runtime", lambda: fake)
    fake.allocated[1] = GIB
    return fake


def test_gpu_facts(fake_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = gpu.read("cuda:0")
    assert facts == gpu.read("cuda") == Gpu("Fake GPU", (9, 0), 4 * GIB, (13, 0))
    assert gpu.used("cuda:0") == GIB
    monkeypatch.setattr(gpu, "describe", gpu.read)
    assert gpu.problem("cuda:0") == ""
    name = device_name("cuda:0", threads=2)
    assert name == "Fake GPU (compute capability 9.0, 4 GiB, CUDA 13.0)"
    assert slug(name) == "fake-gpu"


@pytest.mark.parametrize("device", ["cuda:1", "cuda:x", "gpu"])
def test_missing_device_is_refused_by_name(fake_cuda: Any, device: str) -> None:
    with pytest.raises(BackendError, match=rf"^no (device '{device}'|{device}): there is "):
        gpu.read(device)


def test_facts_are_read_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CUDA context is left in this process, whether or not there is a GPU."""

    def refuse() -> None:
        raise AssertionError("CUDA is used in this process")

    monkeypatch.setattr(cuda, "_runtime", refuse)
    reason = gpu.problem("cuda:99")
    assert reason
    assert "\n" not in reason
    if "no NVIDIA driver" in reason:
        assert set(available.backends("cuda:99").values()) == {reason}


@pytest.mark.parametrize(
    ("installed", "capability", "reasons"),
    [
        ((), (9, 0), ("onnxruntime-gpu is not installed", "onnxruntime-gpu is not", "neither tensorrt nor")),
        (("onnxruntime", "tensorrt_rtx"), (12, 0), ("without CUDA", "without CUDA", "cuda-bindings is not")),
        (("tensorrt_rtx", "cuda", "cuda.bindings"), (9, 0), ("is not", "is not", "capability 9.0: tensorrt does")),
        (("tensorrt_rtx", "cuda", "cuda.bindings"), (12, 0), ("is not", "is not", "")),
        (("tensorrt", "cuda", "cuda.bindings"), (9, 0), ("is not", "is not", "")),
    ],
)
def test_available_backends(
    installed: tuple[str, ...],
    capability: tuple[int, int],
    reasons: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "describe", lambda device: Gpu("NVIDIA Test", capability, GIB, (13, 0)))
    monkeypatch.setattr(available, "find_spec", lambda name: True if name in installed else None)
    plain = SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", plain)
    for found, reason in zip(available.backends("cuda:0").values(), reasons, strict=True):
        assert reason in found
        assert bool(found) == bool(reason)


def test_onnx_runtime_needs_the_library_of_its_tensorrt_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of providers has TensorRT in either case."""
    monkeypatch.setattr(gpu, "describe", lambda device: Gpu("NVIDIA Test", (9, 0), GIB, (13, 0)))
    (tmp_path / "capi").mkdir()
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    module = SimpleNamespace(get_available_providers=lambda: providers, __file__=str(tmp_path / "__init__.py"))
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    monkeypatch.setattr(available, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[]))
    assert available.backends("cuda:0")["onnxruntime"] == ""
    assert "is without TensorRT" in available.backends("cuda:0")["onnxruntime-tensorrt"]
    (tmp_path / "capi" / "libonnxruntime_providers_tensorrt.so").touch()
    assert "libnvinfer.so.10 is missing" in available.backends("cuda:0")["onnxruntime-tensorrt"]


def test_exported_precisions_depend_on_the_device() -> None:
    assert assets.variants(["fp32", "bf16", "int8"], "cpu") == ["int8"]
    assert assets.variants(["fp32", "int8"], "cuda:0") == ["fp16", "int8"]
    assert assets.variants(["bf16", "fp16"], "cuda:0") == ["fp16", "bf16"]


COUNTS = Counts(image=1000, word=10, word_weights=4000, sentence=10, sentence_weights=4000, sentence_ids=10)
PEAKS = Peaks(
    {"fp32": 1e-6, "fp16": 2e-6, "int8": 4e-6},
    dict.fromkeys(["fp32", "fp16", "int8"], "torch"),
    bandwidth=1e-6,
    launch=10.0,
)


def test_roofline_of_a_gpu() -> None:
    """A launch is added to each step; the decoder of int8 is in fp16."""
    roofline = Roofline(COUNTS, PEAKS)
    assert roofline.images("fp16", 2) == pytest.approx(1.0)
    assert roofline.decode("fp32", beams=5, steps=2, tokens=2) == pytest.approx(2 * 16 + 2 * 10)
    assert roofline.decode("int8", 5, 2, 2) == roofline.decode("fp16", 5, 2, 2) == pytest.approx(2 * 8 + 2 * 10)
    assert roofline.texts("int8", 1) == pytest.approx(8 + 10)


def test_peaks_keep_the_higher_rate() -> None:
    other = Peaks({"fp32": 2e-6, "fp16": 1e-6, "int8": 4e-6}, PEAKS.by, bandwidth=5e-7, launch=10.0)
    best = PEAKS.best(other)
    assert best.gmacs == {"fp32": 2e-6, "fp16": 2e-6, "int8": 4e-6}
    assert (best.bandwidth, best.launch) == (1e-6, 10.0)


def results(command: str, cells: dict[str, dict[tuple[str, int, int], float]]) -> Results:
    """Return results of implementations with one turn each, and a time for each case."""
    about = {
        "command": command,
        "device": "NVIDIA Test",
        "threads": 1,
        "model": {"name": "m", "parameters": 0, "forced": True, "max_length": 21},
        "max_length": 21,
        "versions": {},
        "contestants": {
            name: {"precision": "fp16" if "fp16" in name else "fp32", "alone": name == "published"} for name in cells
        },
        "counts": vars(COUNTS),
        "limits": vars(PEAKS),
    }
    turns = [
        {
            "contestant": name, "start": 2.0, "first": 1.0, "warm": 0.5, "error": "", "size": 1,
            "cells": [
                {"task": task, "batch": batch, "beams": beams, "seconds": [time], "items": batch, "memory": 1,
                 **({"image": [time / 2], "decode": [time / 2], "steps": 20, "words": 20 * batch} if beams else {})}
                for (task, batch, beams), time in own.items()
            ],
        }
        for name, own in cells.items()
    ]  # fmt: skip
    return Results(about, turns)


def test_targets_take_the_best_measurements() -> None:
    one = results("latency", {"rsicrc tensorrt fp16": {("step", 1, 5): 36.0, ("caption", 1, 5): 1.0}})
    many = results(
        "throughput",
        {
            "published": {("caption", 1, 1): 1.0},
            "pytorch": {("caption", 64, 5): 64.0},
            "graph-bf16": {("caption", 64, 5): 2.0},
            "rsicrc tensorrt fp16": {("caption", 64, 5): 0.8, ("encoder", 64, 0): 40.0},
        },
    )
    encoder, step, pytorch, published = targets.targets(one, many)
    assert encoder.measured == pytest.approx(32 / 40)
    assert encoder.verdict == "yes"
    assert step.measured == pytest.approx(18 / 36)
    assert step.verdict == "yes"
    assert pytorch.measured == pytest.approx(2.5)
    assert pytorch.verdict == "no"
    assert pytorch.by == "rsicrc tensorrt fp16 against graph-bf16"
    assert published.measured == pytest.approx(80)
    assert published.verdict == "no"
    assert {target.verdict for target in targets.targets(None, None)} == {"–"}
    assert "| 0.8 | yes | rsicrc tensorrt fp16 |" in targets.table(one, many)
    assert "| rsicrc tensorrt fp16 | fp16 | 5 | 2.00 | 1.00 | 0.50 |" in table.latency(one)


def test_report_keeps_earlier_steps(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    path, other = tmp_path / "gpu-test.json", tmp_path / "latency.json"
    other.write_text(json.dumps(vars(results("latency", {"rsicrc tensorrt fp16": {("caption", 1, 5): 1.0}}))))
    first = GpuReport.open(path, "NVIDIA Test", folder)
    first.skip("backend tensorrt: not here")
    first.add_results("latency", other)
    first.fail("something")
    first.write()
    assert "something" in path.with_suffix(".md").read_text()
    junit = tmp_path / "junit.xml"
    junit.write_text(
        '<testsuites><testsuite><testcase classname="tests.gpu.test_some" name="test_a[x]" time="1.5"/>'
        '<testcase classname="tests.gpu.test_some" name="test_a[y]" time="0"><skipped message="no library"/></testcase>'
        '<testcase classname="tests.gpu.test_some" name="test_b" time="0"><failure message="wrong&#10;x"/></testcase>'
        "</testsuite></testsuites>"
    )
    second = GpuReport.open(path, "NVIDIA Test", folder)
    assert not second.found["failed"]
    second.add_tests(junit, 1)
    assert second.found["failed"] == ["test_some::test_b: wrong"]
    assert second.found["latency"] is not None
    text = second.text()
    assert "| test_some::test_a | 1 | 0 | 1 |" in text
    assert "1 skipped: no library" in text
    assert GpuReport.open(path, "NVIDIA Other", folder).found["latency"] is None


def test_report_without_a_passed_test_or_an_engine_fails(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    report = GpuReport.open(tmp_path / "gpu-test.json", "NVIDIA Test", tmp_path)
    report.add_tests(tmp_path / "none.xml", 0)
    (tmp_path / "latency.json").write_text(json.dumps(vars(results("latency", {"pytorch": {("caption", 1, 5): 1.0}}))))
    report.add_results("latency", tmp_path / "latency.json")
    assert report.found["failed"] == ["no test passed", "latency: no backend of the engine could be measured"]


def test_peaks_are_measured_on_a_cpu() -> None:
    pytest.importorskip("torch", reason="needs rsicrc[train]")
    measured = peaks.measure("cpu", size=96, buffer=1 << 20)
    assert {"fp32", "bf16"} <= set(measured.gmacs)
    assert all(0 < rate < math.inf for rate in [*measured.gmacs.values(), measured.bandwidth])
    assert measured.launch == 0


def test_cuda_graphs_match_pytorch(
    checkpoint_file: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The modules are in fp32 and called instead of replayed; twice, with other pairs in between."""
    import torch
    from baselines import pytorch, static_shapes

    from tests.models import SMALL, random_images

    monkeypatch.setattr(static_shapes, "_DTYPE", torch.float32)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # the setting would stay for other tests
    (tmp_path / assets.CHECKPOINT).symlink_to(checkpoint_file)
    setup = Setup(tmp_path, model_folder, "cpu", 1, "fp32", "", SMALL.max_len)
    plain = pytorch.PyTorch(setup)
    ours = static_shapes.CudaGraphs(setup)
    some, others = random_images(3, seed=1), random_images(3, seed=2)
    for images in (some, others, some):
        for beams in (1, 4):
            assert ours.caption(images, beams).texts == plain.caption(images, beams).texts
        np.testing.assert_allclose(ours.embed_images(images), plain.embed_images(images), atol=1e-5)


def test_missing_gpu_is_one_clear_line() -> None:
    if not gpu.problem("cuda:0"):
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, str(BENCHMARKS / "gpu.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: nothing was tested: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_all_steps_run_on_a_cpu(checkpoint_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    words = ["--device", "cpu", "--size", str(checkpoint_file), "--precisions", "fp32", "--batches", "4"]
    words += ["--baselines", "published", "graph-bf16", "--sizes", "3", "--rounds", "1", "--seconds", "0"]
    words += ["--threads", "2", "--work", str(tmp_path / "work"), "--output", str(output)]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    outcomes = {test["outcome"] for test in found["tests"]}
    assert outcomes == {"passed", "skipped"}
    assert any("test_captions_match_the_cpu" in test["name"] and test["outcome"] == "passed" for test in found["tests"])
    for step in ("latency", "throughput"):
        turns = {turn["contestant"]: turn for turn in found[step]["turns"]}
        assert {"published", "graph-bf16", "rsicrc onnxruntime fp32", "rsicrc openvino fp32"} == set(turns)
        assert not [turn["error"] for turn in turns.values() if turn["error"]]
        tasks = {cell["task"] for cell in turns["rsicrc onnxruntime fp32"]["cells"]}
        assert tasks == {"caption", "images", "texts", "encoder", "step"}
    assert done.stdout == output.with_suffix(".md").read_text()
