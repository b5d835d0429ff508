"""Separation of changed from unchanged pairs by a score: area under the ROC curve, with intervals by scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import ArgumentError

ROUNDS = 1000
_LEVELS = (0.025, 0.975)


def area_under_curve(changed: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Return the probability that a changed pair has a higher score than an unchanged one; ties count one half.

    Args:
        changed: N flags of the ground truth, with both values.
        scores: N scores.
    """
    # Ranks from 1, with the mean rank for equal scores.
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positive = int(changed.sum())
    negative = len(changed) - positive
    return float((ranks[changed].sum() - positive * (positive + 1) / 2) / (positive * negative))


def separation_metrics(
    changed: Sequence[bool], scores: Sequence[float], baseline: Sequence[float], scenes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Compare how well two scores separate changed from unchanged pairs.

    The intervals hold 95 % of `ROUNDS` bootstrap samples of whole scenes, because the pairs of a scene are alike.
    Samples without changed or without unchanged pairs are left out. The two scores are compared within each sample.

    Args:
        changed: N flags of the ground truth.
        scores: N scores of a model.
        baseline: N scores of a simple method.
        scenes: N names of scenes.

    Returns:
        "model", "baseline" and "difference" → "AUC", "low" and "high"; empty without changed or unchanged pairs.

    Raises:
        ArgumentError: The lists have different lengths.
    """
    truth = np.asarray(changed, np.bool_)
    columns = np.array([scores, baseline], np.float64) if len(scores) == len(baseline) else np.empty((2, 0))
    if columns.shape[1] != len(truth) or len(scenes) != len(truth):
        raise ArgumentError(f"{len(truth)} pairs need as many scores, baseline scores and scenes")
    if truth.all() or not truth.any():
        return {}
    numbers = np.unique(np.asarray(scenes), return_inverse=True)[1]
    members = [np.flatnonzero(numbers == number) for number in range(numbers.max() + 1)]
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(ROUNDS):
        rows = np.concatenate([members[scene] for scene in rng.integers(len(members), size=len(members))])
        if 0 < truth[rows].sum() < len(rows):
            samples.append([area_under_curve(truth[rows], column[rows]) for column in columns])
    areas = [area_under_curve(truth, column) for column in columns]
    drawn = np.array(samples)
    values = {"model": (areas[0], drawn[:, 0]), "baseline": (areas[1], drawn[:, 1])}
    values["difference"] = (areas[0] - areas[1], drawn[:, 0] - drawn[:, 1])
    return {name: _interval(area, column) for name, (area, column) in values.items()}


def _interval(area: float, samples: NDArray[np.float64]) -> dict[str, float]:
    low, high = np.quantile(samples, _LEVELS)
    return {"AUC": area, "low": float(low), "high": float(high)}
