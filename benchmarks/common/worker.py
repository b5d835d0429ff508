"""Worker: measures one implementation in a process of its own.

It reads a pickled job from stdin and prints one JSON line per event:

    {"event": "ready", "start": 1.9, "note": "", "size": 1400000000}
    {"event": "first", "seconds": 0.4, "warm": 0.1}
    {"event": "cell", "task": "caption", "batch": 8, "beams": 5, "seconds": [...], "memory": 1234567890, ...}
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from baselines import Entry, build
from baselines.implementation import Images, Implementation, Paths, Setup, TimedCaptions

from common import assets, gpu

CAPTION, IMAGES, TEXTS, FILES, HELD_OUT = "caption", "images", "texts", "files", "held-out"
ENCODER, STEP = "encoder", "step"  # single graphs, which only the engine can run
SLOW = 10.0  # seconds; the first run of a slower case counts, and the case is not repeated
SENTENCE_WORDS = 8
_FEWEST_FILES = 8
_BATCHES_OF_FILES = 2
_HELD_OUT_BATCH = 32


@dataclass(frozen=True)
class Case:
    """A task with its sizes.

    Attributes:
        task: Name of the task.
        batch: Pairs or sentences per batch.
        beams: Beams per pair; 0 for tasks without a beam search.
    """

    task: str
    batch: int
    beams: int = 0

    @property
    def name(self) -> str:
        """Name for files and messages."""
        return f"{self.task}-{self.batch}" + (f"x{self.beams}" if self.beams else "")


@dataclass(frozen=True)
class RunOptions:
    """Options of a run.

    Attributes:
        command: "latency", which measures the first caption before all cases, or "throughput".
        setup: Files of the model, and settings; precision and backend are those of each entry.
        entries: Implementations to measure.
        cases: Cases to measure.
        output: JSON file for the results.
        rounds: Turns of each implementation.
        seconds: In a turn, a case is repeated until it has taken this long,
        repeats: or until this number of runs.
    """

    command: str
    setup: Setup
    entries: Sequence[Entry]
    cases: Sequence[Case]
    output: Path
    rounds: int
    seconds: float
    repeats: int


@dataclass(frozen=True)
class Job:
    """Work of a worker.

    Attributes:
        options: Options of the run.
        entry: Implementation to measure.
        cases: Cases to measure.
        answers: Folder for captions and embeddings; those of each case are written once.
        started: `time.time()` at the start of the process.
    """

    options: RunOptions
    entry: Entry
    cases: Sequence[Case]
    answers: Path
    started: float


def main() -> None:
    """Do the job on stdin."""
    job = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by our own runner
    # Libraries that print to stdout must not interrupt the JSON lines.
    lines, sys.stdout = sys.stdout, sys.stderr
    Worker(job, lines).run()


class Worker:
    """One implementation, and the measurements of its cases."""

    def __init__(self, job: Job, lines: TextIO) -> None:
        self.job, self.options, self.lines = job, job.options, lines
        count = max((pairs_of(case, job.entry) for case in job.cases), default=1)
        self.pairs = assets.read_pairs(job.options.setup.assets, count)
        if len(self.pairs) < count:
            raise SystemExit(f"{count} pairs are needed, and there are {len(self.pairs)}")

    def run(self) -> None:
        """Open the implementation and measure every case."""
        entry = self.job.entry
        setup = replace(self.options.setup, precision=entry.precision, backend=entry.backend)
        implementation = build(entry, setup)
        self._send("ready", start=time.time() - self.job.started, note=implementation.note, size=implementation.size)
        images = assets.read_images(self.pairs, setup.folder)
        if self.options.command == "latency":
            beams = max(1, self.job.cases[0].beams)
            once = timed(lambda: implementation.warm_up(images[:1], beams))
            warm = implementation.caption(images[:1], beams).seconds
            self._send("first", seconds=once + warm, warm=warm)
        for case in self.job.cases:
            reset_peak_memory()
            result = self.measure(implementation, case, images[: case.batch])
            memory = gpu.used(setup.device) if gpu.is_gpu(setup.device) else peak_memory()
            self._send("cell", **vars(case), memory=memory, **result)

    def measure(self, implementation: Implementation, case: Case, images: Images) -> dict[str, Any]:
        """Measure one case."""
        if case.task == HELD_OUT:
            return self.held_out(implementation, case, images)
        result: dict[str, Any] = {"items": case.batch}
        if case.task == TEXTS:
            texts = self.sentences(case.batch)
            result["seconds"] = self.repeat(lambda: timed(lambda: implementation.embed_texts(texts)))
            self.save(case, vectors=implementation.embed_texts(texts))
            return result
        implementation.warm_up(images, max(1, case.beams))
        if case.task == CAPTION:
            captions: list[TimedCaptions] = []

            def once() -> float:
                captions.append(implementation.caption(images, case.beams))
                return captions[-1].seconds

            result["seconds"] = self.repeat(once)
            del captions[: -len(result["seconds"])]  # the warm-up
            result |= {"image": [each.image for each in captions], "decode": [each.decode for each in captions]}
            result |= {"steps": captions[-1].steps, "words": captions[-1].tokens}
            self.save(case, texts=captions[-1].texts)
        elif case.task == FILES:
            paths: Paths = [(pair.before, pair.after) for pair in self.pairs[: pairs_of(case, self.job.entry)]]
            call = partial(implementation.caption_files, paths, case.beams, case.batch)
            result |= {"items": len(paths), "seconds": self.repeat(lambda: timed(call))}
        elif case.task == ENCODER:
            result["seconds"] = self.repeat(lambda: implementation.encoder(images))
        elif case.task == STEP:
            result["seconds"] = self.repeat(lambda: implementation.step(images, case.beams))
        else:
            result["seconds"] = self.repeat(lambda: timed(lambda: implementation.embed_images(images)))
            self.save(case, vectors=implementation.embed_images(images))
        return result

    def held_out(self, implementation: Implementation, case: Case, images: Images) -> dict[str, Any]:
        """Caption and embed held-out pairs, for the quality metrics."""
        start = time.perf_counter()
        parts = [images[begin : begin + _HELD_OUT_BATCH] for begin in range(0, len(images), _HELD_OUT_BATCH)]
        texts = [text for part in parts for text in implementation.caption(part, case.beams).texts]
        vectors = np.concatenate([implementation.embed_images(part) for part in parts])
        queries = implementation.embed_texts([pair.sentences[0] for pair in self.pairs[: len(images)]])
        self.save(case, texts=texts, vectors=vectors, queries=queries)
        return {"seconds": [time.perf_counter() - start], "items": len(images)}

    def repeat(self, once: Callable[[], float]) -> list[float]:
        """Return the times of repeated runs; the first run is a warm-up, unless it was slow."""
        first = once()
        if first > SLOW:
            return [first]
        seconds: list[float] = []
        while not seconds or (sum(seconds) < self.options.seconds and len(seconds) < self.options.repeats):
            seconds.append(once())
        return seconds

    def sentences(self, count: int) -> list[str]:
        """Return sentences of random words of the model's vocabulary, all of the same length."""
        from rsicrc.manifest import TOKENIZER_FILE
        from rsicrc.text.vocabulary import SPECIAL_WORDS, Vocabulary

        words = Vocabulary.load(self.options.setup.folder / TOKENIZER_FILE).words[len(SPECIAL_WORDS) :]
        generator = np.random.default_rng(0)
        return [" ".join(generator.choice(words, SENTENCE_WORDS)) for _ in range(count)]

    def save(self, case: Case, **answers: Any) -> None:
        """Save captions and embeddings, for the comparison with the other implementations."""
        path = self.job.answers / f"{self.job.entry.name.replace(' ', '_')}--{case.name}.npz"
        if not path.exists():
            np.savez(path, **answers)

    def _send(self, event: str, **values: Any) -> None:
        self.lines.write(json.dumps({"event": event, **values}) + "\n")
        self.lines.flush()


def pairs_of(case: Case, entry: Entry) -> int:
    """Return how many pairs a case needs; from files, more than a batch, so that reading can overlap with computing."""
    if case.task == TEXTS:
        return 1
    if case.task != FILES:
        return case.batch
    return _FEWEST_FILES // 2 if entry.alone else max(_FEWEST_FILES, _BATCHES_OF_FILES * case.batch)


def timed(call: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def reset_peak_memory() -> None:
    """Reset the peak of this process's memory; where that is not possible, the peak is that of all cases so far."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> int:
    """Return the peak of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
