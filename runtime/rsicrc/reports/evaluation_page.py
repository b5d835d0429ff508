"""The pairs of an evaluation that say most, as a page of pictures: the best, the worst, and the most wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rsicrc.evaluation.evaluate import THRESHOLD, Prediction, Report
from rsicrc.evaluation.metrics.captioning import caption_scores
from rsicrc.reports.html import Card, Heading, make_card, write_sections
from rsicrc.results import Caption

if TYPE_CHECKING:
    from rsicrc.engine import Engine

BEST, WORST = "Best captions of changed pairs", "Worst captions of changed pairs"
WRONG = "Most wrong about whether anything changed"
PAIRS = 8  # in each section: what one looks through at a sitting


def draw_showcase(engine: Engine, report: Report, title: str) -> str:
    """Return one HTML page that needs no other file and no network.

    Args:
        engine: The model that was evaluated; it is asked where it looked for each caption.
        report: Its evaluation.
        title: What stands on top.
    """
    sections = {name: _cards(engine, rows) for name, rows in choose(report, PAIRS).items() if rows}
    figures = [f"{name} {value:.3f}" for name, value in report.decisive().items()]
    notes = [f"{report.pairs:,} pairs, {report.changed:,} of them changed", *figures, *report.notes]
    return write_sections(Heading(title, notes), sections)


def choose(report: Report, count: int) -> dict[str, list[dict[str, Any]]]:
    """Choose the pairs that say most.

    Captions of unchanged pairs are nearly always right or of no interest, so captions are judged on changed pairs, each
    by its own CIDEr. Among captions of the same CIDEr, the worse is the one that the model was surer of. Most wrong are
    the pairs whose `change_score` is farthest from the truth, on the wrong side of 0.5.

    Args:
        report: An evaluation.
        count: How many pairs of each sort, at most.

    Returns:
        `BEST`, `WORST` and `WRONG` → rows as `rsicrc.reports.html.make_card` takes them. No pair is among both the
        best and the worst.
    """
    said = [(prediction, prediction.result) for prediction in report.predictions]
    known = [(prediction, caption) for prediction, caption in said if isinstance(caption, Caption)]
    changed = [(prediction, caption) for prediction, caption in known if prediction.pair.changed]
    scores = (
        caption_scores(
            [caption.text for _, caption in changed], [prediction.pair.sentences for prediction, _ in changed]
        )
        if changed
        else []
    )
    order = sorted(range(len(changed)), key=lambda row: (-scores[row], changed[row][1].score))
    half = min(count, (len(order) + 1) // 2)
    wrong = [
        (prediction, caption, abs(caption.change_score - prediction.pair.changed))
        for prediction, caption in known
        if caption.change_score is not None
    ]
    wrong = sorted((each for each in wrong if each[2] > THRESHOLD), key=lambda each: -each[2])[:count]
    return {
        BEST: [_row(rank, *changed[row], scores[row]) for rank, row in enumerate(order[:half], start=1)],
        WORST: [
            _row(rank, *changed[row], scores[row]) for rank, row in enumerate(order[half:][-count:][::-1], start=1)
        ],
        WRONG: [_row(rank, prediction, caption, None) for rank, (prediction, caption, _) in enumerate(wrong, start=1)],
    }


def _row(rank: int, prediction: Prediction, caption: Caption, cider: float | None) -> dict[str, Any]:
    pair = prediction.pair
    return {
        "rank": rank,
        "id": pair.after.name,
        "before": str(pair.before),
        "after": str(pair.after),
        "caption": caption.text,
        "change_score": caption.change_score,
        "cider": cider,
        "truth:": "changed" if pair.changed else "unchanged",
        "people wrote:": " | ".join(dict.fromkeys(pair.sentences)),
    }


def _cards(engine: Engine, rows: Sequence[Mapping[str, Any]]) -> list[Card]:
    return [make_card(engine, row, None) for row in rows]
