"""ONNX Runtime on a GPU, by its CUDA or its TensorRT provider: the same graphs, bound to memory of the device."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rsicrc.backends.cuda import Stream
from rsicrc.backends.device import DeviceBackend, Tensors
from rsicrc.backends.onnxruntime import ERRORS_ONLY
from rsicrc.backends.tensorrt.profiles import Profile, Shapes
from rsicrc.errors import BackendError, DeviceMemoryError, ModelFolderError
from rsicrc.files import cache_folder
from rsicrc.manifest import DECODER, EXACT, Manifest

logger = logging.getLogger("rsicrc")

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
_BFLOAT16 = 16  # of ONNX's types; numpy has none
_NO_RECORDING = -1
_NO_MEMORY = ("out of memory", "failed to allocate memory", "cuda failure 2:")
_ANY_NUMBER = 1 << 62
_recordings = itertools.count(1)  # the provider keeps recordings by number


class OnnxRuntimeCudaBackend(DeviceBackend):
    """The graphs of a model folder as ONNX Runtime sessions on a GPU; see `rsicrc.backends.device.DeviceBackend`.

    Args:
        folder: the model folder.
        manifest: its manifest, at the precision that is wanted.
        device: "cuda" or "cuda:N".
        threads: threads that images are read with; None for as many as this process may use.
        profile: sizes that the TensorRT provider's engines are built for; None for the CUDA provider.

    Raises:
        BackendError: no driver, no such GPU, or an ONNX Runtime without the provider; says what to do.
    """

    # A run returns when it is done, and only the provider itself can record it.
    _is_asynchronous = False
    _place = "cuda"

    def __init__(
        self, folder: Path, manifest: Manifest, device: str, threads: int | None, profile: Profile | None = None
    ) -> None:
        super().__init__(folder, manifest, device, threads)
        self.name = "onnxruntime" if profile is None else "onnxruntime-tensorrt"
        # As on a CPU, the ScatterND of a step finds its input and output to be one memory. TensorRT promises no such.
        self._in_place = profile is None
        self._profile = profile
        self._provider = CUDA if profile is None else TENSORRT
        self._require_provider()

    def _require_provider(self) -> None:
        import onnxruntime

        if self._provider not in onnxruntime.get_available_providers():
            raise BackendError(
                f"the onnxruntime that is installed has no {self._provider}: `pip uninstall -y onnxruntime "
                "onnxruntime-gpu`, then `pip install 'rsicrc[gpu]'` (both packages write the same files)"
            )
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # CUDA and cuDNN of NVIDIA's wheels, where these are installed

    def _open(self, graph: str) -> _Graph:
        spec = self._manifest.graphs[graph]
        limits = {} if self._profile is None else self._profile.shapes(graph, spec, self._manifest.max_len)
        rows = (1, _ANY_NUMBER) if self._profile is None else (self._profile.pairs[0], self._profile.pairs[2])
        records = graph == DECODER
        try:
            session = self._session(graph, limits, records)
        except ModelFolderError as error:
            if not records:
                raise
            logger.warning("%s: not recorded as a CUDA graph: %s", spec.file, error)
            session, records = self._session(graph, limits, False), False
        return _Graph(graph, session, self._place, self._device.number, rows, limits, records)

    def _session(self, graph: str, limits: Mapping[str, Shapes], records: bool) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        path = self._folder / self._manifest.graphs[graph].file
        providers = self._providers(limits, records)
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise _failure(f"{path}: ONNX Runtime cannot open this graph on {self.device}", error) from error
        first = session.get_providers()[0]
        if first != providers[0][0]:
            raise BackendError(
                f"ONNX Runtime took {first} instead of {providers[0][0]}, for a library is missing (CUDA, cuDNN"
                + (", or libnvinfer of TensorRT 10" if self._profile else "")
                + "): `rsicrc-run doctor` names what is here"
            )
        return session

    def _providers(self, limits: Mapping[str, Shapes], records: bool) -> list[tuple[str, dict[str, str]]]:
        """Providers, best first, with their settings."""
        shared = {"device_id": str(self._device.number), "user_compute_stream": str(self.stream)}
        # float32 means float32, and not TF32's ten bits.
        tf32 = str(int(self._manifest.precision != EXACT))
        cuda = {**shared, "use_tf32": tf32, "enable_cuda_graph": str(int(records and self._profile is None))}
        if self._profile is None:
            return [(CUDA, cuda)]
        import onnxruntime

        cache = cache_folder(self._folder, f"onnxruntime-tensorrt-{onnxruntime.__version__}")
        tensorrt = {
            **shared,
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(cache),
            "trt_cuda_graph_enable": str(int(records)),
            # Kernels of these types are allowed; which tensors have them is the graph's matter.
            "trt_fp16_enable": str(int("fp16" in self._manifest.precision)),
            "trt_bf16_enable": str(int("bf16" in self._manifest.precision)),
            "trt_int8_enable": str(int("int8" in self._manifest.precision)),
        }
        for number, which in enumerate(("min", "opt", "max")):
            shapes = (f"{name}:{'x'.join(map(str, sizes[number]))}" for name, sizes in limits.items())
            tensorrt[f"trt_profile_{which}_shapes"] = ",".join(shapes)
        return [(TENSORRT, tensorrt), (CUDA, cuda)]


class _Graph:
    """A session; see `rsicrc.backends.device.OpenedGraph`."""

    def __init__(
        self,
        name: str,
        session: Any,
        place: str,
        device: int,
        rows: tuple[int, int],
        limits: Mapping[str, Shapes],
        records: bool,
    ) -> None:
        self.name, self.session, self.place, self.device = name, session, place, device
        self.rows, self.limits, self.records = rows, limits, records

    def program(self, stream: Stream, *, records: bool) -> _Program:
        """Make a program; its runs are recorded by the provider where that can and `records` says so."""
        return _Program(self, records)


class _Program:
    """Runs of a session; see `rsicrc.backends.device.Program`."""

    def __init__(self, graph: _Graph, records: bool) -> None:
        import onnxruntime

        self._graph = graph
        self._options = onnxruntime.RunOptions()
        if graph.records:
            number = next(_recordings) if records else _NO_RECORDING
            self._options.add_run_config_entry("gpu_graph_id", str(number))

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        """Bind addresses; see `rsicrc.backends.device.Program`."""
        graph = self._graph
        for name, (least, _, most) in graph.limits.items():
            shape = inputs[name].shape
            if not all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)):
                raise BackendError(
                    f"the profile of {graph.name} takes {name} from {list(least)} to {list(most)}, not {list(shape)}: "
                    "lower batch size or beams"
                )
        binding = graph.session.io_binding()
        for bind, tensors in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, tensor in tensors.items():
                kind = _BFLOAT16 if tensor.dtype == "bfloat16" else np.dtype(tensor.dtype).type
                bind(name, graph.place, graph.device, kind, list(tensor.shape), tensor.address)

        def run() -> None:
            try:
                graph.session.run_with_iobinding(binding, self._options)
            except Exception as error:  # as above
                raise _failure(f"graph {graph.name!r} failed in ONNX Runtime", error) from error

        return run

    def is_recordable(self) -> bool:
        """No: the provider records by itself."""
        return False


def _failure(what: str, error: Exception) -> BackendError | ModelFolderError:
    text = str(error)
    if any(sign in text.lower() for sign in _NO_MEMORY):
        return DeviceMemoryError(f"{what}: out of memory: lower the batch size or the number of beams")
    return (ModelFolderError if "cannot open" in what else BackendError)(f"{what}: {text}")
