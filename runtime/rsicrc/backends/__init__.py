"""What runs the graphs: one small interface; `rsicrc.backends.selection` says who implements it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rsicrc.inputs.prefetch import Batch, BatchReader

Array = NDArray[Any]


class Loop(Protocol):
    """A graph that feeds itself: what a step gives as `next_<state>`, the next one takes as `<state>`.

    The state stays where the backend computes, in buffers that are allocated once and used again by later loops. Close
    a loop to give them back.
    """

    def step(self, position: int) -> None:
        """Run the graph once.

        Args:
            position: the input of this name.

        Raises:
            BackendError: the backend refused or failed.
        """
        ...

    def read(self, name: str) -> Array:
        """Return a state, or an output that is no state, as the last step left it; good until the next step."""
        ...

    def select_rows(self, rows: NDArray[np.int64], axes: Mapping[str, int]) -> None:
        """Go on with some rows of the axis B only, and with other sizes of other axes.

        Args:
            rows: int64 [B'], which rows go on, of the state and of the fixed inputs.
            axes: new sizes of axes other than B, at least the old ones; what is new is zero.
        """
        ...

    def close(self) -> None:
        """Give the buffers back; nothing of the loop can be used after it."""
        ...


class Backend(Protocol):
    """A model folder's graphs, ready to run.

    A *value* is whatever the backend keeps a tensor in: a search loop feeds values back in, so that its caches need no
    copy to numpy. Graphs are opened when they are first run.

    Attributes:
        name: as given to `rsicrc.load`.
        device: "cpu", or "cuda:N".
        threads: how many threads a graph may use.
        stream: the CUDA stream that it works on; None on a CPU.
    """

    name: str
    device: str
    threads: int
    stream: int | None

    def run(self, graph: str, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run a graph.

        Args:
            graph: its name in the manifest.
            feeds: numpy arrays or values, by input name.
            outputs: which outputs are wanted; all of them by default.

        Returns:
            Values by output name.
        """
        ...

    def loop(self, graph: str, axes: Mapping[str, int], first: Mapping[str, Array], fixed: Mapping[str, Any]) -> Loop:
        """Begin a loop over a graph.

        Args:
            graph: its name in the manifest.
            axes: the sizes of all axes that vary in it, by name.
            first: the states that do not begin with any finite numbers.
            fixed: the inputs that stay as they are, numpy arrays or values.
        """
        ...

    def numpy(self, value: Any) -> Array:
        """Return a value as a numpy array."""
        ...

    def take(self, array: Any) -> Any:
        """Begin to bring an array to where the graphs run, and return the value that it becomes.

        Args:
            array: A numpy array, or any array for which `rsicrc.backends.arrays.is_array` holds. An array on the
                device already is not copied, so it must not be changed while it is used.

        Raises:
            ArgumentError: it is on another device.
        """
        ...

    def prefetch(self, batches: BatchReader) -> Iterator[Batch]:
        """Return an iterator over the batches; a GPU uploads the next batch while it processes the current one.

        Args:
            batches: Batches in the memory of the host.

        Returns:
            The same batches, in order. Their images are in the memory of the device where that is possible.
        """
        ...

    def close(self) -> None:
        """Release the graphs and their memory. A closed backend raises `BackendError` when it is used."""
        ...

    def joined(self, values: Sequence[Any]) -> Any:
        """Return values, at least one, joined along their first axis, complete, as an array that speaks DLPack."""
        ...
