"""Summary of the turns: medians over the rounds, and the roofline of every time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.peaks import Peaks
from common.roofline import Counts, Roofline
from common.runner import Results
from common.worker import CAPTION, ENCODER, FILES, IMAGES, STEP, TEXTS, Case


@dataclass(frozen=True)
class Row:
    """One implementation in one case, over all rounds.

    Attributes:
        items: Pairs or sentences of one run.
        seconds: Times of all runs.
        rounds: Median time of each round.
        image: Median seconds of the image encoder; None where it was not timed separately.
        decode: Median seconds of the beam search; None where it was not timed separately.
        roofline: Shortest possible seconds of a run; None where the peak rates are missing.
        image_roofline: Shortest possible seconds of the image encoder.
        decode_roofline: Shortest possible seconds of the beam search.
        memory: Largest memory of the process, in bytes.
        answers: Quality metrics, see `common.quality`.
    """

    implementation: str
    precision: str
    case: Case
    items: int
    seconds: tuple[float, ...]
    rounds: tuple[float, ...]
    image: float | None
    decode: float | None
    roofline: float | None
    image_roofline: float | None
    decode_roofline: float | None
    memory: int
    answers: dict[str, float]

    @property
    def median(self) -> float:
        """Median of the rounds' medians, in seconds."""
        return float(np.median(self.rounds))

    @property
    def rate(self) -> float:
        """Pairs or sentences per second."""
        return self.items / self.median

    def quantile(self, share: float) -> float:
        """Return a quantile of the times of all runs, in seconds."""
        return float(np.quantile(self.seconds, share))


def rows(results: Results) -> list[Row]:
    """Return all rows, in the order of the implementations and their cases."""
    counts, limits = results.about["counts"], results.about["limits"]
    roofline = None if limits is None or counts is None else Roofline(Counts(**counts), Peaks(**limits))
    return [
        row
        for name, entry in results.about["contestants"].items()
        for row in _rows_of(results, name, entry["precision"], roofline)
    ]


def start(results: Results, name: str) -> list[float | None]:
    """Return median seconds: from the start of the process to an open model, of the first caption, and of the next."""
    turns = [turn for turn in results.turns if turn["contestant"] == name]
    return [_median([turn.get(part) for turn in turns]) for part in ("start", "first", "warm")]


def _rows_of(results: Results, name: str, precision: str, roofline: Roofline | None) -> Iterator[Row]:
    grouped: dict[Case, list[dict[str, Any]]] = {}
    for turn in results.turns:
        if turn["contestant"] == name:
            for case in turn["cells"]:
                grouped.setdefault(Case(case["task"], case["batch"], case["beams"]), []).append(case)
    steps = {case.beams: runs[0]["words"] / runs[0]["items"] for case, runs in grouped.items() if "words" in runs[0]}
    for case, runs in grouped.items():
        times = (None, None, None) if roofline is None else _shortest(roofline, precision, case, runs[0], steps)
        yield Row(
            name,
            precision,
            case,
            runs[0]["items"],
            tuple(second for run in runs for second in run["seconds"]),
            tuple(float(np.median(run["seconds"])) for run in runs),
            _median([float(np.median(run["image"])) for run in runs if "image" in run]),
            _median([float(np.median(run["decode"])) for run in runs if "decode" in run]),
            *times,
            memory=max(run["memory"] for run in runs),
            answers=results.answers.get(name, {}).get(case.name, {}),
        )


def _shortest(
    roofline: Roofline, precision: str, case: Case, run: Mapping[str, Any], steps: Mapping[int, float]
) -> tuple[float | None, float | None, float | None]:
    """Return the roofline of a run, of its image encoder, and of its beam search.

    `steps` is the mean length of the captions from memory, by number of beams.
    """
    items = run["items"]
    if case.task == TEXTS:
        return roofline.texts(precision, items), None, None
    if case.task in (IMAGES, ENCODER):
        return roofline.images(precision, items), None, None
    if case.task == STEP:
        return roofline.decode(precision, case.beams, 1, items), None, None
    if case.task == CAPTION:
        image = roofline.images(precision, items)
        decode = roofline.decode(precision, case.beams, run["steps"], run["words"])
        return image + decode, image, decode
    if case.task == FILES and case.beams in steps:
        # As if every batch took as many steps as the captions from memory on average.
        length = round(steps[case.beams])
        batch = roofline.decode(precision, case.beams, length, length * min(items, case.batch))
        return roofline.images(precision, items) + -(-items // case.batch) * batch, None, None
    return None, None, None


def _median(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None
