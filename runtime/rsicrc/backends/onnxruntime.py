"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends import Array
from rsicrc.backends.host_loop import HostBackend, HostLoop, HostState, HostStates
from rsicrc.backends.lazy import OpenGraphs
from rsicrc.cpu import available_cpus
from rsicrc.errors import BackendError, ModelFolderError
from rsicrc.manifest import GraphSpec, Manifest

ERRORS_ONLY = 3


class OnnxRuntimeBackend(HostBackend):
    """The graphs of a model folder as ONNX Runtime sessions; values are `OrtValue`s.

    Attributes:
        name: "onnxruntime".
        device: "cpu".
        threads: threads that one graph uses.

    Args:
        folder: the model folder.
        manifest: its manifest, at the precision that is wanted.
        threads: threads for one graph; None for as many as this process may use.
    """

    name = "onnxruntime"

    def __init__(self, folder: Path, manifest: Manifest, threads: int | None) -> None:
        self.threads = threads or available_cpus()
        self._folder = folder
        self._manifest = manifest
        self._sessions = OpenGraphs(self._open)
        self._states = HostStates()

    def run(self, graph: str, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run a graph; see `rsicrc.backends.Backend`.

        Raises:
            BackendError: ONNX Runtime refused the inputs or failed.
            ModelFolderError: the graph's file cannot be opened.
        """
        session = self._sessions[graph]
        names = list(outputs) if outputs is not None else list(self._manifest.graphs[graph].outputs)
        values = {name: _value(feed) for name, feed in feeds.items()}
        try:
            results = session.run_with_ort_values(names, values)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise BackendError(f"graph {graph!r} failed in ONNX Runtime: {error}") from error
        return dict(zip(names, results, strict=True))

    def loop(
        self, graph: str, axes: Mapping[str, int], first: Mapping[str, Array], fixed: Mapping[str, Any]
    ) -> OnnxRuntimeLoop:
        """Begin a loop; see `rsicrc.backends.Backend`."""
        spec = self._manifest.graphs[graph]
        state, give_back = self._states.begin(graph, spec, axes, first)
        return OnnxRuntimeLoop(self._sessions[graph], spec, state, fixed, give_back)

    def close(self) -> None:
        """Release the graphs and the buffers; see `rsicrc.backends.Backend`."""
        self._sessions.close()
        self._states = HostStates()

    def numpy(self, value: Any) -> Array:
        """Return a value as a numpy array."""
        return value if isinstance(value, np.ndarray) else value.numpy()

    def _open(self, graph: str) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        path = self._folder / self._manifest.graphs[graph].file
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # as above
            raise ModelFolderError(f"{path}: ONNX Runtime cannot open this graph: {error}") from error


class OnnxRuntimeLoop(HostLoop):
    """A session over two sets of buffers that take turns; see `rsicrc.backends.Loop`.

    A cache is bound as input and as output at once. The ScatterND that adds a step's words to it finds them to be the
    same memory and leaves out its copy; the attention reads its output, so no node reads a cache before it is written.
    """

    def __init__(
        self,
        session: Any,
        graph: GraphSpec,
        state: HostState,
        fixed: Mapping[str, Any],
        give_back: Callable[[], None],
    ) -> None:
        self._session = session
        super().__init__(graph, state, fixed, give_back)

    def _value(self, value: Any) -> Any:
        return _value(value)

    def _rows(self, value: Any, rows: NDArray[np.int64]) -> Any:
        return _value(value.numpy()[rows])

    def _bound(self, number: int, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, _value(value))
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, _value(value))
        return binding

    def _run(self, turn: Any) -> None:
        try:
            self._session.run_with_iobinding(turn)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise BackendError(f"a step failed in ONNX Runtime: {error}") from error


def _value(array: Any) -> Any:
    """Return an array as an `OrtValue` over the same memory; what is one already stays as it is."""
    import onnxruntime

    if not isinstance(array, np.ndarray):
        return array
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"))
