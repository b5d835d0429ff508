"""Files of a training run's folder, and the recipe that a new or resumed run uses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rsicrc.errors import DataError
from rsicrc_train.recipes import Recipe, load_recipe

BEST, LAST, RECIPE = "best.pt", "last.pt", "recipe.yaml"
LOG, CURVES, STARTS = "log.csv", "curves.png", "starts.json"


def resolve_recipe(folder: Path, recipe: Recipe, *, resume: bool, init: str | None) -> Recipe:
    """Return the recipe of a run: the given one with `trunk: auto` resolved, or the recipe of the run to resume.

    Args:
        folder: Folder of the run.
        recipe: Recipe of a new run; ignored when a run is resumed.
        resume: Continue the run in the folder.
        init: Pre-trained weights of the trunk, or None. With them, `auto` trains only the trunk's last parts.

    Raises:
        DataError: There is no run to resume, or the folder of a new run already holds one.
    """
    if resume:
        if not (folder / LAST).exists():
            raise DataError(f"{folder} holds no run that saved a state: start it without --resume")
        return load_recipe(str(folder / RECIPE))
    # A run that was killed before its first checkpoint left nothing to resume: its folder may be used again.
    if (folder / LAST).exists() or (folder / BEST).exists():
        raise DataError(f"{folder} already holds a run: continue it with --resume, or choose another folder")
    if recipe.training.trunk != "auto":
        return recipe
    return replace(recipe, training=replace(recipe.training, trunk="all" if init is None else "last"))
