"""The choice of a backend: what is installed, what the processor can do, and what the model folder holds."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rsicrc.backends import Backend
from rsicrc.errors import ArgumentError, BackendError
from rsicrc.machine import has_bf16
from rsicrc.manifest import BF16, EXACT, FP16, INT8, Manifest

ONNX_RUNTIME, OPENVINO = "onnxruntime", "openvino"
MIXED = f"{OPENVINO}+{ONNX_RUNTIME}"  # the first has the images, the second the words
BACKENDS = (ONNX_RUNTIME, OPENVINO, MIXED)
DEVICES = ("cpu",)
PRECISIONS = (EXACT, FP16, BF16, INT8)

# What "auto" tries, best first.
_PREFERENCE = {
    EXACT: (ONNX_RUNTIME, OPENVINO),
    FP16: (ONNX_RUNTIME,),
    BF16: (OPENVINO,),
    INT8: (MIXED, ONNX_RUNTIME, OPENVINO),
}
_NEEDS = {ONNX_RUNTIME: ("ONNX Runtime", "cpu"), OPENVINO: ("OpenVINO", "openvino")}


def at_precision(folder: Path, manifest: Manifest, precision: str) -> Manifest:
    """Return a folder's manifest with the graphs that a precision is computed from.

    Raises:
        BackendError: there is no such precision, or the folder has no graphs for it.
    """
    if precision not in PRECISIONS:
        raise BackendError(f"no precision {precision!r}: there is {', '.join(PRECISIONS)}")
    if precision == BF16:
        # OpenVINO rounds to bfloat16 by itself, so these are the exact graphs.
        return replace(manifest, precision=BF16)
    if precision not in manifest.precisions:
        needs = " --calibration DATA" if precision == INT8 else ""
        raise BackendError(
            f"{folder}: no graphs in {precision}, only in {', '.join(manifest.precisions)}: "
            f"export it again with `rsicrc-export CKPT -o {folder} --force --precision {precision}{needs}`"
        )
    return manifest.at(precision)


def open_backend(
    folder: Path, manifest: Manifest, device: str, backend: str, threads: int | None, streams: int | None
) -> Backend:
    """Choose and open a backend.

    Args:
        folder: the model folder.
        manifest: its manifest, from `at_precision`.
        device: "cpu", or "auto" to choose.
        backend: a name of `BACKENDS`, or "auto" to choose.
        threads: threads for one graph; None for as many as this process may use.
        streams: parts of a batch that OpenVINO works on at once; None for one.

    Raises:
        BackendError: there is no such backend or device, it is not installed, or it cannot do this precision here.
        ArgumentError: `streams` is given to a backend without.
    """
    if backend not in ("auto", *BACKENDS):
        raise BackendError(f"no backend {backend!r}: there is {', '.join(BACKENDS)}, and 'auto'")
    if device not in ("auto", *DEVICES):
        raise BackendError(f"no device {device!r}: this version runs on {', '.join(DEVICES)}, and 'auto' chooses")
    candidates = _PREFERENCE[manifest.precision] if backend == "auto" else (backend,)
    problems = [_problem(name, manifest.precision) for name in candidates]
    if all(problems):
        raise BackendError(str(problems[0]))
    chosen = candidates[problems.index(None)]
    if streams is not None and OPENVINO not in chosen:
        raise ArgumentError("streams is a setting of OpenVINO: leave it out, or choose that backend")
    return _open(chosen, folder, manifest, threads, streams)


def _problem(backend: str, precision: str) -> str | None:
    """Say why a backend cannot do a precision here, and what to do; None if it can."""
    parts: Sequence[str] = backend.split("+")
    for name in parts:
        if importlib.util.find_spec(name) is None:
            title, extra = _NEEDS[name]
            return f"{title} is not installed: `pip install 'rsicrc[{extra}]'`"
    if precision == FP16 and OPENVINO in parts:
        return "OpenVINO does not compute in fp16 on a CPU: choose the backend onnxruntime, or bf16 or int8"
    if precision == BF16 and ONNX_RUNTIME in parts:
        return "ONNX Runtime does not compute in bf16 on a CPU: choose the backend openvino, or fp32 or int8"
    if precision == BF16 and not has_bf16():
        return "this processor has no instructions for bf16 (AVX-512 BF16 or AMX): choose fp32 or int8"
    return None


def _open(name: str, folder: Path, manifest: Manifest, threads: int | None, streams: int | None) -> Backend:
    if name == ONNX_RUNTIME:
        from rsicrc.backends.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(folder, manifest, threads)
    from rsicrc.backends.openvino import OpenVinoBackend

    openvino = OpenVinoBackend(folder, manifest, threads, streams)
    if name == OPENVINO:
        return openvino
    from rsicrc.backends.mixed import MixedBackend
    from rsicrc.backends.onnxruntime import OnnxRuntimeBackend

    return MixedBackend(openvino, OnnxRuntimeBackend(folder, manifest, threads, spinning=False))
