"""The choice of a backend: what is installed, what the machine can do, and what the model folder holds."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rsicrc.backends import Backend
from rsicrc.backends.cuda import device_count, device_number
from rsicrc.cpu import has_bf16
from rsicrc.errors import ArgumentError, BackendError, RsicrcError
from rsicrc.manifest import BF16, EXACT, FP16, INT8, ON_GPU, TEXT_ENCODER, Manifest
from rsicrc.text.vocabulary import END, START

logger = logging.getLogger("rsicrc")

AUTO, CPU, CUDA = "auto", "cpu", "cuda"
ONNX_RUNTIME, OPENVINO = "onnxruntime", "openvino"
TENSORRT, ONNX_RUNTIME_TENSORRT = "tensorrt", "onnxruntime-tensorrt"
ON_CPU = (ONNX_RUNTIME, OPENVINO)
ON_CUDA = (TENSORRT, ONNX_RUNTIME, ONNX_RUNTIME_TENSORRT)
BACKENDS = (ONNX_RUNTIME, OPENVINO, TENSORRT, ONNX_RUNTIME_TENSORRT)
PRECISIONS = (EXACT, FP16, BF16, INT8)

# What "auto" tries, best first.
_PREFERENCE = {
    EXACT: (OPENVINO, ONNX_RUNTIME),
    FP16: (ONNX_RUNTIME,),
    BF16: (OPENVINO,),
    INT8: (OPENVINO, ONNX_RUNTIME),
}
_CUDA_PREFERENCE = (TENSORRT, ONNX_RUNTIME)
_NEEDS = {ONNX_RUNTIME: ("ONNX Runtime", "cpu"), OPENVINO: ("OpenVINO", "openvino")}


@dataclass(frozen=True)
class LoadOptions:
    """What a caller asks for; see `rsicrc.load`."""

    device: str = AUTO
    backend: str = AUTO
    precision: str = EXACT
    threads: int | None = None
    streams: int | None = None


def at_precision(folder: Path, manifest: Manifest, precision: str, device: str = CPU) -> Manifest:
    """Return a folder's manifest with the graphs that a precision is computed from.

    Args:
        folder: the model folder.
        manifest: its manifest.
        precision: one of `PRECISIONS`.
        device: "cpu", or "cuda" and perhaps a number.

    Raises:
        BackendError: there is no such precision, or the folder has no graphs for it.
    """
    if precision not in PRECISIONS:
        raise BackendError(f"no precision {precision!r}: there is {', '.join(PRECISIONS)}")
    if precision == BF16 and device == CPU:
        # OpenVINO rounds to bfloat16 by itself, so these are the exact graphs.
        return replace(manifest, precision=BF16)
    variant = precision if device == CPU else ON_GPU[precision]
    if variant not in manifest.precisions:
        needs = "".join(f" --precision {each}" for each in variant.split("-"))
        needs += " --calibration DATA" if precision == INT8 else ""
        raise BackendError(
            f"{folder}: no graphs in {variant}, only in {', '.join(manifest.precisions)}: "
            f"export it again with `rsicrc-export CKPT -o {folder} --force{needs}`"
        )
    return manifest.at(variant)


def open_backend(folder: Path, manifest: Manifest, wanted: LoadOptions) -> tuple[Backend, Manifest]:
    """Choose and open a backend.

    Where the caller leaves the device open, a GPU that does not work is left out, and the log says why.

    Args:
        folder: the model folder.
        manifest: its manifest.
        wanted: what is asked for.

    Returns:
        The backend, and the manifest with the graphs that it runs.

    Raises:
        BackendError: there is no such backend or device, it is not installed, or it cannot do this precision here.
        ArgumentError: `streams` is given to a backend without.
    """
    if wanted.backend not in (AUTO, *BACKENDS):
        raise BackendError(f"no backend {wanted.backend!r}: there is {', '.join(BACKENDS)}, and 'auto'")
    if wanted.precision not in PRECISIONS:
        raise BackendError(f"no precision {wanted.precision!r}: there is {', '.join(PRECISIONS)}")
    if wanted.device not in (AUTO, CPU):
        device_number(wanted.device)
        return _open_on_cuda(folder, manifest, wanted)
    if wanted.backend in ON_CUDA and wanted.backend not in ON_CPU:
        if wanted.device == CPU:
            raise BackendError(f"{wanted.backend} is for GPUs: choose another backend, or device='cuda'")
        return _open_on_cuda(folder, manifest, replace(wanted, device=CUDA))
    if wanted.device == AUTO and wanted.backend in (AUTO, *ON_CUDA) and wanted.streams is None:
        try:
            found = _open_on_cuda(folder, manifest, replace(wanted, device=CUDA))
            _try(found[0])
            return found
        except RsicrcError as error:
            logger.log(logging.WARNING if _has_gpu() else logging.DEBUG, "no GPU is used: %s", error)
    return _open_on_cpu(folder, at_precision(folder, manifest, wanted.precision), wanted)


def _open_on_cuda(folder: Path, manifest: Manifest, wanted: LoadOptions) -> tuple[Backend, Manifest]:
    if wanted.backend not in (AUTO, *ON_CUDA):
        raise BackendError(f"{wanted.backend} runs on the CPU alone: on a GPU there is {', '.join(ON_CUDA)}")
    if wanted.streams is not None:
        raise ArgumentError("streams is a setting of OpenVINO: leave it out, or choose that backend")
    device_count()  # before anything else: without a driver the libraries' own messages lead astray
    manifest = at_precision(folder, manifest, wanted.precision, CUDA)
    if wanted.backend != AUTO:
        return _opened_on_cuda(wanted.backend, folder, manifest, wanted), manifest
    problems = []
    for name in _CUDA_PREFERENCE:
        try:
            return _opened_on_cuda(name, folder, manifest, wanted), manifest
        except BackendError as error:
            problems.append(f"{name}: {error}")
    raise BackendError(f"no backend for {wanted.device}: {'; '.join(problems)}")


def _opened_on_cuda(name: str, folder: Path, manifest: Manifest, wanted: LoadOptions) -> Backend:
    if name == TENSORRT:
        from rsicrc.backends.tensorrt.backend import TensorRtBackend
        from rsicrc.backends.tensorrt.library import open_library
        from rsicrc.backends.tensorrt.plans import ensure_plans

        library = open_library()
        return TensorRtBackend(
            folder,
            manifest,
            wanted.device,
            wanted.threads,
            library,
            # Building takes long, so it is said even where nobody listens to the log.
            lambda title: ensure_plans(folder, manifest, library, title, None, logger.warning),
        )
    if importlib.util.find_spec("onnxruntime") is None:
        raise BackendError("ONNX Runtime is not installed: `pip install 'rsicrc[gpu]'`")
    from rsicrc.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend
    from rsicrc.backends.tensorrt.profiles import Profile

    profile = Profile() if name == ONNX_RUNTIME_TENSORRT else None
    return OnnxRuntimeCudaBackend(folder, manifest, wanted.device, wanted.threads, profile)


def _open_on_cpu(folder: Path, manifest: Manifest, wanted: LoadOptions) -> tuple[Backend, Manifest]:
    candidates = _PREFERENCE[wanted.precision] if wanted.backend == AUTO else (wanted.backend,)
    problems = [_problem(name, wanted.precision) for name in candidates]
    if all(problems):
        raise BackendError(str(problems[-1]))  # the last choice needs the least
    chosen = candidates[problems.index(None)]
    if wanted.streams is not None and chosen != OPENVINO:
        raise ArgumentError("streams is a setting of OpenVINO: leave it out, or choose that backend")
    return _opened_on_cpu(chosen, folder, manifest, wanted), manifest


def _problem(backend: str, precision: str) -> str | None:
    """Say why a backend cannot do a precision on this CPU, and what to do; None if it can."""
    if importlib.util.find_spec(backend) is None:
        title, extra = _NEEDS[backend]
        return f"{title} is not installed: `pip install 'rsicrc[{extra}]'`"
    if precision == FP16 and backend == OPENVINO:
        return "OpenVINO does not compute in fp16 on a CPU: choose the backend onnxruntime, or bf16 or int8"
    if precision == BF16 and backend == ONNX_RUNTIME:
        return "ONNX Runtime does not compute in bf16 on a CPU: choose the backend openvino, or fp32 or int8"
    if precision == BF16 and not has_bf16():
        return "this processor has no instructions for bf16 (AVX-512 BF16 or AMX): choose fp32 or int8"
    return None


def _opened_on_cpu(name: str, folder: Path, manifest: Manifest, wanted: LoadOptions) -> Backend:
    if name == ONNX_RUNTIME:
        from rsicrc.backends.onnxruntime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(folder, manifest, wanted.threads)
    from rsicrc.backends.openvino import OpenVinoBackend

    return OpenVinoBackend(folder, manifest, wanted.threads, wanted.streams)


def _try(backend: Backend) -> None:
    """Run the smallest graph: what is installed may still not work together."""
    ids = np.array([[START, END]], np.int64)
    backend.numpy(backend.run(TEXT_ENCODER, {"input_ids": ids})["text_embedding"])


def _has_gpu() -> bool:
    try:
        return device_count() > 0
    except BackendError:
        return False
