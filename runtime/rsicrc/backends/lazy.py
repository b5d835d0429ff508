"""Graphs that are opened on first use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from rsicrc.errors import BackendError

Graph = TypeVar("Graph")


class LazyGraphs(Generic[Graph]):
    """Graphs of a backend by name; each graph is opened once, by the first thread that uses it.

    Args:
        open_graph: Function that opens a graph by name.
    """

    def __init__(self, open_graph: Callable[[str], Graph]) -> None:
        self._open = open_graph
        self._opened: dict[str, Graph] = {}
        self._lock = threading.Lock()
        self._closed = False

    def __getitem__(self, name: str) -> Graph:
        with self._lock:
            if self._closed:
                raise BackendError("the engine has been closed: open the model again with rsicrc.load")
            if name not in self._opened:
                self._opened[name] = self._open(name)
            return self._opened[name]

    def close(self) -> None:
        """Drop the graphs; the use of a graph then raises `BackendError`."""
        with self._lock:
            self._closed = True
            self._opened.clear()
