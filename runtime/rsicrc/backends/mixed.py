"""Two backends side by side: one for the images, one for the words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rsicrc.backends import Array, Backend, Loop
from rsicrc.backends.state import HostBackend
from rsicrc.manifest import IMAGE_ENCODER


class MixedBackend(HostBackend):
    """The image encoder in one backend, the graphs of words in another.

    Attributes:
        name: the names of both, joined by +.
        device: "cpu", that of both.
        threads: threads that one graph uses; the two never work at the same time.
    """

    def __init__(self, images: Backend, words: Backend) -> None:
        self.name = f"{images.name}+{words.name}"
        self.threads = words.threads
        self._images, self._words = images, words

    def run(self, graph: str, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run a graph; see `rsicrc.backends.Backend`. What the image encoder gives comes as numpy arrays."""
        if graph != IMAGE_ENCODER:
            return self._words.run(graph, feeds, outputs)
        results = self._images.run(graph, feeds, outputs)
        return {name: self._images.numpy(value) for name, value in results.items()}

    def loop(self, graph: str, axes: Mapping[str, int], first: Mapping[str, Array], fixed: Mapping[str, Any]) -> Loop:
        """Begin a loop over a graph; see `rsicrc.backends.Backend`."""
        return self._words.loop(graph, axes, first, fixed)

    def numpy(self, value: Any) -> Array:
        """Return a value as a numpy array."""
        return self._words.numpy(value)
