"""Values, a loop and its state in host memory, for the backends that compute there."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends import Array
from rsicrc.backends.arrays import take_array
from rsicrc.inputs.prefetch import Batch, BatchReader
from rsicrc.manifest import GraphSpec, TensorSpec

NEXT = "next_"
ROWS = "B"  # the axis whose entries a loop can drop
CACHES = ("self_keys_", "self_values_")


def shape_of(spec: TensorSpec, axes: Mapping[str, int]) -> tuple[int, ...]:
    """Return a tensor's shape with numbers in the place of names, and of names less a number ("n - 1")."""
    return tuple(_size(size, axes) if isinstance(size, str) else size for size in spec.shape)


class HostBackend(ABC):
    """What the backends on a CPU have in common; see `rsicrc.backends.Backend`."""

    device = "cpu"
    stream: int | None = None

    @abstractmethod
    def numpy(self, value: Any) -> Array:
        """Return a value as a numpy array."""

    def take(self, array: Any) -> Any:
        """Return an array of the host's memory as a numpy array over the same bytes."""
        return take_array(array, self.device, self.stream)

    def prefetch(self, batches: BatchReader) -> Iterator[Batch]:
        """Return the batches unchanged: the graphs read the memory of the host."""
        return batches

    def joined(self, values: Sequence[Any]) -> Array:
        """Return values as one numpy array, joined along their first axis."""
        return np.concatenate([self.numpy(value) for value in values])


class HostState:
    """Arrays for the state of a loop: what a step reads and what it writes, taking turns.

    The caches are one array for both: a step only adds to them. The memory is allocated for the largest axes seen so
    far and kept; smaller ones use its beginning.

    Attributes:
        axes: sizes of the axes that vary.
        now: what the next step reads, by state name.
        next: where it writes.
    """

    def __init__(self, graph: GraphSpec) -> None:
        self._specs = {name: spec for name, spec in graph.inputs.items() if NEXT + name in graph.outputs}
        self._caches: dict[str, Array] = {}
        self._sides: list[dict[str, Array]] = [{}, {}]
        self.axes: dict[str, int] = {}
        self.now: dict[str, Array] = {}
        self.next: dict[str, Array] = {}

    def begin(self, axes: Mapping[str, int], first: Mapping[str, Array]) -> None:
        """Set the axes, and the states that do not begin with any finite numbers."""
        self._resize(axes)
        for name, values in first.items():
            self.now[name][...] = values

    def turn(self) -> None:
        """After a step: what was written is read by the next one."""
        self.now, self.next = self.next, self.now
        self._sides.reverse()

    def select_rows(self, rows: NDArray[np.int64], axes: Mapping[str, int]) -> None:
        """Keep these rows of the axis B, in this order, and give other axes a new size, at least the old one."""
        kept = {name: array[rows] for name, array in self.now.items()}
        self._resize({**self.axes, **axes, ROWS: len(rows)})
        for name, values in kept.items():
            target = self.now[name]
            if target.shape != values.shape:
                target[...] = 0
            target[tuple(map(slice, values.shape))] = values

    def _resize(self, axes: Mapping[str, int]) -> None:
        self.axes = dict(axes)
        self.now, self.next = ({name: self._view(name, side) for name in self._specs} for side in self._sides)

    def _view(self, name: str, side: dict[str, Array]) -> Array:
        spec, memory = self._specs[name], self._caches if name.startswith(CACHES) else side
        shape = shape_of(spec, self.axes)
        size = math.prod(shape)
        if name not in memory or memory[name].size < size:
            # Zeros and later old numbers: a graph may mask what it has not written by adding to its scores.
            memory[name] = np.zeros(size, spec.dtype)
        return memory[name][:size].reshape(shape)


class HostStates:
    """The states of a backend's loops: the memory of one that was closed serves the next one over the same graph."""

    def __init__(self) -> None:
        self._free: defaultdict[str, list[HostState]] = defaultdict(list)

    def begin(
        self, name: str, graph: GraphSpec, axes: Mapping[str, int], first: Mapping[str, Array]
    ) -> tuple[HostState, Callable[[], None]]:
        """Return a state that has begun, and what gives it back."""
        free = self._free[name]
        state = free.pop() if free else HostState(graph)
        state.begin(axes, first)
        return state, lambda: free.append(state)


class HostLoop(ABC):
    """What the loops over host memory have in common; see `rsicrc.backends.Loop`.

    Two turns alternate: what one writes, the other reads. What they bind and how they run is the runtime's.
    """

    def __init__(
        self, graph: GraphSpec, state: HostState, fixed: Mapping[str, Any], give_back: Callable[[], None]
    ) -> None:
        self._state = state
        self._fixed = {name: self._value(value) for name, value in fixed.items()}
        self._by_row = [name for name in fixed if ROWS in graph.inputs[name].shape]
        self._give_back = give_back
        self._position = np.zeros((), np.int64)
        outputs = {name: spec for name, spec in graph.outputs.items() if name.removeprefix(NEXT) not in state.now}
        self._others = {name: np.zeros(shape_of(spec, state.axes), spec.dtype) for name, spec in outputs.items()}
        self._bind()

    @abstractmethod
    def _value(self, value: Any) -> Any:
        """What the runtime keeps an array in, over the same memory; what is one already stays as it is."""

    @abstractmethod
    def _rows(self, value: Any, rows: NDArray[np.int64]) -> Any:
        """Some rows of a value of the runtime, as a new one."""

    @abstractmethod
    def _bound(self, number: int, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
        """Turn `number`, which reads and writes these arrays and values."""

    @abstractmethod
    def _run(self, turn: Any) -> None:
        """Take a turn."""

    def step(self, position: int) -> None:
        """Run the graph once; see `rsicrc.backends.Loop`."""
        self._position[...] = position
        self._run(self._turns[0])
        self._turns.reverse()
        self._state.turn()

    def read(self, name: str) -> Array:
        """Return a state or an output; see `rsicrc.backends.Loop`."""
        return self._others[name] if name in self._others else self._state.now[name]

    def select_rows(self, rows: NDArray[np.int64], axes: Mapping[str, int]) -> None:
        """Go on with some rows; see `rsicrc.backends.Loop`."""
        if len(rows) < self._state.axes[ROWS]:
            self._fixed.update({name: self._rows(self._fixed[name], rows) for name in self._by_row})
        self._state.select_rows(rows, axes)
        self._bind()

    def close(self) -> None:
        """Give the buffers back."""
        self._give_back()

    def _bind(self) -> None:
        now, following = self._state.now, self._state.next
        self._turns = [
            self._bound(
                number,
                {**self._fixed, **source, "position": self._position},
                {**{NEXT + name: array for name, array in target.items()}, **self._others},
            )
            for number, (source, target) in enumerate(((now, following), (following, now)))
        ]


def _size(text: str, axes: Mapping[str, int]) -> int:
    name, _, less = text.partition(" - ")
    return axes[name] - int(less or 0)
