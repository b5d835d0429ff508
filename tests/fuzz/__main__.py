"""Command line of the fuzzer: `python -m tests.fuzz --seconds 60`."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz.run import fuzz
from tests.fuzz.targets import make_targets

_MOST_MEMORY = 16 << 30
_HANG = 120  # seconds; an input that takes longer ends the process


def main() -> int:
    """Fuzz each target in a process of its own and return 1 if there was a fault."""
    arguments = _parse()
    root = arguments.keep or Path(tempfile.mkdtemp(prefix="rsicrc-fuzz-"))
    if len(arguments.targets) == 1:
        return _fuzz(arguments.targets[0], root / arguments.targets[0], arguments)
    with ThreadPoolExecutor(arguments.jobs) as threads:
        codes = list(threads.map(lambda name: _fuzz_in_process(name, root), arguments.targets))
    return 1 if any(codes) else 0


def _parse() -> argparse.Namespace:
    targets = list(make_targets())
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(targets)}; by default all")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration for each target")
    parser.add_argument("--inputs", type=int, help="number of inputs for each target, instead of a duration")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to repeat or to continue")
    parser.add_argument("--jobs", type=int, default=2, help="targets at the same time")
    parser.add_argument("--keep", type=Path, help="folder for failing inputs; by default a new folder")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(targets):
        parser.error(f"no target {', '.join(sorted(unknown))}")
    arguments.targets = arguments.targets or targets
    return arguments


def _fuzz_in_process(name: str, root: Path) -> int:
    """Fuzz one target with the arguments of this process; a crash of a library ends this target only."""
    options = [argument for argument in sys.argv[1:] if argument not in make_targets()]
    command = [sys.executable, "-m", "tests.fuzz", *options, "--keep", str(root), name]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    sys.stdout.write(done.stdout)
    if done.returncode not in (0, 1):
        sys.stdout.write(f"{name}: ended by {done.returncode}; its last input is in {root / name}\n")
    sys.stdout.flush()
    return done.returncode


def _fuzz(name: str, folder: Path, arguments: argparse.Namespace) -> int:
    messages = os.fdopen(os.dup(sys.stderr.fileno()), "w")
    faulthandler.enable(messages)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # libtiff writes a line for each damaged file
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    folder.mkdir(parents=True, exist_ok=True)
    report = fuzz(
        make_targets()[name](),
        folder,
        seed=arguments.seed,
        seconds=arguments.seconds,
        inputs=arguments.inputs,
        first=arguments.first,
        before_each=lambda: faulthandler.dump_traceback_later(_HANG, exit=True, file=messages),
    )
    faulthandler.cancel_dump_traceback_later()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    sys.stdout.write(f"{report}, peak memory {memory} MB, seed {arguments.seed}\n")
    sys.stdout.writelines(f"  {fault}\n" for fault in report.faults)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
