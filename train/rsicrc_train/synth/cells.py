"""Cells of a large scene: squares of a grid, drawn like single pairs, of which one in eight shows a change."""

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from rsicrc_train.synth.captions import describe
from rsicrc_train.synth.change_facts import GROUNDS, Facts
from rsicrc_train.synth.edits import Edit
from rsicrc_train.synth.layout import BARE, GREEN
from rsicrc_train.synth.objects import Points, Scene
from rsicrc_train.synth.pairs import draw_scenes
from rsicrc_train.synth.render import render
from rsicrc_train.synth.terrain import SIZE
from rsicrc_train.synth.weather import Weather, draw_weather

CHANGED_SHARE = 1 / 8
"""Share of the cells that show a change."""

_REGION = 3  # cells along the side of a region with one kind of ground
_VISIBLE = 24  # smallest difference of a pixel that counts as visible, of 255
_BEGIN = 1  # first words of the seeds; `make_pair` seeds with (seed, index, 0 to 2)
_CONDITIONS, _GROUND, _CELL = 10, 11, 12


@dataclass(frozen=True, slots=True)
class Change:
    """A change in a cell.

    Attributes:
        kind: Kind of change, such as "houses".
        sentences: Five sentences that describe the change; their places refer to the cell.
        box: Box of the visible change in pixels of the cell: left, top, right, bottom, the last two exclusive.
    """

    kind: str
    sentences: tuple[str, ...]
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A cell of a large scene: both images, RGB uint8 [256, 256, 3], and the changes, of which most cells have none."""

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Conditions:
    """Conditions that all cells of a scene share: weather of both dates, and colors of the land by kind."""

    before: Weather
    after: Weather
    colors: dict[str, tuple[float, float, float]]


@lru_cache(4)
def draw_conditions(seed: int) -> Conditions:
    """Draw the conditions of a scene.

    Both images are registered exactly. Clouds and mist are left out, because their patches are drawn for one cell.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, _BEGIN, _CONDITIONS)))
    before, after = (replace(draw_weather(rng), shift=(0.0, 0.0), clouds=0.0, mist=0.0) for _ in range(2))
    colors = {kind: lands[rng.integers(len(lands))] for kind, lands in (("bareland", BARE), ("meadow", GREEN))}
    return Conditions(before, after, colors)


def draw_cell(seed: int, row: int, column: int, can_change: bool = True) -> Cell:
    """Draw a cell that depends only on the arguments.

    Args:
        seed: Seed of the scene.
        row: Row of the cell in the grid.
        column: Column of the cell in the grid.
        can_change: False for a cell without a change, for example because the edge of the scene cuts the cell.
    """
    conditions = draw_conditions(seed)
    ground = np.random.SeedSequence((seed, _GROUND, row // _REGION, column // _REGION)).generate_state(1)[0]
    rng = np.random.default_rng(np.random.SeedSequence((seed, _CELL, row, column)))
    first, second, edit = draw_scenes(rng, GROUNDS[ground % len(GROUNDS) :][:1])
    first, second = (replace(scene, color=conditions.colors[scene.floor]) for scene in (first, second))
    is_changed = bool(rng.random() < CHANGED_SHARE) and can_change
    shown = (first, second)[rng.integers(2)]
    if not is_changed:
        first = second = shown
    seeds = rng.integers(1 << 30, size=2)
    weather = [
        replace(each, seed=int(own)) for each, own in zip((conditions.before, conditions.after), seeds, strict=True)
    ]
    changes = _changes(rng, first, second, edit, weather[1]) if is_changed else ()
    return Cell(render(first, weather[0]), render(second, weather[1]), changes)


def _changes(rng: np.random.Generator, before: Scene, after: Scene, edit: Edit, weather: Weather) -> tuple[Change, ...]:
    """Return the changes with the boxes in which the scenes differ under the same weather."""
    difference = cv2.absdiff(render(before, weather), render(after, weather)).max(2) > _VISIBLE
    areas: list[tuple[Facts, tuple[Points, ...]]] = [(edit.facts, edit.reserved)]
    if edit.facts.parts:
        areas = [(facts, (area,)) for facts, area in zip(edit.facts.parts, edit.reserved, strict=True)]
    changes = []
    for facts, outlines in areas:
        # Cars differ outside the change, too.
        inside = np.zeros((SIZE, SIZE), np.uint8)
        for outline in outlines:
            cv2.fillPoly(inside, [np.rint(outline).astype(np.int32)], 1)
        y, x = np.nonzero(difference & (inside > 0))
        box = (int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)
        changes.append(Change(facts.kind, describe(rng, facts), box))
    return tuple(changes)
