"""What the benchmarks know of a GPU, as far as a machine without one can tell; and a rehearsal of `make test-gpu`."""

from __future__ import annotations

import ctypes
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from common import card, claims, material, present
from common.card import Card, CardError
from common.floors import Counts, Floors
from common.machine import Limits, device_name, measure_card, slug
from common.proof import Proof
from common.rounds import Results
from contestants.base import Setup

from tests.models import SMALL, random_images

ROOM = Path(__file__).resolve().parents[2] / "benchmarks"
GIB = 1 << 30


class FakeDriver:
    """As much of libcuda.so.1 as `common.card` calls: one GPU, of whose 4 GiB one is taken."""

    def __init__(self) -> None:
        self.free = 3 * GIB
        self.taken: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: 0  # what only has to succeed: cuInit, contexts

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 1
        return 0

    def cuDeviceGetName(self, name: Any, length: int, handle: Any) -> int:  # noqa: N802
        name.value = b"NVIDIA Test"
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, handle: Any) -> int:  # noqa: N802
        memory._obj.value = 4 * GIB
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = 13020
        return 0

    def cuDeviceGetAttribute(self, value: Any, number: int, handle: Any) -> int:  # noqa: N802
        value._obj.value = {75: 9, 76: 0}[number]
        return 0

    def cuMemGetInfo_v2(self, free: Any, total: Any) -> int:  # noqa: N802
        free._obj.value, total._obj.value = self.free, 4 * GIB
        return 0

    def cuMemAlloc_v2(self, pointer: Any, size: Any) -> int:  # noqa: N802
        pointer._obj.value = 1 + len(self.taken)
        self.taken[pointer._obj.value] = size.value
        self.free -= size.value
        return 0

    def cuMemFree_v2(self, pointer: Any) -> int:  # noqa: N802
        self.free += self.taken.pop(pointer.value)
        return 0


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """`common.card` without anything that it remembers."""

    def forget() -> None:
        card._driver.cache_clear()
        card._primary.cache_clear()

    forget()
    yield monkeypatch
    forget()


@pytest.fixture
def driver(fresh: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    fresh.setattr(ctypes, "CDLL", lambda name: fake)
    return fake


def test_a_gpu_is_described(driver: FakeDriver) -> None:
    assert card.describe("cuda") == card.describe("cuda:0") == Card("NVIDIA Test", (9, 0), 4 * GIB, (13, 2))
    assert card.problem("cuda:0") == ""
    assert card.used("cuda:0") == GIB
    name = device_name("cuda:0", threads=2)
    assert name == "NVIDIA Test (compute capability 9.0, 4 GiB, CUDA 13.2)"
    assert slug(name) == "nvidia-test"


def test_memory_is_taken_and_given_back(driver: FakeDriver) -> None:
    with card.filled("cuda:0", 1000):
        assert driver.free == 1000
    assert driver.free == 3 * GIB


@pytest.mark.parametrize("device", ["cuda:1", "cuda:x", "gpu"])
def test_a_device_that_is_not_there(driver: FakeDriver, device: str) -> None:
    with pytest.raises(CardError, match=f"no device '{device}': the driver shows 1 GPUs"):
        card.describe(device)


def test_no_driver(fresh: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    fresh.setattr(ctypes, "CDLL", missing)
    assert card.problem("cuda:0") == "no NVIDIA driver here (libcuda.so.1 is missing)"
    assert set(present.backends("cuda:0").values()) == {card.problem("cuda:0")}


def test_a_driver_without_a_gpu(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(cuInit=lambda flags: 100))
    assert "finds no GPU (cuInit: error 100)" in card.problem("cuda:0")


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
def test_what_is_here(
    installed: tuple[str, ...],
    capability: tuple[int, int],
    reasons: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(card, "describe", lambda device: Card("NVIDIA Test", capability, GIB, (13, 0)))
    monkeypatch.setattr(present, "find_spec", lambda name: True if name in installed else None)
    plain = SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", plain)
    for found, reason in zip(present.backends("cuda:0").values(), reasons, strict=True):
        assert reason in found
        assert bool(found) == bool(reason)


def test_onnx_runtime_with_and_without_its_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its list of providers has TensorRT whether or not the library came along."""
    monkeypatch.setattr(card, "describe", lambda device: Card("NVIDIA Test", (9, 0), GIB, (13, 0)))
    (tmp_path / "capi").mkdir()
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    module = SimpleNamespace(get_available_providers=lambda: providers, __file__=str(tmp_path / "__init__.py"))
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    monkeypatch.setattr(present, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[]))
    assert present.backends("cuda:0")["onnxruntime"] == ""
    assert "is without TensorRT" in present.backends("cuda:0")["onnxruntime-tensorrt"]
    (tmp_path / "capi" / "libonnxruntime_providers_tensorrt.so").touch()
    assert "libnvinfer.so.10 is missing" in present.backends("cuda:0")["onnxruntime-tensorrt"]


def test_what_a_folder_needs() -> None:
    assert material.variants(["fp32", "bf16", "int8"], "cpu") == ["int8"]
    assert material.variants(["fp32", "int8"], "cuda:0") == ["fp16", "int8"]
    assert material.variants(["bf16", "fp16"], "cuda:0") == ["fp16", "bf16"]


COUNTS = Counts(image=1000, word=10, word_weights=4000, sentence=10, sentence_weights=4000, sentence_ids=10)
LIMITS = Limits(
    {"fp32": 1e-6, "fp16": 2e-6, "int8": 4e-6},
    dict.fromkeys(["fp32", "fp16", "int8"], "torch"),
    bandwidth=1e-6,
    launch=10.0,
)


def test_floors_of_a_gpu() -> None:
    """A launch on top of a step; int8 has its words in fp16."""
    floors = Floors(COUNTS, LIMITS)
    assert floors.images("fp16", 2) == pytest.approx(1.0)
    assert floors.decode("fp32", beams=5, steps=2, words=2) == pytest.approx(2 * 16 + 2 * 10)
    assert floors.decode("int8", 5, 2, 2) == floors.decode("fp16", 5, 2, 2) == pytest.approx(2 * 8 + 2 * 10)
    assert floors.texts("int8", 1) == pytest.approx(8 + 10)


def results(command: str, cells: dict[str, dict[tuple[str, int, int], float]]) -> Results:
    """Contestants with one turn each, a time for each cell."""
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
        "limits": vars(LIMITS),
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


def test_what_must_be_reached() -> None:
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
    encoder, step, pytorch, published = claims.claims(one, many)
    assert encoder.measured == pytest.approx(32 / 40)
    assert encoder.verdict == "yes"
    assert step.measured == pytest.approx(18 / 36)
    assert step.verdict == "yes"
    assert pytorch.measured == pytest.approx(2.5)
    assert pytorch.verdict == "no"
    assert pytorch.by == "rsicrc tensorrt fp16 against graph-bf16"
    assert published.measured == pytest.approx(80)
    assert published.verdict == "no"
    assert {claim.verdict for claim in claims.claims(None, None)} == {"–"}
    text = claims.tables(one, many)
    assert "| rsicrc tensorrt fp16 | 2 | 1 | 0.5 |" in text


def test_the_proof_keeps_earlier_steps(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    path, other = tmp_path / "gpu-test.json", tmp_path / "latency.json"
    other.write_text(json.dumps(vars(results("latency", {"rsicrc tensorrt fp16": {("caption", 1, 5): 1.0}}))))
    first = Proof.open(path, "NVIDIA Test", folder)
    first.skip("backend tensorrt: not here")
    first.add_results("latency", other)
    first.fail("something")
    first.write()
    assert "something" in path.with_suffix(".md").read_text()
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="tests.gpu.test_some" name="test_a[x]" time="1.5"/>'
        '<testcase classname="tests.gpu.test_some" name="test_a[y]" time="0"><skipped message="no library"/></testcase>'
        '<testcase classname="tests.gpu.test_some" name="test_b" time="0"><failure message="wrong&#10;x"/></testcase>'
        "</testsuite></testsuites>"
    )
    second = Proof.open(path, "NVIDIA Test", folder)
    assert not second.failed
    second.add_tests(report, 1)
    assert second.found["failed"] == ["test_some::test_b: wrong"]
    assert second.found["latency"] is not None
    text = second.text()
    assert "| test_some::test_a | 1 | 0 | 1 |" in text
    assert "1 skipped: no library" in text
    assert Proof.open(path, "NVIDIA Other", folder).found["latency"] is None


def test_limits_are_measured() -> None:
    """On the processor, the same functions."""
    limits = measure_card("cpu", product=96, buffer=1 << 20)
    assert {"fp32", "bf16"} <= set(limits.gmacs)
    assert all(0 < rate < math.inf for rate in [*limits.gmacs.values(), limits.bandwidth])
    assert limits.launch > 0


def setup(checkpoint: Path, folder: Path) -> Setup:
    return Setup(checkpoint, folder, folder, "cpu", 1, "fp32", "", SMALL.max_len)


def test_graphs_say_what_pytorch_says(
    checkpoint_file: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The captured functions, in float32 and called instead of replayed; twice, with other pairs in between."""
    import torch
    from contestants import graph, pytorch

    monkeypatch.setattr(graph, "_DTYPE", torch.float32)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # it would stay so for other tests
    plain = pytorch.build(setup(checkpoint_file, model_folder))
    ours = graph.build(setup(checkpoint_file, model_folder))
    some, others = random_images(3, seed=1), random_images(3, seed=2)
    for images in (some, others, some):
        for beams in (1, 4):
            assert ours.caption(images, beams).texts == plain.caption(images, beams).texts
        np.testing.assert_allclose(ours.embed_images(images), plain.embed_images(images), atol=1e-5)


def test_without_a_gpu_it_says_so() -> None:
    if not card.problem("cuda:0"):
        pytest.skip("there is one")
    done = subprocess.run([sys.executable, str(ROOM / "gpu.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: nothing was tested: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_rehearsal(checkpoint_file: Path, tmp_path: Path) -> None:
    """The whole command on the processor."""
    output = tmp_path / "gpu.json"
    words = ["--device", "cpu", "--size", str(checkpoint_file), "--precisions", "fp32", "--batches", "4"]
    words += ["--contestants", "published", "graph-bf16", "--sizes", "3", "--rounds", "1", "--seconds", "0"]
    words += ["--threads", "2", "--work", str(tmp_path / "work"), "--output", str(output)]
    done = subprocess.run([sys.executable, str(ROOM / "gpu.py"), *words], capture_output=True, text=True, check=False)
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
