"""Scenes of a pair: a photograph with objects of other photographs on both dates, and one change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rsicrc_train.composites.appearance import blend_colors
from rsicrc_train.composites.land import HOUSES, WOODS, Land
from rsicrc_train.composites.outlines import Extent, Mask, line, parcel, place_of, union
from rsicrc_train.composites.photographs import SIZE, Image, PhotographLibrary, ground_of
from rsicrc_train.composites.sentences import Facts
from rsicrc_train.composites.structures import House, Road, Structure, Tree

_ZOOM = (0.6, 1.0)  # of photographs of 0.3 m, which then look like images of 0.3 to 0.5 m


@dataclass(frozen=True)
class Parcel:
    """Part of another photograph on the ground: an image, and the mask of its visible part."""

    image: Image
    footprint: Mask


Layer = Parcel | Road


@dataclass
class Scene:
    """One date of a pair: the ground, the layers on the ground, and the structures that stand on it."""

    ground: Image
    layers: list[Layer] = field(default_factory=list)
    structures: list[Structure] = field(default_factory=list)


@dataclass(frozen=True)
class Change:
    """Objects that a change adds to the scene, and the facts of the change."""

    layers: list[Layer]
    structures: list[Structure]
    facts: Facts

    @property
    def mask(self) -> Mask:
        """Mask of all changed pixels."""
        return union([each.footprint for each in (*self.layers, *self.structures)])


def draw_scenes(rng: np.random.Generator, library: PhotographLibrary) -> tuple[Scene, Scene, Change]:
    """Draw the scene without and the scene with a change.

    Returns:
        Both scenes, which differ only by the change, and the change.
    """
    lands = library.lands("ground" if rng.random() < 0.6 else "built")
    land = lands[rng.integers(len(lands))]
    zoom = rng.uniform(*_ZOOM)
    ground = library.view(rng, land, zoom)
    named = ground_of(land, ground)
    layers = [_decoy(rng, library, ground) for _ in range(rng.integers(0, 3))]
    old_road = rng.random() < 0.35
    if old_road:
        layers.append(Road.draw(rng, line(rng)))
    structures = _decoy_structures(rng)
    kinds, weights = zip(*_KINDS, strict=True)
    kind = kinds[rng.choice(len(kinds), p=np.array(weights) / sum(weights))]
    road = layers[-1] if old_road and isinstance(layers[-1], Road) else None
    change = kind(rng, _Site(library, ground, named, zoom, road))
    before = Scene(ground, layers, structures)
    after = Scene(ground, [*layers, *change.layers], [*structures, *change.structures])
    return before, after, change


@dataclass(frozen=True)
class _Site:
    """Place of a change: photographs to choose from, the ground and its name, the zoom, and a road that is there."""

    library: PhotographLibrary
    ground: Image
    named: str
    zoom: float
    road: Road | None


def _decoy(rng: np.random.Generator, library: PhotographLibrary, ground: Image) -> Layer:
    """Return a part of any photograph, which both dates show: an edge alone is no change."""
    lands = list(library.by_land)
    view = library.view(rng, lands[rng.integers(len(lands))], rng.uniform(*_ZOOM))
    return Parcel(blend_colors(rng, view, ground), parcel(rng, ("parcel", "lot", "half")[rng.integers(3)]))


def _decoy_structures(rng: np.random.Generator) -> list[Structure]:
    found: list[Structure] = []
    if rng.random() < 0.3:
        angle = rng.uniform(0, np.pi)
        found += [House.draw(rng, rng.uniform(10, SIZE - 10, 2), angle, large=False) for _ in range(rng.integers(1, 5))]
    if rng.random() < 0.1:
        found.append(House.draw(rng, rng.uniform(30, SIZE - 30, 2), rng.uniform(0, np.pi), large=True))
    if rng.random() < 0.3:
        found += _trees(rng, rng.uniform(0, SIZE, 2), int(rng.integers(2, 14)))
    return found


def _develop(rng: np.random.Generator, site: _Site) -> Change:
    """Replace ground by built land: all of it, one side, or up to three parcels."""
    lands = site.library.lands("built")
    weights = np.array([_LIKELY.get(land.thing, 0.5) for land in lands])
    land = lands[rng.choice(len(lands), p=weights / weights.sum())]
    extents: tuple[Extent, ...] = ("all", "half", "parcel", "parcel")
    if land.thing == "car park":
        extents = ("parcel", "lot", "lot", "half")
    extent = extents[rng.integers(len(extents))]
    layers: list[Layer] = []
    for _ in range(1 if extent in ("all", "half") or land.thing == "house" else rng.integers(1, 4)):
        view = site.library.view(rng, land, float(np.clip(site.zoom * rng.uniform(0.9, 1.1), *_ZOOM)))
        layers.append(Parcel(blend_colors(rng, view, site.ground), parcel(rng, extent)))
    mask = union([layer.footprint for layer in layers])
    share = float(mask.mean())
    facts = Facts(
        thing=_thing(land, share, len(layers)),
        ground=site.named,
        place=place_of(mask) if len(layers) == 1 else "",
        road="old" if land.ground == HOUSES and rng.random() < 0.6 else "",
        cleared=site.named == WOODS and share > 0.08,
        whole=share > 0.6,
    )
    if rng.random() < 0.3:
        road = Road.draw(rng, line(rng))
        layers.append(road)
        facts = replace(facts, road="new")
    return Change(layers, [], facts)


def _houses(rng: np.random.Generator, site: _Site) -> Change:
    """Draw one to six houses, in a row along a road where there is one."""
    count = int(rng.choice([1, 1, 2, 2, 3, 4, 5, 6]))
    layers: list[Layer] = []
    road, kind = site.road, "old"
    if road is None and rng.random() < 0.3:
        road, kind = Road.draw(rng, line(rng)), "new"
        layers.append(road)
    houses = _row(rng, road, count) if road is not None else _scattered(rng, count)
    mask = union([house.footprint for house in houses])
    facts = Facts(
        thing="house",
        count=len(houses),
        ground=site.named,
        place=place_of(mask),
        road=kind if road is not None else "",
        cleared=site.named == WOODS,
    )
    return Change(layers, list(houses), facts)


def _building(rng: np.random.Generator, site: _Site) -> Change:
    """Draw one or two large buildings."""
    count = int(rng.choice([1, 1, 1, 2]))
    houses = [House.draw(rng, rng.uniform(45, SIZE - 45, 2), rng.normal(0, 0.3), large=True) for _ in range(count)]
    mask = union([house.footprint for house in houses])
    facts = Facts("building", count, ground=site.named, place=place_of(mask), cleared=site.named == WOODS)
    return Change([], list(houses), facts)


def _road(rng: np.random.Generator, site: _Site) -> Change:
    """Draw a road, or two that cross."""
    crossing = rng.random() < 0.3
    roads: list[Layer] = [Road.draw(rng, line(rng)) for _ in range(1 + crossing)]
    thing = "crossroad" if crossing and _cross(roads) else "road"
    facts = Facts(thing, 2 if crossing and thing == "road" else 1, ground=site.named, cleared=site.named == WOODS)
    return Change(roads, [], facts)


def _plants(rng: np.random.Generator, site: _Site) -> Change:
    """Draw a group of trees."""
    trees = _trees(rng, rng.uniform(40, SIZE - 40, 2), int(rng.integers(8, 30)), spread=rng.uniform(20, 45))
    mask = union([tree.footprint for tree in trees])
    ground = site.named if site.named != WOODS else ""
    return Change([], list(trees), Facts("trees", ground=ground, place=place_of(mask)))


_KINDS: tuple[tuple[Callable[[np.random.Generator, _Site], Change], float], ...] = (
    (_develop, 0.55),
    (_houses, 0.22),
    (_building, 0.08),
    (_road, 0.11),
    (_plants, 0.04),
)
_LIKELY = {
    "many houses": 3.0,
    "houses": 4.0,
    "house": 2.0,
    "buildings": 1.5,
    "car park": 0.7,
    "tanks": 0.3,
    "court": 0.2,
}


def _thing(land: Land, share: float, parcels: int) -> str:
    """Return the object that captions name for a share of the image with new land."""
    if land.thing == "many houses" and share < 0.15:
        return "houses"
    if land.thing in ("house", "houses") and (share > 0.5 or (parcels > 1 and land.thing == "houses")):
        return "many houses" if land.thing == "houses" else "houses"
    return land.thing or "buildings"


def _row(rng: np.random.Generator, road: Road, count: int) -> list[House]:
    """Return houses along both sides of a road, as far as they are in the image."""
    inside = np.flatnonzero(((road.points > 12) & (road.points < SIZE - 12)).all(axis=1))
    if len(inside) < 3:
        return _scattered(rng, count)
    steps = np.sort(rng.choice(inside[:-1], min(count, len(inside) - 1), replace=False))
    side = rng.choice([-1, 1])
    houses = []
    for step in steps:
        direction = road.points[step + 1] - road.points[step]
        direction = direction / (np.linalg.norm(direction) + 1e-6)
        across = np.array([-direction[1], direction[0]]) * (side if rng.random() < 0.7 else -side)
        x, y = road.points[step] + across * (road.width / 2 + rng.uniform(16, 26))
        if 8 < x < SIZE - 8 and 8 < y < SIZE - 8:
            houses.append(House.draw(rng, np.array([x, y]), float(np.arctan2(direction[1], direction[0])), large=False))
    return houses or _scattered(rng, 1)


def _scattered(rng: np.random.Generator, count: int) -> list[House]:
    """Return houses of one direction next to each other."""
    angle, center = rng.uniform(0, np.pi), rng.uniform(45, SIZE - 45, 2)
    places = [center + rng.uniform(-16, 16, 2) + 36 * np.array([k % 3 - 1, k // 3]) for k in range(count)]
    return [House.draw(rng, np.clip(place, 14, SIZE - 14), angle, large=False) for place in places]


def _trees(rng: np.random.Generator, center: NDArray[np.float64], count: int, spread: float = 40.0) -> list[Structure]:
    return [Tree.draw(rng, center + rng.normal(0, spread, 2)) for _ in range(count)]


def _cross(roads: list[Layer]) -> bool:
    first, second = (road.footprint for road in roads)
    return bool((np.minimum(first, second) > 0.5).any())
