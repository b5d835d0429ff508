"""The checks of `rsicrc-run doctor`, on real and on synthetic inputs."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from pathlib import Path

import pytest

from rsicrc.backends import cuda
from rsicrc.backends.tensorrt import library
from rsicrc.cli import checks as doctor
from rsicrc.cli.checks import Finding, Level
from tests.runtime.fake_cuda import FakeCuda


def test_single_onnxruntime_is_ok() -> None:
    (finding,) = doctor.check_onnx_runtimes({"onnxruntime": "1.31.1", "numpy": "2.0"})
    assert (finding.level, finding.text) == (Level.OK, "onnxruntime 1.31.1")


def test_two_onnxruntimes_clash_and_the_advice_repairs_it() -> None:
    (finding,) = doctor.check_onnx_runtimes({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.30.0"})
    assert finding.level is Level.PROBLEM
    assert "onnxruntime 1.31.1, onnxruntime-gpu 1.30.0" in finding.text
    assert "overwrote" in finding.text
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in finding.advice
    assert "pip install 'rsicrc[gpu]'" in finding.advice


def test_missing_onnxruntime_is_a_problem() -> None:
    (finding,) = doctor.check_onnx_runtimes({})
    assert (finding.level, finding.advice) == (Level.PROBLEM, "pip install 'rsicrc[cpu]'")


def test_openvino_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra `openvino` alone there is no ONNX Runtime, and models run."""
    (finding,) = doctor.check_onnx_runtimes({"openvino": "2026.2.0"}, ["openvino"])
    assert (finding.level, finding.text) == (Level.NOTE, "not installed; models run on openvino")
    installed = {"numpy": "2.0", "pillow": "11", "tokenizers": "0.20", "openvino": "2026.2.0"}
    monkeypatch.setattr(doctor, "installed_distributions", lambda: installed)
    monkeypatch.setattr(doctor, "check_openvino", lambda _: Finding("openvino", Level.OK, "openvino 2026.2.0"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    findings = doctor.examine(None)
    assert [finding.topic for finding in findings if finding.level is Level.PROBLEM] == []
    monkeypatch.setattr(doctor, "check_openvino", lambda _: Finding("openvino", Level.PROBLEM, "cannot be used"))
    problems = [finding for finding in doctor.examine(None) if finding.level is Level.PROBLEM]
    assert [finding.topic for finding in problems] == ["onnxruntime", "openvino"]
    assert problems[0].text == "not installed, so no model can run"


def test_openvino_is_examined_with_the_core_of_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second core could be destroyed in another thread, which leaves a freed signal stack."""
    module = pytest.importorskip("rsicrc.backends.openvino_runtime", reason="needs rsicrc[openvino]")
    monkeypatch.delattr(module.openvino, "Core")
    finding = doctor.check_openvino({"openvino": "2026.4.1"})
    assert (finding.level, finding.text.partition(":")[0]) == (Level.OK, "openvino 2026.4.1")


def test_tensorrt_without_a_gpu_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("tensorrt")
    module.__version__ = "8.6.1"  # type: ignore[attr-defined]
    module.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    assert doctor.check_tensorrt(has_gpu=False).level is Level.NOTE
    assert doctor.check_tensorrt().level is Level.PROBLEM


def test_user_without_a_name_and_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_name(number: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for variable in ("HOME", "XDG_CACHE_HOME", "RSICRC_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_name)
    (finding,) = [finding for finding in doctor.examine(None) if finding.topic == "cache"]
    assert (finding.level, finding.text) == (Level.NOTE, "no home folder, so compiled graphs are not kept")
    assert "RSICRC_CACHE" in finding.advice


def test_cache_that_cannot_be_written_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("RSICRC_CACHE", raising=False)
    assert (doctor.check_cache().level, doctor.check_cache().text) == (Level.OK, str(tmp_path / "rsicrc"))
    monkeypatch.setattr("os.access", lambda *_: False)
    assert doctor.check_cache().level is Level.NOTE


@pytest.mark.parametrize("name", ["tiny.pt", "weights.PTH", "pytorch_model.bin", "model.safetensors", "hf:owner/repo"])
def test_checkpoint_in_place_of_a_model_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if not name.startswith("hf:"):
        Path(name).write_bytes(b"PK")
    finding = doctor.check_model(Path(name))
    assert finding.level is Level.PROBLEM
    assert finding.text.startswith(f"{name}: this is a checkpoint, not a model folder: export it first with ")
    assert f"`rsicrc-export {name} -o model`" in finding.text


def test_names_that_cannot_be_folders_are_a_problem() -> None:
    for name in ("x" * 5000, "a\0b", "\udcff"):
        assert doctor.check_model(Path(name)).level is Level.PROBLEM


def test_distribution_names_are_normalized() -> None:
    installed = doctor.installed_distributions()
    assert {"rsicrc", "numpy", "pillow", "onnxruntime"} <= installed.keys()


def test_missing_library_is_a_problem() -> None:
    levels = {finding.topic: finding.level for finding in doctor.check_libraries({"numpy": "2.0", "pillow": "11"})}
    assert levels == {"numpy": Level.OK, "pillow": Level.OK, "tokenizers": Level.PROBLEM}


def test_installed_onnxruntime_has_the_cpu_provider() -> None:
    finding = doctor.check_onnx_runtime_module()
    assert finding.level is Level.OK
    assert "CPU" in finding.text


def test_incomplete_onnxruntime_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    assert "is incomplete" in doctor.check_onnx_runtime_module().text


def test_unimportable_onnxruntime_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    finding = doctor.check_onnx_runtime_module()
    assert (finding.level, bool(finding.advice)) == (Level.PROBLEM, True)


def test_missing_gpu_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    cuda._runtime.cache_clear()
    (finding,) = doctor.check_gpus()
    assert (finding.level, finding.text.startswith("not looked for: cuda-bindings is not")) == (Level.NOTE, True)
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "_runtime", lambda: fake)
    monkeypatch.setattr(fake, "cudaDriverGetVersion", lambda: (0, 0), raising=False)
    monkeypatch.setattr(fake, "cudaGetDeviceCount", lambda: (35, None), raising=False)
    (finding,) = doctor.check_gpus()
    assert (finding.level, "there is no NVIDIA driver" in finding.text) == (Level.NOTE, True)
    monkeypatch.setattr(fake, "cudaDriverGetVersion", lambda: (0, 12020), raising=False)
    (finding,) = doctor.check_gpus()
    assert (finding.level, "driver is too old: it supports CUDA 12.2" in finding.text) == (Level.PROBLEM, True)


def test_gpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    fake.devices = 2
    monkeypatch.setattr(cuda, "_runtime", lambda: fake)
    first, second = doctor.check_gpus()
    assert first.text == "cuda:0: Fake GPU 9.0, 8.6 of 8.6 GB free, CUDA 13.0"
    assert (second.level, second.text[:6]) == (Level.OK, "cuda:1")


def test_tensorrt_is_imported_if_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in library.LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)
    finding = doctor.check_tensorrt()
    assert (finding.level, "pip install" in finding.text) == (Level.NOTE, True)
    module = types.ModuleType("tensorrt")
    module.__version__ = "10.13.3.9"  # type: ignore[attr-defined]
    module.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    assert doctor.check_tensorrt().text == "tensorrt 10.13.3"
    module.__version__ = "8.6.1"  # type: ignore[attr-defined]
    assert doctor.check_tensorrt().level is Level.PROBLEM


def test_cpu_features_are_listed(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nmodel name\t: Some Xeon\nflags\t\t: fpu avx2 avx512f amx_int8\n\n"
        "processor\t: 1\nmodel name\t: Some Xeon\nflags\t\t: fpu\n"
    )
    assert doctor.check_cpu(cpuinfo).text == "Some Xeon: AVX2, AVX-512, AMX int8"
    assert "no AVX2" in doctor.check_cpu(tmp_path / "none").text


def test_threads_are_counted() -> None:
    assert int(doctor.check_threads().text.split()[0]) >= 1


@pytest.mark.parametrize(
    ("available", "limit", "level", "text"),
    [
        (16e9, "max", Level.OK, "16.0 GB available of 32.0 GB"),
        (1e9, "max", Level.NOTE, "1.0 GB available of 32.0 GB"),
        (16e9, "1500000000", Level.NOTE, "16.0 GB available of 32.0 GB, container limit 1.5 GB"),
        (16e9, "9223372036854771712", Level.OK, "16.0 GB available of 32.0 GB"),
    ],
)
def test_memory_is_bounded_by_the_container(
    tmp_path: Path, available: float, limit: str, level: Level, text: str
) -> None:
    meminfo, bound = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text(f"MemTotal: {32e9 / 1024:.0f} kB\nMemAvailable: {available / 1024:.0f} kB\nHugePages_Total: 0\n")
    bound.write_text(f"{limit}\n")
    finding = doctor.check_memory(meminfo, bound)
    assert (finding.level, finding.text) == (level, text)


def test_memory_is_unknown_on_other_systems(tmp_path: Path) -> None:
    assert doctor.check_memory(tmp_path / "none", tmp_path / "none").level is Level.NOTE


def test_default_model_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RSICRC_MODEL", raising=False)
    assert doctor.check_model(None).level is Level.NOTE
    assert doctor.check_model(tmp_path / "nowhere").level is Level.PROBLEM
    monkeypatch.setenv("RSICRC_MODEL", str(tmp_path / "nowhere"))
    assert doctor.check_model(None).level is Level.PROBLEM


def test_model_with_a_changed_byte_is_a_problem(model_folder: Path, damaged_folder: Path) -> None:
    assert doctor.check_model(model_folder).level is Level.OK
    finding = doctor.check_model(damaged_folder)
    assert (finding.level, "SHA-256" in finding.text) == (Level.PROBLEM, True)
