"""Values, loops and their state in host memory, shared by the backends that run on a CPU."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends.arrays import DeviceArray, take_array
from rsicrc.backends.protocol import Array
from rsicrc.cpu import available_cpus
from rsicrc.inputs.prefetch import Batch, BatchReader
from rsicrc.manifest import GraphSpec, Manifest, TensorSpec

NEXT = "next_"  # prefix of the outputs that become inputs of the next step
ROWS = "B"  # the axis whose entries a loop can drop
CACHES = ("self_keys_", "self_values_")


def shape_of(spec: TensorSpec, axes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of a tensor for given sizes of its named axes, where "n - 1" is the size of n less 1."""
    return tuple(_size(size, axes) if isinstance(size, str) else size for size in spec.shape)


class HostState:
    """State of a loop in host memory, double-buffered: a step reads one set of arrays and writes the other.

    The caches are one array for both sets, because a step only adds entries to them. The memory is allocated for the
    largest axes so far and reused; smaller axes use the beginning of it.

    Attributes:
        axes: Sizes of the variable axes.
        now: Arrays that the next step reads, by state name.
        next: Arrays that the next step writes, by state name.
    """

    def __init__(self, graph: GraphSpec) -> None:
        self._specs = {name: spec for name, spec in graph.inputs.items() if NEXT + name in graph.outputs}
        self._caches: dict[str, Array] = {}
        self._buffers: list[dict[str, Array]] = [{}, {}]
        self.axes: dict[str, int] = {}
        self.now: dict[str, Array] = {}
        self.next: dict[str, Array] = {}

    def begin(self, axes: Mapping[str, int], first: Mapping[str, Array]) -> None:
        """Set the sizes of the axes, and the states whose initial value matters."""
        self._resize(axes)
        for name, values in first.items():
            self.now[name][...] = values

    def swap(self) -> None:
        """Exchange the two sets of arrays after a step."""
        self.now, self.next = self.next, self.now
        self._buffers.reverse()

    def select_rows(self, rows: NDArray[np.int64], axes: Mapping[str, int]) -> None:
        """Keep these rows of the axis B, in this order, and set new sizes of other axes, at least the old sizes."""
        selected = {name: array[rows] for name, array in self.now.items()}
        self._resize({**self.axes, **axes, ROWS: len(rows)})
        for name, values in selected.items():
            target = self.now[name]
            if target.shape != values.shape:
                target[...] = 0
            target[tuple(map(slice, values.shape))] = values

    def _resize(self, axes: Mapping[str, int]) -> None:
        self.axes = dict(axes)
        self.now, self.next = ({name: self._view(name, arrays) for name in self._specs} for arrays in self._buffers)

    def _view(self, name: str, arrays: dict[str, Array]) -> Array:
        spec, memory = self._specs[name], self._caches if name.startswith(CACHES) else arrays
        shape = shape_of(spec, self.axes)
        size = math.prod(shape)
        if name not in memory or memory[name].size < size:
            # Unwritten entries must be finite: a graph may mask them by adding to their scores.
            memory[name] = np.zeros(size, spec.dtype)
        return memory[name][:size].reshape(shape)


class HostStateLease:
    """A state that one loop uses, until the loop releases it.

    Attributes:
        state: The state.
    """

    def __init__(self, state: HostState, free: list[HostState]) -> None:
        self.state = state
        self._free = free
        self._is_released = False

    def release(self) -> None:
        """Return the state for use by later loops."""
        if not self._is_released:
            self._is_released = True
            self._free.append(self.state)


class HostStatePool:
    """States of a backend's loops: a later loop over the same graph reuses the memory of a released state."""

    def __init__(self) -> None:
        self._free: defaultdict[str, list[HostState]] = defaultdict(list)

    def lease(self, name: str, graph: GraphSpec, axes: Mapping[str, int], first: Mapping[str, Array]) -> HostStateLease:
        """Return a state that has begun with these sizes of axes and these initial values."""
        free = self._free[name]
        state = free.pop() if free else HostState(graph)
        state.begin(axes, first)
        return HostStateLease(state, free)


class HostBackend(ABC):
    """Base class of the backends on a CPU; see `rsicrc.backends.Backend`.

    Attributes:
        name: Name as given to `rsicrc.load`.
        device: "cpu".
        threads: Number of threads that one graph uses.
        stream: None.

    Args:
        folder: The model folder.
        manifest: The manifest, at the requested precision.
        threads: Number of threads for one graph; None for as many as this process may use.
    """

    name: str
    device = "cpu"
    stream: int | None = None

    def __init__(self, folder: Path, manifest: Manifest, threads: int | None) -> None:
        self.threads = threads or available_cpus()
        self._folder, self._manifest = folder, manifest
        self._states = HostStatePool()

    def __repr__(self) -> str:
        precision = self._manifest.precision
        return f"{type(self).__name__}(device={self.device!r}, precision={precision!r}, threads={self.threads})"

    @abstractmethod
    def numpy(self, value: Any) -> Array:
        """Return a value as a numpy array."""

    def take(self, array: Any) -> Array | DeviceArray:
        """Return an array in host memory as a numpy array over the same memory."""
        return take_array(array, self.device, self.stream)

    def prefetch(self, batches: BatchReader) -> Iterator[Batch]:
        """Return the batches unchanged: the graphs read the memory of the host."""
        return batches

    def close(self) -> None:
        """Release the buffers of the loops; see `rsicrc.backends.Backend`."""
        self._states = HostStatePool()

    def joined(self, values: Sequence[Any]) -> Array:
        """Return values joined along the first axis, as one numpy array."""
        return np.concatenate([self.numpy(value) for value in values])


class HostLoop(ABC):
    """Base class of the loops over host memory; see `rsicrc.backends.Loop`.

    Two bindings of the runtime alternate: each reads the arrays that the other one writes.

    Args:
        graph: The graph.
        lease: The state.
        fixed: Constant inputs.
    """

    def __init__(self, graph: GraphSpec, lease: HostStateLease, fixed: Mapping[str, Any]) -> None:
        self._lease, self._state = lease, lease.state
        self._fixed = {name: self._value(value) for name, value in fixed.items()}
        self._by_row = [name for name in fixed if ROWS in graph.inputs[name].shape]
        self._position = np.zeros((), np.int64)
        outputs = {name: spec for name, spec in graph.outputs.items() if name.removeprefix(NEXT) not in self._state.now}
        self._others = {name: np.zeros(shape_of(spec, self._state.axes), spec.dtype) for name, spec in outputs.items()}
        self._bind()

    @abstractmethod
    def _value(self, value: Any) -> Any:
        """Wrap an array as a tensor of the runtime without copying; return a tensor of the runtime unchanged."""

    @abstractmethod
    def _rows(self, value: Any, rows: NDArray[np.int64]) -> Any:
        """Return some rows of a tensor of the runtime, as a new tensor."""

    @abstractmethod
    def _binding(self, number: int, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
        """Return binding `number` (0 or 1), which reads and writes these arrays and tensors."""

    @abstractmethod
    def _run(self, binding: Any) -> None:
        """Run the graph with a binding."""

    def step(self, position: int) -> None:
        """Run the graph once; see `rsicrc.backends.Loop`."""
        self._position[...] = position
        self._run(self._bindings[0])
        self._bindings.reverse()
        self._state.swap()

    def read(self, name: str) -> Array:
        """Return a state or another output; see `rsicrc.backends.Loop`."""
        return self._others[name] if name in self._others else self._state.now[name]

    def select_rows(self, rows: NDArray[np.int64], axes: Mapping[str, int]) -> None:
        """Keep only these rows, and optionally enlarge other axes; see `rsicrc.backends.Loop`."""
        if len(rows) < self._state.axes[ROWS]:
            self._fixed.update({name: self._rows(self._fixed[name], rows) for name in self._by_row})
        self._state.select_rows(rows, axes)
        self._bind()

    def close(self) -> None:
        """Return the buffers to the backend."""
        self._lease.release()

    def _bind(self) -> None:
        now, following = self._state.now, self._state.next
        self._bindings = [
            self._binding(
                number,
                {**self._fixed, **source, "position": self._position},
                {**{NEXT + name: array for name, array in target.items()}, **self._others},
            )
            for number, (source, target) in enumerate(((now, following), (following, now)))
        ]


def _size(text: str, axes: Mapping[str, int]) -> int:
    name, _, less = text.partition(" - ")
    return axes[name] - int(less or 0)
