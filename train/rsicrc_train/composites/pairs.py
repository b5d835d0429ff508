"""Composition of one pair: both scenes, seen by the camera of their dates, with captions and the mask of the change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rsicrc.datasets.levir_cc import NO_CHANGE_SENTENCES
from rsicrc_train.composites.appearance import grow, photograph, season
from rsicrc_train.composites.outlines import union
from rsicrc_train.composites.photographs import SIZE, PhotographLibrary
from rsicrc_train.composites.scenes import Parcel, Scene, draw_scenes
from rsicrc_train.composites.sentences import describe
from rsicrc_train.composites.structures import Road, View, draw_cars
from rsicrc_train.synth.pairs import Pair, is_changed

_REMOVED = 0.1  # share of changes in which the object disappears
_TEXTURE = {"ground": 0.95, "built": 0.6}  # largest share of the fine texture of plants that changes


def compose_pair(library: PhotographLibrary, seed: int, index: int) -> Pair:
    """Compose a pair, which depends only on the photographs, the seed and its index.

    An unchanged pair shows one of the two scenes of a change on both dates, so that it differs from changed pairs only
    in the missing change. The mask of the pair is true where the scene has changed.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, index, 3)))
    before, after, change = draw_scenes(rng, library)
    changed = is_changed(seed, index)
    removed = rng.random() < _REMOVED and not change.facts.whole and change.facts.thing not in ("road", "crossroad")
    if removed:
        before, after = after, before
    if not changed:
        before = after = (before, after)[rng.integers(2)]
    images = [_render(rng, library, scene) for scene in (before, after)]
    if not changed:
        return Pair(images[0], images[1], NO_CHANGE_SENTENCES, False, (), np.zeros((SIZE, SIZE), np.bool_))
    facts = replace(change.facts, removed=removed, cleared=change.facts.cleared and not removed)
    return Pair(images[0], images[1], describe(rng, facts), True, (), change.mask > 0.5)


def _render(rng: np.random.Generator, library: PhotographLibrary, scene: Scene) -> NDArray[np.uint8]:
    """Return a scene on a date of its own, with other plants, sun, cars and camera than on another date."""
    image = scene.ground.copy()
    lands = library.lands("ground")
    texture = library.view(rng, lands[rng.integers(len(lands))])
    for layer in scene.layers:
        if isinstance(layer, Parcel):
            image += layer.footprint[..., None] * (layer.image - image)
        else:
            layer.render(image, rng)
    image = season(rng, grow(rng, image, texture, _TEXTURE["ground" if rng.random() < 0.6 else "built"]))
    draw_cars(image, union([layer.footprint for layer in scene.layers if isinstance(layer, Road)]), rng)
    view = View.draw(rng)
    for structure in scene.structures:
        structure.render(image, view, rng)
    return photograph(rng, image)
