"""ONNX Runtime on the CPU."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends import Array
from rsicrc.backends.state import NEXT, ROWS, HostState, shape_of
from rsicrc.errors import BackendError, ModelFolderError
from rsicrc.machine import available_cpus
from rsicrc.manifest import GraphSpec, Manifest

_ERRORS_ONLY = 3


class OnnxRuntimeBackend:
    """The graphs of a model folder as ONNX Runtime sessions; values are `OrtValue`s.

    Attributes:
        name: "onnxruntime".
        device: "cpu".
        threads: threads that one graph uses.

    Args:
        folder: the model folder.
        manifest: its manifest, at the precision that is wanted.
        threads: threads for one graph; None for as many as this process may use.
        spinning: whether threads without work wait by spinning, which makes the next operator begin sooner. Beside the
            threads of another runtime they would take its cores.
    """

    name = "onnxruntime"
    device = "cpu"

    def __init__(self, folder: Path, manifest: Manifest, threads: int | None, *, spinning: bool = True) -> None:
        self.threads = threads or available_cpus()
        self._spinning = spinning
        self._folder = folder
        self._manifest = manifest
        self._sessions: dict[str, Any] = {}
        self._opening = threading.Lock()
        self._free: defaultdict[str, list[HostState]] = defaultdict(list)

    def run(self, graph: str, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run a graph; see `rsicrc.backends.Backend`.

        Raises:
            BackendError: ONNX Runtime refused the inputs or failed.
            ModelFolderError: the graph's file cannot be opened.
        """
        session = self._session(graph)
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
        spec, free = self._manifest.graphs[graph], self._free[graph]
        state = free.pop() if free else HostState(spec, in_place=True)
        state.begin(axes, first)
        return OnnxRuntimeLoop(self._session(graph), spec, state, fixed, free)

    def numpy(self, value: Any) -> Array:
        """Return a value as a numpy array."""
        return value if isinstance(value, np.ndarray) else value.numpy()

    def _session(self, graph: str) -> Any:
        with self._opening:
            if graph not in self._sessions:
                self._sessions[graph] = self._open(graph)
            return self._sessions[graph]

    def _open(self, graph: str) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self._spinning)))
        path = self._folder / self._manifest.graphs[graph].file
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # as above
            raise ModelFolderError(f"{path}: ONNX Runtime cannot open this graph: {error}") from error


class OnnxRuntimeLoop:
    """A session over two sets of buffers that take turns; see `rsicrc.backends.Loop`.

    A cache is bound as input and as output at once. The ScatterND that adds a step's words to it finds them to be the
    same memory and leaves out its copy; the attention reads its output, so no node reads a cache before it is written.
    """

    def __init__(
        self, session: Any, graph: GraphSpec, state: HostState, fixed: Mapping[str, Any], free: list[HostState]
    ) -> None:
        self._session = session
        self._state: HostState = state
        self._fixed = {name: _value(value) for name, value in fixed.items()}
        self._by_row = [name for name in fixed if ROWS in graph.inputs[name].shape]
        self._free = free
        self._position = np.zeros((), np.int64)
        outputs = {name: spec for name, spec in graph.outputs.items() if name.removeprefix(NEXT) not in state.now}
        self._others = {name: np.zeros(shape_of(spec, state.axes), spec.dtype) for name, spec in outputs.items()}
        self._bind()

    def step(self, position: int) -> None:
        """Run the graph once; see `rsicrc.backends.Loop`."""
        self._position[...] = position
        try:
            self._session.run_with_iobinding(self._bindings[0])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise BackendError(f"a step failed in ONNX Runtime: {error}") from error
        self._bindings.reverse()
        self._state.turn()

    def read(self, name: str) -> Array:
        """Return a state or an output; see `rsicrc.backends.Loop`."""
        return self._others[name] if name in self._others else self._state.now[name]

    def regroup(self, rows: NDArray[np.int64], axes: Mapping[str, int]) -> None:
        """Go on with some rows; see `rsicrc.backends.Loop`."""
        if len(rows) < self._state.axes[ROWS]:
            self._fixed.update({name: _value(self._fixed[name].numpy()[rows]) for name in self._by_row})
        self._state.regroup(rows, axes)
        self._bind()

    def close(self) -> None:
        """Give the buffers back."""
        self._free.append(self._state)

    def _bind(self) -> None:
        sides = (self._state.now, self._state.next)
        now, following = ({name: _value(array) for name, array in side.items()} for side in sides)
        others = {name: _value(array) for name, array in self._others.items()}
        self._bindings = []
        for source, target in ((now, following), (following, now)):
            binding = self._session.io_binding()
            for name, value in {**self._fixed, **source, "position": _value(self._position)}.items():
                binding.bind_ortvalue_input(name, value)
            for name, value in {**{NEXT + name: value for name, value in target.items()}, **others}.items():
                binding.bind_ortvalue_output(name, value)
            self._bindings.append(binding)


def _value(array: Any) -> Any:
    """Return an array as an `OrtValue` over the same memory; what is one already stays as it is."""
    import onnxruntime

    if not isinstance(array, np.ndarray):
        return array
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"))
