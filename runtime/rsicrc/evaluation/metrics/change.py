"""Change/no-change metrics: how often the decision is right, and how honest a probability of change is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import ArgumentError
from rsicrc.evaluation.metrics.captioning import bare

BINS = 10


def says_changed(captions: Sequence[str], no_change_sentences: Sequence[str]) -> NDArray[np.bool_]:
    """Read the decision off captions: a pair is unchanged when its caption is one of the no-change sentences.

    Args:
        captions: N captions.
        no_change_sentences: The sentences; case, spacing and a final period do not matter.

    Returns:
        bool [N], True = changed.
    """
    unchanged = {bare(sentence.lower()) for sentence in no_change_sentences}
    return np.array([bare(caption.lower()) not in unchanged for caption in captions], np.bool_)


def decision_metrics(changed: Sequence[bool], decided: Sequence[bool]) -> dict[str, float]:
    """Compare decisions with the truth; the positive class is "changed".

    Args:
        changed: N flags, what is true.
        decided: N flags, what was said.

    Returns:
        "accuracy", "precision", "recall", "F1"; the last three are 0 where nothing is both changed and found.

    Raises:
        ArgumentError: Nothing to compare, or lists of unequal length.
    """
    truth, said = np.asarray(changed, np.bool_), np.asarray(decided, np.bool_)
    _check(truth, said)
    right = int((truth & said).sum())
    return {
        "accuracy": float((truth == said).mean()),
        "precision": right / max(int(said.sum()), 1),
        "recall": right / max(int(truth.sum()), 1),
        "F1": 2 * right / max(int(said.sum() + truth.sum()), 1),
    }


def calibration_metrics(changed: Sequence[bool], scores: Sequence[float]) -> dict[str, float]:
    """Measure a probability of change as a probability.

    Args:
        changed: N flags, what is true.
        scores: N probabilities of change, in [0, 1].

    Returns:
        "ECE": expected calibration error: over 10 bins of equal width, the distance between the mean score and the
        share that really changed, weighted by how many pairs the bin holds. "Brier": mean squared distance between
        score and truth. Both are 0 at best.

    Raises:
        ArgumentError: Nothing to measure, lists of unequal length, or a score outside [0, 1].
    """
    truth, score = np.asarray(changed, np.float64), np.asarray(scores, np.float64)
    _check(truth, score)
    if not ((score >= 0) & (score <= 1)).all():
        raise ArgumentError("a probability of change is in [0, 1]; some scores are not")
    bins = np.minimum((score * BINS).astype(np.int64), BINS - 1)  # 1.0 belongs to the last bin
    surplus = np.bincount(bins, weights=score - truth, minlength=BINS)
    return {"ECE": float(np.abs(surplus).sum() / len(score)), "Brier": float(((score - truth) ** 2).mean())}


def _check(truth: NDArray[np.bool_] | NDArray[np.float64], said: NDArray[np.bool_] | NDArray[np.float64]) -> None:
    if truth.shape != said.shape or truth.ndim != 1 or not len(truth):
        raise ArgumentError(f"{len(said)} decisions cannot be compared with {len(truth)} pairs")
