"""Change/no-change metrics, compared with values computed by hand and with slow, simple implementations."""

from __future__ import annotations

import random

import pytest

from rsicrc.errors import ArgumentError
from rsicrc.evaluation.metrics.change import calibration_metrics, decision_metrics, says_changed


def test_no_change_captions_decide_for_unchanged() -> None:
    captions = ["the scene is the same as before", "a road is built", "", "No change has occurred ."]
    sentences = ["The scene is the same as before.", "no change  has occurred", "there is no difference"]
    assert says_changed(captions, sentences).tolist() == [False, True, True, False]


def test_decision_metrics_match_values_computed_by_hand() -> None:
    metrics = decision_metrics([True, True, True, False, False], [True, True, False, True, False])
    assert metrics == pytest.approx({"accuracy": 3 / 5, "precision": 2 / 3, "recall": 2 / 3, "F1": 2 / 3})


def test_decision_metrics_without_changed_pairs() -> None:
    assert decision_metrics([False], [False]) == {"accuracy": 1.0, "precision": 0.0, "recall": 0.0, "F1": 0.0}


def slow_calibration(changed: list[bool], scores: list[float]) -> dict[str, float]:
    error = 0.0
    for number in range(10):
        inside = [
            (truth, score)
            for truth, score in zip(changed, scores, strict=True)
            if number / 10 <= score < (number + 1) / 10 or (number == 9 and score == 1)
        ]
        if inside:
            share = sum(truth for truth, _ in inside) / len(inside)
            mean = sum(score for _, score in inside) / len(inside)
            error += len(inside) / len(scores) * abs(share - mean)
    brier = sum((score - truth) ** 2 for truth, score in zip(changed, scores, strict=True)) / len(scores)
    return {"ECE": error, "Brier": brier}


@pytest.mark.parametrize("seed", range(20))
def test_calibration_matches_a_slow_implementation(seed: int) -> None:
    generator = random.Random(seed)
    scores = [generator.choice([0.0, 0.1, 0.5, 1.0, generator.random()]) for _ in range(generator.randint(1, 60))]
    changed = [generator.random() < score for score in scores]
    assert calibration_metrics(changed, scores) == pytest.approx(slow_calibration(changed, scores))


def test_certain_correct_scores_are_perfectly_calibrated() -> None:
    assert calibration_metrics([True, False], [1.0, 0.0]) == {"ECE": 0.0, "Brier": 0.0}


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ArgumentError, match="1 decisions cannot be compared with 2 pairs"):
        decision_metrics([True, False], [True])
    with pytest.raises(ArgumentError, match="0 decisions"):
        calibration_metrics([], [])
    for score in -0.1, 1.1, float("nan"):
        with pytest.raises(ArgumentError, match=r"is in \[0, 1\]"):
            calibration_metrics([True], [score])
