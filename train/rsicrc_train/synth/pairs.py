"""Generation of one image pair, changed or unchanged, with its captions."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rsicrc.datasets.levir_cc import NO_CHANGE_SENTENCES
from rsicrc_train.synth.captions import describe
from rsicrc_train.synth.change_facts import GROUNDS, Facts
from rsicrc_train.synth.changes import draw_edit
from rsicrc_train.synth.edits import Edit
from rsicrc_train.synth.layout import BARE, GREEN, Occupancy, surroundings
from rsicrc_train.synth.objects import Scene, Things
from rsicrc_train.synth.render import render
from rsicrc_train.synth.weather import draw_weather


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two images of one scene and five sentences about the change.

    Attributes:
        before: Before image, RGB uint8 [256, 256, 3].
        after: After image, RGB uint8 [256, 256, 3].
        sentences: Five sentences in lower case, without punctuation.
        changed: True if there is a change.
        kinds: Kinds of a drawn change: usually one, two for two simultaneous changes, none for an unchanged pair.
        mask: Pixels that have changed, bool [256, 256]; None for a drawn scene, which has no mask.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    sentences: tuple[str, ...]
    changed: bool
    kinds: tuple[str, ...]
    mask: NDArray[np.bool_] | None = None


def is_changed(seed: int, index: int) -> bool:
    """Return true if a pair has a change: one of the pairs 2k and 2k + 1 has, chosen at random."""
    coin = np.random.SeedSequence((seed, index // 2, 0)).generate_state(1)[0] & 1
    return bool(int(coin) == index % 2)


def make_scenes(seed: int, index: int, grounds: Collection[str] = GROUNDS) -> tuple[Scene, Scene, Edit]:
    """Return the scenes of the before and after image, and the change.

    The scenes of an unchanged pair are equal: one of the two scenes of a change, chosen at random. Unchanged pairs thus
    differ from changed ones only in the missing change.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, index, 1)))
    before, after, edit = draw_scenes(rng, grounds)
    if not is_changed(seed, index):
        before = after = (before, after)[rng.integers(2)]
    return before, after, edit


def draw_scenes(rng: np.random.Generator, grounds: Collection[str] = GROUNDS) -> tuple[Scene, Scene, Edit]:
    """Draw a change, the scene before it and the scene after it."""
    tilt = float(rng.uniform(-0.08, 0.08))
    edit = draw_edit(rng, tilt, grounds)
    ground = edit.facts.ground
    occupancy = Occupancy()
    for outline in edit.reserved:
        occupancy.take(outline, 1)
    common = surroundings(rng, occupancy, ground, tilt).plus(edit.both)
    edit = replace(edit, facts=replace(edit.facts, beside=_neighbor(edit, common)))
    floor = ground if ground != "woods" else ("bareland", "meadow")[rng.integers(2)]
    colors = GREEN if floor == "meadow" else BARE
    color = colors[rng.integers(len(colors))]
    x, y, u, v = (int(n) for n in rng.integers(0, (510, 510, 380, 380)))
    flip = int(rng.integers(8))
    before, after = (Scene(floor, color, (x, y), flip, (u, v), common.plus(part)) for part in (edit.before, edit.after))
    return before, after, edit


def _neighbor(edit: Edit, common: Things) -> str:
    """Return the kind of unchanged object close to a change with a place: "pond", "road" or ""."""
    if not edit.facts.place:
        return ""
    center = edit.reserved[0].mean(0)
    for pond in common.ponds:
        if np.linalg.norm(pond.outline - center, axis=1).min() < 60:
            return "pond"
    for road in common.roads:
        # Distances are measured to interpolated points of the line, which may have only two points.
        start, end = road.line[:-1, None], road.line[1:, None]
        points = start + np.linspace(0, 1, 30)[None, :, None] * (end - start)
        if road.cars and np.linalg.norm(points - center, axis=2).min() < 62:
            return "road"
    return ""


def make_pair(seed: int, index: int, grounds: Collection[str] = GROUNDS) -> Pair:
    """Generate a pair that depends only on the seed, its index and the grounds.

    Args:
        seed: Seed of the data set, from 0.
        index: Index of the pair, from 0.
        grounds: Kinds of scene, some of `GROUNDS`.

    Returns:
        The images and their sentences.
    """
    before, after, edit = make_scenes(seed, index, grounds)
    rng = np.random.default_rng(np.random.SeedSequence((seed, index, 2)))
    images = render(before, draw_weather(rng)), render(after, draw_weather(rng))
    if is_changed(seed, index):
        return Pair(*images, describe(rng, edit.facts), True, _kinds(edit.facts))
    return Pair(*images, NO_CHANGE_SENTENCES, False, ())


def _kinds(facts: Facts) -> tuple[str, ...]:
    if facts.parts:
        return tuple(part.kind for part in facts.parts)
    return tuple(facts.kind.split(" and "))
