"""Objects of a scene as frozen data, and their shapes."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from rsicrc_train.synth.terrain import Color

Points = NDArray[np.float32]
"""Polygon or line, float32 [n, 2], (x, y) in pixels."""


def turned(local: Points, x: float, y: float, angle: float) -> Points:
    """Rotate points around the origin by an angle in radians, then move the origin to (x, y)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(local @ np.array([[c, s], [-s, c]], np.float32) + np.array([x, y], np.float32), np.float32)


def box(x: float, y: float, length: float, width: float, angle: float) -> Points:
    """Return the corners [4, 2] of a rotated rectangle around (x, y)."""
    a, b = length / 2, width / 2
    return turned(np.array([[-a, -b], [a, -b], [a, b], [-a, b]], np.float32), x, y, angle)


def blob(rng: np.random.Generator, x: float, y: float, radius_x: float, radius_y: float, rough: float = 0.1) -> Points:
    """Draw a smooth closed outline [28, 2] around (x, y), similar to an ellipse."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    waves = np.arange(2, 6)[:, None]
    swing = rng.normal(0, rough, (4, 1)) / np.sqrt(waves - 1)
    radius = 1 + (swing * np.cos(waves * angle + rng.uniform(0, 6.3, (4, 1)))).sum(0)
    radius = np.clip(radius, 0.75, 1.25)
    ellipse = np.stack([radius_x * np.cos(angle), radius_y * np.sin(angle)], 1)
    return np.asarray(radius[:, None] * ellipse + (x, y), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """Area of another kind of ground: "bareland", "meadow", "field" or "rubble"."""

    kind: str
    outline: Points
    color: Color


@dataclass(frozen=True, slots=True, eq=False)
class Pond:
    """Pond with a bank around it."""

    outline: Points


@dataclass(frozen=True, slots=True, eq=False)
class Road:
    """Road along a line.

    Attributes:
        line: Center line.
        width: Width in pixels.
        color: RGB color of the surface.
        lined: True for a road with a broken center line.
        cars: True for a road with traffic.
    """

    line: Points
    width: float
    color: Color
    lined: bool
    cars: bool = True


@dataclass(frozen=True, slots=True)
class Lot:
    """Car park: a paved rectangle with stalls; `seed` sets the share of occupied stalls."""

    x: float
    y: float
    length: float
    width: float
    angle: float
    color: Color
    seed: int

    @property
    def outline(self) -> Points:
        """Corners [4, 2]."""
        return box(self.x, self.y, self.length, self.width, self.angle)


@dataclass(frozen=True, slots=True)
class Building:
    """House or large building.

    Attributes:
        x: Center, pixels from the left.
        y: Center, pixels from the top.
        length: Length along the ridge, pixels.
        width: Width across the ridge, pixels.
        angle: Angle of the ridge, radians.
        height: Height of the eaves, pixels (equal to the length of the shadow with the sun at 45 degrees).
        roof: "hip", "gable" or "flat".
        color: RGB of the roof in full light.
        wing: Position of a wing, from -1 to 1 along the ridge; 0 for no wing.
        drive: Other end of a paved drive to the building, or None.
        second: RGB of the wing's roof, or of one side of a flat roof, if it differs from `color`; else None.
        seed: Seed of details, such as machines on a flat roof.
    """

    x: float
    y: float
    length: float
    width: float
    angle: float
    height: float
    roof: str
    color: Color
    wing: float = 0.0
    drive: tuple[float, float] | None = None
    second: Color | None = None
    seed: int = 0

    @property
    def outline(self) -> Points:
        """Corners [4, 2] of the main part."""
        return box(self.x, self.y, self.length, self.width, self.angle)

    @property
    def wing_outline(self) -> Points:
        """Corners [4, 2] of the wing, whose ridge is perpendicular to the ridge of the main part."""
        along = 0.5 * self.wing * (self.length - 0.5 * self.width)
        local = np.array([[along, np.sign(self.wing) * 0.45 * self.width]], np.float32)
        (x, y), *_ = turned(local, self.x, self.y, self.angle)
        return box(float(x), float(y), 0.75 * self.width, 0.42 * self.length, self.angle + np.pi / 2)


@dataclass(frozen=True, slots=True, eq=False)
class Grove:
    """Trees within an outline.

    Attributes:
        outline: Outline of the area.
        density: Share of the trees that are shown, 255 for all; 0 cuts a clearing into earlier groves.
        dense: Closed wood if true, else single trees.
    """

    outline: Points
    density: int
    dense: bool = True


@dataclass(frozen=True, slots=True)
class Things:
    """Objects on the ground by kind, in drawing order."""

    patches: tuple[Patch, ...] = ()
    ponds: tuple[Pond, ...] = ()
    roads: tuple[Road, ...] = ()
    lots: tuple[Lot, ...] = ()
    buildings: tuple[Building, ...] = ()
    groves: tuple[Grove, ...] = ()

    def plus(self, other: "Things") -> "Things":
        """Return these objects and `other`, which come later in the order."""
        return Things(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


NOTHING = Things()


@dataclass(frozen=True, slots=True)
class Scene:
    """Scene of one image, without the weather.

    Attributes:
        floor: Kind of the land: "bareland" or "meadow".
        color: Mean RGB color of the land at average dryness.
        origin: Position of the land in its texture bank, (x, y) below 512.
        flip: Flips of the land, 0 to 7, see `terrain.crop`.
        wood: Position of the trees in their banks, (x, y) below 384.
        things: Objects on the land.
    """

    floor: str
    color: Color
    origin: tuple[int, int]
    flip: int
    wood: tuple[int, int]
    things: Things


_ROOFS: tuple[Color, ...] = (
    (152, 150, 146),
    (92, 92, 96),
    (150, 92, 72),
    (164, 84, 66),
    (86, 72, 64),
    (98, 112, 136),
    (176, 74, 58),
    (186, 172, 150),
    (122, 104, 92),
    (214, 212, 208),
    (112, 128, 118),
    (66, 66, 72),
)
_HALLS: tuple[Color, ...] = (
    (222, 222, 218),
    (196, 198, 200),
    (96, 128, 172),
    (186, 74, 66),
    (168, 172, 168),
    (148, 138, 126),
    (120, 124, 130),
    (206, 194, 170),
)
_SURFACES: tuple[Color, ...] = ((112, 112, 114), (134, 132, 130), (158, 155, 148))


def draw_house(rng: np.random.Generator, x: float, y: float, angle: float) -> Building:
    """Draw a house of 20 to 31 by 15 to 22 pixels around (x, y), its ridge along `angle`."""
    style = rng.random()
    return Building(
        x=x,
        y=y,
        length=float(rng.uniform(20, 31)),
        width=float(rng.uniform(15, 22)),
        angle=angle,
        height=float(rng.uniform(5, 7.5)),
        roof="hip" if style < 0.5 else "gable" if style < 0.85 else "flat",
        color=_ROOFS[rng.integers(len(_ROOFS))],
        wing=float(rng.choice([-1, 1]) * rng.uniform(0.5, 1)) if rng.random() < 0.5 else 0.0,
        second=_ROOFS[rng.integers(len(_ROOFS))] if rng.random() < 0.2 else None,
        seed=int(rng.integers(1 << 30)),
    )


def draw_hall(rng: np.random.Generator, x: float, y: float, angle: float) -> Building:
    """Draw a large building of 50 to 70 by 32 to 44 pixels around (x, y)."""
    return Building(
        x=x,
        y=y,
        length=float(rng.uniform(50, 70)),
        width=float(rng.uniform(32, 44)),
        angle=angle,
        height=float(rng.uniform(8, 12)),
        roof="flat",
        color=_HALLS[rng.integers(len(_HALLS))],
        wing=float(rng.choice([-0.8, 0.8])) if rng.random() < 0.25 else 0.0,
        second=_HALLS[rng.integers(len(_HALLS))] if rng.random() < 0.25 else None,
        seed=int(rng.integers(1 << 30)),
    )


def draw_lot(rng: np.random.Generator, x: float, y: float, angle: float) -> Lot:
    """Draw a car park of 60 to 74 by 40 to 54 pixels around (x, y)."""
    gray = float(rng.uniform(96, 128))
    length, width = float(rng.uniform(60, 74)), float(rng.uniform(40, 54))
    return Lot(x, y, length, width, angle, (gray, gray, gray + 2), int(rng.integers(1 << 30)))


def draw_pond(rng: np.random.Generator, x: float, y: float) -> Pond:
    """Draw a pond of 48 to 76 pixels across around (x, y)."""
    return Pond(blob(rng, x, y, float(rng.uniform(26, 38)), float(rng.uniform(24, 34))))


def draw_road(rng: np.random.Generator, line: Points) -> Road:
    """Draw a road of 10 to 15 pixels along a line."""
    return Road(line, float(rng.uniform(10, 15)), _SURFACES[rng.integers(len(_SURFACES))], bool(rng.random() < 0.5))


def draw_path(rng: np.random.Generator, line: Points) -> Road:
    """Draw a foot path or a dirt track of 3 to 5 pixels along a line."""
    color = ((168, 148, 120), (150, 132, 106), (180, 174, 162))[rng.integers(3)]
    return Road(line, float(rng.uniform(3, 5)), color, False, cars=False)


def draw_container(rng: np.random.Generator, x: float, y: float, angle: float) -> Building:
    """Draw a container or shed of 9 to 12 by 4 to 6 pixels."""
    colors: tuple[Color, ...] = ((60, 92, 140), (150, 66, 50), (196, 196, 192), (96, 112, 84), (170, 140, 70))
    length, width = float(rng.uniform(9, 12)), float(rng.uniform(4, 6))
    return Building(x, y, length, width, angle, 3.0, "flat", colors[rng.integers(len(colors))])
