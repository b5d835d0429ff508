"""From turns to rows: medians with their spread, and every time as a fraction of its floor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from common.floors import Counts, Floors
from common.machine import Limits
from common.rounds import Results
from common.worker import CAPTION, ENCODER, FILES, HELD_OUT, IMAGES, STEP, TEXTS, Cell


@dataclass(frozen=True)
class Row:
    """One contestant in one cell, over all rounds.

    Attributes:
        contestant: its name.
        precision: of its products.
        cell: what it did.
        items: pairs or sentences that a time stands for.
        seconds: all times.
        rounds: the median of each round.
        image: median seconds of the image side, where it was timed apart.
        decode: median seconds of the search, where it was timed apart.
        floor: seconds that the whole cannot take less than; None where limits are missing.
        image_floor: of the image side.
        decode_floor: of the search.
        memory: the most bytes that the process held.
        answers: how its answers compare, see `common.quality`.
    """

    contestant: str
    precision: str
    cell: Cell
    items: int
    seconds: tuple[float, ...]
    rounds: tuple[float, ...]
    image: float | None
    decode: float | None
    floor: float | None
    image_floor: float | None
    decode_floor: float | None
    memory: int
    answers: dict[str, float]

    @property
    def median(self) -> float:
        """Over the rounds' medians."""
        return float(np.median(self.rounds))

    @property
    def rate(self) -> float:
        """Pairs or sentences a second."""
        return self.items / self.median

    def quantile(self, share: float) -> float:
        """Over all times."""
        return float(np.quantile(self.seconds, share))


def rows(results: Results) -> list[Row]:
    """All rows, in the order in which contestants and cells were planned."""
    about = results.about
    limits = about["limits"]
    floors = None if limits is None or about["counts"] is None else Floors(Counts(**about["counts"]), Limits(**limits))
    return [
        row
        for name, entry in about["contestants"].items()
        for row in _rows_of(results, name, entry["precision"], floors)
    ]


def _rows_of(results: Results, name: str, precision: str, floors: Floors | None) -> Iterator[Row]:
    grouped: dict[Cell, list[dict[str, Any]]] = {}
    for turn in results.turns:
        if turn["contestant"] == name:
            for cell in turn["cells"]:
                grouped.setdefault(Cell(cell["task"], cell["batch"], cell["beams"]), []).append(cell)
    words = {
        cell.beams: (turns[0]["words"] / turns[0]["items"]) for cell, turns in grouped.items() if "words" in turns[0]
    }
    for cell, turns in grouped.items():
        image_floor = decode_floor = floor = None
        if floors is not None:
            items = turns[0]["items"]
            if cell.task == TEXTS:
                floor = floors.texts(precision, items)
            elif cell.task in (IMAGES, ENCODER):
                floor = floors.images(precision, items)
            elif cell.task == STEP:
                floor = floors.decode(precision, cell.beams, 1, items)
            elif cell.task == CAPTION:
                image_floor = floors.images(precision, items)
                decode_floor = floors.decode(precision, cell.beams, turns[0]["steps"], turns[0]["words"])
                floor = image_floor + decode_floor
            elif cell.task == FILES and cell.beams in words:
                # As if all were one batch of the steps that the captions from memory took.
                steps = round(words[cell.beams])
                runs = -(-items // cell.batch)
                floor = floors.images(precision, items) + runs * floors.decode(
                    precision, cell.beams, steps, steps * min(items, cell.batch)
                )
        yield Row(
            name,
            precision,
            cell,
            turns[0]["items"],
            tuple(second for turn in turns for second in turn["seconds"]),
            tuple(float(np.median(turn["seconds"])) for turn in turns),
            _median(turns, "image"),
            _median(turns, "decode"),
            floor,
            image_floor,
            decode_floor,
            max(turn["memory"] for turn in turns),
            results.answers.get(name, {}).get(cell.name, {}),
        )


def _median(turns: list[dict[str, Any]], part: str) -> float | None:
    values = [float(np.median(turn[part])) for turn in turns if part in turn]
    return float(np.median(values)) if values else None


def sizes(results: Results) -> dict[str, int]:
    """Contestant → bytes on disk of what it loads."""
    return {turn["contestant"]: turn["size"] for turn in results.turns if "size" in turn}


class Start(NamedTuple):
    """Median seconds: from a process's start to an open model; of the first caption; of it without the preparing."""

    opened: float | None = None
    first: float | None = None
    warm: float | None = None


def starts(results: Results) -> dict[str, Start]:
    """Contestant → how long its beginning takes."""
    times: dict[str, Start] = {}
    for name in results.about["contestants"]:
        turns = [turn for turn in results.turns if turn["contestant"] == name and turn["start"] is not None]
        if turns:
            parts = [
                [turn[part] for turn in turns if turn.get(part) is not None] for part in ("start", "first", "warm")
            ]
            times[name] = Start(*(float(np.median(part)) if part else None for part in parts))
    return times


def failures(results: Results) -> dict[str, str]:
    """Contestant → what went wrong."""
    return {turn["contestant"]: turn["error"] for turn in results.turns if turn["error"]}


__all__ = [
    "CAPTION", "ENCODER", "FILES", "HELD_OUT", "IMAGES", "STEP", "TEXTS", "Row", "Start", "failures", "rows", "sizes",
    "starts",
]  # fmt: skip
