"""A checkpoint as a model folder for as long as it is needed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rsicrc.errors import CheckpointError

# A program of its own: the exporter stands above this room and is not imported here, and its memory goes with it.
_EXPORT = "from rsicrc_export.cli import main; main()"


@contextmanager
def exported(checkpoint: Path) -> Iterator[Path]:
    """Export a checkpoint into a temporary folder, proven equal to the PyTorch model like any export.

    Yields:
        The model folder, which is removed at the end of the block.

    Raises:
        CheckpointError: it cannot be exported; the message is the exporter's.
    """
    with tempfile.TemporaryDirectory(prefix="rsicrc-") as folder:
        target = Path(folder) / "model"
        command = [sys.executable, "-c", _EXPORT, str(checkpoint), "-o", str(target)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if ended.returncode:
            said = ended.stderr.strip().splitlines() or ["it gave no reason"]
            raise CheckpointError(f"{checkpoint} cannot be exported: {said[-1].removeprefix('rsicrc-export: error: ')}")
        yield target
