"""One fuzzing run of a target: it counts accepted and refused inputs, and keeps the inputs that fail."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rsicrc.errors import RsicrcError
from tests.fuzz.targets import Target

LONGEST = 10.0  # seconds of CPU time that one small input may take
_MOST_FAULTS = 20
_LONGEST_MESSAGE = 2000


@dataclass
class Report:
    """The counts of a run.

    Attributes:
        name: Name of the target.
        accepted: Number of inputs that were read.
        refused: Number of inputs that raised an error of rsicrc.
        slowest: Seconds of CPU time of the slowest input.
        faults: Description of each failing input.
    """

    name: str
    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.name:<12} {self.accepted + self.refused:>9,} inputs: {self.refused:,} refused, "
            f"{self.accepted:,} accepted, {len(self.faults)} faults, slowest {self.slowest:.2f} s"
        )


def fuzz(
    target: Target,
    folder: Path,
    *,
    seed: int,
    seconds: float = 0.0,
    inputs: int | None = None,
    first: int = 0,
    before_each: Callable[[], None] = lambda: None,
) -> Report:
    """Read changed files until the time is over, or until a number of inputs is reached.

    Args:
        target: The target.
        folder: An empty folder. A failing input stays there; after a crash of the process, the last input too.
        seed: Seed of the mutations: the n-th input depends on the seed and n only.
        seconds: Duration.
        inputs: Number of inputs instead of a duration.
        first: Number of the first input.
        before_each: Called before each input.
    """
    report = Report(target.name)
    started = time.perf_counter()
    number = first
    while number < first + inputs if inputs is not None else time.perf_counter() - started < seconds:
        name, content = target.mutate(random.Random(f"{target.name} {seed} {number}"))
        path = folder / name
        path.write_bytes(content)
        before_each()
        begin = time.process_time()
        problem = ""
        try:
            target.read(path)
            report.accepted += 1
        except RsicrcError as error:
            report.refused += 1
            if not 0 < len(str(error)) < _LONGEST_MESSAGE:
                problem = f"a message of {len(str(error))} characters: {str(error)[:500]!r}"
        except Exception:
            problem = traceback.format_exc()
        duration = time.process_time() - begin
        report.slowest = max(report.slowest, duration)
        if duration > LONGEST:
            problem = f"{duration:.1f} s. {problem}"
        if problem:
            kept = folder / f"fault-{number}-{name}"
            kept.write_bytes(content)
            report.faults.append(f"seed {seed}, input {number}, {kept}: {problem}")
            if len(report.faults) == _MOST_FAULTS:
                break
        number += 1
    return report
