"""Calibration of the change score: a monotone curve from the score to the probability that a pair has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.untrusted.fields import number, whole

EVEN = 0.5  # smallest probability of a pair that is decided to be changed
_EDGE = 1e-6  # scores closer to 0 or 1 are rounding errors of 1 − Σ p
_STEEPEST = 1e3
_MOST_PAIRS = 1 << 40
_ROUNDS = 100
_RIDGE = 1e-3  # keeps the curve finite if the score separates all pairs


@dataclass(frozen=True)
class ChangeCalibration:
    """Logistic curve over the log-odds of the change score (Platt 1999): probability = σ(slope · logit + intercept).

    The slope is positive, so pairs are in the same order by score and by probability.

    Attributes:
        slope: Factor of the log-odds of the score.
        intercept: Log-odds of the probability at a score of 0.5.
        pairs: Number of held-out pairs to which the curve was fitted.
    """

    slope: float
    intercept: float
    pairs: int

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> ChangeCalibration:
        """Read the output of `to_dict`.

        Raises:
            KeyError: A field is missing.
            ValueError: A field has a wrong type or value.
        """
        return cls(
            number(fields["slope"], "calibration.slope", 1 / _STEEPEST, _STEEPEST),
            number(fields["intercept"], "calibration.intercept", -_STEEPEST, _STEEPEST),
            whole(fields["pairs"], "calibration.pairs", 1, _MOST_PAIRS),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        return {"slope": self.slope, "intercept": self.intercept, "pairs": self.pairs}

    def probability(self, score: float) -> float:
        """Return the probability of change of a pair with a change score in [0, 1]."""
        odds = self.slope * float(_logits(np.array([score]))[0]) + self.intercept
        return float(_sigmoid(np.array([odds]))[0])


def fit_calibration(scores: Sequence[float], changed: Sequence[bool]) -> ChangeCalibration | None:
    """Fit the curve to held-out pairs by Newton's method.

    Args:
        scores: Change scores of N pairs, in [0, 1].
        changed: N flags of the ground truth.

    Returns:
        The curve of the highest likelihood; None without changed or unchanged pairs, or if a higher score does not mean
        a higher probability.
    """
    truth = np.asarray(changed, np.float64)
    if not len(truth) or truth.min() == truth.max():
        return None
    inputs = np.stack([_logits(np.asarray(scores, np.float64)), np.ones(len(truth))])
    weights = np.array([1.0, 0.0])
    for _ in range(_ROUNDS):
        predicted = _sigmoid(weights @ inputs)
        gradient = inputs @ (predicted - truth) + _RIDGE * weights
        curvature = (inputs * (predicted * (1 - predicted))) @ inputs.T + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step * min(1.0, 1.0 / (float(np.abs(step).max()) + 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    slope, intercept = (round(float(weight), 6) for weight in weights)
    if not 1 / _STEEPEST <= slope <= _STEEPEST or abs(intercept) > _STEEPEST:
        return None
    return ChangeCalibration(slope, intercept, len(truth))


def _logits(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(scores, _EDGE, 1 - _EDGE)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _sigmoid(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(odds, -700, 700))))
