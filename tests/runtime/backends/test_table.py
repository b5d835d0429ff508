"""The table of backends: what a descriptor refuses, and how the table decides which backend is opened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rsicrc
from rsicrc import BackendError
from rsicrc.backends import selection, table
from rsicrc.backends.table import BACKENDS, CPU, CUDA, PRECISIONS, BackendDescriptor, on_device
from rsicrc.manifest import BF16, EXACT, FP16, INT8, Manifest

TITLES = [f"{each.name} on {each.device}" for each in BACKENDS]


def descriptor(name: str, device: str) -> BackendDescriptor:
    (found,) = (each for each in on_device(device) if each.name == name)
    return found


@pytest.fixture
def extended(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Add a backend to the table, and return the list of the options that it is opened with."""
    opened: list[Any] = []

    def open_backend(options: Any) -> Any:
        opened.append(options)
        return table._open_onnxruntime(options)

    onnxruntime = descriptor("onnxruntime", CPU)
    added = replace(onnxruntime, name="added", title="Added", precisions=(EXACT,), open=open_backend, preference=0)
    for module in (table, selection):
        monkeypatch.setattr(module, "BACKENDS", (*BACKENDS, added))
    return opened


def test_names_are_unique_on_each_device() -> None:
    assert len(set(TITLES)) == len(TITLES)
    for device in (CPU, CUDA):
        preferences = [each.preference for each in on_device(device) if each.preference is not None]
        assert len(set(preferences)) == len(preferences) > 0


def test_every_precision_has_a_backend_on_every_device() -> None:
    for device in (CPU, CUDA):
        assert {each for backend in on_device(device) for each in backend.precisions} == set(PRECISIONS)


@pytest.mark.parametrize("backend", BACKENDS, ids=TITLES)
def test_missing_module_is_refused_with_the_extra(backend: BackendDescriptor) -> None:
    missing = replace(backend, module="no_such_module")
    assert missing.refuses(EXACT) == (f"{backend.title} is not installed: `pip install 'rsicrc[{backend.extra}]'`")


def test_precision_is_refused_with_an_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = replace(descriptor("openvino", CPU), module=None)
    assert openvino.refuses(FP16) == (
        "OpenVINO does not compute in fp16 on a CPU: choose the backend onnxruntime, or fp32 or bf16 or int8"
    )
    monkeypatch.setattr(table, "has_bf16", lambda: True)
    assert [openvino.refuses(each) for each in (EXACT, BF16, INT8)] == [None, None, None]
    monkeypatch.setattr(table, "has_bf16", lambda: False)
    assert (openvino.refuses(BF16) or "").startswith("this processor has no instructions for bf16")


def test_added_backend_is_preferred_and_opened(extended: list[Any], model_folder: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs rsicrc[cpu]")
    manifest = Manifest.load(model_folder)
    backend, _ = selection.open_backend(model_folder, manifest, CPU, threads=3)
    assert repr(backend) == "OnnxRuntimeBackend(device='cpu', precision='fp32', threads=3)"
    (options,) = extended
    assert (options.device, options.threads, options.streams) == (CPU, 3, None)
    rsicrc.load(model_folder, CPU, backend="added")
    assert len(extended) == 2


def test_added_backend_is_named_in_messages(extended: list[Any], model_folder: Path) -> None:
    with pytest.raises(
        BackendError, match=r"no backend 'other': there is onnxruntime, openvino, .*, added, and 'auto'"
    ):
        rsicrc.load(model_folder, CPU, backend="other")
    with pytest.raises(BackendError, match="added runs on the CPU only: on a GPU there is tensorrt, onnxruntime, "):
        rsicrc.load(model_folder, CUDA, backend="added")
    assert extended == []
