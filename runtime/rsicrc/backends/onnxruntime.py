"""ONNX Runtime on the CPU."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsicrc.backends import Array
from rsicrc.errors import BackendError, ModelFolderError
from rsicrc.manifest import Manifest

_ERRORS_ONLY = 3


def available_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, bounded by the container's quota."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cpus = os.cpu_count() or 1
    # ONNX Runtime sees the machine's cores and starts a spinning thread for each; under a quota they starve each other.
    quota = cgroup_quota(Path("/sys/fs/cgroup"))
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def cgroup_quota(root: Path) -> float | None:
    """Return how many CPUs' time a container may use, by cgroup version 2 or 1; None where nothing limits it."""
    try:
        limit, period = (root / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            limit = (root / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (root / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii")
        except OSError:
            return None
    try:
        quota = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):  # version 2 says "max" for no limit
        return None
    return quota if quota > 0 else None  # version 1 says -1 for no limit


class OnnxRuntimeBackend:
    """The graphs of a model folder as ONNX Runtime sessions; values are `OrtValue`s.

    Attributes:
        name: "onnxruntime".
        device: "cpu".
        threads: threads that one graph uses.
    """

    name = "onnxruntime"
    device = "cpu"

    def __init__(self, folder: Path, manifest: Manifest, threads: int | None) -> None:
        self.threads = threads or available_cpus()
        self._folder = folder
        self._manifest = manifest
        self._sessions: dict[str, Any] = {}
        self._opening = threading.Lock()

    def run(self, graph: str, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run a graph; see `rsicrc.backends.Backend`.

        Raises:
            BackendError: ONNX Runtime refused the inputs or failed.
            ModelFolderError: the graph's file cannot be opened.
        """
        import onnxruntime

        session = self._session(graph)
        names = list(outputs) if outputs is not None else list(self._manifest.graphs[graph].outputs)
        to_value = onnxruntime.OrtValue.ortvalue_from_numpy
        values = {
            name: to_value(np.ascontiguousarray(feed)) if isinstance(feed, np.ndarray) else feed
            for name, feed in feeds.items()
        }
        try:
            results = session.run_with_ort_values(names, values)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise BackendError(f"graph {graph!r} failed in ONNX Runtime: {error}") from error
        return dict(zip(names, results, strict=True))

    def numpy(self, value: Any) -> Array:
        """Return a value as a numpy array."""
        return value if isinstance(value, np.ndarray) else value.numpy()

    def _session(self, graph: str) -> Any:
        with self._opening:
            if graph not in self._sessions:
                self._sessions[graph] = self._open(graph)
            return self._sessions[graph]

    def _open(self, graph: str) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        path = self._folder / self._manifest.graphs[graph].file
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # as above
            raise ModelFolderError(f"{path}: ONNX Runtime cannot open this graph: {error}") from error
