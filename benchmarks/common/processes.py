"""Child processes of the benchmarks, and progress messages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1]


def environment(threads: int = 1, compiled: Path | None = None) -> dict[str, str]:
    """Return the environment of a child process: threads of OpenMP, and a folder for programs of torch.compile."""
    path = os.pathsep.join(filter(None, [str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]))
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    if compiled is not None:
        own["TORCHINDUCTOR_CACHE_DIR"] = str(compiled)
    return {**os.environ, **own, "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}


def run_module(name: str, *arguments: str, threads: int = 1) -> str:
    """Run a module of the benchmarks in a process of its own, and return its stdout.

    Raises:
        SystemExit: The process failed; it has printed the reason on stderr.
    """
    command = [sys.executable, "-m", name, *arguments]
    process = subprocess.run(command, env=environment(threads), stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if process.returncode:
        raise SystemExit(f"error: {name} failed, see above")
    return process.stdout


def say(line: str) -> None:
    """Print a progress message on stderr."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
