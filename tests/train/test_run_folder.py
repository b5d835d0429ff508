"""Tests of options given together with `--resume`: those of the run are accepted, others are refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rsicrc.errors import DataError
from rsicrc_train.recipes import Recipe
from rsicrc_train.run_folder import LAST, RECIPE, check_resumed_options


@pytest.fixture
def folder(recipe: Recipe, tmp_path: Path) -> Path:
    """Return the folder of a run of two epochs."""
    run = tmp_path / "run"
    run.mkdir()
    (run / LAST).touch()
    resolved = replace(recipe, training=replace(recipe.training, trunk="all"))
    (run / RECIPE).write_text(resolved.to_yaml())
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    return run


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epochs": 9}, "epochs is 2 there, not 9"),
        ({"seed": 1}, "seed is 0 there, not 1"),
        ({"workers": 3}, "workers is 0 there, not 3"),
        ({"batch_size": 4, "epochs": 9}, "epochs is 2 there, not 9; batch_size is 8 there, not 4"),
        ({"learning_rate": "1e-5"}, "learning_rate is 0.001 there, not 1e-05"),
        ({"trunk": "frozen"}, "trunk is all there, not frozen"),
        ({"symmetric": True}, "symmetric is False there, not True"),
    ],
)
@pytest.mark.parametrize("with_recipe", [False, True])
def test_other_options_are_refused_with_their_values(
    overrides: dict[str, Any], message: str, with_recipe: bool, folder: Path
) -> None:
    reference = str(folder.parent / "recipe.yaml") if with_recipe else None
    with pytest.raises(DataError) as caught:
        check_resumed_options(folder, reference, overrides)
    assert message in str(caught.value)
    assert "--resume" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_recipe_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"d_model is 32 there, not 192; .*; epochs is 2 there, not 5"):
        check_resumed_options(folder, "tiny", {})


def test_options_of_the_run_are_accepted(folder: Path) -> None:
    same = {"epochs": 2, "learning_rate": "1e-3", "trunk": "auto", "seed": None}
    check_resumed_options(folder, None, {})
    check_resumed_options(folder, None, same)
    check_resumed_options(folder, str(folder.parent / "recipe.yaml"), same)
    check_resumed_options(folder, str(folder / RECIPE), {})


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[1]", "model: 3", "1: 2", "model: {}\ntraining: [1]", "\x00", "!!python/object:x", "[" * 3000,
        "model: {1: 2}\ntraining: {}", "model: {}\ntraining: {epochs: 2001-99-99}",
    ],
)  # fmt: skip
def test_damaged_recipe_of_a_run_is_refused(text: str, folder: Path) -> None:
    (folder / RECIPE).write_text(text)
    with pytest.raises(DataError, match=r"recipe\.yaml is not"):
        check_resumed_options(folder, None, {})


def test_recipe_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / RECIPE).write_bytes(b"\xff\xfe\x00" + json.dumps({}).encode())
    with pytest.raises(DataError, match=r"recipe\.yaml is not YAML"):
        check_resumed_options(folder, None, {})
