"""Graphs that are opened at their first use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rsicrc.errors import BackendError


class OpenGraphs:
    """Graphs of a backend by name. Each graph is opened once, at its first use.

    Args:
        open_graph: Function that opens the graph of a name.
    """

    def __init__(self, open_graph: Callable[[str], Any]) -> None:
        self._open = open_graph
        self._opened: dict[str, Any] = {}
        self._opening = threading.Lock()
        self._closed = False

    def __getitem__(self, name: str) -> Any:
        with self._opening:
            if self._closed:
                raise BackendError("the engine has been closed: open the model again with rsicrc.load")
            if name not in self._opened:
                self._opened[name] = self._open(name)
            return self._opened[name]

    def close(self) -> None:
        """Drop the graphs; a graph that is used later raises `BackendError`."""
        with self._opening:
            self._closed = True
            self._opened.clear()
