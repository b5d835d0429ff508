"""Renderer of a scene under given weather, the same for before and after images."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from rsicrc_train.synth.objects import Building, Lot, Points, Road, Scene, Things, box, turned
from rsicrc_train.synth.terrain import SIZE, Color, crop, floor, texture, tinted
from rsicrc_train.synth.trees import crowns, leaves
from rsicrc_train.synth.weather import Weather, photograph

Image = NDArray[np.uint8]
_AA, _BITS = cv2.LINE_AA, 4
_CARS = ((225, 225, 225), (150, 152, 156), (60, 62, 68), (150, 45, 40), (50, 70, 115), (30, 30, 32))
# Crops differ between before and after image: green, ripe, stubble or ploughed.
_CROPS: tuple[Color, ...] = ((84, 118, 58), (178, 158, 98), (146, 132, 92), (122, 98, 74), (104, 126, 70))
_CONCRETE = (186.0, 182.0, 174.0)
_PITCH = {"hip": 0.5, "gable": 0.55}


def render(scene: Scene, weather: Weather) -> Image:
    """Render a scene as RGB image, uint8 [256, 256, 3]; equal arguments give equal bytes."""
    cv2.setNumThreads(1)  # bytes and speed must not depend on the number of cores
    things = scene.things
    image = _land(scene, weather)
    _patches(image, scene, weather)
    _ponds(image, things, weather)
    _roads(image, things.roads, weather)
    _drives(image, things.buildings)
    for lot in things.lots:
        _lot(image, lot, weather)
    shade = np.zeros((SIZE, SIZE), np.uint8)
    for building in things.buildings:
        _building_shadow(shade, building, weather)
    woods = _woods(scene)
    for crown, _ in woods:
        _tree_shadow(shade, crown, weather)
    # Shadows are lit by the blue sky, so red is reduced most.
    _darken(image, shade, (0.60, 0.56, 0.48))
    for building in things.buildings:
        _building(image, building, weather)
    away = (-weather.shadow[0], -weather.shadow[1])
    dark, bright = weather.vegetation_color((14, 26, 14)), weather.vegetation_color((118, 148, 84))
    for crown, dense in woods:
        look = leaves(dense, scene.wood, away, dark, bright, (weather.autumn, weather.leafless))
        cv2.copyTo(look, crown, image)
    return photograph(image, weather)


def _fixed(points: Points) -> NDArray[np.int32]:
    """Convert points to OpenCV's fixed-point format with four fractional bits."""
    return np.asarray(np.rint(points * 16), np.int32)


def _scaled(color: Color, light: float) -> Color:
    return color[0] * light, color[1] * light, color[2] * light


def _fill(image: Image, points: Points, color: Color | int) -> None:
    cv2.fillConvexPoly(image, _fixed(points), color, _AA, _BITS)


def _darken(image: Image, shade: Image, strength: Sequence[float]) -> None:
    """Multiply the image by 1 - strength x shade, per channel."""
    red, green, blue = (255 * (1 - part) for part in strength)
    cv2.multiply(image, tinted(shade, (255, 255, 255), (red, green, blue)), image, 1 / 255)


def _land(scene: Scene, weather: Weather) -> Image:
    wear = (weather.seed % 500, weather.seed // 700 % 500)
    color = weather.vegetation_color(scene.color) if scene.floor == "meadow" else scene.color
    return floor(scene.floor, scene.origin, scene.flip, color, wear)


def _patches(image: Image, scene: Scene, weather: Weather) -> None:
    if not scene.things.patches:
        return
    # A blurred outline, compared with a random level, gets the ragged edge of natural ground.
    level = cv2.extractChannel(crop(texture("rubble"), scene.origin), 0)
    for number, patch in enumerate(scene.things.patches):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        cv2.fillPoly(mask, [_fixed(patch.outline)], 255, _AA, _BITS)
        soft = 3 if patch.kind == "field" else 11
        cv2.compare(cv2.blur(mask, (soft, soft)), level, cv2.CMP_GT, mask)
        origin = (scene.origin[0], (scene.origin[1] + 97 * number) % 500)
        color = weather.vegetation_color(patch.color) if patch.kind == "meadow" else patch.color
        if patch.kind == "field":
            color = _CROPS[(weather.seed + 3 * number) // 7 % len(_CROPS)]
        flip = (scene.flip + number) % 8
        cv2.copyTo(floor(patch.kind, origin, flip, color), mask, image)


def _ponds(image: Image, things: Things, weather: Weather) -> None:
    if not things.ponds:
        return
    # Water reflects the sky, so its color differs between before and after image.
    depth = weather.seed % 97 / 97
    water = floor("water", (weather.seed % 400, 100), 0, (44 + 22 * depth, 68 + 18 * depth, 76 + 22 * (1 - depth)))
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for pond in things.ponds:
        outline = _fixed(pond.outline)
        cv2.polylines(image, [outline], True, (150, 138, 112), 5, _AA, _BITS)
        cv2.polylines(image, [outline], True, (98, 92, 72), 3, _AA, _BITS)
        cv2.fillPoly(mask, [outline], 255, _AA, _BITS)
    cv2.copyTo(water, cv2.inRange(mask, 128, 255), image)
    rng = np.random.default_rng(weather.seed)
    for pond in things.ponds:
        if rng.random() < 0.3:
            x, y = (float(v) for v in pond.outline.mean(0) + rng.uniform(-9, 9, 2))
            _fill(image, box(x, y, 6, 2.5, float(rng.uniform(0, 3))), (222, 220, 214))


def _roads(image: Image, roads: Sequence[Road], weather: Weather) -> None:
    if not roads:
        return
    lines = [_fixed(road.line) for road in roads]
    # All verges are drawn before all surfaces, so that no verge crosses a road.
    for line, road in zip(lines, roads, strict=True):
        cv2.polylines(image, [line], False, (172, 168, 158), round(road.width) + 4, _AA, _BITS)
    for line, road in zip(lines, roads, strict=True):
        cv2.polylines(image, [line], False, road.color, round(road.width), _AA, _BITS)
    for road in roads:
        if road.lined:
            _draw_center_line(image, road)
    rng = np.random.default_rng(weather.seed)
    cars = [_cars_on(road, rng) for road in roads if road.cars]
    if cars:
        _cars(image, np.concatenate(cars), rng)


def _drives(image: Image, buildings: Sequence[Building]) -> None:
    drives = [_fixed(np.array([[b.x, b.y], b.drive], np.float32)) for b in buildings if b.drive]
    if drives:
        cv2.polylines(image, drives, False, _CONCRETE, 6, _AA, _BITS)


def _draw_center_line(image: Image, road: Road) -> None:
    """Draw a broken white line: dashes of 6 pixels every 12 pixels."""
    points, _ = _along(road.line, np.arange(3.0, _length(road.line) - 6, 12.0))
    ends, _ = _along(road.line, np.arange(9.0, _length(road.line), 12.0))
    count = min(len(points), len(ends))
    dashes = _fixed(np.stack([points[:count], ends[:count]], 1))
    cv2.polylines(image, list(dashes), False, (215, 212, 200), 1, _AA, _BITS)


def _length(line: Points) -> float:
    return float(np.hypot(*np.diff(line, axis=0).T).sum())


def _along(line: Points, distances: NDArray[np.float64]) -> tuple[Points, NDArray[np.float64]]:
    """Return the points [n, 2] at given distances along a line, and the angles of the line at these points."""
    steps = np.diff(line, axis=0)
    reached = np.concatenate([[0.0], np.cumsum(np.hypot(steps[:, 0], steps[:, 1]))])
    x, y = np.interp(distances, reached, line[:, 0]), np.interp(distances, reached, line[:, 1])
    part = np.clip(np.searchsorted(reached, distances, "right") - 1, 0, len(steps) - 1)
    return np.stack([x, y], 1).astype(np.float32), np.arctan2(steps[part, 1], steps[part, 0])


def _cars_on(road: Road, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw positions of cars on a road at random: [n, 3] of x, y, angle."""
    length = _length(road.line)
    spots = rng.uniform(0, length, rng.poisson(length / 110))
    points, angles = _along(road.line, spots)
    side = np.where(rng.random(len(spots)) < 0.5, 0.25, -0.25) * road.width
    normal = np.stack([-np.sin(angles), np.cos(angles)], 1)
    return np.concatenate([points + side[:, None] * normal, angles[:, None]], 1)


def _cars(image: Image, cars: NDArray[np.float64], rng: np.random.Generator) -> None:
    """Draw cars [n, 3] of x, y, angle; cars of one color are filled by one call."""
    colors = rng.integers(len(_CARS), size=len(cars))
    c, s = np.cos(cars[:, 2]), np.sin(cars[:, 2])
    local = np.array([[-4, -2], [4, -2], [4, 2], [-4, 2]], np.float64)
    x = cars[:, :1] + local[:, 0] * c[:, None] - local[:, 1] * s[:, None]
    y = cars[:, 1:2] + local[:, 0] * s[:, None] + local[:, 1] * c[:, None]
    quads = _fixed(np.stack([x, y], -1).astype(np.float32))
    if len(quads):
        cv2.fillPoly(image, list(quads + 12), (48, 48, 52), _AA, _BITS)
    for number, color in enumerate(_CARS):
        chosen = quads[colors == number]
        if len(chosen):
            cv2.fillPoly(image, list(chosen), color, _AA, _BITS)


def _lot(image: Image, lot: Lot, weather: Weather) -> None:
    """Draw a car park with rows of stalls, some of them occupied."""
    _fill(image, box(lot.x, lot.y, lot.length + 4, lot.width + 4, lot.angle), (178, 176, 168))
    _fill(image, lot.outline, lot.color)
    columns = int((lot.length - 6) // 6)
    rows = max(2, int(lot.width // 17))
    xs = (np.arange(columns + 1) - columns / 2) * 6.0
    ys = (np.arange(rows) + 0.5) * (lot.width / rows) - lot.width / 2
    gx, gy = (grid.reshape(-1) for grid in np.meshgrid(xs, ys))
    ends = np.stack([np.stack([gx, gy - 5], -1), np.stack([gx, gy + 5], -1)], 1).reshape(-1, 2).astype(np.float32)
    lines = turned(ends, lot.x, lot.y, lot.angle).reshape(-1, 2, 2)
    cv2.polylines(image, list(_fixed(lines)), False, (205, 203, 196), 1, _AA, _BITS)
    gx, gy = (grid.reshape(-1) for grid in np.meshgrid(xs[:-1] + 3, ys))
    # The lot's seed sets the share of occupied stalls; the weather's seed selects the stalls of this image.
    occupancy = 0.35 + 0.4 * (lot.seed % 100) / 100
    rng = np.random.default_rng((lot.seed, weather.seed))
    occupied = rng.random(len(gx)) < occupancy
    spots = turned(np.stack([gx[occupied], gy[occupied]], 1).astype(np.float32), lot.x, lot.y, lot.angle)
    angle = np.full((len(spots), 1), lot.angle + math.pi / 2)
    _cars(image, np.concatenate([spots, angle], 1), rng)


def _building_shadow(shade: Image, building: Building, weather: Weather) -> None:
    reach = np.array(weather.shadow, np.float32) * building.height
    outlines = [building.outline]
    if building.wing:
        outlines.append(building.wing_outline)
    for outline in outlines:
        hull = cv2.convexHull(np.concatenate([outline, outline + reach]))
        _fill(shade, np.asarray(hull[:, 0], np.float32), 255)


def _building(image: Image, building: Building, weather: Weather) -> None:
    if building.roof == "flat":
        if building.wing:
            _fill(image, building.wing_outline, building.second or _scaled(building.color, 0.94))
        _flat_roof(image, building, weather)
        return
    if building.wing:
        color = building.second or building.color
        _pitched_roof(image, building.wing_outline, building.angle + math.pi / 2, "gable", color, weather)
    _pitched_roof(image, building.outline, building.angle, building.roof, building.color, weather)


def _pitched_roof(image: Image, outline: Points, angle: float, roof: str, color: Color, weather: Weather) -> None:
    """Draw two or four facets, shaded by their angle to the sun; the outline's first side is parallel to the ridge."""
    a, b, c, d = outline
    start, end = (a + d) / 2, (b + c) / 2
    inset = (0.45 * np.linalg.norm(d - a) / max(float(np.linalg.norm(end - start)), 1.0)) if roof == "hip" else 0.0
    first, last = start + inset * (end - start), end - inset * (end - start)
    pitch = _PITCH[roof]
    quarter = math.pi / 2
    facets = [([a, b, last, first], angle - quarter), ([c, d, first, last], angle + quarter)]
    if roof == "hip":
        facets += [([d, a, first], angle + math.pi), ([b, c, last], angle)]
    for corners, direction in facets:
        _fill(image, np.stack(corners), _scaled(color, weather.light_on(direction, pitch)))
    ridge = _fixed(np.stack([first, last]))
    cv2.polylines(image, [ridge], False, _scaled(color, 1.15), 1, _AA, _BITS)


def _flat_roof(image: Image, building: Building, weather: Weather) -> None:
    """Draw a flat roof with a parapet, seams and a few machines."""
    outline = building.outline
    _fill(image, outline, building.color)
    if building.second and not building.wing:
        a, b, c, d = outline
        _fill(image, np.stack([a, 0.6 * a + 0.4 * b, 0.6 * d + 0.4 * c, d]), building.second)
    rng = np.random.default_rng(building.seed)
    seams = np.arange(-building.length / 2 + 6, building.length / 2 - 3, 7.0)
    half = building.width / 2 - 2
    ends = np.stack([np.stack([seams, seams * 0 - half], 1), np.stack([seams, seams * 0 + half], 1)], 1)
    lines = turned(ends.reshape(-1, 2).astype(np.float32), building.x, building.y, building.angle).reshape(-1, 2, 2)
    cv2.polylines(image, list(_fixed(lines)), False, _scaled(building.color, 0.93), 1, _AA, _BITS)
    cv2.polylines(image, [_fixed(outline)], True, _scaled(building.color, 0.78), 1, _AA, _BITS)
    reach = np.array(weather.shadow, np.float32) * 3
    spots = rng.uniform(-0.36, 0.36, (int(building.length // 14), 2)) * (building.length, building.width)
    for x, y in turned(spots.astype(np.float32), building.x, building.y, building.angle):
        machine = box(float(x), float(y), 5, 4, building.angle)
        hull = cv2.convexHull(np.concatenate([machine, machine + reach]))
        _fill(image, np.asarray(hull[:, 0], np.float32), _scaled(building.color, 0.5))
        _fill(image, machine, _scaled(building.color, 0.9))


def _woods(scene: Scene) -> list[tuple[Image, bool]]:
    """Return the crowns [256, 256] of single trees (False) and of closed woods (True), if the scene has any."""
    things = scene.things
    woods = []
    for dense in (False, True):
        groves = [grove for grove in things.groves if grove.dense == dense or not grove.density]
        if not any(grove.density for grove in groves):
            continue
        density = np.zeros((SIZE, SIZE), np.uint8)
        for grove in groves:
            cv2.fillPoly(density, [_fixed(grove.outline)], grove.density, cv2.LINE_8, _BITS)
        _clear_built_areas(density, things)
        woods.append((crowns(dense, scene.wood, density), dense))
    return woods


def _clear_built_areas(density: Image, things: Things) -> None:
    """Remove trees on or over roads, ponds, car parks and buildings from the density."""
    for road in things.roads:
        cv2.polylines(density, [_fixed(road.line)], False, 0, round(road.width) + 16, cv2.LINE_8, _BITS)
    for pond in things.ponds:
        cv2.fillPoly(density, [_fixed(pond.outline)], 0, cv2.LINE_8, _BITS)
        cv2.polylines(density, [_fixed(pond.outline)], True, 0, 14, cv2.LINE_8, _BITS)
    for lot in things.lots:
        cv2.fillConvexPoly(density, _fixed(box(lot.x, lot.y, lot.length + 20, lot.width + 20, lot.angle)), 0, 8, _BITS)
    for building in things.buildings:
        spread = 22.0
        outline = box(building.x, building.y, building.length + spread, building.width + spread, building.angle)
        cv2.fillConvexPoly(density, _fixed(outline), 0, 8, _BITS)
        if building.wing:
            cv2.polylines(density, [_fixed(building.wing_outline)], True, 0, 18, 8, _BITS)
        if building.drive:
            drive = np.array([[building.x, building.y], building.drive], np.float32)
            cv2.polylines(density, [_fixed(drive)], False, 0, 18, 8, _BITS)


def _tree_shadow(shade: Image, crown: Image, weather: Weather) -> None:
    for height in (2.5, 5.0, 7.5):
        x, y = (round(height * part) for part in weather.shadow)
        under = shade[max(y, 0) : SIZE + min(y, 0), max(x, 0) : SIZE + min(x, 0)]
        over = crown[max(-y, 0) : SIZE + min(-y, 0), max(-x, 0) : SIZE + min(-x, 0)]
        np.maximum(under, over, out=under)
