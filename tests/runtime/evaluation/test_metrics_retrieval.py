"""Retrieval metrics, compared with slow, simple implementations on small random cases with many ties."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from rsicrc.errors import ArgumentError
from rsicrc.evaluation.metrics import retrieval
from rsicrc.evaluation.metrics.retrieval import CUTOFFS, published_retrieval, relevance, strict_retrieval

Floats = NDArray[np.float32]
Case = tuple[Floats, Floats, NDArray[np.bool_]]


def random_case(seed: int) -> Case:
    """Return vectors of whole numbers, for exact and often equal similarities; all queries have relevant pairs."""
    generator = np.random.default_rng(seed)
    queries, candidates = (int(count) for count in generator.integers(1, 25, 2))
    vectors = [generator.integers(-1, 2, (count, 3)).astype(np.float32) for count in (queries, candidates)]
    relevant = generator.random((queries, candidates)) < generator.choice([0.05, 0.5])
    relevant[np.arange(queries), generator.integers(0, candidates, queries)] = True
    return vectors[0], vectors[1], relevant


def ranking(query: Floats, candidates: Floats) -> list[int]:
    similarities = [float(sum(a * b for a, b in zip(query, row, strict=True))) for row in candidates]
    return sorted(range(len(candidates)), key=lambda index: (-similarities[index], index))


def slow_published(queries: Floats, candidates: Floats, relevant: NDArray[np.bool_]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for query, row in zip(queries, relevant, strict=True):
        hits = [bool(row[index]) for index in ranking(query, candidates)]
        first = hits.index(True) + 1
        for k in CUTOFFS:
            values.setdefault(f"P@{k}", []).append(sum(hits[:k]) / k)
            values.setdefault(f"R@{k}", []).append(sum(hits[:k]) / sum(hits))
            values.setdefault(f"MRR@{k}", []).append(1 / first if first <= k else 0.0)
        precisions = [sum(hits[: number + 1]) / (number + 1) for number, hit in enumerate(hits) if hit]
        values.setdefault("mAP", []).append(sum(precisions) / len(precisions))
    return {name: sum(each) / len(each) for name, each in values.items()}


def slow_strict(queries: Floats, candidates: Floats, targets: list[int]) -> dict[str, float]:
    ranks = [ranking(query, candidates).index(target) + 1 for query, target in zip(queries, targets, strict=True)]
    middle = sorted(ranks)[(len(ranks) - 1) // 2 : len(ranks) // 2 + 1]
    mean_reciprocal = sum(1 / rank for rank in ranks) / len(ranks)
    return {
        **{f"R@{k}": sum(rank <= k for rank in ranks) / len(ranks) for k in CUTOFFS},
        "MRR": mean_reciprocal,
        "mAP": mean_reciprocal,
        "median rank": sum(middle) / len(middle),
    }


@pytest.mark.parametrize("seed", range(30))
def test_published_metrics_match_a_slow_implementation(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_CHUNK", 4)
    case = random_case(seed)
    assert published_retrieval(*case) == pytest.approx(slow_published(*case))


@pytest.mark.parametrize("seed", range(30))
def test_strict_metrics_match_a_slow_implementation(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_CHUNK", 4)
    queries, candidates, relevant = random_case(seed)
    targets = relevant.argmax(axis=1).tolist()
    assert strict_retrieval(queries, candidates, targets) == pytest.approx(slow_strict(queries, candidates, targets))


def test_strict_map_equals_published_map_of_one_relevant_pair() -> None:
    queries, candidates, relevant = random_case(3)
    targets = relevant.argmax(axis=1)
    only = np.zeros_like(relevant)
    only[np.arange(len(queries)), targets] = True
    strict = strict_retrieval(queries, candidates, targets.tolist())
    assert strict["mAP"] == pytest.approx(published_retrieval(queries, candidates, only)["mAP"])


def test_relevant_pairs_share_the_label_or_the_sentence() -> None:
    relevant = relevance([0, -1, 2, -1, 4], ["a road", "no change", "a road", "nothing", "a pond"])
    assert relevant.tolist() == [
        [True, False, True, False, False],
        [False, True, False, True, False],
        [True, False, True, False, False],
        [False, True, False, True, False],
        [False, False, False, False, True],
    ]


def test_equal_embeddings_have_the_metrics_of_chance() -> None:
    ones = np.ones((100, 2), np.float32)
    metrics = strict_retrieval(ones, ones, range(100))
    assert metrics["R@10"] == pytest.approx(0.1)
    assert metrics["median rank"] == 50.5


ONE = np.ones((1, 2), np.float32)
BROKEN = np.full((1, 2), np.nan, np.float32)
YES = np.ones((1, 1), np.bool_)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: published_retrieval(BROKEN, ONE, YES), "NaN"),
        (lambda: strict_retrieval(ONE, BROKEN, [0]), "NaN"),
        (lambda: published_retrieval(ONE, ONE, ~YES), "at least one relevant pair"),
        (lambda: published_retrieval(ONE, ONE, YES.repeat(2, axis=1)), r"is \[1, 2\] where \[1, 1\] is needed"),
        (lambda: published_retrieval(ONE, ONE[:, :1], YES), r"not \[1, 2\] and \[1, 1\]"),
        (lambda: published_retrieval(ONE[:0], ONE, YES[:0]), r"not \[0, 2\] and \[1, 2\]"),
        (lambda: strict_retrieval(ONE, ONE, [1]), "1 queries need one row of the 1 pairs"),
        (lambda: strict_retrieval(ONE, ONE, [0, 0]), "1 queries need one row"),
    ],
)
def test_wrong_arguments_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()
