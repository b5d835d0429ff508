"""Memory of captioning, measured in separate processes for two batch sizes and interpolated linearly.

The allocations of a runtime (packed weights, arenas, kernel buffers) cannot be derived from the file of a graph, but
they grow by the same number of bytes for each additional pair.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsicrc.errors import BackendError

# OpenVINO runs the image encoder on 8 pairs at a time: the growth is linear only from 8 pairs on.
_BATCHES = (8, 24)
_PROBE = "import sys, rsicrc.cli.memory; rsicrc.cli.memory.probe(*sys.argv[1:])"


@dataclass(frozen=True)
class Memory:
    """Peak resident memory of a process that captions pairs.

    Attributes:
        base: Bytes that do not depend on the batch size.
        per_pair: Bytes for each pair of a batch.
    """

    base: float
    per_pair: float

    def peak(self, batch_size: int) -> float:
        """Return the bytes for batches of a size."""
        return self.base + batch_size * self.per_pair


def predict_memory(folder: Path, beams: int | None = None, **loading: Any) -> Memory:
    """Measure the memory of captioning with a model folder.

    Args:
        folder: The model folder.
        beams: Width of the beam search; None for the default of the folder.
        **loading: Arguments of `rsicrc.load` beyond the folder.

    Raises:
        BackendError: A measurement failed.
    """
    small, large = (_measure(folder, batch, {"beams": beams, "loading": loading}) for batch in _BATCHES)
    per_pair = max(0.0, (large - small) / (_BATCHES[1] - _BATCHES[0]))
    return Memory(small - _BATCHES[0] * per_pair, per_pair)


def probe(folder: str, batch: str, settings: str) -> None:
    """Caption three batches of noise and print the peak memory of this process, in bytes."""
    import resource

    import rsicrc

    options = json.loads(settings)
    engine = rsicrc.load(folder, **options["loading"])
    size = engine.manifest.preprocessing.size
    random = np.random.default_rng(0)
    shape = (2, size, size, 3)
    pairs = (tuple(random.integers(0, 256, shape, np.uint8)) for _ in range(3 * int(batch)))
    for _ in engine.caption_stream(pairs, beams=options["beams"], batch_size=int(batch)):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak if sys.platform == "darwin" else 1024 * peak)  # noqa: T201


def _measure(folder: Path, batch: int, settings: dict[str, Any]) -> int:
    command = [sys.executable, "-c", _PROBE, str(folder), str(batch), json.dumps(settings, default=str)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise BackendError(f"memory could not be measured: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return int(done.stdout)
