"""Paired comparison of the cells of a study: differences by seed, their interval, and the smallest visible effect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

_CONFIDENCE, _POWER = 0.95, 0.8
_RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """Difference of two cells that were trained with the same seeds.

    Attributes:
        mean: Mean difference over the seeds.
        interval: Half width of the 95 % t interval over the seeds.
        visible: Smallest true difference that this number of seeds finds with a probability of 80 %, at a level of 5 %.
        seeds: Number of seeds that both cells have.
    """

    mean: float
    interval: float
    visible: float
    seeds: int


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Difference | None:
    """Return the difference of a metric from that of the baseline; None with fewer than two common seeds.

    Args:
        values: Metric of the cell by seed.
        baseline: Metric of the baseline by seed, in the same order.
    """
    differences = [value - other for value, other in zip(values, baseline, strict=False)]
    count = len(differences)
    if count < 2:
        return None
    error = float(np.std(differences, ddof=1)) / math.sqrt(count)
    level = t_quantile((1 + _CONFIDENCE) / 2, count - 1)
    return Difference(
        float(np.mean(differences)), level * error, (level + t_quantile(_POWER, count - 1)) * error, count
    )


def query_interval(values: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean difference over the queries, each averaged over the seeds.

    Args:
        values: Metric of the cell by seed and query.
        baseline: Metric of the baseline by seed and query, of the same queries.
    """
    count = min(len(values), len(baseline))
    differences = (np.asarray(values[:count]) - np.asarray(baseline[:count])).mean(axis=0)
    rng = np.random.default_rng(0)
    means = [rng.choice(differences, len(differences)).mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(means, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return float(low), float(high)


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """Return a quantile of Student's t distribution, for probabilities from 0.5 to 0.99.

    Args:
        probability: Probability of a smaller value.
        freedom: Degrees of freedom, from 1.
    """
    x = np.linspace(0, 40, 400_001)
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    density = constant * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    below = 0.5 + np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2) * (x[1] - x[0])])
    return float(np.interp(probability, below, x))
