"""A loop's state in host memory, for the backends that compute there."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends import Array
from rsicrc.manifest import GraphSpec, TensorSpec

NEXT = "next_"
ROWS = "B"  # the axis whose entries a loop can drop
_CACHES = ("self_keys_", "self_values_")


def shape_of(spec: TensorSpec, axes: Mapping[str, int]) -> tuple[int, ...]:
    """Return a tensor's shape with numbers in the place of names."""
    return tuple(axes[size] if isinstance(size, str) else size for size in spec.shape)


class HostState:
    """Arrays for the state of a loop: what a step reads and what it writes, taking turns.

    With `in_place`, the caches are one array for both: a graph only adds to them, so a runtime can write where it
    reads. The memory is allocated for the largest axes seen so far and kept; smaller ones use its beginning.

    Attributes:
        axes: sizes of the axes that vary.
        now: what the next step reads, by state name.
        next: where it writes.
    """

    def __init__(self, graph: GraphSpec, *, in_place: bool) -> None:
        self._in_place = in_place
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

    def regroup(self, rows: NDArray[np.int64], axes: Mapping[str, int]) -> None:
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
        spec, memory = self._specs[name], self._caches if self._in_place and name.startswith(_CACHES) else side
        shape = shape_of(spec, self.axes)
        size = math.prod(shape)
        if name not in memory or memory[name].size < size:
            # Zeros and later old numbers: a graph may mask what it has not written by adding to its scores.
            memory[name] = np.zeros(size, spec.dtype)
        return memory[name][:size].reshape(shape)
