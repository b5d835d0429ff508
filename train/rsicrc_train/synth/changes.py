"""Kinds of change: objects before and after the change, and the facts that a caption may mention."""

from collections.abc import Callable, Collection

import numpy as np

from rsicrc_train.synth.change_facts import GROUNDS, PLACES, Facts, roof_of
from rsicrc_train.synth.edits import QUARTER, Edit, Site, around, cluster, wood
from rsicrc_train.synth.landscape import (
    greening,
    lot_extension,
    planting,
    playground,
    pond_gone,
    roundabout,
)
from rsicrc_train.synth.layout import band, house_beside, straight, winding
from rsicrc_train.synth.objects import (
    Building,
    Grove,
    Points,
    Road,
    Things,
    draw_hall,
    draw_lot,
    draw_pond,
    draw_road,
)


def _house(site: Site) -> Edit:
    place = site.place()
    x, y = site.spot(place, 42)
    after = Things(buildings=cluster(site, 1, x, y))
    facts = Facts("house", site.ground, place, 1, roof=roof_of(after.buildings[0].color))
    return Edit(facts, (around(x, y, 30),), after=after)


def _houses(site: Site) -> Edit:
    place = site.place()
    count = int(site.rng.choice([2, 3, 4, 5], p=[0.34, 0.33, 0.17, 0.16]))
    x, y = site.spot(place, 52 if count < 4 else 56)
    after = Things(buildings=cluster(site, count, x, y))
    return Edit(Facts("houses", site.ground, place, count), (around(x, y, 52),), after=after)


def _building(site: Site) -> Edit:
    place = site.place()
    x, y = site.spot(place, 50)
    after = Things(buildings=(draw_hall(site.rng, x, y, site.angle()),))
    facts = Facts("building", site.ground, place, roof=roof_of(after.buildings[0].color))
    return Edit(facts, (around(x, y, 44),), after=after)


def _parking(site: Site) -> Edit:
    place = site.place()
    x, y = site.spot(place, 50)
    after = Things(lots=(draw_lot(site.rng, x, y, site.angle()),))
    return Edit(Facts("parking", site.ground, place), (around(x, y, 46),), after=after)


def _pond(site: Site) -> Edit:
    place = site.place()
    x, y = site.spot(place, 50)
    after = Things(ponds=(draw_pond(site.rng, x, y),))
    return Edit(Facts("pond", site.ground, place), (around(x, y, 46),), after=after)


def _side(site: Site) -> tuple[str, bool, float]:
    """Draw a side of the scene: its name, true if a road along it is upright, and its sign across the band."""
    sides = (("top", False, -1.0), ("bottom", False, 1.0), ("left", True, 1.0), ("right", True, -1.0))
    return sides[site.rng.integers(4)]


def _row_of_houses(site: Site, upright: bool, across: float, road: float) -> tuple[Building, ...]:
    """Draw six houses in a row through the scene."""
    start = site.rng.uniform(-100, -92)
    spots = start + 39.0 * np.arange(6)
    toward = road + (6 if across > road else -6)
    return tuple(house_beside(site.rng, along, across, toward, upright, site.tilt) for along in spots)


def _band_outline(upright: bool, across: float, tilt: float, reach: float = 20) -> Points:
    low, high = across - reach, across + reach
    return band(np.array([[-170, low], [170, low], [170, high], [-170, high]], np.float32), upright, tilt)


def _row(site: Site) -> Edit:
    place, upright, sign = _side(site)
    road = sign * float(site.rng.uniform(44, 52))
    line = straight(upright, road, site.tilt)
    after = Things(buildings=_row_of_houses(site, upright, road + sign * 34, road))
    opposite = _row_of_houses(site, upright, road - sign * 34, road)
    stay = tuple(house for house in opposite if site.rng.random() < 0.5) if site.rng.random() < 0.5 else ()
    both = Things(roads=(draw_road(site.rng, line),), buildings=stay)
    reserved = (_band_outline(upright, road, site.tilt, 54),)
    return Edit(Facts("row", site.ground, place, 6), reserved, after=after, both=both)


def _rows(site: Site) -> Edit:
    upright = bool(site.rng.random() < 0.5)
    line = straight(upright, 0, site.tilt)
    after = Things(buildings=_row_of_houses(site, upright, -34, 0) + _row_of_houses(site, upright, 34, 0))
    both = Things(roads=(draw_road(site.rng, line),))
    reserved = (_band_outline(upright, 0, site.tilt, 56),)
    return Edit(Facts("rows", site.ground, count=12), reserved, after=after, both=both)


def _road(site: Site) -> Edit:
    place, upright, sign = _side(site)
    if site.rng.random() < 0.33:
        place, sign = "center", 0.0
    across = sign * 76 + float(site.rng.uniform(-8, 8))
    after = Things(roads=(draw_road(site.rng, straight(upright, across, site.tilt)),))
    facts = Facts("road", site.ground, place, way="vertical" if upright else "horizontal")
    return Edit(facts, (_band_outline(upright, across, site.tilt),), after=after)


def _winding_road(site: Site) -> Edit:
    upright = bool(site.rng.random() < 0.5)
    line = winding(site.rng, upright, 0.0, float(site.rng.uniform(38, 56)))
    low, high = line.min(0) - 14, line.max(0) + 14
    reserved = np.array([low, (high[0], low[1]), high, (low[0], high[1])], np.float32)
    return Edit(Facts("winding road", site.ground), (reserved,), after=Things(roads=(draw_road(site.rng, line),)))


def _crossroad(site: Site) -> Edit:
    across = site.rng.uniform(-26, 26, 2)
    lines = [straight(upright, float(at), site.tilt) for upright, at in zip((False, True), across, strict=True)]
    first = draw_road(site.rng, lines[0])
    roads = (first, Road(lines[1], first.width, first.color, first.lined))
    reserved = tuple(_band_outline(u, float(at), site.tilt) for u, at in zip((False, True), across, strict=True))
    return Edit(Facts("crossroad", site.ground), reserved, after=Things(roads=roads))


def _extension(site: Site) -> Edit:
    place, upright, _ = _side(site)
    upright = not upright
    across = float(site.rng.uniform(-60, 60))
    stop = float(site.rng.uniform(-20, 10))
    # A band is directed to the right, or down if it is upright; the road comes from the opposite side.
    sign = 1 if place in ("right", "bottom") else -1
    ends = (-170.0 * sign, stop * sign)
    old = draw_road(site.rng, straight(upright, across, site.tilt, *ends))
    whole = Road(straight(upright, across, site.tilt, ends[0], 170.0 * sign), old.width, old.color, old.lined)
    facts = Facts("extension", site.ground, place)
    before, after = Things(roads=(old,)), Things(roads=(whole,))
    return Edit(facts, (_band_outline(upright, across, site.tilt),), before=before, after=after)


def _trees(site: Site) -> Edit:
    place = site.place()
    x, y = site.spot(place, 50)
    grove = wood(site, x, y)
    # In a wood, the grove is not distinguishable before the change; the change is the later clearing.
    after = Things(patches=(site.bare_patch(x, y, 38),), groves=(Grove(grove.outline, 0),))
    before = Things(groves=(grove,))
    return Edit(Facts("trees", site.ground, place), (around(x, y, 50),), before=before, after=after)


def _demolition(site: Site) -> Edit:
    place = site.place()
    if site.rng.random() < 0.5:
        x, y = site.spot(place, 50)
        old = draw_hall(site.rng, x, y, site.angle())
        kind, radius = "building gone", 38.0
    else:
        x, y = site.spot(place, 42)
        (old,) = cluster(site, 1, x, y)
        kind, radius = "house gone", 28.0
    # No trees grow between the two images, and no trees hide the rubble.
    clearing = Grove(around(x, y, radius + 4), 0)
    after = Things(patches=(site.bare_patch(x, y, radius, "rubble"),), groves=(clearing,))
    facts = Facts(kind, site.ground, place, int(kind == "house gone"), roof=roof_of(old.color))
    return Edit(facts, (around(x, y, radius + 8),), before=Things(buildings=(old,)), after=after)


def _replacement(site: Site) -> Edit:
    place = site.place()
    x, y = site.spot(place, 52)
    kind = str(site.rng.choice(["houses to building", "trees to parking", "building to parking"]))
    if kind == "houses to building":
        before = Things(buildings=cluster(site, int(site.rng.integers(2, 4)), x, y))
        after = Things(buildings=(draw_hall(site.rng, x, y, site.angle()),))
    elif kind == "trees to parking":
        before = Things(groves=(wood(site, x, y),))
        after = Things(lots=(draw_lot(site.rng, x, y, site.angle()),), patches=(site.bare_patch(x, y, 42),))
    else:
        angle = site.angle()
        before = Things(buildings=(draw_hall(site.rng, x, y, angle),))
        after = Things(lots=(draw_lot(site.rng, x, y, angle),))
    return Edit(Facts(kind, site.ground, place), (around(x, y, 50),), before=before, after=after)


def _road_and_houses(site: Site) -> Edit:
    place, upright, sign = _side(site)
    if site.rng.random() < 0.25:
        place, sign = "center", 0.0
    road = sign * float(site.rng.uniform(58, 66))
    line = straight(upright, road, site.tilt)
    outer = _row_of_houses(site, upright, road + (sign or 1.0) * 34, road)
    inner = _row_of_houses(site, upright, road - (sign or 1.0) * 34, road)
    slots = sorted(site.rng.choice(5, 2, replace=False))
    houses = outer[slots[0] : slots[0] + 2] + inner[slots[1] : slots[1] + 2]
    after = Things(roads=(draw_road(site.rng, line),), buildings=houses)
    reserved = (_band_outline(upright, road, site.tilt, 54),)
    return Edit(Facts("road and houses", site.ground, place, len(houses)), reserved, after=after)


def _trees_to_houses(site: Site) -> Edit:
    place = site.place()
    x, y = site.spot(place, 52)
    after = Things(buildings=cluster(site, 2, x, y), patches=(site.bare_patch(x, y, 42),))
    before = Things(groves=(wood(site, x, y),))
    return Edit(Facts("trees to houses", site.ground, place, 2), (around(x, y, 50),), before=before, after=after)


def _building_and_parking(site: Site) -> Edit:
    place, upright, sign = _side(site)
    spots = np.array([[-40, sign * 76], [40, sign * 76]], np.float32) + site.rng.uniform(-4, 4, (1, 2))
    if site.rng.random() < 0.5:
        spots = spots[::-1]
    (x, y), (u, v) = band(spots.astype(np.float32), upright, site.tilt)
    angle = site.tilt + (0.0 if upright else QUARTER)
    hall, lot = draw_hall(site.rng, float(x), float(y), angle), draw_lot(site.rng, float(u), float(v), angle)
    reserved = (_band_outline(upright, sign * 76, site.tilt, 46),)
    facts = Facts("building and parking", site.ground, place)
    return Edit(facts, reserved, after=Things(buildings=(hall,), lots=(lot,)))


def _two(site: Site) -> Edit:
    """Draw two changes of different kinds at distant places."""
    makers = (_house, _building, _trees, _demolition) + ((_parking, _pond, pond_gone) if site.ground in _OPEN else ())
    while True:
        pick = site.rng.choice(len(makers), 2, replace=False)
        first, second = sorted((makers[n](site) for n in pick), key=lambda edit: PLACES.index(edit.facts.place))
        apart = np.abs(first.reserved[0].mean(0) - second.reserved[0].mean(0)).max()
        if apart > 110:
            break
    facts = Facts("two changes", site.ground, parts=(first.facts, second.facts))
    before, after = first.before.plus(second.before), first.after.plus(second.after)
    return Edit(facts, first.reserved + second.reserved, before=before, after=after)


_ANYWHERE = GROUNDS
_OPEN = ("bareland", "meadow")

# Share of the changed pairs, function that draws the change, and grounds on which the change is visible.
KINDS: tuple[tuple[float, Callable[[Site], Edit], tuple[str, ...]], ...] = (
    (0.06, _house, _ANYWHERE),
    (0.10, _houses, _ANYWHERE),
    (0.05, _building, _ANYWHERE),
    (0.035, _row, _ANYWHERE),
    (0.025, _rows, _ANYWHERE),
    (0.05, _road, _ANYWHERE),
    (0.02, _winding_road, _ANYWHERE),
    (0.02, _crossroad, _ANYWHERE),
    (0.035, _extension, _ANYWHERE),
    (0.05, _trees, _ANYWHERE),
    (0.065, _demolition, _ANYWHERE),
    (0.07, _replacement, _OPEN),
    (0.035, _parking, _OPEN),
    (0.035, _pond, _OPEN),
    (0.04, _road_and_houses, _ANYWHERE),
    (0.03, _trees_to_houses, _OPEN),
    (0.03, _building_and_parking, _OPEN),
    (0.03, pond_gone, _OPEN),
    (0.03, greening, ("bareland",)),
    (0.03, lot_extension, _OPEN),
    (0.03, playground, _OPEN),
    (0.02, roundabout, _OPEN),
    (0.03, planting, _OPEN),
    (0.08, _two, _ANYWHERE),
)


def draw_edit(rng: np.random.Generator, tilt: float, grounds: Collection[str] = GROUNDS) -> Edit:
    """Draw a change of any kind, and one of `grounds` on which the change is visible."""
    fitting = [(share, make, [ground for ground in suited if ground in grounds]) for share, make, suited in KINDS]
    fitting = [kind for kind in fitting if kind[2]]
    shares = np.cumsum([share for share, _, _ in fitting])
    _, make, suited = fitting[int(np.searchsorted(shares, rng.random() * shares[-1], "right"))]
    return make(Site(rng, suited[rng.integers(len(suited))], tilt))
