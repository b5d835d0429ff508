"""Text → pair retrieval metrics, in the published protocol and in the strict protocol of later work.

Candidates with equal similarity keep their order in the data, so that the metrics are deterministic. Similarities are
computed for a few queries at a time: 10,077 pairs need about 0.3 GB, most of it for the relevance matrix.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import ArgumentError

CUTOFFS = (1, 3, 5, 10)
_CHUNK = 256


def relevance(labels: Sequence[int], sentences: Sequence[Hashable]) -> NDArray[np.bool_]:
    """Compute the relevant pairs of each query in the published protocol; query i is the first caption of pair i.

    A pair is relevant if it has the label of the query (only the query's own pair, or all unchanged pairs, which share
    one label), or if its first caption is the same sentence. The latter corresponds to a threshold of 1.0 on the
    similarity of sentence embeddings, up to rounding. For a lower threshold, compute a relevance matrix of your own.

    Args:
        labels: N labels.
        sentences: N first captions.

    Returns:
        bool [N, N], row = query, column = pair.
    """
    numbers: dict[Hashable, int] = {}
    relevant = _same(np.asarray(labels))
    relevant |= _same(np.array([numbers.setdefault(sentence, len(numbers)) for sentence in sentences]))
    return relevant


def published_retrieval(
    queries: NDArray[np.float32], candidates: NDArray[np.float32], relevant: NDArray[np.bool_]
) -> dict[str, float]:
    """Compute retrieval metrics as the published code does; each is a mean over the queries.

    P@K is the share of relevant pairs among the first K pairs, even if fewer than K pairs are relevant. R@K is the
    share of *all* relevant pairs that is among the first K, so that a query with 900 relevant pairs has at most
    K / 900. (On the LEVIR-CC test split, a perfect ranking has R@5 0.465 on all pairs and 0.925 on changed pairs.)
    MRR@K is 1 / rank of the first relevant pair, or 0 if that rank is larger than K. mAP is computed over the whole
    ranking.

    Args:
        queries: float [Q, d], text embeddings of length 1.
        candidates: float [N, d], pair embeddings of length 1.
        relevant: bool [Q, N], for example from `relevance`; every row has at least one True.

    Returns:
        "P@K", "R@K", "MRR@K" for K = 1, 3, 5, 10, and "mAP".

    Raises:
        ArgumentError: Shapes do not match, there are no queries, embeddings contain NaN, or a query has no relevant
            pairs.
    """
    _check(queries, candidates)
    if relevant.shape != (len(queries), len(candidates)) or not relevant.any(axis=1).all():
        raise ArgumentError(
            f"the relevance matrix is {list(relevant.shape)} where [{len(queries)}, {len(candidates)}] is needed, "
            "with at least one relevant pair for every query"
        )
    precision, recall, reciprocal = np.zeros((3, len(CUTOFFS)))
    average_precision = 0.0
    ranks = np.arange(1, len(candidates) + 1)
    ends = np.minimum(CUTOFFS, len(candidates)) - 1
    for rows, similarity in _similarities(queries, candidates):
        order = np.argsort(-similarity, axis=1, kind="stable")
        hits = np.take_along_axis(relevant[rows], order, axis=1)
        found = np.cumsum(hits, axis=1)
        total = found[:, -1:]
        first = hits.argmax(axis=1)[:, np.newaxis] + 1
        precision += (found[:, ends] / CUTOFFS).sum(axis=0)
        recall += (found[:, ends] / total).sum(axis=0)
        reciprocal += np.where(first <= CUTOFFS, 1 / first, 0).sum(axis=0)
        average_precision += float((found / ranks / total).sum(where=hits))
    count = len(queries)
    metrics = {
        f"{name}@{cutoff}": float(value) / count
        for name, values in (("P", precision), ("R", recall), ("MRR", reciprocal))
        for cutoff, value in zip(CUTOFFS, values, strict=True)
    }
    return {**metrics, "mAP": average_precision / count}


def strict_retrieval(
    queries: NDArray[np.float32], candidates: NDArray[np.float32], targets: Sequence[int]
) -> dict[str, float]:
    """Compute retrieval metrics where only the query's own pair is relevant.

    Args:
        queries: float [Q, d], text embeddings of length 1.
        candidates: float [N, d], pair embeddings of length 1.
        targets: Row of each query's own pair in `candidates`, Q numbers.

    Returns:
        Metrics of `rank_metrics`.

    Raises:
        ArgumentError: Shapes do not match, there are no queries, or embeddings contain NaN.
    """
    _check(queries, candidates)
    if len(targets) != len(queries) or not all(0 <= target < len(candidates) for target in targets):
        raise ArgumentError(f"{len(queries)} queries need one row of the {len(candidates)} pairs each as their target")
    own = np.asarray(targets)[:, np.newaxis]
    columns = np.arange(len(candidates))
    ranks = np.empty(len(queries), np.int64)
    for rows, similarity in _similarities(queries, candidates):
        reached = np.take_along_axis(similarity, own[rows], axis=1)
        before = (similarity > reached) | ((similarity == reached) & (columns < own[rows]))
        ranks[rows] = before.sum(axis=1) + 1
    return rank_metrics(ranks)


def rank_metrics(ranks: NDArray[np.int64]) -> dict[str, float]:
    """Compute retrieval metrics from the rank of each query's own pair, counted from 1.

    Returns:
        "R@K" for K = 1, 3, 5, 10: the share of queries whose pair is among the first K; "MRR"; "mAP" (equal to MRR,
        because each query has one relevant pair); "median rank", from 1.
    """
    mean_reciprocal = float((1 / ranks).mean())
    recalls = {f"R@{cutoff}": float((ranks <= cutoff).mean()) for cutoff in CUTOFFS}
    return {**recalls, "MRR": mean_reciprocal, "mAP": mean_reciprocal, "median rank": float(np.median(ranks))}


def _same(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(values[:, np.newaxis] == values)


def _similarities(
    queries: NDArray[np.float32], candidates: NDArray[np.float32]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    for start in range(0, len(queries), _CHUNK):
        rows = slice(start, start + _CHUNK)
        yield rows, queries[rows] @ candidates.T


def _check(queries: NDArray[np.float32], candidates: NDArray[np.float32]) -> None:
    if queries.ndim != 2 or candidates.ndim != 2 or queries.shape[1] != candidates.shape[1] or not queries.size:
        raise ArgumentError(
            f"queries are [Q, d] and candidates [N, d], not {list(queries.shape)} and {list(candidates.shape)}"
        )
    if not (np.isfinite(queries).all() and np.isfinite(candidates).all()):
        raise ArgumentError("embeddings contain NaN or infinite numbers: the model is damaged")
