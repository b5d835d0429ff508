"""The backend `onnxruntime` on a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends.host_loop import HostBackend, HostLoop, HostStateLease
from rsicrc.backends.lazy import LazyGraphs
from rsicrc.backends.protocol import Array
from rsicrc.errors import BackendError, ModelFolderError
from rsicrc.manifest import GraphSpec, Manifest

ERRORS_ONLY = 3


class OnnxRuntimeBackend(HostBackend):
    """The graphs of a model folder as ONNX Runtime sessions on a CPU; values are `OrtValue`s.

    Args:
        folder: The model folder.
        manifest: The manifest, at the requested precision.
        threads: Number of threads for one graph; None for as many as this process may use.
    """

    name = "onnxruntime"

    def __init__(self, folder: Path, manifest: Manifest, threads: int | None) -> None:
        super().__init__(folder, manifest, threads)
        self._sessions = LazyGraphs(self._open)

    def run(self, graph: str, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run a graph; see `rsicrc.backends.Backend`.

        Raises:
            BackendError: ONNX Runtime refused the inputs or failed.
            ModelFolderError: The graph's file cannot be opened.
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
        return OnnxRuntimeLoop(self._sessions[graph], spec, self._states.lease(graph, spec, axes, first), fixed)

    def close(self) -> None:
        """Release the graphs and the buffers; see `rsicrc.backends.Backend`."""
        super().close()
        self._sessions.close()

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
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelFolderError(f"{path}: ONNX Runtime cannot open this graph: {error}") from error


class OnnxRuntimeLoop(HostLoop):
    """A session with two bindings; see `rsicrc.backends.Loop`.

    A cache is bound as input and as output. The ScatterND that adds the new keys or values then finds its input and
    output at the same address and skips its copy. The attention reads the output of the ScatterND, so no node reads a
    cache before the new entries are written.

    Args:
        session: The session.
        graph: The graph.
        lease: The state.
        fixed: Constant inputs.
    """

    def __init__(self, session: Any, graph: GraphSpec, lease: HostStateLease, fixed: Mapping[str, Any]) -> None:
        self._session = session
        super().__init__(graph, lease, fixed)

    def _value(self, value: Any) -> Any:
        return _value(value)

    def _rows(self, value: Any, rows: NDArray[np.int64]) -> Any:
        return _value(value.numpy()[rows])

    def _binding(self, number: int, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, _value(value))
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, _value(value))
        return binding

    def _run(self, binding: Any) -> None:
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise BackendError(f"a step failed in ONNX Runtime: {error}") from error


def _value(array: Any) -> Any:
    """Wrap an array as an `OrtValue` without copying; return an `OrtValue` unchanged."""
    import onnxruntime

    if not isinstance(array, np.ndarray):
        return array
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"))
