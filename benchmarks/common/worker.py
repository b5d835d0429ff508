"""One contestant in a process of its own: takes a job on stdin, gives one JSON line for every thing it has measured.

{"event": "ready", "start": 1.9, "note": "", "size": 1400000000}
{"event": "first", "seconds": 0.4, "warm": 0.1}
{"event": "cell", "task": "caption", "batch": 8, "beams": 5, "seconds": [...], "memory": 1234567890, ...}
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contestants import Entry, build
from contestants.base import Captioned, Contestant, Images, Paths, Setup

from common import card, material

CAPTION, IMAGES, TEXTS, FILES, HELD_OUT = "caption", "images", "texts", "files", "held-out"
ENCODER, STEP = "encoder", "step"  # single graphs, which only the engine has
SLOW = 10.0  # seconds; a run that takes longer counts although it is the first, and is not repeated
_LEAST_FILES = 8
_BATCHES_OF_FILES = 2
SENTENCE_WORDS = 8


@dataclass(frozen=True)
class Cell:
    """One thing to measure: a task, how many pairs (or sentences) at once, how many beams (0 where there are none)."""

    task: str
    batch: int
    beams: int = 0

    @property
    def name(self) -> str:
        """For files and messages."""
        return f"{self.task}-{self.batch}" + (f"x{self.beams}" if self.beams else "")


@dataclass(frozen=True)
class Job:
    """What a worker is to do.

    Attributes:
        entry: the contestant.
        setup: the model.
        cells: what to measure.
        material: folder of the pairs.
        answers: folder to write captions and embeddings to; a cell's are written once.
        seconds: repeat a cell until it has taken this long,
        repeats: or this often.
        first: tell how long the very first caption takes, before anything else.
        started: when the process was started, as `time.time()` tells it.
    """

    entry: Entry
    setup: Setup
    cells: tuple[Cell, ...]
    material: Path
    answers: Path
    seconds: float
    repeats: int
    first: bool
    started: float

    def to_json(self) -> str:
        """Plain text."""
        plain = {**vars(self), "entry": vars(self.entry), "setup": vars(self.setup)}
        plain["cells"] = [[cell.task, cell.batch, cell.beams] for cell in self.cells]
        return json.dumps(plain, default=str)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """What `to_json` wrote."""
        plain = json.loads(text)
        setup = {
            name: Path(value) if name in ("checkpoint", "folder", "plain") else value
            for name, value in plain["setup"].items()
        }
        return cls(
            entry=Entry(**plain["entry"]),
            setup=Setup(**setup),
            cells=tuple(Cell(*cell) for cell in plain["cells"]),
            material=Path(plain["material"]),
            answers=Path(plain["answers"]),
            seconds=plain["seconds"],
            repeats=plain["repeats"],
            first=plain["first"],
            started=plain["started"],
        )


def main() -> None:
    """Do the job."""
    job = Job.from_json(sys.stdin.read())
    # Whatever a library prints must not get between the lines.
    lines, sys.stdout = sys.stdout, sys.stderr
    Worker(job, lines).run()


class Worker:
    """A contestant at work."""

    def __init__(self, job: Job, lines: Any) -> None:
        self.job = job
        self.lines = lines
        most = max((pairs_of(cell, job.entry) for cell in job.cells), default=1)
        self.pairs = material.read_pairs(job.material, most)
        if len(self.pairs) < most:
            raise SystemExit(f"{most} pairs asked for, {len(self.pairs)} there")

    def run(self) -> None:
        """Open the contestant, measure every cell."""
        contestant, device = build(self.job.entry, self.job.setup), self.job.setup.device
        self.say("ready", start=time.time() - self.job.started, note=contestant.note, size=contestant.size)
        images = material.read_images(self.pairs, self.job.setup.folder)
        if self.job.first:
            beams = max(1, self.job.cells[0].beams)
            once = timed(lambda: contestant.warm_up(images[:1], beams))
            warm = contestant.caption(images[:1], beams).seconds
            self.say("first", seconds=once + warm, warm=warm)
        for cell in self.job.cells:
            forget_peak()
            result = self.measure(contestant, cell, images)
            memory = card.used(device) if card.is_card(device) else peak_memory()
            self.say("cell", task=cell.task, batch=cell.batch, beams=cell.beams, memory=memory, **result)

    def measure(self, contestant: Contestant, cell: Cell, images: Images) -> dict[str, Any]:
        """One cell."""
        if cell.task == CAPTION:
            return self.captions(contestant, cell, images[: cell.batch])
        if cell.task == HELD_OUT:
            return self.held_out(contestant, cell, images[: cell.batch])
        if cell.task == FILES:
            paths: Paths = [(pair.before, pair.after) for pair in self.pairs[: pairs_of(cell, self.job.entry)]]
            contestant.warm_up(images[: cell.batch], cell.beams)
            seconds = self.repeat(lambda: timed(lambda: contestant.caption_files(paths, cell.beams, cell.batch)))
            return {"seconds": seconds, "items": len(paths)}
        if cell.task in (ENCODER, STEP):
            part = images[: cell.batch]
            contestant.warm_up(part, max(1, cell.beams))
            graph = (
                (lambda: contestant.encoder(part))
                if cell.task == ENCODER
                else lambda: contestant.step(part, cell.beams)
            )
            return {"seconds": self.repeat(graph), "items": cell.batch}
        if cell.task == TEXTS:
            texts = self.sentences(cell.batch)
            seconds = self.repeat(lambda: timed(lambda: contestant.embed_texts(texts)))
            self.keep(cell, vectors=contestant.embed_texts(texts))
        else:
            part = images[: cell.batch]
            contestant.warm_up(part, 1)
            vectors: list[Any] = []
            seconds = self.repeat(lambda: timed(lambda: vectors.append(contestant.embed_images(part))))
            self.keep(cell, vectors=vectors[-1])
        return {"seconds": seconds, "items": cell.batch}

    def captions(self, contestant: Contestant, cell: Cell, images: Images) -> dict[str, Any]:
        """Captions of pairs in memory; their parts, too."""
        contestant.warm_up(images, cell.beams)
        results: list[Captioned] = []

        def once() -> float:
            results.append(contestant.caption(images, cell.beams))
            return results[-1].seconds

        seconds = self.repeat(once)
        results = results[-len(seconds) :]
        self.keep(cell, texts=results[-1].texts)
        return {
            "seconds": seconds,
            "items": cell.batch,
            "image": [result.image for result in results],
            "decode": [result.decode for result in results],
            "steps": results[-1].steps,
            "words": results[-1].words,
        }

    def held_out(self, contestant: Contestant, cell: Cell, images: Images) -> dict[str, Any]:
        """Captions and embeddings of held-out pairs, kept to be judged; the time is noted only."""
        start = time.perf_counter()
        texts: list[str] = []
        vectors = []
        size = 1 if self.job.entry.alone else 32
        whole = len(images) - len(images) % size  # a program for every size: let there be one more at most
        for begin in [*range(0, whole, size), *([whole] if whole < len(images) else [])]:
            part = images[begin : begin + size]
            said, seen = contestant.look(part, cell.beams)
            texts += said
            vectors.append(seen)
        queries = contestant.embed_texts([pair.sentences[0] for pair in self.pairs[: len(images)]])
        self.keep(cell, texts=texts, vectors=np.concatenate(vectors), queries=queries)
        return {"seconds": [time.perf_counter() - start], "items": len(images)}

    def repeat(self, once: Any) -> list[float]:
        """Run until it has taken long enough; the first run warms up, unless it was slow."""
        first = once()
        if first > SLOW:
            return [first]
        seconds: list[float] = []
        while not seconds or (sum(seconds) < self.job.seconds and len(seconds) < self.job.repeats):
            seconds.append(once())
        return seconds

    def sentences(self, count: int) -> list[str]:
        """Sentences in the model's own words, of equal length; what they say does not matter."""
        from rsicrc.manifest import TOKENIZER_FILE
        from rsicrc.text.vocabulary import SPECIAL_WORDS, Vocabulary

        words = Vocabulary.load(self.job.setup.folder / TOKENIZER_FILE).words[len(SPECIAL_WORDS) :]
        generator = np.random.default_rng(0)
        return [" ".join(generator.choice(words, SENTENCE_WORDS)) for _ in range(count)]

    def keep(self, cell: Cell, **answers: Any) -> None:
        """Write what came out, to be compared."""
        path = self.job.answers / f"{self.job.entry.name.replace(' ', '_')}--{cell.name}.npz"
        if not path.exists():
            np.savez(path, **answers)

    def say(self, event: str, **values: Any) -> None:
        """One line."""
        self.lines.write(json.dumps({"event": event, **values}) + "\n")
        self.lines.flush()


def pairs_of(cell: Cell, entry: Entry) -> int:
    """How many pairs a cell needs. From files it is more than a batch, or nothing could overlap."""
    if cell.task == TEXTS:
        return 1
    if cell.task != FILES:
        return cell.batch
    return _LEAST_FILES // 2 if entry.alone else max(_LEAST_FILES, _BATCHES_OF_FILES * cell.batch)


def timed(call: Any) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def forget_peak() -> None:
    """Begin the peak of this process's memory anew, where the system can."""
    with suppress(OSError):  # not Linux, or not allowed: the peak is then of all cells so far
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> int:
    """The most memory that this process held, in bytes."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    import resource

    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
