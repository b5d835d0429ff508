"""Quality beside speed: how a contestant's answers compare with those of the model in float32, and with the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.evaluation.metrics.captioning import PERIOD_FREE, caption_metrics
from rsicrc.evaluation.metrics.retrieval import published_retrieval, relevance

REFERENCES = ("pytorch", "huggingface", "onnx-plain", "rsicrc onnxruntime fp32", "rsicrc auto fp32")
"""All compute the model in float32, unfolded or proven equal; the others are held to the first that took part."""

Answers = dict[str, NDArray[Any]]


def compare(folder: Path, names: Sequence[str], pairs: Sequence[CaptionedPair]) -> dict[str, dict[str, Any]]:
    """Compare all answers in a folder.

    Args:
        folder: where the workers kept their answers, `<contestant>--<cell>.npz`.
        names: the contestants.
        pairs: the pairs that were captioned.

    Returns:
        Contestant → cell → figures: those of `_figures`, and for held-out pairs those of `_judged`.
    """
    found: dict[str, dict[str, Answers]] = {name: {} for name in names}
    for path in folder.glob("*--*.npz"):
        name, _, cell = path.stem.partition("--")
        with np.load(path) as file:
            found[name.replace("_", " ")][cell] = dict(file)
    compared: dict[str, dict[str, Any]] = {}
    for name, cells in found.items():
        compared[name] = {}
        for cell, answers in cells.items():
            reference = next((found[other][cell] for other in REFERENCES if cell in found.get(other, {})), None)
            figures = {} if reference is None else _figures(answers, reference)
            if "queries" in answers:
                figures |= _judged(answers, pairs[: len(answers["texts"])])
            compared[name][cell] = figures
    return compared


def _figures(answers: Answers, reference: Answers) -> dict[str, float]:
    """Share of equal sentences; the lowest cosine; share of equal nearest neighbors among the vectors."""
    figures: dict[str, float] = {}
    if "texts" in answers:
        figures["same_captions"] = float(np.mean(answers["texts"] == reference["texts"]))
    if "vectors" in answers:
        ours, theirs = answers["vectors"], reference["vectors"]
        figures["cosine"] = float((ours * theirs).sum(axis=1).min())
        if len(ours) > 2:
            figures["same_neighbor"] = float(np.mean(_nearest(ours) == _nearest(theirs)))
    return figures


def _judged(answers: Answers, pairs: Sequence[CaptionedPair]) -> dict[str, float]:
    """BLEU-4 (period-free) of the changed pairs' captions, and P@1 of text → pair among them, published protocol."""
    rows = [row for row, pair in enumerate(pairs) if pair.changed]
    if not rows:
        return {}
    truth = [pairs[row].sentences for row in rows]
    said = [str(answers["texts"][row]) for row in rows]
    first = [sentences[0] for sentences in truth]
    found = published_retrieval(answers["queries"][rows], answers["vectors"][rows], relevance(rows, first))
    return {
        "bleu_4": caption_metrics(said, truth, PERIOD_FREE, meteor=False)["BLEU-4"],
        "precision_at_1": found["P@1"],
        "pairs": len(pairs),
    }


def _nearest(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    nearest: NDArray[np.int64] = similarity.argmax(axis=1)
    return nearest
