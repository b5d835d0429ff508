"""Layout of a scene: the area of the change is reserved first, then other objects are placed around it."""

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from rsicrc_train.synth.objects import (
    Building,
    Grove,
    Patch,
    Points,
    Things,
    blob,
    box,
    draw_container,
    draw_hall,
    draw_house,
    draw_lot,
    draw_path,
    draw_pond,
    draw_road,
    turned,
)
from rsicrc_train.synth.terrain import SIZE, Color

_EVERYWHERE: Points = np.array([[-20, -20], [276, -20], [276, 276], [-20, 276]], np.float32)
_MIDDLE = SIZE / 2

# Land may look gray or yellow, but in bare land red is always above green, and in a meadow never.
BARE: tuple[Color, ...] = ((176, 156, 128), (152, 138, 120), (130, 112, 92), (190, 172, 146), (140, 121, 100))
GREEN: tuple[Color, ...] = ((92, 116, 66), (104, 118, 74), (74, 102, 58), (116, 130, 82))
_CROPS: tuple[Color, ...] = ((96, 120, 62), (150, 140, 92), (118, 104, 78))


class Occupancy:
    """Mask of the occupied parts of a scene."""

    def __init__(self) -> None:
        self._occupied: NDArray[np.uint8] = np.zeros((SIZE, SIZE), np.uint8)

    def take(self, outline: Points, margin: int = 4) -> None:
        """Mark a polygon and a margin around it as occupied."""
        points = np.rint(outline).astype(np.int32)
        cv2.fillPoly(self._occupied, [points], 255)
        cv2.polylines(self._occupied, [points], True, 255, 2 * margin)

    def take_line(self, line: Points, width: float) -> None:
        """Mark a band along a line as occupied."""
        cv2.polylines(self._occupied, [np.rint(line).astype(np.int32)], False, 255, round(width))

    def free(self, outline: Points) -> bool:
        """Return true if the bounding box of a polygon is free."""
        (x0, y0), (x1, y1) = np.clip(outline.min(0), 0, SIZE - 1), np.clip(outline.max(0) + 1, 1, SIZE)
        return not self._occupied[int(y0) : int(y1), int(x0) : int(x1)].any()

    def free_line(self, line: Points, width: float) -> bool:
        """Return true if a band along a line is free."""
        band = np.zeros_like(self._occupied)
        cv2.polylines(band, [np.rint(line).astype(np.int32)], False, 255, round(width))
        return not cv2.bitwise_and(band, self._occupied).any()


def band(points: Points, upright: bool, tilt: float) -> Points:
    """Convert (along, across) relative to the middle of a scene; across is down, or left for an upright band."""
    return turned(points, _MIDDLE, _MIDDLE, (np.pi / 2 if upright else 0.0) + tilt)


def straight(upright: bool, across: float, tilt: float, start: float = -170, end: float = 170) -> Points:
    """Return a straight line [2, 2] through the scene."""
    return band(np.array([[start, across], [end, across]], np.float32), upright, tilt)


def winding(rng: np.random.Generator, upright: bool, across: float, swing: float) -> Points:
    """Draw a curved line [36, 2] through the scene: a sine of about one period around a straight line."""
    along = np.linspace(-150, 150, 36)
    waves = rng.uniform(0.8, 1.15)
    wave = swing * np.sin(along / 150 * np.pi * waves + rng.uniform(0, 2 * np.pi))
    return band(np.stack([along, across + wave], 1).astype(np.float32), upright, 0.0)


def house_beside(
    rng: np.random.Generator, along: float, across: float, road: float, upright: bool, tilt: float
) -> Building:
    """Draw a house at (along, across) in a band, with a drive to the road at the distance `road` across."""
    spots = np.array([[along, across + rng.uniform(-2, 2)], [along + rng.uniform(-5, 5), road]], np.float32)
    (x, y), (drive_x, drive_y) = band(spots, upright, tilt)
    angle = (np.pi / 2 if upright else 0.0) + tilt + float(rng.normal(0, 0.05))
    house = draw_house(rng, float(x), float(y), angle)
    return replace(house, drive=(float(drive_x), float(drive_y)))


def surroundings(rng: np.random.Generator, occupancy: Occupancy, ground: str, tilt: float) -> Things:
    """Draw the objects of a scene that are not part of its change and are equal in both images.

    Args:
        rng: Random generator.
        occupancy: Occupied parts of the scene; the areas of the new objects are added.
        ground: "bareland", "meadow" or "woods".
        tilt: Angle of roads and buildings, radians.

    Returns:
        Roads, buildings, ponds, car parks, patches and trees.
    """
    things = Things(patches=_patches(rng, occupancy, ground), groves=_trees(rng, occupancy, ground))
    for _ in range(rng.choice([0, 1, 2], p=[0.3, 0.5, 0.2])):
        things = things.plus(_street(rng, occupancy, tilt))
    for _ in range(rng.integers(1, 6)):
        things = things.plus(_single(rng, occupancy, ground, tilt))
    return things.plus(_clutter(rng, occupancy))


def _clutter(rng: np.random.Generator, occupancy: Occupancy) -> Things:
    """Draw paths and containers on free areas."""
    paths, small = [], []
    if rng.random() < 0.4:
        line = winding(rng, bool(rng.random() < 0.5), float(rng.uniform(-110, 110)), 18.0)
        if occupancy.free_line(line, 12):
            occupancy.take_line(line, 8)
            paths.append(draw_path(rng, line))
    for _ in range(rng.integers(0, 4)):
        x, y = (float(v) for v in rng.uniform(8, SIZE - 8, 2))
        if occupancy.free(box(x, y, 22, 22, 0.0)):
            occupancy.take(box(x, y, 16, 16, 0.0), 1)
            small.append(draw_container(rng, x, y, float(rng.uniform(0, np.pi))))
    return Things(roads=tuple(paths), buildings=tuple(small))


def _patches(rng: np.random.Generator, occupancy: Occupancy, ground: str) -> tuple[Patch, ...]:
    """Draw fields and patches of other ground outside the area of the change."""
    patches = []
    for _ in range(rng.integers(1, 6) if ground != "woods" else 0):
        x, y = rng.uniform(10, SIZE - 10, 2)
        if rng.random() < 0.5:
            length, width = rng.uniform(40, 110, 2)
            outline = box(x, y, length, width, float(rng.normal(0, 0.1)))
            patch = Patch("field", outline, _CROPS[rng.integers(len(_CROPS))])
        else:
            radius_x, radius_y = rng.uniform(12, 45, 2)
            outline = blob(rng, x, y, radius_x, radius_y, 0.15)
            other, colors = ("meadow", GREEN) if ground == "bareland" else ("bareland", BARE)
            patch = Patch(other, outline, colors[rng.integers(len(colors))])
        if occupancy.free(outline):
            patches.append(patch)
    return tuple(patches)


def _trees(rng: np.random.Generator, occupancy: Occupancy, ground: str) -> tuple[Grove, ...]:
    """Draw a wood with clearings, or single trees of varying density and a few groves."""
    if ground == "woods":
        outlines = [_random_outline(rng, 14, 30) for _ in range(rng.integers(0, 4))]
        return (Grove(_EVERYWHERE, 255), *(Grove(outline, 0) for outline in outlines if occupancy.free(outline)))
    single = [Grove(_EVERYWHERE, int(rng.choice([0, 15, 40])), dense=False)]
    single += [
        Grove(_random_outline(rng, 40, 110), int(rng.integers(20, 190)), dense=False) for _ in range(rng.integers(0, 4))
    ]
    groves = []
    for _ in range(rng.integers(0, 4)):
        outline = _random_outline(rng, 15, 34)
        if occupancy.free(outline):
            occupancy.take(outline)
            groves.append(Grove(outline, int(rng.choice([170, 255]))))
    return (*single, *groves)


def _random_outline(rng: np.random.Generator, small: float, large: float) -> Points:
    """Draw an outline anywhere in the scene, with half-axes in a range."""
    x, y = rng.uniform(0, SIZE, 2)
    radius_x, radius_y = rng.uniform(small, large, 2)
    return blob(rng, x, y, radius_x, radius_y, 0.18)


def _street(rng: np.random.Generator, occupancy: Occupancy, tilt: float) -> Things:
    """Draw a road, if one fits, with houses along it."""
    for _ in range(4):
        upright, across = bool(rng.random() < 0.5), float(rng.uniform(-110, 110))
        curved = rng.random() < 0.25
        line = winding(rng, upright, across, 14.0) if curved else straight(upright, across, tilt)
        if occupancy.free_line(line, 22):
            break
    else:
        return Things()
    occupancy.take_line(line, 24)
    return Things(roads=(draw_road(rng, line),)).plus(_houses_along(rng, occupancy, across, upright, tilt))


def _houses_along(rng: np.random.Generator, occupancy: Occupancy, road: float, upright: bool, tilt: float) -> Things:
    """Draw houses on free areas along both sides of a straight road; none, few or most positions are used."""
    houses = []
    filled = rng.choice([0.0, 0.3, 0.8])
    first = rng.uniform(-130, -110)
    for side in (-1, 1):
        for along in np.arange(first, 130, 39):
            if rng.random() > filled:
                continue
            house = house_beside(rng, along, road + side * 34, road + side * 6, upright, tilt)
            area = box(house.x, house.y, house.length + 8, house.width + 10, house.angle)
            if area.min() > -14 and area.max() < SIZE + 14 and occupancy.free(area):
                occupancy.take(area)
                houses.append(house)
    return Things(buildings=tuple(houses))


def _single(rng: np.random.Generator, occupancy: Occupancy, ground: str, tilt: float) -> Things:
    """Draw one isolated object, if a free area is found for it."""
    kind = rng.choice(["house", "hall", "lot", "pond"], p=[0.5, 0.2, 0.15, 0.15])
    reach = 22 if kind == "house" else 42
    for _ in range(4):
        x, y = (float(v) for v in rng.uniform(20, SIZE - 20, 2))
        if not occupancy.free(box(x, y, 2 * reach, 2 * reach, 0.0)):
            continue
        occupancy.take(box(x, y, 2 * reach, 2 * reach, 0.0), 1)
        angle = tilt + float(rng.choice([0, np.pi / 2]))
        if kind == "house":
            return Things(buildings=(draw_house(rng, x, y, angle),))
        if kind == "hall":
            return Things(buildings=(draw_hall(rng, x, y, angle),))
        if kind == "lot" and ground != "woods":
            return Things(lots=(draw_lot(rng, x, y, angle),))
        return Things(ponds=(draw_pond(rng, x, y),))
    return Things()
