"""Ordering the first hits anew, by how probable the query is as a caption of each pair."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The weight of the log-probability beside the cosine, chosen for the example model on 2,000 generated pairs
# that are not the held-out ones (docs/search.md). Anything from 0.1 on is as good within 1 %.
LOG_PROB_WEIGHT = 0.2


def rank_scores(
    similarity: NDArray[np.float32], log_probs: NDArray[np.float64], weight: float = LOG_PROB_WEIGHT
) -> NDArray[np.float64]:
    """Combine what both halves of the model say about pairs and one query.

    For one query, a prior log p(query) and a division by its length are the same for all pairs: the first changes no
    order, and the second only the weight.

    Args:
        similarity: float [n], cosines.
        log_probs: float [n], log p(query | pair), summed over the words; NaN where it is not known.
        weight: Of a unit of log-probability against a cosine of 1.

    Returns:
        float64 [n], larger is better; what has no log-probability comes after all that has, by its cosine.
    """
    scores = similarity.astype(np.float64) + weight * log_probs
    missing = np.isnan(log_probs)
    if missing.any():
        floor = scores[~missing].min() if not missing.all() else 0.0
        scores[missing] = floor - 2 + similarity[missing]
    return scores
