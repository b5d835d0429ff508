"""The C++ library with sanitizers and fuzzers, and the parts of the TensorRT backend that need no GPU."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cpp import binding
from tests.cpp.binding import CallError, Engine
from tests.cpp.conftest import ROOT, Build, build, run

onnx: Any = pytest.importorskip("onnx", reason="needs rsicrc[export]")

pytestmark = pytest.mark.slow
# Without this, oneTBB loads a library with RTLD_DEEPBIND, for which the sanitizers end the program.
TBB = {"TBB_ENABLE_SANITIZERS": "1"}
# Inputs of each fuzzer: one minute for all. The number does not depend on the machine, nor on its other work.
FUZZ_INPUTS = {"manifest": 20_000, "tokenizer": 50_000, "pixels": 10_000, "graph": 100_000}
FUZZ_FACTOR = int(os.environ.get("RSICRC_FUZZ_FACTOR", "1"))


def test_stress_with_address_and_undefined_sanitizers(memory_build: Build, model_folder: Path) -> None:
    # OpenVINO keeps allocations until the process ends. The fuzzers, which do not use OpenVINO, detect leaks.
    run(memory_build.program("stress"), model_folder, env={**TBB, "ASAN_OPTIONS": "detect_leaks=0"})


def test_stress_with_thread_sanitizer(thread_build: Build, model_folder: Path) -> None:
    # The wheels of OpenVINO and oneTBB are not instrumented: ThreadSanitizer does not see their synchronization, and
    # would report races in them. The option ignores them; the library and the program are still checked.
    options = "ignore_noninstrumented_modules=1 halt_on_error=1"
    run(thread_build.program("stress"), model_folder, env={**TBB, "TSAN_OPTIONS": options})


@pytest.mark.parametrize("name", FUZZ_INPUTS)
def test_fuzzer_finds_nothing(memory_build: Build, model_folder: Path, tmp_path: Path, name: str) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    if name == "pixels":
        for index, sizes in enumerate(
            [(100, 80, 0, 63, 0), (64, 300, 200, 63, 0), (30, 33, 0, 95, 5), (96, 96, 0, 95, 0)]
        ):
            header = b"".join(size.to_bytes(2, "little") for size in sizes[:4]) + sizes[4].to_bytes(4, "little")
            (corpus / f"{index}").write_bytes(header + bytes(range(256)))
    elif name == "graph":
        model = onnx.load(model_folder / "text_encoder.onnx")
        for weights in model.graph.initializer:
            if len(weights.raw_data) > 64:
                weights.ClearField("raw_data")
        (corpus / "real").write_bytes(model.SerializeToString())
    else:
        document = (model_folder / f"{name}.json").read_bytes()
        (corpus / "real").write_bytes(document)
        (corpus / "sentence").write_bytes(document + b"\0The T-shaped road's houses, 3 of them")
    # The time limit is for one input, and only ends an endless loop. The limit of memory is for one allocation: the
    # peak of a whole process, which libFuzzer reads, begins in Linux with the peak of the process that starts it.
    runs = FUZZ_FACTOR * FUZZ_INPUTS[name]
    limits = (f"-runs={runs}", "-timeout=600", "-rss_limit_mb=0", "-malloc_limit_mb=1000", "-max_len=20000")
    done = run(memory_build.program(f"fuzz_{name}"), *limits, f"-artifact_prefix={tmp_path}/", corpus)
    assert "DONE" in done.stderr


def test_tensorrt_without_a_gpu_is_refused(model_folder: Path, tmp_path: Path) -> None:
    if "TensorRT_ROOT" not in os.environ:
        pytest.skip("no TensorRT: set TensorRT_ROOT (and CUDAToolkit_ROOT) to build its backend")
    made = build(tmp_path, "g++", "-DRSICRC_TENSORRT=ON")
    if shutil.which("nvidia-smi"):
        pytest.skip("there is an NVIDIA GPU")
    with pytest.raises(CallError, match="needs an NVIDIA GPU") as caught:
        Engine(binding.open_library(made.library), model_folder, backend="tensorrt")
    assert caught.value.status == binding.BACKEND
    # The OpenVINO backend of the same library works.
    Engine(binding.open_library(made.library), model_folder, backend="openvino").close()


def test_public_headers_compile_alone() -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    include = ROOT / "runtime" / "cpp" / "include"
    for header in ("rsicrc.h", "rsicrc.hpp"):
        run(compiler, "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-x", "c++",
            f"-I{include}", include / "rsicrc" / header)  # fmt: skip
