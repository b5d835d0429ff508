"""The backends `onnxruntime` and `onnxruntime-tensorrt` on a GPU, with inputs and outputs bound to GPU memory."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rsicrc.backends.compiled_file import delete_unrecorded, record_files
from rsicrc.backends.cuda import Stream
from rsicrc.backends.device import DeviceBackend
from rsicrc.backends.onnxruntime import ERRORS_ONLY
from rsicrc.backends.program import Tensors
from rsicrc.backends.tensorrt.profiles import Profile, Shapes
from rsicrc.errors import BackendError, DeviceMemoryError, ModelFolderError, describe_os_error
from rsicrc.files import compiled_folder
from rsicrc.manifest import DECODER, EXACT, Manifest

logger = logging.getLogger("rsicrc")

CUDA_PROVIDER, TENSORRT_PROVIDER = "CUDAExecutionProvider", "TensorrtExecutionProvider"
_BFLOAT16 = 16  # ONNX's number of the type, which numpy does not have
_NO_CUDA_GRAPH = -1
_NO_MEMORY = ("out of memory", "failed to allocate memory", "cuda failure 2:")
_UNLIMITED = 1 << 62
_graph_ids = itertools.count(1)  # the provider identifies CUDA graphs by number


class OnnxRuntimeCudaBackend(DeviceBackend):
    """The graphs of a model folder as ONNX Runtime sessions on a GPU; see `rsicrc.backends.device.DeviceBackend`.

    Args:
        folder: The model folder.
        manifest: The manifest, at the requested precision.
        device: "cuda" or "cuda:N".
        threads: Number of threads that read images; None for as many as this process may use.
        profile: Sizes that the TensorRT provider builds engines for; None for the CUDA provider.

    Raises:
        BackendError: There is no driver or no such GPU, or ONNX Runtime lacks the provider; the message has a remedy.
    """

    # A run returns when it is done, and only the provider itself can capture a run as a CUDA graph.
    _is_asynchronous = False
    _device_type = "cuda"

    def __init__(
        self, folder: Path, manifest: Manifest, device: str, threads: int | None, profile: Profile | None = None
    ) -> None:
        super().__init__(folder, manifest, device, threads)
        self.name = "onnxruntime" if profile is None else "onnxruntime-tensorrt"
        # As on a CPU, the ScatterND of a step updates a cache in place. TensorRT does not guarantee that this works.
        self._in_place = profile is None
        self._profile = profile
        self._provider = CUDA_PROVIDER if profile is None else TENSORRT_PROVIDER
        self._require_provider()

    def _require_provider(self) -> None:
        import onnxruntime

        if self._provider not in onnxruntime.get_available_providers():
            raise BackendError(
                f"the onnxruntime that is installed has no {self._provider}: `pip uninstall -y onnxruntime "
                "onnxruntime-gpu`, then `pip install 'rsicrc[gpu]'` (both packages write the same files)"
            )
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # CUDA and cuDNN from NVIDIA's wheels, if installed

    def _open(self, graph: str) -> _Graph:
        spec = self._manifest.graphs[graph]
        limits = {} if self._profile is None else self._profile.shapes(graph, spec, self._manifest.max_len)
        rows = (1, _UNLIMITED) if self._profile is None else (self._profile.pairs[0], self._profile.pairs[2])
        captures = graph == DECODER
        try:
            session = self._session(graph, limits, captures)
        except ModelFolderError as error:
            if not captures:
                raise
            logger.warning("%s: not captured as a CUDA graph: %s", spec.file, error)
            session, captures = self._session(graph, limits, False), False
        return _Graph(graph, session, self._device_type, self._device.number, rows, limits, captures)

    def _session(self, graph: str, limits: Mapping[str, Shapes], captures: bool) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        path = self._folder / self._manifest.graphs[graph].file
        cache = self._engine_cache(graph, limits)
        providers = self._providers(limits, captures, cache)
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise _failure(f"{path}: ONNX Runtime cannot open this graph on {self.device}", error) from error
        if cache is not None:
            try:
                record_files(cache)
            except OSError as error:
                logger.info("compiled graphs are not cached: %s", describe_os_error(error))
        first = session.get_providers()[0]
        if first != providers[0][0]:
            raise BackendError(
                f"ONNX Runtime took {first} instead of {providers[0][0]}, because a library is missing (CUDA, cuDNN"
                + (", or libnvinfer of TensorRT 10" if self._profile else "")
                + "): `rsicrc-run doctor` lists the installed libraries"
            )
        return session

    def _engine_cache(self, graph: str, limits: Mapping[str, Shapes]) -> Path | None:
        """Return the folder in the user's cache for the engines of a graph, checked; None if there is none."""
        if self._profile is None:
            return None
        import onnxruntime

        digest = self._manifest.files[self._manifest.graphs[graph].file].sha256
        settings = [self._manifest.precision, limits]
        device = self._device.title
        folder = compiled_folder(digest, "onnxruntime-tensorrt", onnxruntime.__version__, device, settings)
        try:
            if folder is not None:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                delete_unrecorded(folder)
        except OSError as error:
            logger.info("compiled graphs are not cached: %s", describe_os_error(error))
            return None
        return folder

    def _providers(
        self, limits: Mapping[str, Shapes], captures: bool, cache: Path | None
    ) -> list[tuple[str, dict[str, str]]]:
        """Return the providers in order of preference, with their settings."""
        shared = {"device_id": str(self._device.number), "user_compute_stream": str(self.stream)}
        # In fp32, products are computed in float32, and not in TF32 with its 10-bit mantissa.
        tf32 = str(int(self._manifest.precision != EXACT))
        cuda = {**shared, "use_tf32": tf32, "enable_cuda_graph": str(int(captures and self._profile is None))}
        if self._profile is None:
            return [(CUDA_PROVIDER, cuda)]
        caching = {}
        if cache is not None:
            for kind in ("engine", "timing"):
                caching[f"trt_{kind}_cache_enable"] = "1"
                caching[f"trt_{kind}_cache_path"] = str(cache)
        tensorrt = {
            **shared,
            **caching,
            "trt_cuda_graph_enable": str(int(captures)),
            # These settings only permit kernels of a type; the types of the tensors are those of the graph.
            "trt_fp16_enable": str(int("fp16" in self._manifest.precision)),
            "trt_bf16_enable": str(int("bf16" in self._manifest.precision)),
            "trt_int8_enable": str(int("int8" in self._manifest.precision)),
        }
        for number, which in enumerate(("min", "opt", "max")):
            shapes = (f"{name}:{'x'.join(map(str, sizes[number]))}" for name, sizes in limits.items())
            tensorrt[f"trt_profile_{which}_shapes"] = ",".join(shapes)
        return [(TENSORRT_PROVIDER, tensorrt), (CUDA_PROVIDER, cuda)]


class _Graph:
    """A session; see `rsicrc.backends.program.OpenedGraph`."""

    def __init__(
        self,
        name: str,
        session: Any,
        device_type: str,
        device: int,
        rows: tuple[int, int],
        limits: Mapping[str, Shapes],
        captures: bool,
    ) -> None:
        self.name, self.session, self.device_type, self.device = name, session, device_type, device
        self.rows, self.limits, self.captures = rows, limits, captures

    def program(self, stream: Stream, *, capture: bool) -> _Program:
        """Create a program; the provider captures its runs as a CUDA graph if it can and `capture` is True."""
        return _Program(self, capture)


class _Program:
    """Runs of a session; see `rsicrc.backends.program.Program`."""

    def __init__(self, graph: _Graph, capture: bool) -> None:
        import onnxruntime

        self._graph = graph
        self._options = onnxruntime.RunOptions()
        if graph.captures:
            number = next(_graph_ids) if capture else _NO_CUDA_GRAPH
            self._options.add_run_config_entry("gpu_graph_id", str(number))

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        """Bind addresses; see `rsicrc.backends.program.Program`."""
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
                bind(name, graph.device_type, graph.device, kind, list(tensor.shape), tensor.address)

        def run() -> None:
            try:
                graph.session.run_with_iobinding(binding, self._options)
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                raise _failure(f"graph {graph.name!r} failed in ONNX Runtime", error) from error

        return run

    def can_capture(self) -> bool:
        """Return False: the provider captures CUDA graphs by itself."""
        return False


def _failure(action: str, error: Exception) -> BackendError | ModelFolderError:
    text = str(error)
    if any(phrase in text.lower() for phrase in _NO_MEMORY):
        return DeviceMemoryError(f"{action}: out of memory: lower the batch size or the number of beams")
    return (ModelFolderError if "cannot open" in action else BackendError)(f"{action}: {text}")
