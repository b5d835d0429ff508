"""How much memory captioning takes: measured in processes of their own for two sizes of batch, a line between them.

What a runtime allocates (packed weights, arenas, buffers of its kernels) cannot be told from a graph's file, but what
it adds for one more pair is always the same.
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

# OpenVINO runs the image encoder on 8 pairs at a time: of fewer, what it takes still grows with each.
_BATCHES = (8, 24)
_PROBE = "import sys, rsicrc.cli.memory; rsicrc.cli.memory.probe(*sys.argv[1:])"


@dataclass(frozen=True)
class Memory:
    """Peak resident memory of a process that captions pairs.

    Attributes:
        base: bytes, whatever the batch.
        per_pair: bytes for each pair of a batch.
    """

    base: float
    per_pair: float

    def peak(self, batch_size: int) -> float:
        """Return the bytes for batches of this size."""
        return self.base + batch_size * self.per_pair


def predict_memory(folder: Path, beams: int | None = None, **loading: Any) -> Memory:
    """Find out what captioning with a model folder takes.

    Args:
        folder: the model folder.
        beams: of the search; by default the folder's.
        loading: arguments of `rsicrc.load` beyond the folder.

    Raises:
        BackendError: a measurement failed.
    """
    small, large = (_measure(folder, batch, {"beams": beams, "loading": loading}) for batch in _BATCHES)
    per_pair = max(0.0, (large - small) / (_BATCHES[1] - _BATCHES[0]))
    return Memory(small - _BATCHES[0] * per_pair, per_pair)


def probe(folder: str, batch: str, settings: str) -> None:
    """Caption three batches of noise and print the peak of this process, in bytes."""
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
    command = [sys.executable, "-c", _PROBE, str(folder), str(batch), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise BackendError(f"memory could not be measured: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return int(done.stdout)
