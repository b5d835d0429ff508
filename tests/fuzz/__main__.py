"""Command line of the fuzzer: `python -m tests.fuzz --seconds 60`."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import resource
import sys
import tempfile
import warnings
from pathlib import Path

from tests.fuzz.run import fuzz
from tests.fuzz.targets import make_targets

_MOST_MEMORY = 16 << 30


def main() -> int:
    """Fuzz each target and return 1 if there was a fault."""
    targets = make_targets()
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(targets)}; by default all")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration for each target")
    parser.add_argument("--inputs", type=int, help="number of inputs for each target, instead of a duration")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for failing inputs; by default a new folder")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(targets):
        parser.error(f"no target {', '.join(sorted(unknown))}")
    faulthandler.enable(os.dup(sys.stderr.fileno()))
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # libtiff writes a line for each damaged file
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    root = arguments.keep or Path(tempfile.mkdtemp(prefix="rsicrc-fuzz-"))
    faults = 0
    for name in arguments.targets or targets:
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        report = fuzz(targets[name](), folder, seed=arguments.seed, seconds=arguments.seconds, inputs=arguments.inputs)
        sys.stdout.write(f"{report}\n")
        sys.stdout.writelines(f"  {fault}\n" for fault in report.faults)
        sys.stdout.flush()
        faults += len(report.faults)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"seed {arguments.seed}, {faults} faults, peak memory {memory:.0f} MB, files in {root}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
