"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends import Array
from rsicrc.backends.host_loop import CACHES, NEXT, ROWS, HostBackend, HostLoop, HostState, HostStates, shape_of
from rsicrc.backends.lazy import OpenGraphs
from rsicrc.backends.openvino_runtime import openvino
from rsicrc.cpu import available_cpus, has_bf16
from rsicrc.errors import BackendError, ModelFolderError
from rsicrc.files import cache_folder
from rsicrc.manifest import DECODER, EXACT, IMAGE_ENCODER, INT8, GraphSpec, Manifest
from rsicrc.tuning import PAIRS_PER_RUN

# The one core of the process. A core's CPU plugin gives the thread that makes it another stack for signal handlers and
# takes it away at its end. Of several that do not end in the reverse order, or that end in another thread, a stack is
# left set that is no longer there, and the next signal with a handler (a Ctrl-C, the end of a child) kills the process
# (OpenVINO 2026.4.1).
_CORE = openvino.Core()
_BLOCKWISE = 3  # axes of int8 weights with block-wise scales: outputs, blocks, weights


class OpenVinoBackend(HostBackend):
    """The graphs of a model folder as OpenVINO models; values are numpy arrays and OpenVINO tensors.

    Compiled graphs are kept on disk, so that only the first start compiles them.

    Attributes:
        name: "openvino".
        device: "cpu".
        threads: threads that one graph uses, all streams together.

    Args:
        folder: the model folder.
        manifest: its manifest, at the precision that is wanted.
        threads: threads for one graph; None for as many as this process may use.
        streams: parts of a batch that the image encoder works on at once, each on its share of the threads.
    """

    name = "openvino"

    def __init__(self, folder: Path, manifest: Manifest, threads: int | None, streams: int | None) -> None:
        self.threads = threads or available_cpus()
        self._streams = min(streams or 1, self.threads)
        self._folder = folder
        self._manifest = manifest
        self._models = OpenGraphs(self._open)
        self._states = HostStates()

    def run(self, graph: str, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run a graph; see `rsicrc.backends.Backend`.

        Raises:
            BackendError: OpenVINO refused the inputs or failed.
            ModelFolderError: the graph's file cannot be opened.
        """
        model = self._models[graph]
        names = list(outputs) if outputs is not None else list(self._manifest.graphs[graph].outputs)
        try:
            if graph == IMAGE_ENCODER:
                results = self._run_in_parts(model, self._manifest.graphs[graph], self.numpy(feeds["images"]))
                return {name: results[name] for name in names}
            request = model.create_infer_request()  # its own outputs: what it gives stays valid as long as it is held
            for name, feed in feeds.items():
                request.set_tensor(name, _tensor(feed))
            request.infer()
            return {name: request.get_tensor(name) for name in names}
        except RuntimeError as error:  # all that OpenVINO raises
            raise BackendError(f"graph {graph!r} failed in OpenVINO: {_first_line(error)}") from error

    def loop(
        self, graph: str, axes: Mapping[str, int], first: Mapping[str, Array], fixed: Mapping[str, Any]
    ) -> OpenVinoLoop:
        """Begin a loop; see `rsicrc.backends.Backend`."""
        spec = self._manifest.graphs[graph]
        state, give_back = self._states.begin(graph, spec, axes, first)
        return OpenVinoLoop(self._models[graph], spec, state, fixed, give_back)

    def close(self) -> None:
        """Release the graphs and the buffers; see `rsicrc.backends.Backend`."""
        self._models.close()
        self._states = HostStates()

    def numpy(self, value: Any) -> Array:
        """Return a value as a numpy array."""
        return value if isinstance(value, np.ndarray) else value.data

    def _run_in_parts(self, model: Any, spec: GraphSpec, images: Array) -> dict[str, Array]:
        """Run the image encoder on a few pairs at a time; all parts write into one result."""
        rows = len(images)
        results = {name: np.empty(shape_of(out, {ROWS: rows}), out.dtype) for name, out in spec.outputs.items()}
        parts = np.array_split(np.arange(rows), -(-rows // PAIRS_PER_RUN))
        requests = [model.create_infer_request() for _ in range(min(self._streams, len(parts)))]
        for number, part in enumerate(parts):
            where = slice(part[0], part[-1] + 1)
            request = requests[number % len(requests)]
            if number >= len(requests):
                request.wait()
            request.set_tensor("images", _tensor(images[where]))
            for name, result in results.items():
                request.set_tensor(name, _tensor(result[where]))
            request.start_async()
        for request in requests:
            request.wait()
        return results

    def _open(self, graph: str) -> Any:
        file = self._manifest.graphs[graph].file
        path = self._folder / file
        int8_words = self._manifest.precision == INT8 and graph != IMAGE_ENCODER
        exact = self._manifest.precision == EXACT
        config: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": self._streams if graph == IMAGE_ENCODER else 1,
            # Left to itself it takes bf16 wherever the chip can; beside products of int8 weights that is no quicker.
            "INFERENCE_PRECISION_HINT": "f32" if exact or int8_words or not has_bf16() else "bf16",
            # By itself it knows a file by its path, size and time, which another model may have had.
            "CACHE_DIR": str(
                cache_folder(self._folder, f"openvino-{openvino.__version__}-{self._manifest.files[file].sha256[:16]}")
            ),
        }
        try:
            if graph != DECODER and not int8_words:
                return _CORE.compile_model(path, "CPU", config)  # of a kept one, the file is then not read again
            model = _CORE.read_model(path)
            if graph == DECODER:
                _give_words_apart(model)
            if block := _weight_block(model):
                # Products of int8 weights in int8: a row of activations gets a scale for each block of weights.
                config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = block
            return _CORE.compile_model(model, "CPU", config)
        except RuntimeError as error:
            raise ModelFolderError(f"{path}: OpenVINO cannot open this graph: {_first_line(error)}") from error


class OpenVinoLoop(HostLoop):
    """Two infer requests that take turns: what one writes, the other reads; see `rsicrc.backends.Loop`.

    The graph only reads the caches. OpenVINO would copy a whole cache to write a step's words into it, and again to
    give it out, so it gives the words (`_give_words_apart`), and they are written here.
    """

    def __init__(
        self,
        model: Any,
        graph: GraphSpec,
        state: HostState,
        fixed: Mapping[str, Any],
        give_back: Callable[[], None],
    ) -> None:
        self._requests = [model.create_infer_request() for _ in range(2)]
        super().__init__(graph, state, fixed, give_back)

    def _value(self, value: Any) -> Any:
        return _tensor(value)

    def _rows(self, value: Any, rows: NDArray[np.int64]) -> Any:
        return _tensor(value.data[rows])

    def step(self, position: int) -> None:
        """Run the graph once; see `rsicrc.backends.Loop`."""
        super().step(position)
        for name, words in self._words.items():
            beams = words.shape[2]
            self._state.now[name][:, :, position * beams : (position + 1) * beams] = words

    def _bind(self) -> None:
        beams = self._state.axes["K"]
        self._words = {
            name: np.empty((*cache.shape[:2], beams, cache.shape[3]), cache.dtype)
            for name, cache in self._state.now.items()
            if name.startswith(CACHES)
        }
        super()._bind()

    def _bound(self, number: int, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
        request = self._requests[number]
        words = {NEXT + name: value for name, value in self._words.items()}
        for name, value in {**inputs, **outputs, **words}.items():
            request.set_tensor(name, _tensor(value))
        return request

    def _run(self, turn: Any) -> None:
        try:
            turn.infer()
        except RuntimeError as error:
            raise BackendError(f"a step failed in OpenVINO: {_first_line(error)}") from error


def _give_words_apart(model: Any) -> None:
    """Let a graph give what it would write into a cache in place of the cache with it."""
    for result in model.get_results():
        cache = result.input_value(0)
        writer = cache.get_node()
        if writer.get_type_name() == "ScatterNDUpdate":
            words, names = writer.input_value(2), cache.get_names()
            cache.set_names(set())
            words.add_names(names)
            result.input(0).replace_source_output(words)


def _weight_block(model: Any) -> int | None:
    """How many int8 weights of one output share a scale: the least of a graph's `MatMulNBits`, None without any."""
    weights = [node for node in model.get_ops() if node.get_type_name() == "Constant" and len(node.shape) == _BLOCKWISE]
    return min((node.shape[2] for node in weights if node.get_element_type() == openvino.Type.u8), default=None)


def _tensor(value: Any) -> Any:
    """Return an array as a tensor, over the same memory where it may be written; what is one already stays as it is."""
    if not isinstance(value, np.ndarray):
        return value
    return openvino.Tensor(np.asarray(value, order="C"), shared_memory=value.flags.writeable)


def _first_line(error: Exception) -> str:
    """The line of an OpenVINO error that says something: the first ones name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next(
        (line for line in lines if not line.startswith(("Exception from", "Check "))), lines[0] if lines else ""
    )
