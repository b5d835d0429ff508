"""The backend `openvino` on a CPU."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends.compiled_file import CompiledFile
from rsicrc.backends.fork_guard import ForkGuard
from rsicrc.backends.host_loop import CACHES, NEXT, ROWS, HostBackend, HostLoop, HostStateLease, shape_of
from rsicrc.backends.lazy import LazyGraphs
from rsicrc.backends.openvino_runtime import CORE, openvino
from rsicrc.backends.protocol import Array
from rsicrc.cpu import has_bf16
from rsicrc.errors import BackendError, ModelFolderError
from rsicrc.files import compiled_folder
from rsicrc.manifest import DECODER, EXACT, IMAGE_ENCODER, INT8, PER_IMAGE, GraphSpec, Manifest, sha256_file
from rsicrc.tuning import PAIRS_PER_RUN

logger = logging.getLogger("rsicrc")

_FORK_GUARD = ForkGuard("OpenVINO", CORE)
_GRAPH_CHANGES = 1  # to be increased when this module changes graphs in another way before they are compiled
_IMAGE_GRAPHS = (IMAGE_ENCODER, *PER_IMAGE)
# For each new shape of its inputs a graph makes kernels, which OpenVINO keeps: by default 5000 of each kind, so memory
# grows by hundreds of megabytes while the sizes of batches vary. The runs of one batch use fewer than 64.
_KEPT_KERNELS = 64
_BLOCKWISE = 3  # number of axes of int8 weights with block-wise scales: outputs, blocks, weights of a block


class OpenVinoBackend(HostBackend):
    """The graphs of a model folder as OpenVINO models; values are numpy arrays and OpenVINO tensors.

    Compiled graphs are stored in the user's cache, so that only the first start compiles them.

    Args:
        folder: The model folder.
        manifest: The manifest, at the requested precision.
        threads: Number of threads for one graph; None for as many as this process may use.
        streams: Number of parts of a batch that the image encoder works on at once, sharing the threads.
    """

    name = "openvino"

    def __init__(self, folder: Path, manifest: Manifest, threads: int | None, streams: int | None) -> None:
        super().__init__(folder, manifest, threads)
        self._streams = min(streams or 1, self.threads)
        self._models = LazyGraphs(self._open)

    def run(self, graph: str, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run a graph; see `rsicrc.backends.Backend`.

        Raises:
            BackendError: OpenVINO refused the inputs or failed, or this process was forked after OpenVINO was used.
            ModelFolderError: The graph's file cannot be opened.
        """
        _FORK_GUARD.check()
        model = self._models[graph]
        names = list(outputs) if outputs is not None else list(self._manifest.graphs[graph].outputs)
        try:
            if graph in _IMAGE_GRAPHS:
                results = self._run_in_parts(model, self._manifest.graphs[graph], feeds)
                return {name: results[name] for name in names}
            request = model.create_infer_request()  # owns its outputs, so they stay valid while they are referenced
            for name, feed in feeds.items():
                request.set_tensor(name, _tensor(feed))
            request.infer()
            return {name: request.get_tensor(name) for name in names}
        except RuntimeError as error:  # the only exception that OpenVINO raises
            raise BackendError(f"graph {graph!r} failed in OpenVINO: {_first_line(error)}") from error

    def loop(
        self, graph: str, axes: Mapping[str, int], first: Mapping[str, Array], fixed: Mapping[str, Any]
    ) -> OpenVinoLoop:
        """Begin a loop; see `rsicrc.backends.Backend`."""
        _FORK_GUARD.check()
        spec = self._manifest.graphs[graph]
        return OpenVinoLoop(self._models[graph], spec, self._states.lease(graph, spec, axes, first), fixed)

    def close(self) -> None:
        """Release the graphs and the buffers; see `rsicrc.backends.Backend`."""
        super().close()
        self._models.close()

    def numpy(self, value: Any) -> Array:
        """Return a value as a numpy array."""
        return value if isinstance(value, np.ndarray) else value.data

    def _run_in_parts(self, model: Any, spec: GraphSpec, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Run a graph over images on a few pairs at a time; all parts write into the same arrays."""
        ((name_in, feed),) = feeds.items()
        images = self.numpy(feed)
        rows = len(images)
        results = {name: np.empty(shape_of(out, {ROWS: rows}), out.dtype) for name, out in spec.outputs.items()}
        parts = np.array_split(np.arange(rows), -(-rows // PAIRS_PER_RUN))
        requests = [model.create_infer_request() for _ in range(min(self._streams, len(parts)))]
        for number, part in enumerate(parts):
            where = slice(part[0], part[-1] + 1)
            request = requests[number % len(requests)]
            if number >= len(requests):
                request.wait()
            request.set_tensor(name_in, _tensor(images[where]))
            for name, result in results.items():
                request.set_tensor(name, _tensor(result[where]))
            request.start_async()
        for request in requests:
            request.wait()
        return results

    def _open(self, graph: str) -> Any:
        _FORK_GUARD.begin_use()
        file = self._manifest.graphs[graph].file
        path = self._folder / file
        has_int8_weights = self._manifest.precision == INT8 and graph not in _IMAGE_GRAPHS
        exact = self._manifest.precision == EXACT
        config: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": self._streams if graph in _IMAGE_GRAPHS else 1,
            # By default OpenVINO computes in bf16 wherever the CPU can; next to products of int8 weights bf16 is not
            # faster than float32.
            "INFERENCE_PRECISION_HINT": "f32" if exact or has_int8_weights or not has_bf16() else "bf16",
        }
        if graph != IMAGE_ENCODER:  # its inputs have at most PAIRS_PER_RUN shapes, and its layers many kinds of kernels
            config["CPU_RUNTIME_CACHE_CAPACITY"] = _KEPT_KERNELS
        try:
            # The home folder may be shared by machines with different processors. The name of the graph and the version
            # of rsicrc stand for the changes that are made to the graph before it is compiled.
            settings = [config, graph, _GRAPH_CHANGES, CORE.get_property("CPU", "FULL_DEVICE_NAME")]
            compiled = CompiledFile(
                compiled_folder(self._manifest.files[file].sha256, "openvino", openvino.__version__, "CPU", settings)
            )
            return _restore(compiled) or self._compile(path, graph, config, compiled)
        except RuntimeError as error:
            raise ModelFolderError(f"{path}: OpenVINO cannot open this graph: {_first_line(error)}") from error

    def _compile(self, path: Path, graph: str, config: Mapping[str, Any], compiled: CompiledFile) -> Any:
        """Compile a graph, and store the result for later starts."""
        settings = dict(config)
        model = CORE.read_model(path)
        if graph == DECODER:
            _emit_new_kv(model)
        if block := _weight_block(model):
            # Activations are quantized to int8 with one scale for each block of weights.
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = block
        result = CORE.compile_model(model, "CPU", settings)
        # The result is stored under the hash in the manifest, so the file must not have changed since it was hashed.
        if sha256_file(path) != self._manifest.files[path.name].sha256:
            raise ModelFolderError(f"{path}: changed since the model was loaded: load it again")
        compiled.write(result.export_model().getbuffer(), settings)
        return result


class OpenVinoLoop(HostLoop):
    """Two infer requests, each of which reads the arrays that the other one writes; see `rsicrc.backends.Loop`.

    The graph only reads the caches. To write the keys and values of a step into a cache, OpenVINO would copy the whole
    cache, and copy it again to return it. So the graph returns the new keys and values (`_emit_new_kv`), and this class
    writes them into the caches.

    Args:
        model: The compiled model.
        graph: The graph.
        lease: The state.
        fixed: Constant inputs.
    """

    def __init__(self, model: Any, graph: GraphSpec, lease: HostStateLease, fixed: Mapping[str, Any]) -> None:
        self._requests = [model.create_infer_request() for _ in range(2)]
        super().__init__(graph, lease, fixed)

    def _value(self, value: Any) -> Any:
        return _tensor(value)

    def _rows(self, value: Any, rows: NDArray[np.int64]) -> Any:
        return _tensor(value.data[rows])

    def step(self, position: int) -> None:
        """Run the graph once; see `rsicrc.backends.Loop`."""
        _FORK_GUARD.check()
        super().step(position)
        for name, new_kv in self._new_kv.items():
            beams = new_kv.shape[2]
            self._state.now[name][:, :, position * beams : (position + 1) * beams] = new_kv

    def _bind(self) -> None:
        beams = self._state.axes["K"]
        self._new_kv = {
            name: np.empty((*cache.shape[:2], beams, cache.shape[3]), cache.dtype)
            for name, cache in self._state.now.items()
            if name.startswith(CACHES)
        }
        super()._bind()

    def _binding(self, number: int, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
        request = self._requests[number]
        new_kv = {NEXT + name: value for name, value in self._new_kv.items()}
        for name, value in {**inputs, **outputs, **new_kv}.items():
            request.set_tensor(name, _tensor(value))
        return request

    def _run(self, binding: Any) -> None:
        try:
            binding.infer()
        except RuntimeError as error:
            raise BackendError(f"a step failed in OpenVINO: {_first_line(error)}") from error


def _restore(compiled: CompiledFile) -> Any:
    """Return the compiled model of an earlier start; None if there is none, or OpenVINO cannot read it."""
    found = compiled.read(lambda size: openvino.Tensor(openvino.Type.u8, [size]))
    if found is None:
        return None
    content, config = found
    try:
        return CORE.import_model(content, "CPU", config)
    except RuntimeError as error:
        logger.debug("a compiled graph cannot be read: %s", _first_line(error))
        compiled.delete()
        return None


def _emit_new_kv(model: Any) -> None:
    """Change the outputs of a decoder graph: the new keys and values of a step instead of the updated caches."""
    for result in model.get_results():
        cache = result.input_value(0)
        writer = cache.get_node()
        if writer.get_type_name() == "ScatterNDUpdate":
            new_kv, names = writer.input_value(2), cache.get_names()
            cache.set_names(set())
            new_kv.add_names(names)
            result.input(0).replace_source_output(new_kv)


def _weight_block(model: Any) -> int | None:
    """Return the size of the smallest block of int8 weights in a graph's `MatMulNBits`; None if there are none."""
    weights = [node for node in model.get_ops() if node.get_type_name() == "Constant" and len(node.shape) == _BLOCKWISE]
    return min((node.shape[2] for node in weights if node.get_element_type() == openvino.Type.u8), default=None)


def _tensor(value: Any) -> Any:
    """Wrap an array as a tensor, without copying if the array is writable; return a tensor unchanged."""
    if not isinstance(value, np.ndarray):
        return value
    return openvino.Tensor(np.asarray(value, order="C"), shared_memory=value.flags.writeable)


def _first_line(error: Exception) -> str:
    """Return the line with the reason in an OpenVINO error; the lines before it name source files of OpenVINO."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next(
        (line for line in lines if not line.startswith(("Exception from", "Check "))), lines[0] if lines else ""
    )
