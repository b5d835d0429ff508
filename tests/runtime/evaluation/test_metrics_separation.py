"""Separation of changed from unchanged pairs, objects of captions, and the baselines."""

from __future__ import annotations

import numpy as np
import pytest

from rsicrc.errors import ArgumentError
from rsicrc.evaluation.baselines import best_fixed_sentence, pixel_difference
from rsicrc.evaluation.metrics.objects import named_objects, object_metrics
from rsicrc.evaluation.metrics.separation import area_under_curve, separation_metrics


def test_area_under_curve_is_the_share_of_ordered_pairs() -> None:
    rng = np.random.default_rng(0)
    changed = rng.random(200) < 0.4
    scores = np.round(changed + rng.normal(0, 1, 200), 1)  # with ties
    differences = scores[changed][:, np.newaxis] - scores[~changed]
    assert area_under_curve(changed, scores) == pytest.approx(np.mean((differences > 0) + 0.5 * (differences == 0)))


def test_interval_by_scene_is_wider_than_by_pair() -> None:
    """Pairs of a scene are alike here, so that 20 scenes of 10 pairs tell less than 200 pairs."""
    rng = np.random.default_rng(1)
    scene = np.repeat(np.arange(20), 10)
    changed = scene % 2 == 0
    scores = changed + rng.normal(0, 1, 20)[scene] + 0.1 * rng.normal(0, 1, 200)
    wide, narrow = (
        separation_metrics(changed.tolist(), scores.tolist(), scores.tolist(), names)["model"]
        for names in (list(map(str, scene)), list(map(str, range(200))))
    )
    assert wide["AUC"] == narrow["AUC"]
    assert wide["high"] - wide["low"] > 1.5 * (narrow["high"] - narrow["low"])


def test_equal_scores_have_no_difference() -> None:
    found = separation_metrics([True, False, True, False], [4, 1, 3, 2], [4, 1, 3, 2], ["a", "b", "c", "d"])
    assert found["model"]["AUC"] == 1.0
    assert set(found["difference"].values()) == {0.0}


def test_separation_needs_both_kinds_of_pairs() -> None:
    assert separation_metrics([True, True], [0.1, 0.2], [1, 2], ["a", "b"]) == {}
    with pytest.raises(ArgumentError, match="2 pairs need as many scores"):
        separation_metrics([True, False], [0.1], [1, 2], ["a", "b"])


def test_objects_are_found_in_captions() -> None:
    assert named_objects("Some villas appear along a parking lot.") == {"house", "car park"}
    metrics = object_metrics(
        ["a road and some houses appear"], [["a road is built", "many roads", "trees are removed"]]
    )
    assert metrics["object precision"] == 0.5
    assert metrics["object recall"] == 1.0
    assert metrics["object F1"] == pytest.approx(2 / 3)


def test_pixel_difference_ignores_light() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(50, 100, (32, 32, 3))
    other = rng.integers(50, 100, (32, 32, 3))
    same, different = (np.stack([image, after]).astype(np.uint8) for after in (2 * image + 7, other))
    assert pixel_difference(same) < 0.02 < 0.5 < pixel_difference(different)


def test_best_fixed_sentence_is_the_most_common_one() -> None:
    pytest.importorskip("pycocoevalcap", reason="needs rsicrc[train]")
    references = [["a road is built", "one road"], ["a road is built"], ["houses appear"], ["a road is built nearby"]]
    assert best_fixed_sentence(references) == "a road is built"
