"""Rounds: every contestant in turn, each time in a fresh process, and what they say kept as it comes.

Contestants take turns because a machine is not the same from minute to minute; the order moves on by one from round to
round. After every line from a worker the results are on disk, so a run that is stopped keeps what it measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from contestants import Entry
from contestants.base import Setup

from common import material, quality
from common.floors import Counts
from common.machine import Limits, device_name
from common.worker import ENCODER, HELD_OUT, SENTENCE_WORDS, SLOW, STEP, TEXTS, Cell, Job

ROOM = Path(__file__).resolve().parents[1]
_ONNX_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_PACKAGES = ("rsicrc", "torch", *_ONNX_RUNTIMES, "tensorrt", "tensorrt_rtx", "openvino", "transformers", "numpy")


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        command: "latency" or "throughput".
        work: folder of the model's material.
        model: the model folder.
        entries: the contestants.
        cells: what each of them does; those that take one pair at a time leave out the rest.
        rounds: how often each gets a turn.
        device: "cpu", or a GPU: "cuda:0".
        threads: threads of every library.
        max_length: longest sequence of ids, START included.
        seconds: see `Job`.
        repeats: see `Job`.
        output: the JSON file.
    """

    command: str
    work: Path
    model: Path
    entries: Sequence[Entry]
    cells: Sequence[Cell]
    rounds: int
    device: str
    threads: int
    max_length: int
    seconds: float
    repeats: int
    output: Path


@dataclass
class Results:
    """What a run has measured so far; plain containers inside.

    Attributes:
        about: command, device, model, versions, counts and limits.
        turns: one for every turn of a contestant: its name, start, first result, cells, and what went wrong.
        answers: contestant → cell → how its answers compare with the reference's.
    """

    about: dict[str, Any]
    turns: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Replace the file by what there is now."""
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(vars(self), indent=1) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Results:
        """What `write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def run(plan: Plan) -> Results:
    """Run all rounds; Ctrl-C ends them early and returns what there is."""
    facts = material.read_facts(plan.work)
    about = {
        "command": plan.command,
        "device": device_name(plan.device, plan.threads),
        "threads": plan.threads,
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "model": vars(facts),
        "max_length": plan.max_length,
        "versions": {name: _version(name) for name in _PACKAGES if _version(name)},
        "contestants": {entry.name: vars(entry) for entry in plan.entries},
        "counts": _counts(plan),
        "limits": None,
    }
    results = Results(about)
    plan.output.parent.mkdir(parents=True, exist_ok=True)
    slow: dict[str, set[Cell]] = {entry.name: set() for entry in plan.entries}
    broken: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="rsicrc-benchmark-") as folder:
        answers = Path(folder)
        try:
            for number in range(plan.rounds):
                first = number % len(plan.entries)
                for entry in [*plan.entries[first:], *plan.entries[:first]]:
                    cells = [cell for cell in _cells_of(plan.cells, entry) if cell not in slow[entry.name]]
                    if not cells or entry.name in broken:
                        continue
                    # As often as what is held against them: a machine changes by the minute.
                    _measure_limits(results, plan)
                    say(f"round {number + 1} of {plan.rounds}: {entry.name}")
                    turn = _turn(plan, entry, cells, answers, results)
                    if turn["error"]:
                        broken.add(entry.name)
                    # A cell that took long is not repeated: its first time stands, with n = 1.
                    slow[entry.name] |= {
                        Cell(cell["task"], cell["batch"], cell["beams"])
                        for cell in turn["cells"]
                        if cell["task"] == HELD_OUT or max(cell["seconds"]) > SLOW
                    }
            _measure_limits(results, plan)
        except KeyboardInterrupt:
            say("stopped: here is what was measured")
        pairs = material.read_pairs(plan.work, max((cell.batch for cell in plan.cells), default=1))
        results.answers = quality.compare(answers, [entry.name for entry in plan.entries], pairs)
        results.write(plan.output)
    return results


def run_module(name: str, *arguments: str, threads: int = 1) -> str:
    """Run a program of this folder in a process of its own; its stdout.

    Raises:
        SystemExit: it failed; it has said why on stderr.
    """
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", name, *arguments],
        env=_environment(threads),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"error: {name} failed, see above")
    return done.stdout


def _turn(plan: Plan, entry: Entry, cells: list[Cell], answers: Path, results: Results) -> dict[str, Any]:
    """One contestant's turn; a process that dies leaves the cells that it had done."""
    turn: dict[str, Any] = {
        "contestant": entry.name,
        "start": None,
        "first": None,
        "warm": None,
        "cells": [],
        "error": "",
    }
    results.turns.append(turn)
    setup = Setup(
        checkpoint=plan.work / material.CHECKPOINT,
        folder=plan.model,
        plain=plan.work / material.PLAIN,
        device=plan.device,
        threads=plan.threads,
        precision=entry.precision,
        backend=entry.backend,
        max_length=plan.max_length,
    )
    first = plan.command == "latency"
    started = time.time()
    job = Job(entry, setup, tuple(cells), plan.work, answers, plan.seconds, plan.repeats, first, started)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "common.worker"],
            env=_environment(plan.threads, plan.work.parent / "inductor"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        )
        try:
            _listen(process, job, turn, results, plan.output)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        if process.returncode:
            complaints.seek(0)
            lines = [line for line in complaints.read().splitlines() if line.strip()]
            # Results are published: where this machine keeps its files is nobody's business.
            reason = (lines or [f"ended with {process.returncode}"])[-1]
            turn["error"] = reason.replace(str(plan.model), "MODEL").replace(str(plan.work), "WORK")[:300]
            say(f"  {entry.name}: {turn['error']}")
            results.write(plan.output)
    return turn


def _listen(process: Any, job: Job, turn: dict[str, Any], results: Results, output: Path) -> None:
    with process.stdin as stream:
        stream.write(job.to_json())
    for line in process.stdout:
        event = json.loads(line)
        kind = event.pop("event")
        if kind == "ready":
            turn.update(event)
        elif kind == "first":
            turn["first"], turn["warm"] = event["seconds"], event["warm"]
        else:
            turn["cells"].append(event)
            cell = Cell(event["task"], event["batch"], event["beams"])
            shortest = min(event["seconds"])
            rate = event["items"] / shortest
            say(f"  {cell.name}: {shortest * 1e3:.0f} ms, {rate:.2f}/s, n = {len(event['seconds'])}")
        results.write(output)
    process.wait()


def _cells_of(cells: Sequence[Cell], entry: Entry) -> list[Cell]:
    """One that takes one pair at a time, greedily, does that whatever the others do; single graphs are the engine's."""
    cells = [cell for cell in cells if entry.backend or cell.task not in (ENCODER, STEP)]
    if not entry.alone:
        return list(cells)
    alone = [Cell(cell.task, 1, min(cell.beams, 1)) for cell in cells if cell.task not in (TEXTS, HELD_OUT)]
    return list(dict.fromkeys(alone))


def _measure_limits(results: Results, plan: Plan) -> None:
    say("limits of the machine")
    options = ("--device", plan.device, "--threads", str(plan.threads))
    try:
        limits = Limits(**json.loads(run_module("common.machine", *options, threads=plan.threads)))
    except SystemExit:
        return  # it has said why; the tables are then without floors
    known = results.about["limits"]
    results.about["limits"] = vars(limits if known is None else limits.best(Limits(**known)))
    results.write(plan.output)


def _counts(plan: Plan) -> dict[str, int] | None:
    """What the graphs cost; None where the library is not there that reads them."""
    path = plan.work / f"counts-{plan.max_length}.json"
    if not path.is_file():
        ids = min(SENTENCE_WORDS + 2, material.read_facts(plan.work).max_length)
        arguments = (str(plan.model), "--max-length", str(plan.max_length), "--sentence-ids", str(ids))
        try:
            path.write_text(run_module("common.floors", *arguments), encoding="utf-8")
        except SystemExit:
            return None
    return vars(Counts(**json.loads(path.read_text(encoding="utf-8"))))


def _environment(threads: int, compiled: Path | None = None) -> dict[str, str]:
    path = [str(ROOM), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, path)), "OMP_NUM_THREADS": str(threads)}
    if compiled is not None:
        own["TORCHINDUCTOR_CACHE_DIR"] = str(compiled)
    return {**os.environ, **own, "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def say(line: str) -> None:
    """Progress, for people."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
