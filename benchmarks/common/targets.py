"""What the engine must reach on a GPU, beside what a run has measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common.rounds import Results
from common.summary import CAPTION, ENCODER, STEP, Row, rows, starts
from common.table import ABSENT, markdown
from common.worker import Cell

ENGINE = "rsicrc "
PUBLISHED = "published"
_HALF = ("fp16", "bf16")
_PYTORCH = ("pytorch", "compile", "graph", "huggingface")


@dataclass(frozen=True)
class Claim:
    """A figure and what it must reach.

    Attributes:
        what: in words.
        least: the figure must be at least this.
        measured: None where a part of it is missing.
        by: whose figures they are.
    """

    what: str
    least: float
    measured: float | None
    by: str = ""

    @property
    def verdict(self) -> str:
        """yes, no, or a dash."""
        if self.measured is None:
            return ABSENT
        return "yes" if self.measured >= self.least else "no"


def claims(latency: Results | None, throughput: Results | None) -> list[Claim]:
    """Work the figures out; those of one pair are from `latency`, those of 64 from `throughput`."""
    one, many = ([] if results is None else rows(results) for results in (latency, throughput))
    encoder = _nearest(_engine(many, Cell(ENCODER, 64)))
    step = _nearest(_engine(one, Cell(STEP, 1, 5)))
    engine = _quickest(row for row in many if row.cell == Cell(CAPTION, 64, 5) and row.contestant.startswith(ENGINE))
    torch = _quickest(row for row in many if row.cell == Cell(CAPTION, 64, 5) and row.contestant.startswith(_PYTORCH))
    published = _quickest(row for row in many if row.contestant == PUBLISHED and row.cell.task == CAPTION)
    return [
        _reached("image encoder in 16 bits, 64 pairs: share of the measured rate of products", 0.6, encoder),
        _reached("step in 16 bits, 1 pair × 5 beams: share of weights ÷ bandwidth + 10 µs", 0.5, step),
        _ratio("captions a second, 64 pairs × 5 beams: × the best PyTorch contestant", 4.0, engine, torch),
        _ratio("captions a second, 64 pairs × 5 beams: × the published way", 100.0, engine, published),
    ]


def tables(latency: Results | None, throughput: Results | None) -> str:
    """Markdown: the claims, and how long a first caption takes, cold and warm."""
    found = [
        (claim.what, f"{claim.least:g}", ABSENT if claim.measured is None else f"{claim.measured:.3g}", claim.verdict,
         claim.by or ABSENT)
        for claim in claims(latency, throughput)
    ]  # fmt: skip
    parts = [markdown(("figure", "at least", "measured", "reached", "by"), found)]
    if latency is not None:
        begun = [
            (name, *(ABSENT if part is None else f"{part:.3g}" for part in start))
            for name, start in starts(latency).items()
        ]
        if begun:
            head = ("contestant", "process to open model, s", "first caption, s", "first of a warmed-up one, s")
            parts.append(markdown(head, begun))
    return "\n\n".join(parts)


def _engine(found: Sequence[Row], cell: Cell) -> list[Row]:
    return [row for row in found if row.cell == cell and row.precision in _HALF and row.contestant.startswith(ENGINE)]


def _nearest(found: Iterable[Row]) -> Row | None:
    return max((row for row in found if row.floor is not None), key=_share, default=None)


def _quickest(found: Iterable[Row]) -> Row | None:
    return max(found, key=lambda row: row.rate, default=None)


def _share(row: Row) -> float:
    return (row.floor or 0.0) / row.median


def _reached(what: str, least: float, row: Row | None) -> Claim:
    return Claim(what, least, None) if row is None else Claim(what, least, _share(row), row.contestant)


def _ratio(what: str, least: float, ours: Row | None, theirs: Row | None) -> Claim:
    if ours is None or theirs is None:
        return Claim(what, least, None)
    return Claim(what, least, ours.rate / theirs.rate, f"{ours.contestant} against {theirs.contestant}")
