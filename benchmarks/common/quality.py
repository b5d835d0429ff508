"""Quality metrics: an implementation's answers compared with those of the fp32 model, and with the references."""

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
"""Implementations of the fp32 model, unfolded or proven equal; the first that took part is the reference."""

Answers = dict[str, NDArray[Any]]


def compare(folder: Path, names: Sequence[str], pairs: Sequence[CaptionedPair]) -> dict[str, dict[str, Any]]:
    """Compare the answers that the workers saved in a folder as `<implementation>--<case>.npz`.

    Returns:
        Implementation → case → metrics: those of `_agreement`, and for held-out pairs those of `_held_out`.
    """
    found: dict[str, dict[str, Answers]] = {name: {} for name in names}
    for path in folder.glob("*--*.npz"):
        name, _, case = path.stem.partition("--")
        with np.load(path) as file:
            found[name.replace("_", " ")][case] = dict(file)
    compared: dict[str, dict[str, Any]] = {}
    for name, cases in found.items():
        compared[name] = {}
        for case, answers in cases.items():
            reference = next((found[other][case] for other in REFERENCES if case in found.get(other, {})), None)
            metrics = {} if reference is None else _agreement(answers, reference)
            if "queries" in answers:
                metrics |= _held_out(answers, pairs[: len(answers["texts"])])
            compared[name][case] = metrics
    return compared


def _agreement(answers: Answers, reference: Answers) -> dict[str, float]:
    """Return the share of equal captions, the lowest cosine, and the share of embeddings with the same neighbor."""
    metrics: dict[str, float] = {}
    if "texts" in answers:
        metrics["same_captions"] = float(np.mean(answers["texts"] == reference["texts"]))
    if "vectors" in answers:
        ours, theirs = answers["vectors"], reference["vectors"]
        metrics["cosine"] = float((ours * theirs).sum(axis=1).min())
        if len(ours) > 2:
            metrics["same_neighbor"] = float(np.mean(_nearest(ours) == _nearest(theirs)))
    return metrics


def _held_out(answers: Answers, pairs: Sequence[CaptionedPair]) -> dict[str, float]:
    """Return the changed pairs' BLEU-4 (period-free), and P@1 of text → pair retrieval (published protocol)."""
    rows = [row for row, pair in enumerate(pairs) if pair.changed]
    if not rows:
        return {}
    references = [pairs[row].sentences for row in rows]
    captions = [str(answers["texts"][row]) for row in rows]
    first = [sentences[0] for sentences in references]
    retrieval = published_retrieval(answers["queries"][rows], answers["vectors"][rows], relevance(rows, first))
    return {
        "bleu_4": caption_metrics(captions, references, PERIOD_FREE, meteor=False)["BLEU-4"],
        "precision_at_1": retrieval["P@1"],
        "pairs": len(pairs),
    }


def _nearest(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    nearest: NDArray[np.int64] = similarity.argmax(axis=1)
    return nearest
