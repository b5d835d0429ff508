"""Performance targets of the engine on a GPU, and the measured values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from common.runner import Results
from common.summary import Row, rows
from common.table import ABSENT, PUBLISHED, markdown
from common.worker import CAPTION, ENCODER, STEP, Case

_PYTORCH = ("pytorch", "compile", "graph", "huggingface")


class Target(NamedTuple):
    """A quantity, the smallest value that meets the target, and the measured value with its implementations."""

    title: str
    least: float
    measured: float | None = None
    by: str = ABSENT

    @property
    def verdict(self) -> str:
        """Answer for the table: "yes" if the target is met, "no" if not, a dash if it was not measured."""
        return ABSENT if self.measured is None else "yes" if self.measured >= self.least else "no"


def targets(latency: Results | None, throughput: Results | None) -> list[Target]:
    """Return all targets; the step is measured by `latency`, the others by `throughput`."""
    one, many = ([] if results is None else rows(results) for results in (latency, throughput))
    captions = [row for row in many if row.case == Case(CAPTION, 64, 5)]
    engine = _fastest(row for row in captions if row.implementation.startswith("rsicrc "))
    pytorch = _fastest(row for row in captions if row.implementation.startswith(_PYTORCH))
    published = _fastest(row for row in many if row.implementation == PUBLISHED and row.case.task == CAPTION)
    title = "captions per second, 64 pairs × 5 beams: ratio to the"
    return [
        _share("image encoder in 16 bits, 64 pairs: share of the roofline", 0.6, many, Case(ENCODER, 64)),
        _share("decoder step in 16 bits, 1 pair × 5 beams: share of the roofline", 0.5, one, Case(STEP, 1, 5)),
        _ratio(f"{title} fastest PyTorch baseline", 4.0, engine, pytorch),
        _ratio(f"{title} published method", 100.0, engine, published),
    ]


def table(latency: Results | None, throughput: Results | None) -> str:
    """Return the targets as a Markdown table."""
    found = targets(latency, throughput)
    body = [
        (each.title, f"{each.least:g}", f"{each.measured:.3g}" if each.measured else ABSENT, each.verdict, each.by)
        for each in found
    ]
    return markdown(("target", "at least", "measured", "met", "by"), body)


def _share(title: str, least: float, measured: Iterable[Row], case: Case) -> Target:
    """Return the target for the largest share of the roofline in 16 bits; only the engine has such cases."""
    found = [row for row in measured if row.case == case and row.precision in ("fp16", "bf16")]
    shares = [(row.roofline / row.median, row.implementation) for row in found if row.roofline is not None]
    return Target(title, least, *max(shares, default=()))


def _ratio(title: str, least: float, ours: Row | None, other: Row | None) -> Target:
    if ours is None or other is None:
        return Target(title, least)
    return Target(title, least, ours.rate / other.rate, f"{ours.implementation} against {other.implementation}")


def _fastest(found: Iterable[Row]) -> Row | None:
    return max(found, key=lambda row: row.rate, default=None)
