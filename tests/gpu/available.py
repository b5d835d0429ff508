"""Available backends of the engine on a device, and the precisions of a model folder there."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path

from common import gpu

from rsicrc.manifest import EXACT, INT8, ON_GPU, Manifest

ONNX_RUNTIME, ONNX_RUNTIME_TENSORRT, TENSORRT, OPENVINO = "onnxruntime", "onnxruntime-tensorrt", "tensorrt", "openvino"
BACKENDS = (ONNX_RUNTIME, ONNX_RUNTIME_TENSORRT, TENSORRT)
_NVINFER = "libnvinfer.so.10"  # ONNX Runtime's TensorRT provider is linked with this version
_NOT_RTX = (9, 10)  # major compute capabilities of data-center GPUs


def backends(device: str) -> dict[str, str]:
    """Return, for each backend, the reason why it cannot run on a device; empty if it can."""
    if not gpu.is_gpu(device):
        return {name: "" if find_spec(name) else f"{name} is not installed" for name in (ONNX_RUNTIME, OPENVINO)}
    if absent := gpu.problem(device):
        return dict.fromkeys(BACKENDS, absent)
    reasons = (_onnxruntime(), _onnxruntime_tensorrt(), _tensorrt(gpu.describe(device).capability))
    return dict(zip(BACKENDS, reasons, strict=True))


def precisions(folder: Path, device: str) -> tuple[str, ...]:
    """Return the precisions that a model folder has graphs for, by their names on a device."""
    exported = Manifest.load(folder, verify=False).precisions
    names = ON_GPU if gpu.is_gpu(device) else {EXACT: EXACT, INT8: INT8}
    return tuple(name for name, variant in names.items() if variant in exported)


def _onnxruntime() -> str:
    if find_spec("onnxruntime") is None:
        return "onnxruntime-gpu is not installed"
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "the installed onnxruntime is without CUDA: replace it by onnxruntime-gpu"
    return _bindings()


def _onnxruntime_tensorrt() -> str:
    if reason := _onnxruntime():
        return reason
    import onnxruntime

    # The list of providers has TensorRT even where the provider's library is not included.
    if not list(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime_providers_tensorrt*")):
        return "the installed onnxruntime is without TensorRT"
    try:
        ctypes.CDLL(_NVINFER)
    except OSError:
        spec = find_spec("tensorrt_libs")
        folders = spec.submodule_search_locations if spec else None
        if not any((Path(folder) / _NVINFER).is_file() for folder in folders or ()):
            return f"{_NVINFER} is missing: onnxruntime needs TensorRT 10"
    return ""


def _tensorrt(capability: tuple[int, int]) -> str:
    names = [name for name in ("tensorrt", "tensorrt_rtx") if find_spec(name)]
    if not names:
        return "neither tensorrt nor tensorrt_rtx is installed"
    if reason := _bindings():
        return reason
    if names == ["tensorrt_rtx"] and capability[0] in _NOT_RTX:
        return f"tensorrt_rtx does not support compute capability {capability[0]}.{capability[1]}: tensorrt does"
    return ""


def _bindings() -> str:
    return "" if find_spec("cuda") and find_spec("cuda.bindings") else "cuda-bindings is not installed"
