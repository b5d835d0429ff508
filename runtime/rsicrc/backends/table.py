"""The table of backends. A new backend needs one more descriptor in `BACKENDS`."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rsicrc.backends.protocol import Backend
from rsicrc.cpu import has_bf16
from rsicrc.manifest import BF16, EXACT, FP16, INT8, Manifest

logger = logging.getLogger("rsicrc")

CPU, CUDA = "cpu", "cuda"
PRECISIONS = (EXACT, FP16, BF16, INT8)


@dataclass(frozen=True)
class OpenOptions:
    """Arguments for opening a backend.

    Attributes:
        folder: The model folder.
        manifest: The manifest, at the requested precision.
        device: "cpu", "cuda" or "cuda:N".
        threads: Number of threads; None for as many as this process may use.
        streams: Number of parts of a batch that are worked on at once; None for the default.
        engines: Folder of TensorRT plans; None for the user's cache.
    """

    folder: Path
    manifest: Manifest
    device: str
    threads: int | None = None
    streams: int | None = None
    engines: Path | None = None


@dataclass(frozen=True)
class BackendDescriptor:
    """A backend on one kind of device.

    Attributes:
        name: Name as given to `rsicrc.load`.
        title: Name of the library, for messages.
        device: Kind of device: "cpu" or "cuda".
        module: Module that must be installed; None if `open` finds out by itself.
        extra: Extra of the package `rsicrc` that installs the module.
        precisions: Precisions that the backend computes in.
        open: Function that imports the library and opens the backend.
        preference: Position among the backends that `auto` tries on this kind of device; None if the backend is only
            opened on request.
        has_streams: The backend has the setting `streams`.
        has_engines: The backend has the setting `engines`.
    """

    name: str
    title: str
    device: str
    module: str | None
    extra: str
    precisions: tuple[str, ...]
    open: Callable[[OpenOptions], Backend]
    preference: int | None = None
    has_streams: bool = False
    has_engines: bool = False

    def refuses(self, precision: str) -> str | None:
        """Return the reason why the backend cannot compute in a precision on this machine, and a remedy.

        None means that the backend can compute in the precision.
        """
        if self.module is not None and importlib.util.find_spec(self.module) is None:
            return f"{self.title} is not installed: `pip install 'rsicrc[{self.extra}]'`"
        if precision not in self.precisions:
            others = [each.name for each in on_device(self.device) if precision in each.precisions]
            remedies = [f"the backend {' or '.join(others)}"] if others else []
            remedies.append(" or ".join(each for each in self.precisions if each != precision))
            kind = "a CPU" if self.device == CPU else "a GPU"
            return f"{self.title} does not compute in {precision} on {kind}: choose {', or '.join(remedies)}"
        if precision == BF16 and self.device == CPU and not has_bf16():
            return "this processor has no instructions for bf16 (AVX-512 BF16 or AMX): choose fp32 or int8"
        return None


def on_device(device: str) -> list[BackendDescriptor]:
    """Return the backends on a kind of device, "cpu" or "cuda"."""
    return [each for each in BACKENDS if each.device == device]


def _open_onnxruntime(options: OpenOptions) -> Backend:
    from rsicrc.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(options.folder, options.manifest, options.threads)


def _open_openvino(options: OpenOptions) -> Backend:
    from rsicrc.backends.openvino import OpenVinoBackend

    return OpenVinoBackend(options.folder, options.manifest, options.threads, options.streams)


def _open_tensorrt(options: OpenOptions) -> Backend:
    from rsicrc.backends.tensorrt.backend import TensorRtBackend
    from rsicrc.backends.tensorrt.library import open_library
    from rsicrc.backends.tensorrt.plan_list import PlanFile
    from rsicrc.backends.tensorrt.plans import PLANNED, ensure_plans, find_plan

    library, folder, manifest, engines = open_library(), options.folder, options.manifest, options.engines

    def plans(device: str) -> dict[str, PlanFile]:
        if engines is not None:
            return {name: find_plan(manifest, name, library, device, engines=engines) for name in PLANNED}
        # Building plans takes long, so it is logged as a warning, which is shown even if logging is not configured.
        return ensure_plans(folder, manifest, library, device, None, logger.warning)

    return TensorRtBackend(folder, manifest, options.device, options.threads, library, plans)


def _open_onnxruntime_cuda(options: OpenOptions) -> Backend:
    from rsicrc.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend

    return OnnxRuntimeCudaBackend(options.folder, options.manifest, options.device, options.threads)


def _open_onnxruntime_tensorrt(options: OpenOptions) -> Backend:
    from rsicrc.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend
    from rsicrc.backends.tensorrt.profiles import Profile

    return OnnxRuntimeCudaBackend(options.folder, options.manifest, options.device, options.threads, Profile())


BACKENDS = (
    BackendDescriptor(
        name="onnxruntime",
        title="ONNX Runtime",
        device=CPU,
        module="onnxruntime",
        extra="cpu",
        precisions=(EXACT, FP16, INT8),
        open=_open_onnxruntime,
        preference=2,
    ),
    BackendDescriptor(
        name="openvino",
        title="OpenVINO",
        device=CPU,
        module="openvino",
        extra="openvino",
        precisions=(EXACT, BF16, INT8),
        open=_open_openvino,
        preference=1,
        has_streams=True,
    ),
    BackendDescriptor(
        name="tensorrt",
        title="TensorRT",
        device=CUDA,
        module=None,  # one of two libraries; `open_library` says which are missing
        extra="tensorrt",
        precisions=PRECISIONS,
        open=_open_tensorrt,
        preference=1,
        has_engines=True,
    ),
    BackendDescriptor(
        name="onnxruntime",
        title="ONNX Runtime",
        device=CUDA,
        module="onnxruntime",
        extra="gpu",
        precisions=PRECISIONS,
        open=_open_onnxruntime_cuda,
        preference=2,
    ),
    BackendDescriptor(
        name="onnxruntime-tensorrt",
        title="ONNX Runtime",
        device=CUDA,
        module="onnxruntime",
        extra="gpu",
        precisions=PRECISIONS,
        open=_open_onnxruntime_tensorrt,
    ),
)
