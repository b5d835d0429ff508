"""Command line options of `throughput.py` and `latency.py`, and the common part of both commands."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from baselines import BASELINES, NAMES, entries
from baselines.implementation import Setup

from common import assets, gpu
from common.plot import draw
from common.processes import BENCHMARKS, run_module
from common.runner import Results, device_name, run, slug
from common.worker import CAPTION, ENCODER, FILES, HELD_OUT, IMAGES, STEP, TEXTS, Case, RunOptions, pairs_of
from rsicrc.cpu import available_cpus

TASKS = (CAPTION, IMAGES, TEXTS, FILES)
GRAPHS = (ENCODER, STEP)
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_FORCED = 20  # tokens


def parser(
    description: str, *, batches: Sequence[int], beams: Sequence[int], rounds: int, seconds: float
) -> argparse.ArgumentParser:
    """Return the options, with the defaults of a command."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = options.add_argument
    add("--size", default="published", help="published (random weights), or a checkpoint")
    add("--model", type=Path, help="model folder exported from it; exported here if not given")
    names = ", ".join(NAMES)
    add("--baselines", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help=f"implementations: {names}")
    add("--backends", nargs="+", default=["auto"], help="backends of the engine")
    add("--precisions", nargs="+", choices=PRECISIONS, default=["fp32"], help="precisions of the engine")
    add("--tasks", nargs="+", choices=(*TASKS, *GRAPHS), default=list(TASKS), help="tasks to measure")
    add("--batches", nargs="+", type=positive, default=list(batches), help="pairs or sentences per batch")
    add("--beams", nargs="+", type=positive, default=list(beams), help="beams of the beam search")
    add("--held-out", type=int, default=0, metavar="PAIRS", help="number of held-out pairs for the quality metrics")
    add("--steps", type=positive, help=f"tokens of a caption: exact with random weights (default {_FORCED}), else most")
    add("--rounds", type=int, default=rounds, help="turns of every implementation; 0 makes the assets only")
    add("--seconds", type=float, default=seconds, help="time for which a case is repeated in a turn")
    add("--repeats", type=positive, default=50, help="largest number of repeats of a case in a turn")
    add("--device", default=gpu.CPU, help="cpu, or a GPU: cuda:0")
    add("--threads", type=positive, default=available_cpus(), help="threads of every library")
    add("--work", type=Path, default=BENCHMARKS.parent / "runs" / "benchmarks", help="folder of the assets")
    add("--json", type=Path, help="file of the results; benchmarks/results/COMMAND-DEVICE.json if not given")
    add("--plot", type=Path, help="file for a plot of the captions per second")
    add("--show", type=Path, metavar="JSON", help="print (and plot) the results of a file; measure nothing")
    return options


def positive(text: str) -> int:
    """Parse a number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a number from 1")
    return number


def main(command: str, arguments: argparse.Namespace, table: Callable[[Results], str]) -> None:
    """Make the assets, measure, print the table and draw the plot."""
    # A run that is stopped by a time limit prints its results, as after Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    if arguments.show is not None:
        results = Results.read(arguments.show)
    else:
        options = _prepare(command, arguments)
        if not options.rounds:
            return
        results = run(options)
    sys.stdout.write(table(results) + "\n")
    if arguments.plot is not None:
        draw(results, arguments.plot)


def _prepare(command: str, arguments: argparse.Namespace) -> RunOptions:
    """Make the assets, and return the options of the run."""
    if gpu.is_gpu(arguments.device) and (problem := gpu.problem(arguments.device)):
        raise SystemExit(f"error: {problem}")
    chosen = entries(arguments.baselines, arguments.backends, arguments.precisions)
    cases = [
        Case(task, batch, beams)
        for task in arguments.tasks
        for batch in arguments.batches
        for beams in (arguments.beams if task in (CAPTION, FILES, STEP) else (0,))
    ]
    if arguments.held_out:
        cases.append(Case(HELD_OUT, arguments.held_out, max(arguments.beams)))
    try:
        work = assets.folder_of(arguments.work, arguments.size)
    except OSError as error:
        raise SystemExit(f"error: {arguments.size}: {error.strerror}; --size is `published` or a checkpoint") from error
    options = ["--size", arguments.size, "--pairs", str(max(pairs_of(case, BASELINES[-1]) for case in cases))]
    model = arguments.model
    if model is None:
        variants = assets.variants(arguments.precisions, arguments.device)
        model = work / "-".join([assets.FOLDER, *variants])
        options += ["--export", str(model), "--variants", *variants]
    else:
        options += ["--model", str(model)]
    options += ["--checkpoint"] if any(not entry.backend for entry in chosen) else []
    options += ["--plain"] if "onnx-plain" in arguments.baselines else []
    run_module("common.assets", str(work), *options, threads=arguments.threads)
    facts = assets.read_facts(work)
    steps = arguments.steps or (_FORCED if facts.forced else facts.max_length - 1)
    device = slug(device_name(arguments.device, arguments.threads))
    max_length = min(steps + 1, facts.max_length)
    setup = Setup(work, model, arguments.device, arguments.threads, precision="", backend="", max_length=max_length)
    output = arguments.json or BENCHMARKS / "results" / f"{command}-{device}.json"
    limits = (arguments.rounds, arguments.seconds, arguments.repeats)
    return RunOptions(command, setup, chosen, cases, output, *limits)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
