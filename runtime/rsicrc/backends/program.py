"""The interface between a GPU runtime and `rsicrc.backends.device`: loaded graphs, and programs that run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from rsicrc.backends.arrays import DeviceArray
from rsicrc.backends.cuda import Stream

Tensors: TypeAlias = Mapping[str, DeviceArray]


class Program(Protocol):
    """A graph in a GPU runtime, with working memory for one run at a time."""

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        """Return a function that queues a run which reads and writes these tensors.

        Raises:
            BackendError: The graph does not run with these sizes.
        """
        ...

    def can_capture(self) -> bool:
        """Return True if a bound run can be captured as a CUDA graph from its stream, after it has run once."""
        ...


class OpenedGraph(Protocol):
    """A graph that a GPU runtime has loaded.

    Attributes:
        rows: Smallest and largest size of the axis B.
    """

    rows: tuple[int, int]

    def program(self, stream: Stream, *, capture: bool) -> Program:
        """Create a program whose runs are queued on a stream.

        Args:
            stream: The stream.
            capture: Let the runtime capture the runs as a CUDA graph by itself, if it does so. All runs then have the
                same sizes and use the same addresses.

        Raises:
            DeviceMemoryError: The GPU is out of memory.
        """
        ...
