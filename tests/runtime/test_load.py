"""Tests of finding and opening a model folder, of the choice of a backend, and of the cost of an import."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rsicrc
from rsicrc import ArgumentError, BackendError, ModelFolderError, ModelNotFoundError
from rsicrc.backends import cuda, selection
from rsicrc.backends.tensorrt import library
from rsicrc.cpu import available_cpus, cgroup_quota
from rsicrc.loading import find_model
from rsicrc.manifest import Manifest
from tests.models import random_images
from tests.runtime.fake_cuda import FakeCuda


def python(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()


def test_import_is_light() -> None:
    heavy = ("torch", "numpy", "PIL", "onnxruntime", "tokenizers", "click")
    code = f"import rsicrc, sys; print([name for name in {heavy} if name in sys.modules])"
    assert python(code) == "[]"


def test_runtime_never_imports_torch(model_folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "pair.npy", random_images(1, seed=0)[0])
    code = """
import sys
import numpy as np
import rsicrc
engine = rsicrc.load(sys.argv[1], threads=1)
pair = tuple(np.load(sys.argv[2]))
engine.caption([pair]), engine.score([pair], ["the road"]), engine.embed_texts(["the road"]), engine.explain(pair)
print([name for name in sys.modules if name.split(".")[0] in ("torch", "rsicrc_train", "rsicrc_export")])
"""
    assert python(code, model_folder, tmp_path / "pair.npy") == "[]"


def test_public_names_are_importable() -> None:
    for name in rsicrc.__all__:
        try:
            assert getattr(rsicrc, name) is not None
        except BackendError as error:  # the index and the scenes need extras
            assert re.search(r"pip install 'rsicrc\[(search|geo)\]'", str(error))  # noqa: PT017
    assert set(rsicrc.__all__) <= set(dir(rsicrc))
    with pytest.raises(AttributeError, match="nothing"):
        rsicrc.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_model_lookup(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RSICRC_MODEL", raising=False)
    with pytest.raises(
        ModelNotFoundError, match=r"^model: no such .*\$RSICRC_MODEL is not set.*rsicrc-export ckpt\.pt"
    ):
        rsicrc.load()
    (tmp_path / "model").symlink_to(model_folder)
    assert find_model() == Path("model")
    monkeypatch.setenv("RSICRC_MODEL", "elsewhere")
    with pytest.raises(ModelNotFoundError, match=r"^elsewhere: no such model folder \(from \$RSICRC_MODEL\)"):
        rsicrc.load()
    assert rsicrc.load("model").folder == Path("model")
    monkeypatch.setenv("RSICRC_MODEL", str(model_folder))
    assert rsicrc.load().folder == model_folder
    with pytest.raises(ModelNotFoundError, match=r"^nowhere: no such model folder \(as asked for\)"):
        rsicrc.load("nowhere")


def test_changed_byte_is_found_at_load(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    content = bytearray((folder / "decoder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "decoder.onnx").write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"decoder\.onnx: changed since the export"):
        rsicrc.load(folder)


@pytest.mark.parametrize("device", ["gpu", "", "cuda:x"])
def test_unknown_devices_are_refused(model_folder: Path, device: str) -> None:
    with pytest.raises(BackendError, match="there is cpu, cuda, cuda:0, cuda:1, …, and 'auto' chooses"):
        rsicrc.load(model_folder, device)


def test_unknown_backends_are_refused(model_folder: Path) -> None:
    with pytest.raises(BackendError, match=r"no backend 'torch': there is onnxruntime, .*, tensorrt, onnxruntime-tens"):
        rsicrc.load(model_folder, backend="torch")
    for backend in ("tensorrt", "onnxruntime-tensorrt"):
        with pytest.raises(BackendError, match=f"{backend} is for GPUs"):
            rsicrc.load(model_folder, "cpu", backend=backend)


def no_driver() -> int:
    raise BackendError("there is no NVIDIA driver")


def test_device_choice_without_a_gpu(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing GPU is an error if it was requested; `auto` takes the CPU without a warning."""
    monkeypatch.setattr(selection, "device_count", no_driver)
    for device, backend in (("cuda", "auto"), ("cuda:1", "onnxruntime"), ("auto", "tensorrt")):
        with pytest.raises(BackendError, match="there is no NVIDIA driver"):
            rsicrc.load(model_folder, device, backend=backend)
    with caplog.at_level(logging.INFO, "rsicrc"):
        assert rsicrc.load(model_folder).backend.device == "cpu"
    (line,) = caplog.messages
    assert "fp32, openvino on cpu with" in line


def test_gpu_that_cannot_be_opened_is_skipped(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only `auto` skips the GPU, and the log gives the reason; a requested GPU is an error."""
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "_runtime", lambda: fake)
    reason = "TensorRT is not installed; or it is"
    monkeypatch.setattr(library, "open_library", lambda: (_ for _ in ()).throw(BackendError(reason)))
    with caplog.at_level(logging.INFO, "rsicrc"):
        assert rsicrc.load(model_folder).backend.device == "cpu"
    warning, chosen = caplog.messages
    assert warning.startswith(
        f"no GPU is used: no backend for cuda: tensorrt: {reason}; onnxruntime: the onnxruntime th"
    )
    assert "openvino on cpu" in chosen
    with pytest.raises(BackendError, match=r"^no backend for cuda:0: tensorrt: .*; onnxruntime: .*`pip install"):
        rsicrc.load(model_folder, "cuda:0")
    with pytest.raises(BackendError, match=reason):
        rsicrc.load(model_folder, backend="tensorrt")
    with pytest.raises(BackendError, match="openvino runs on the CPU only: on a GPU there is tensorrt, onnx"):
        rsicrc.load(model_folder, "cuda", backend="openvino")
    with pytest.raises(BackendError, match=r"no graphs in int8-fp16, .* --precision int8 --precision fp16 --calib"):
        rsicrc.load(model_folder, "cuda", precision="int8")
    with pytest.raises(ArgumentError, match="streams is a setting of OpenVINO"):
        rsicrc.load(model_folder, "cuda", streams=2)


def test_gpu_that_fails_at_its_first_run_is_skipped(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "_runtime", lambda: fake)
    manifest = Manifest.load(model_folder)
    opened = rsicrc.load(model_folder, "cpu", threads=1).backend

    def fail(*_args: object) -> None:
        raise BackendError("the work on the GPU failed: no kernel image")

    monkeypatch.setattr(opened, "run", fail)
    monkeypatch.setattr(selection, "_open_on_cuda", lambda *_args: (opened, manifest))
    with caplog.at_level(logging.INFO, "rsicrc"):
        assert rsicrc.load(model_folder).backend is not opened
    assert caplog.messages[0] == "no GPU is used: the work on the GPU failed: no kernel image"


def test_missing_runtimes_are_named(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"pip install 'rsicrc\[cpu\]'") as caught:
        rsicrc.load(model_folder)
    assert isinstance(caught.value, RuntimeError)


def test_thread_count_is_the_requested_or_the_available(model_folder: Path) -> None:
    assert rsicrc.load(model_folder).backend.threads == available_cpus()
    assert rsicrc.load(model_folder, threads=3).backend.threads == 3
    with pytest.raises(ArgumentError, match="threads must be at least 1, not 0"):
        rsicrc.load(model_folder, threads=0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_threads_follow_the_affinity() -> None:
    code = """
import os
from rsicrc.cpu import available_cpus
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
print(available_cpus())
"""
    assert python(code) == "1"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_cgroup_quotas_are_read(files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cgroup_quota(tmp_path) == quota


def test_graph_with_wrong_inputs_is_a_backend_error(model_folder: Path) -> None:
    backend = rsicrc.load(model_folder, backend="onnxruntime", threads=1).backend
    with pytest.raises(BackendError, match="graph 'text_encoder' failed in ONNX Runtime"):
        backend.run("text_encoder", {"input_ids": np.zeros((1, 3), np.float32)})
