"""One pair: a place, a change or none, two dates."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rsicrc.datasets.levir_cc import NO_CHANGE_SENTENCES
from rsicrc_train.synth.captions import describe
from rsicrc_train.synth.change_facts import GROUNDS, Facts
from rsicrc_train.synth.changes import draw_edit
from rsicrc_train.synth.edits import Edit
from rsicrc_train.synth.layout import BARE, GREEN, Plot, surroundings
from rsicrc_train.synth.objects import Scene, Things
from rsicrc_train.synth.render import render
from rsicrc_train.synth.weather import draw_weather


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two pictures of a place and five sentences on what has changed.

    Attributes:
        before: uint8 [256, 256, 3] RGB.
        after: uint8 [256, 256, 3] RGB.
        sentences: Five, in lower case without punctuation.
        changed: Whether anything has.
        kinds: The kinds of change, two where two things are built at once, none for an unchanged pair.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    sentences: tuple[str, ...]
    changed: bool
    kinds: tuple[str, ...]


def is_changed(seed: int, index: int) -> bool:
    """Whether a pair has a change: one of each two neighbors has, a coin says which."""
    coin = np.random.SeedSequence((seed, index // 2, 0)).generate_state(1)[0] & 1
    return bool(int(coin) == index % 2)


def make_scenes(seed: int, index: int, grounds: Collection[str] = GROUNDS) -> tuple[Scene, Scene, Edit]:
    """The place of a pair before and after its change, and the change; an unchanged pair has one of the two twice.

    An unchanged pair is made like a changed one, so that nothing but the difference tells them apart.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, index, 1)))
    tilt = float(rng.uniform(-0.08, 0.08))
    edit = draw_edit(rng, tilt, grounds)
    ground = edit.facts.ground
    plot = Plot()
    for outline in edit.reserved:
        plot.take(outline, 1)
    common = surroundings(rng, plot, ground, tilt).plus(edit.both)
    edit = replace(edit, facts=replace(edit.facts, beside=_beside(edit, common)))
    floor = ground if ground != "woods" else ("bareland", "meadow")[rng.integers(2)]
    colors = GREEN if floor == "meadow" else BARE
    color = colors[rng.integers(len(colors))]
    x, y, u, v = (int(n) for n in rng.integers(0, (510, 510, 380, 380)))
    flip = int(rng.integers(8))
    before, after = (Scene(floor, color, (x, y), flip, (u, v), common.plus(part)) for part in (edit.before, edit.after))
    if not is_changed(seed, index):
        before = after = (before, after)[rng.integers(2)]
    return before, after, edit


def _beside(edit: Edit, common: Things) -> str:
    """What stays and is close to a change that has one place: "pond", "road" or nothing."""
    if not edit.facts.place:
        return ""
    center = edit.reserved[0].mean(0)
    for pond in common.ponds:
        if np.linalg.norm(pond.outline - center, axis=1).min() < 60:
            return "pond"
    for road in common.roads:
        # A line of two points is filled in, so that the nearest is close to one of them.
        start, end = road.line[:-1, None], road.line[1:, None]
        points = start + np.linspace(0, 1, 30)[None, :, None] * (end - start)
        if road.cars and np.linalg.norm(points - center, axis=2).min() < 62:
            return "road"
    return ""


def make_pair(seed: int, index: int, grounds: Collection[str] = GROUNDS) -> Pair:
    """A pair that depends on the seed, its index and the grounds alone.

    Args:
        seed: Of the data set, from 0.
        index: Of the pair, from 0.
        grounds: Kinds of scene, some of `GROUNDS`.

    Returns:
        The pictures and their sentences.
    """
    before, after, edit = make_scenes(seed, index, grounds)
    rng = np.random.default_rng(np.random.SeedSequence((seed, index, 2)))
    pictures = render(before, draw_weather(rng)), render(after, draw_weather(rng))
    if is_changed(seed, index):
        return Pair(*pictures, describe(rng, edit.facts), True, _kinds(edit.facts))
    return Pair(*pictures, NO_CHANGE_SENTENCES, False, ())


def _kinds(facts: Facts) -> tuple[str, ...]:
    if facts.parts:
        return tuple(part.kind for part in facts.parts)
    return tuple(facts.kind.split(" and "))
