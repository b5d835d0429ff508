"""Calibration of the change score: the fitted curve, its place in a manifest, and the decision of the engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import rsicrc
from rsicrc.errors import ModelFolderError
from rsicrc.manifest import Manifest
from rsicrc.text.change_calibration import ChangeCalibration, fit_calibration
from tests.models import random_images


def test_fitted_curve_gives_the_share_of_changed_pairs() -> None:
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 2, 20_000)
    changed = rng.random(20_000) < 1 / (1 + np.exp(-odds))
    scores = 1 / (1 + np.exp(-(3 * odds + 1)))  # too sure of itself, and too high
    found = fit_calibration(scores.tolist(), changed.tolist())
    assert found is not None
    assert found.slope == pytest.approx(1 / 3, rel=0.05)
    assert found.intercept == pytest.approx(-1 / 3, abs=0.05)
    likely = [found.probability(score) for score in scores[:500]]
    assert np.mean(likely) == pytest.approx(changed[:500].mean(), abs=0.05)
    assert (np.argsort(likely) == np.argsort(np.clip(scores[:500], 1e-6, 1 - 1e-6))).all()


@pytest.mark.parametrize(
    ("scores", "changed"),
    [([], []), ([0.1, 0.9], [True, True]), ([0.9, 0.8, 0.1, 0.2], [False, False, True, True])],
    ids=["no pairs", "only changed pairs", "the score is upside down"],
)
def test_no_curve_without_sense(scores: list[float], changed: list[bool]) -> None:
    assert fit_calibration(scores, changed) is None


def test_curve_is_finite_for_separated_pairs_and_extreme_scores() -> None:
    found = fit_calibration([0.0, 1e-9, 1.0, 1.0], [False, False, True, True])
    assert found is not None
    assert 0 < found.probability(0.0) < 0.1
    assert 0.9 < found.probability(1.0) <= 1


@pytest.fixture
def calibrated(model_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(model_folder, tmp_path / "model")
    document = json.loads((tmp_path / "model" / "manifest.json").read_text())
    document["change"]["calibration"] = {"slope": 0.5, "intercept": -1.0, "pairs": 7}
    (tmp_path / "model" / "manifest.json").write_text(json.dumps(document))
    return tmp_path / "model"


def test_calibration_decides(model_folder: Path, calibrated: Path) -> None:
    pairs = [tuple(pair) for pair in random_images(6, seed=3)]
    plain, curve = rsicrc.load(model_folder).caption(pairs), ChangeCalibration(0.5, -1.0, 7)
    for one, other in zip(plain, rsicrc.load(calibrated).caption(pairs), strict=True):
        assert one.change_probability is None
        assert other.change_score is not None
        assert other.change_score == one.change_score
        assert other.change_probability == curve.probability(other.change_score)
        assert other.changed == (other.change_probability >= 0.5)
        assert other.to_dict()["change_probability"] == other.change_probability


def test_manifest_keeps_the_calibration(calibrated: Path) -> None:
    manifest = Manifest.load(calibrated)
    assert manifest.calibration == ChangeCalibration(0.5, -1.0, 7)
    assert manifest.to_dict()["change"]["calibration"] == {"slope": 0.5, "intercept": -1.0, "pairs": 7}


@pytest.mark.parametrize(
    "curve", [{"slope": 0, "intercept": 0, "pairs": 1}, {"slope": 1, "intercept": "0", "pairs": 1}, {"slope": 1}, 5]
)
def test_wrong_calibration_is_refused(calibrated: Path, curve: object) -> None:
    document = json.loads((calibrated / "manifest.json").read_text())
    document["change"]["calibration"] = curve
    (calibrated / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ModelFolderError, match=r"calibration|'intercept' is missing"):
        Manifest.load(calibrated)
