"""Graphs that are opened when they are first used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class OpenGraphs:
    """A backend's graphs by name: each is opened once, by the first thread that asks for it."""

    def __init__(self, open_graph: Callable[[str], Any]) -> None:
        self._open = open_graph
        self._opened: dict[str, Any] = {}
        self._opening = threading.Lock()

    def __getitem__(self, name: str) -> Any:
        with self._opening:
            if name not in self._opened:
                self._opened[name] = self._open(name)
            return self._opened[name]
