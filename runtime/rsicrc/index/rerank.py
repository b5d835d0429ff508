"""Reranking of the first hits by the probability of the query as a caption of each pair."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Weight of the log-probability relative to the cosine, tuned for the example model on 2,000 generated pairs that are
# not part of the held-out set (docs/measurements/search.md). All weights from 0.1 on are equally good within 1 %.
LOG_PROB_WEIGHT = 0.2


def rank_scores(
    similarity: NDArray[np.float32], log_probs: NDArray[np.float64], weight: float = LOG_PROB_WEIGHT
) -> NDArray[np.float64]:
    """Combine the cosine similarity and the log-probability of pairs and one query.

    A prior log p(query) and a division by the length of the query are the same for all pairs: the prior does not change
    the order, and the division only changes the weight.

    Args:
        similarity: float [n], cosines.
        log_probs: float [n], log p(query | pair), summed over the words; NaN if unknown.
        weight: Weight of the log-probability; the weight of the cosine is 1.

    Returns:
        float64 [n], larger is better. Pairs without a log-probability come last, ordered by their cosine.
    """
    scores = similarity.astype(np.float64) + weight * log_probs
    missing = np.isnan(log_probs)
    if missing.any():
        lowest = scores[~missing].min() if not missing.all() else 0.0
        scores[missing] = lowest - 2 + similarity[missing]
    return scores
