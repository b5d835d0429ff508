"""Change/no-change metrics: accuracy of the decisions, and calibration of the change score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import ArgumentError
from rsicrc.evaluation.metrics.captioning import strip_period

BINS = 10


def says_changed(captions: Sequence[str], no_change_sentences: Sequence[str]) -> NDArray[np.bool_]:
    """Derive decisions from captions: a pair is unchanged if its caption is one of the no-change sentences.

    Args:
        captions: N captions.
        no_change_sentences: Sentences that mean no change; case, spacing and a final period are ignored.

    Returns:
        bool [N], True = changed.
    """
    unchanged = {strip_period(sentence.lower()) for sentence in no_change_sentences}
    return np.array([strip_period(caption.lower()) not in unchanged for caption in captions], np.bool_)


def decision_metrics(changed: Sequence[bool], decided: Sequence[bool]) -> dict[str, float]:
    """Compare decisions with the ground truth; the positive class is "changed".

    Args:
        changed: N flags of the ground truth.
        decided: N flags of the decisions.

    Returns:
        "accuracy", "precision", "recall", "F1"; the last three are 0 if no changed pair is found.

    Raises:
        ArgumentError: There is nothing to compare, or the lists have different lengths.
    """
    truth, decision = np.asarray(changed, np.bool_), np.asarray(decided, np.bool_)
    _check(truth, decision)
    right = int((truth & decision).sum())
    return {
        "accuracy": float((truth == decision).mean()),
        "precision": right / max(int(decision.sum()), 1),
        "recall": right / max(int(truth.sum()), 1),
        "F1": 2 * right / max(int(decision.sum() + truth.sum()), 1),
    }


def calibration_metrics(changed: Sequence[bool], scores: Sequence[float]) -> dict[str, float]:
    """Measure the calibration of a probability of change.

    Args:
        changed: N flags of the ground truth.
        scores: N probabilities of change, in [0, 1].

    Returns:
        "ECE": expected calibration error over 10 bins of equal width: the distance between the mean score and the share
        of changed pairs, weighted by the number of pairs in the bin. "Brier": mean squared difference of score and
        ground truth. The best value of both is 0.

    Raises:
        ArgumentError: There is nothing to measure, the lists have different lengths, or a score is outside [0, 1].
    """
    truth, score = np.asarray(changed, np.float64), np.asarray(scores, np.float64)
    _check(truth, score)
    if not ((score >= 0) & (score <= 1)).all():
        raise ArgumentError("a probability of change is in [0, 1]; some scores are outside")
    bins = np.minimum((score * BINS).astype(np.int64), BINS - 1)  # 1.0 belongs to the last bin
    surplus = np.bincount(bins, weights=score - truth, minlength=BINS)
    return {"ECE": float(np.abs(surplus).sum() / len(score)), "Brier": float(((score - truth) ** 2).mean())}


def _check(truth: NDArray[np.bool_] | NDArray[np.float64], values: NDArray[np.bool_] | NDArray[np.float64]) -> None:
    if truth.shape != values.shape or truth.ndim != 1 or not len(truth):
        raise ArgumentError(f"{len(values)} decisions cannot be compared with {len(truth)} pairs")
