"""The interface of a backend: running a graph, and running a graph whose outputs are the inputs of its next step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends.arrays import DeviceArray
from rsicrc.inputs.prefetch import Batch, BatchReader

Array: TypeAlias = NDArray[Any]
# A tensor as a backend keeps it: a numpy array, `onnxruntime.OrtValue`, `openvino.Tensor` or `DeviceArray`. Only the
# backend that returned a value can read it, so the type is opaque to callers.
Value: TypeAlias = object


class Loop(Protocol):
    """A graph that is run step by step: the output `next_<state>` of a step is the input `<state>` of the next step.

    The state stays in the memory of the backend, in buffers that are allocated once and reused by later loops. Close a
    loop to return its buffers.
    """

    def step(self, position: int) -> None:
        """Run the graph once.

        Args:
            position: Value of the graph's input `position`: the number of the step, from 0.

        Raises:
            BackendError: The backend refused the inputs or failed.
        """
        ...

    def read(self, name: str) -> Array:
        """Return a state or another output after the last step. The array is valid until the next step."""
        ...

    def select_rows(self, rows: NDArray[np.int64], axes: Mapping[str, int]) -> None:
        """Keep only these rows of the axis B, and optionally enlarge other axes.

        Args:
            rows: Rows of the state and of the constant inputs to keep, int64 [B'].
            axes: New sizes of axes other than B, at least the old sizes. The added entries are zero.
        """
        ...

    def close(self) -> None:
        """Return the buffers to the backend. The loop cannot be used afterwards."""
        ...


class Backend(Protocol):
    """The graphs of a model folder, ready to run.

    Inputs and outputs are *values* (see `Value`), so that tensors pass from one graph to the next without a copy to
    numpy. A graph is opened when it is first run.

    Attributes:
        name: Name as given to `rsicrc.load`.
        device: "cpu", or "cuda:N".
        threads: Number of threads that a graph may use.
        stream: Handle of the CUDA stream that all work is queued on; None on a CPU.
    """

    name: str
    device: str
    threads: int
    stream: int | None

    def run(self, graph: str, feeds: Mapping[str, Value], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run a graph.

        Args:
            graph: Name of the graph in the manifest.
            feeds: Numpy arrays or values, by input name.
            outputs: Names of the outputs to return; all outputs by default.

        Returns:
            Values by output name.

        Raises:
            BackendError: The backend refused the inputs or failed.
            ModelFolderError: The graph's file cannot be opened.
        """
        ...

    def loop(self, graph: str, axes: Mapping[str, int], first: Mapping[str, Array], fixed: Mapping[str, Value]) -> Loop:
        """Begin a loop over a graph.

        Args:
            graph: Name of the graph in the manifest.
            axes: Sizes of all variable axes of the graph, by name.
            first: Initial values of the states whose initial value matters.
            fixed: Constant inputs, as numpy arrays or values.
        """
        ...

    def numpy(self, value: Value) -> Array:
        """Return a value as a numpy array."""
        ...

    def take(self, array: Any) -> Array | DeviceArray:
        """Begin to copy an array to the device of the backend, and return the value that the array becomes.

        Args:
            array: A numpy array, or any array for which `rsicrc.backends.arrays.is_array` holds. An array on the
                device already is not copied, so it must not be changed while it is used.

        Raises:
            ArgumentError: The array is on another device.
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

    def joined(self, values: Sequence[Value]) -> Array | DeviceArray:
        """Return at least one value joined along the first axis, as a complete array that supports DLPack."""
        ...
