"""HTML page of an evaluation: the best and worst captions, and the most wrong change decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rsicrc.evaluation.evaluate import THRESHOLD, EvaluationReport, Prediction
from rsicrc.evaluation.metrics.captioning import caption_scores
from rsicrc.reports.html import Card, Heading, make_card, render_sections
from rsicrc.results import Caption

if TYPE_CHECKING:
    from rsicrc.engine import Engine

BEST, WORST = "Best captions of changed pairs", "Worst captions of changed pairs"
WRONG = "Most wrong change decisions"
PAIRS = 8  # in each section


def render_evaluation_page(engine: Engine, report: EvaluationReport, title: str) -> str:
    """Return one HTML page with all pictures embedded, which needs no other file and no network.

    Args:
        engine: The evaluated model, which computes the attention for each caption.
        report: The evaluation of the model.
        title: Title of the page.
    """
    sections = {name: _cards(engine, rows) for name, rows in select_pairs(report, PAIRS).items() if rows}
    metrics = [f"{name} {value:.3f}" for name, value in report.headline().items()]
    notes = [f"{report.pairs:,} pairs, {report.changed:,} of them changed", *metrics, *report.notes]
    return render_sections(Heading(title, notes), sections)


def select_pairs(report: EvaluationReport, count: int) -> dict[str, list[dict[str, Any]]]:
    """Select the most informative pairs.

    The best and worst captions are those of changed pairs, by the CIDEr of each caption; captions of unchanged pairs
    are rarely informative. Among captions with the same CIDEr, the caption with the higher score of the model is worse.
    The most wrong pairs are those whose `change_score` is farthest from the truth, on the wrong side of 0.5.

    Args:
        report: The evaluation.
        count: Maximum number of pairs of each kind.

    Returns:
        `BEST`, `WORST` and `WRONG` → rows for `rsicrc.reports.html.make_card`. No pair is in both the best and the
        worst.
    """
    captioned = [
        (prediction, prediction.result) for prediction in report.predictions if isinstance(prediction.result, Caption)
    ]
    changed = [(prediction, caption) for prediction, caption in captioned if prediction.pair.changed]
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
        for prediction, caption in captioned
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
        "references:": " | ".join(dict.fromkeys(pair.sentences)),
    }


def _cards(engine: Engine, rows: Sequence[Mapping[str, Any]]) -> list[Card]:
    return [make_card(engine, row, None) for row in rows]
