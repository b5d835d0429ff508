"""What runs the graphs: one small interface, and the choice of who implements it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from rsicrc.errors import BackendError
from rsicrc.manifest import Manifest

Array = NDArray[Any]
BACKENDS = ("onnxruntime",)
DEVICES = ("cpu",)


class Backend(Protocol):
    """A model folder's graphs, ready to run.

    A *value* is whatever the backend keeps a tensor in: a search loop feeds values back in, so that its caches need no
    copy to numpy. Graphs are opened when they are first run.

    Attributes:
        name: as given to `open_backend`.
        device: as given to `open_backend`.
        threads: how many threads a graph may use.
    """

    name: str
    device: str
    threads: int

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

    def numpy(self, value: Any) -> Array:
        """Return a value as a numpy array."""
        ...


def open_backend(folder: Path, manifest: Manifest, device: str, backend: str, threads: int | None) -> Backend:
    """Choose and open a backend.

    Raises:
        BackendError: there is no such backend or device, or it is not installed.
    """
    if backend not in ("auto", *BACKENDS):
        raise BackendError(f"no backend {backend!r}: there is {', '.join(BACKENDS)}, and 'auto'")
    if device not in ("auto", *DEVICES):
        raise BackendError(f"no device {device!r}: this version runs on {', '.join(DEVICES)}, and 'auto' chooses")
    if importlib.util.find_spec("onnxruntime") is None:
        raise BackendError("ONNX Runtime is not installed: `pip install 'rsicrc[cpu]'`")
    from rsicrc.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(folder, manifest, threads)
