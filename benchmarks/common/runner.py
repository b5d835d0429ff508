"""Rounds: every implementation takes its turn in a fresh process, and its results are saved as they come.

Implementations take turns because the speed of a machine changes from minute to minute; the order rotates by one from
round to round. The results are written after every line of a worker, so a run that is stopped keeps its measurements.
"""

from __future__ import annotations

import json
import pickle
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from baselines import Entry

from common import assets, gpu, quality
from common.peaks import Peaks
from common.processes import environment, run_module, say
from common.roofline import Counts
from common.worker import ENCODER, HELD_OUT, SENTENCE_WORDS, SLOW, STEP, TEXTS, Case, Job, RunOptions
from rsicrc.cpu import cpu_fields, cpu_flags
from rsicrc.files import replacing

_PACKAGES = ("rsicrc", "torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt_rtx", "openvino",
             "transformers", "numpy")  # fmt: skip
_FLAGS = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "BF16", "avx2": "AVX2"}
_LONGEST_ERROR = 300
_BATCHED = (TEXTS, HELD_OUT)  # tasks without one-pair results


@dataclass
class Results:
    """Measurements of a run, in plain containers; in the file, implementations are called contestants, cases cells.

    Attributes:
        about: Command, device, model, versions, implementations, work of the graphs ("counts") and peaks ("limits").
        turns: Turns of the implementations: name, start, first caption, cases, and the error if there was one.
        answers: Implementation → case → comparison of its answers with the reference; see `common.quality`.
    """

    about: dict[str, Any]
    turns: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the results, replacing the file in one step."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(vars(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read the results of a file."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def run(options: RunOptions) -> Results:
    """Run all rounds; Ctrl-C ends them early and returns the results so far."""
    versions = {each.name: each.version for each in distributions()}
    about = {
        "command": options.command,
        "device": device_name(options.setup.device, options.setup.threads),
        "threads": options.setup.threads,
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "model": vars(assets.read_facts(options.setup.assets)),
        "max_length": options.setup.max_length,
        "versions": {name: versions[name] for name in _PACKAGES if name in versions},
        "contestants": {entry.name: vars(entry) for entry in options.entries},
        "counts": _counts(options),
        "limits": None,
    }
    results = Results(about)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    slow: dict[str, set[Case]] = {entry.name: set() for entry in options.entries}
    broken: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="rsicrc-benchmark-") as folder:
        answers = Path(folder)
        try:
            for number in range(options.rounds):
                first = number % len(options.entries)
                for entry in [*options.entries[first:], *options.entries[:first]]:
                    cases = [case for case in _cases_of(options.cases, entry) if case not in slow[entry.name]]
                    if not cases or entry.name in broken:
                        continue
                    # Before every turn, because the speed of a machine changes from minute to minute.
                    _measure_peaks(results, options)
                    say(f"round {number + 1} of {options.rounds}: {entry.name}")
                    turn = _turn(options, entry, cases, answers, results)
                    if turn["error"]:
                        broken.add(entry.name)
                    # A slow case is not repeated: its first time counts, with n = 1.
                    slow[entry.name] |= {
                        Case(case["task"], case["batch"], case["beams"])
                        for case in turn["cells"]
                        if case["task"] == HELD_OUT or max(case["seconds"]) > SLOW
                    }
            _measure_peaks(results, options)
        except KeyboardInterrupt:
            say("stopped: these are the results so far")
        pairs = assets.read_pairs(options.setup.assets, max((case.batch for case in options.cases), default=1))
        results.answers = quality.compare(answers, [entry.name for entry in options.entries], pairs)
        results.write(options.output)
    return results


def device_name(device: str, threads: int) -> str:
    """Return a description for tables: CPU or GPU, its features, threads."""
    if gpu.is_gpu(device):
        facts = gpu.describe(device)
        capability, cuda = (".".join(map(str, numbers)) for numbers in (facts.capability, facts.cuda))
        return f"{facts.name} (compute capability {capability}, {facts.memory / 2**30:.0f} GiB, CUDA {cuda})"
    name = cpu_fields().get("model name") or platform.processor() or platform.machine()
    features = [label for flag, label in _FLAGS.items() if flag in cpu_flags()]
    if "AVX-512" in features:
        features.remove("AVX2")
    return f"{name} ({', '.join(features)}), {threads} threads" if features else f"{name}, {threads} threads"


def slug(device: str) -> str:
    """Return a device's name for a file."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)", "", device).lower()).strip("-")


def _turn(options: RunOptions, entry: Entry, cases: list[Case], answers: Path, results: Results) -> dict[str, Any]:
    """Measure one implementation in a process; if the process fails, the finished cases stay."""
    turn: dict[str, Any] = {"contestant": entry.name, "start": None, "first": None, "warm": None}
    turn |= {"cells": [], "error": ""}
    results.turns.append(turn)
    command = [sys.executable, "-m", "common.worker"]
    own = environment(options.setup.threads, options.setup.assets.parent / "inductor")
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
        job = Job(options, entry, cases, answers, started=time.time())
        with subprocess.Popen(command, env=own, **pipes) as process:  # noqa: S603
            try:
                _listen(process, job, turn, results)
            finally:
                process.kill()  # after Ctrl-C; without effect on a process that has ended
        if process.returncode:
            errors.seek(0)
            lines = [line for line in errors.read().splitlines() if line.strip()]
            # Results are published, so they must not contain the paths of this machine.
            reason = (lines or [f"ended with {process.returncode}"])[-1]
            reason = reason.replace(str(options.setup.folder), "MODEL").replace(str(options.setup.assets), "WORK")
            turn["error"] = reason[:_LONGEST_ERROR]
            say(f"  {entry.name}: {turn['error']}")
            results.write(options.output)
    return turn


def _listen(process: Any, job: Job, turn: dict[str, Any], results: Results) -> None:
    """Send the job to a worker, and add its events to the results."""
    with process.stdin as stream:
        pickle.dump(job, stream)
    for line in process.stdout:
        event = json.loads(line)
        kind = event.pop("event")
        if kind == "ready":
            turn.update(event)
        elif kind == "first":
            turn["first"], turn["warm"] = event["seconds"], event["warm"]
        else:
            turn["cells"].append(event)
            case, seconds = Case(event["task"], event["batch"], event["beams"]), event["seconds"]
            rate = event["items"] / min(seconds)
            say(f"  {case.name}: {min(seconds) * 1e3:.0f} ms, {rate:.2f}/s, n = {len(seconds)}")
        results.write(job.options.output)
    process.wait()


def _cases_of(cases: Sequence[Case], entry: Entry) -> list[Case]:
    """Return the cases of an implementation: single graphs only for the engine, one pair where it takes only one."""
    cases = [case for case in cases if entry.backend or case.task not in (ENCODER, STEP)]
    if not entry.alone:
        return cases
    return list(dict.fromkeys(Case(case.task, 1, min(case.beams, 1)) for case in cases if case.task not in _BATCHED))


def _measure_peaks(results: Results, options: RunOptions) -> None:
    say("peak rates of the device")
    device, threads = options.setup.device, options.setup.threads
    try:
        peaks = Peaks(**json.loads(run_module("common.peaks", device, str(threads), threads=threads)))
    except SystemExit:
        return  # the process has printed the reason; the tables have no roofline then
    known = results.about["limits"]
    results.about["limits"] = vars(peaks if known is None else peaks.best(Peaks(**known)))
    results.write(options.output)


def _counts(options: RunOptions) -> dict[str, int] | None:
    """Return the work of the graphs; None where onnx is not installed."""
    path = options.setup.assets / f"counts-{options.setup.max_length}.json"
    if not path.is_file():
        ids = min(SENTENCE_WORDS + 2, assets.read_facts(options.setup.assets).max_length)
        arguments = (options.setup.folder, options.setup.max_length, ids)
        try:
            path.write_text(run_module("common.roofline", *map(str, arguments)), encoding="utf-8")
        except SystemExit:
            return None
    return vars(Counts(**json.loads(path.read_text(encoding="utf-8"))))
