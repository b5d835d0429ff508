"""The options that both commands share, and what they do with them."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from contestants import NAMES, OTHERS, entries

from common import card, material
from common.card import CPU
from common.machine import device_name, slug
from common.plot import draw
from common.rounds import ROOM, Plan, Results, run, run_module
from common.worker import CAPTION, ENCODER, FILES, HELD_OUT, IMAGES, STEP, TEXTS, Cell, pairs_of
from rsicrc.cpu import available_cpus

TASKS = (CAPTION, IMAGES, TEXTS, FILES)
GRAPHS = (ENCODER, STEP)
_FORCED = 20


def parser(
    description: str, *, batches: Sequence[int], beams: Sequence[int], rounds: int, seconds: float
) -> argparse.ArgumentParser:
    """The options, with a command's own defaults."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--size", default="published", help="published (random weights), or a checkpoint")
    options.add_argument("--model", type=Path, help="the model folder exported from it; by default it is exported here")
    options.add_argument(
        "--contestants", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help=", ".join(NAMES)
    )
    options.add_argument("--backends", nargs="+", default=["auto"], help="of the engine")
    options.add_argument(
        "--precisions", nargs="+", choices=("fp32", "fp16", "bf16", "int8"), default=["fp32"], help="of the engine"
    )
    options.add_argument("--tasks", nargs="+", choices=(*TASKS, *GRAPHS), default=list(TASKS), help="what to do")
    options.add_argument(
        "--batches", nargs="+", type=positive, default=list(batches), help="pairs, or sentences, at once"
    )
    options.add_argument("--beams", nargs="+", type=positive, default=list(beams), help="of the searches")
    options.add_argument(
        "--held-out", type=int, default=0, metavar="PAIRS", help="judge the answers on so many held-out pairs"
    )
    options.add_argument("--steps", type=positive, help=f"words of a caption: forced ones ({_FORCED}), or the most")
    options.add_argument(
        "--rounds", type=int, default=rounds, help="turns of every contestant; 0 makes the material only"
    )
    options.add_argument("--seconds", type=float, default=seconds, help="how long a cell is repeated in a turn")
    options.add_argument("--repeats", type=positive, default=50, help="how often a cell is repeated in a turn at most")
    options.add_argument("--device", default=CPU, help="cpu, or a GPU: cuda:0")
    options.add_argument("--threads", type=positive, default=available_cpus(), help="of every library")
    options.add_argument(
        "--work", type=Path, default=ROOM.parent / "runs" / "benchmarks", help="folder of the material"
    )
    options.add_argument("--json", type=Path, help="results; by default benchmarks/results/COMMAND-DEVICE.json")
    options.add_argument("--plot", type=Path, help="draw the captions' table")
    options.add_argument(
        "--show", type=Path, metavar="JSON", help="print (and draw) results that are there; measure nothing"
    )
    return options


def positive(text: str) -> int:
    """A number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a number from 1")
    return number


def main(command: str, arguments: argparse.Namespace, table: Callable[[Results], str]) -> None:
    """Make the material, measure, print the table, draw the plot."""
    # A run that is stopped by a time limit shows what it has, as after Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    if arguments.show is not None:
        results = Results.read(arguments.show)
    else:
        plan = _prepare(command, arguments)
        if not plan.rounds:
            return
        results = run(plan)
    sys.stdout.write(table(results) + "\n")
    if arguments.plot is not None:
        draw(results, arguments.plot)


def _prepare(command: str, arguments: argparse.Namespace) -> Plan:
    if card.is_card(arguments.device) and (problem := card.problem(arguments.device)):
        raise SystemExit(f"error: {problem}")
    chosen = entries(arguments.contestants, arguments.backends, arguments.precisions)
    cells = [
        Cell(task, batch, beams)
        for task in arguments.tasks
        for batch in arguments.batches
        for beams in _beams(task, arguments.beams)
    ]
    if arguments.held_out:
        cells.append(Cell(HELD_OUT, arguments.held_out, max(arguments.beams)))
    try:
        work = material.place(arguments.work, arguments.size)
    except OSError as error:
        raise SystemExit(f"error: {arguments.size}: {error.strerror}; --size is `published` or a checkpoint") from error
    options = ["--size", arguments.size, "--pairs", str(max(pairs_of(cell, OTHERS[-1]) for cell in cells))]
    model = arguments.model
    if model is None:
        variants = material.variants(arguments.precisions, arguments.device)
        model = work / "-".join([material.FOLDER, *variants])
        options += ["--export", str(model), "--variants", *variants]
    else:
        options += ["--model", str(model)]
    options += ["--checkpoint"] if any(not entry.backend for entry in chosen) else []
    options += ["--plain"] if "onnx-plain" in arguments.contestants else []
    run_module("common.material", str(work), *options, threads=arguments.threads)
    facts = material.read_facts(work)
    wanted = arguments.steps or (_FORCED if facts.forced else facts.max_length - 1)
    max_length = min(wanted + 1, facts.max_length)
    output = (
        arguments.json or ROOM / "results" / f"{command}-{slug(device_name(arguments.device, arguments.threads))}.json"
    )
    return Plan(
        command, work, model, chosen, cells, arguments.rounds, arguments.device, arguments.threads, max_length,
        arguments.seconds, arguments.repeats, output,
    )  # fmt: skip


def _beams(task: str, beams: Sequence[int]) -> Sequence[int]:
    return beams if task in (CAPTION, FILES, STEP) else (0,)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
