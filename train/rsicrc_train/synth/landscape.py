"""Kinds of change of the landscape: water, grass, planted trees and paved areas without houses."""

from dataclasses import replace

import numpy as np

from rsicrc_train.synth.change_facts import Facts
from rsicrc_train.synth.edits import Edit, Site, around, wood
from rsicrc_train.synth.layout import GREEN, straight
from rsicrc_train.synth.objects import (
    Grove,
    Lot,
    Patch,
    Points,
    Road,
    Things,
    blob,
    draw_lot,
    draw_pond,
    draw_road,
    turned,
)


def pond_gone(site: Site) -> Edit:
    """Draw a pond that dries up or is filled."""
    place = site.place()
    x, y = site.spot(place, 50)
    before = Things(ponds=(draw_pond(site.rng, x, y),))
    after = Things(patches=(site.bare_patch(x, y, 38),), groves=(Grove(around(x, y, 42), 0),))
    return Edit(Facts("pond gone", site.ground, place), (around(x, y, 46),), before=before, after=after)


def greening(site: Site) -> Edit:
    """Draw grass that grows on bare land; its outline has no corners, which distinguishes it from fields."""
    place = site.place()
    x, y = site.spot(place, 52)
    outline = blob(site.rng, x, y, float(site.rng.uniform(40, 48)), float(site.rng.uniform(40, 48)))
    after = Things(patches=(Patch("meadow", outline, GREEN[site.rng.integers(len(GREEN))]),))
    return Edit(Facts("greening", site.ground, place), (around(x, y, 52),), after=after)


def planting(site: Site) -> Edit:
    """Draw trees on ground without trees before."""
    place = site.place()
    x, y = site.spot(place, 50)
    grove = wood(site, x, y)
    before = Things(groves=(Grove(around(x, y, 50), 0),))
    after = before.plus(Things(groves=(grove,)))
    return Edit(Facts("planting", site.ground, place), (around(x, y, 50),), before=before, after=after)


def lot_extension(site: Site) -> Edit:
    """Draw a car park that becomes more than twice as long."""
    place = site.place()
    x, y = site.spot(place, 50)
    whole = replace(draw_lot(site.rng, x, y, site.angle()), length=float(site.rng.uniform(68, 76)))
    length = whole.length * 0.42
    end = np.array([[(whole.length - length) / 2 * site.rng.choice([-1, 1]), 0]], np.float32)
    (u, v), *_ = turned(end, x, y, whole.angle)
    part = Lot(float(u), float(v), length, whole.width, whole.angle, whole.color, whole.seed)
    # In both images, no trees stand on the area of the extended car park.
    before = Things(lots=(part,), groves=(Grove(around(x, y, 50), 0),))
    facts = Facts("lot extension", site.ground, place)
    return Edit(facts, (around(x, y, 46),), before=before, after=Things(lots=(whole,)))


def playground(site: Site) -> Edit:
    """Draw a red running track around grass."""
    place = site.place()
    x, y = site.spot(place, 52)
    length, width = float(site.rng.uniform(20, 26)), float(site.rng.uniform(17, 22))
    track = _track(x, y, length, width, site.angle())
    ring = Road(track, float(site.rng.uniform(9, 12)), (168, 84, 66), False, cars=False)
    after = Things(patches=(Patch("meadow", track, (84, 122, 62)),), roads=(ring,))
    return Edit(Facts("playground", site.ground, place), (around(x, y, 54),), after=after)


def _track(x: float, y: float, half: float, radius: float, angle: float) -> Points:
    """Return a closed line of two half circles and two straight parts."""
    turn = np.linspace(-np.pi / 2, np.pi / 2, 14)
    bend = np.stack([half - 6 + radius * np.cos(turn), radius * np.sin(turn)], 1)
    loop = np.concatenate([bend, -bend, bend[:1]])
    return turned(loop.astype(np.float32), x, y, angle)


def roundabout(site: Site) -> Edit:
    """Draw a crossroad that is rebuilt as a roundabout."""
    across, down = (float(v) for v in site.rng.uniform(-16, 16, 2))
    # Across an upright band, positive values are to the left.
    x, y = 128 - across, 128 + down
    first = draw_road(site.rng, straight(False, down, 0.0))
    second = Road(straight(True, across, 0.0), first.width, first.color, first.lined)
    radius = float(site.rng.uniform(27, 33))
    turn = np.linspace(0, 2 * np.pi, 36)
    ring = np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], 1).astype(np.float32)
    arms = [
        [(-20, y), (x - radius, y)],
        [(x + radius, y), (276, y)],
        [(x, -20), (x, y - radius)],
        [(x, y + radius), (x, 276)],
    ]
    roads = [Road(np.array(arm, np.float32), first.width, first.color, False) for arm in arms]
    roads.append(Road(ring, first.width, first.color, False))
    after = Things(patches=(Patch("meadow", ring, (84, 118, 62)),), roads=tuple(roads))
    reserved = (around(x, y, radius + 12), *(_line_area(road.line) for road in (first, second)))
    return Edit(Facts("roundabout", site.ground), reserved, before=Things(roads=(first, second)), after=after)


def _line_area(line: Points) -> Points:
    low, high = line.min(0) - 14, line.max(0) + 14
    return np.array([low, (high[0], low[1]), high, (low[0], high[1])], np.float32)
