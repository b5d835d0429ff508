"""What of the engine can run here: its backends on a device, and the precisions that a model folder has for it."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path

from common import card
from rsicrc.manifest import EXACT, INT8, ON_GPU, Manifest

ONNX_RUNTIME, ONNX_RUNTIME_TENSORRT, TENSORRT, OPENVINO = "onnxruntime", "onnxruntime-tensorrt", "tensorrt", "openvino"
BACKENDS = (ONNX_RUNTIME, ONNX_RUNTIME_TENSORRT, TENSORRT)
_NVINFER = "libnvinfer.so.10"  # what ONNX Runtime's TensorRT provider is linked with
_RTX_LACKS = (9, 10)  # major compute capabilities of data-center GPUs


def backends(device: str) -> dict[str, str]:
    """Say which backends can run on a device.

    Returns:
        Backend → why it cannot; empty if it can.
    """
    if not card.is_card(device):
        return {name: "" if find_spec(name) else f"{name} is not installed" for name in (ONNX_RUNTIME, OPENVINO)}
    absent = card.problem(device)
    checks = {ONNX_RUNTIME: _onnxruntime, ONNX_RUNTIME_TENSORRT: _onnxruntime_tensorrt}
    return {
        name: absent or (checks[name]() if name in checks else _tensorrt(card.describe(device).capability))
        for name in BACKENDS
    }


def precisions(folder: Path, device: str) -> tuple[str, ...]:
    """The precisions that a model folder has graphs for, as a user names them on a device."""
    there = Manifest.load(folder, verify=False).precisions
    names = ON_GPU if card.is_card(device) else {EXACT: EXACT, INT8: INT8}
    return tuple(name for name, variant in names.items() if variant in there)


def _onnxruntime() -> str:
    if find_spec("onnxruntime") is None:
        return "onnxruntime-gpu is not installed"
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "the onnxruntime that is installed is without CUDA: onnxruntime-gpu has it, in its place"
    return _bindings()


def _onnxruntime_tensorrt() -> str:
    if problem := _onnxruntime():
        return problem
    import onnxruntime

    # The list of providers names it even where its library was left out.
    if not list(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime_providers_tensorrt*")):
        return "the onnxruntime that is installed is without TensorRT"
    try:
        ctypes.CDLL(_NVINFER)
    except OSError:
        spec = find_spec("tensorrt_libs")
        places = spec.submodule_search_locations if spec else None
        if not any((Path(place) / _NVINFER).is_file() for place in places or ()):
            return f"{_NVINFER} is missing: onnxruntime needs TensorRT 10"
    return ""


def _tensorrt(capability: tuple[int, int]) -> str:
    names = [name for name in ("tensorrt", "tensorrt_rtx") if find_spec(name)]
    if not names:
        return "neither tensorrt nor tensorrt_rtx is installed"
    if missing := _bindings():
        return missing
    if names == ["tensorrt_rtx"] and capability[0] in _RTX_LACKS:
        return f"tensorrt_rtx does not run on compute capability {capability[0]}.{capability[1]}: tensorrt does"
    return ""


def _bindings() -> str:
    """What holds the memory and the streams, whoever runs the graphs."""
    return "" if find_spec("cuda") and find_spec("cuda.bindings") else "cuda-bindings is not installed"
