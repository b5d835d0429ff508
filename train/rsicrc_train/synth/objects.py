"""What a scene is made of: frozen facts about every object, and the shapes that follow from them."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from rsicrc_train.synth.terrain import Color

Points = NDArray[np.float32]
"""Polygon or line, float32 [n, 2], (x, y) in pixels."""


def turned(local: Points, x: float, y: float, angle: float) -> Points:
    """Points given around the origin, turned by an angle in radians and moved to (x, y)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(local @ np.array([[c, s], [-s, c]], np.float32) + np.array([x, y], np.float32), np.float32)


def box(x: float, y: float, length: float, width: float, angle: float) -> Points:
    """Corners [4, 2] of a turned rectangle around (x, y)."""
    a, b = length / 2, width / 2
    return turned(np.array([[-a, -b], [a, -b], [a, b], [-a, b]], np.float32), x, y, angle)


def blob(rng: np.random.Generator, x: float, y: float, radius_x: float, radius_y: float, rough: float = 0.1) -> Points:
    """A smooth closed outline [28, 2] around (x, y) which is nearly an ellipse."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    waves = np.arange(2, 6)[:, None]
    swing = rng.normal(0, rough, (4, 1)) / np.sqrt(waves - 1)
    radius = 1 + (swing * np.cos(waves * angle + rng.uniform(0, 6.3, (4, 1)))).sum(0)
    radius = np.clip(radius, 0.75, 1.25)
    ellipse = np.stack([radius_x * np.cos(angle), radius_y * np.sin(angle)], 1)
    return np.asarray(radius[:, None] * ellipse + (x, y), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """Ground of another kind within an outline: "bareland", "meadow", "field" or "rubble"."""

    kind: str
    outline: Points
    color: Color


@dataclass(frozen=True, slots=True, eq=False)
class Pond:
    """Still water within an outline, with a bank around it."""

    outline: Points


@dataclass(frozen=True, slots=True, eq=False)
class Road:
    """A road along a line; `width` in pixels, `lined` with a broken center line, `cars` where any drive."""

    line: Points
    width: float
    color: Color
    lined: bool
    cars: bool = True


@dataclass(frozen=True, slots=True)
class Lot:
    """A car park: a paved rectangle with stalls; `seed` decides which of them are taken."""

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
    """A house or a large building.

    Attributes:
        x: Centre, pixels from the left.
        y: Centre, pixels from the top.
        length: Along the ridge, pixels.
        width: Across the ridge, pixels.
        angle: Of the ridge, radians.
        height: Of the eaves, pixels (as long as the shadow with the sun at 45 degrees).
        roof: "hip", "gable" or "flat".
        color: RGB of the roof in full light.
        wing: Where a wing stands out, from -1 to 1 along the ridge; 0 for no wing.
        drive: End of a paved drive that leads here, or None.
        second: RGB of the wing's roof, or of one side of a flat roof, where it is another.
        seed: Decides small things, such as what stands on a flat roof.
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
        """Corners [4, 2] of the wing, whose ridge runs across that of the main part."""
        along = 0.5 * self.wing * (self.length - 0.5 * self.width)
        local = np.array([[along, np.sign(self.wing) * 0.45 * self.width]], np.float32)
        (x, y), *_ = turned(local, self.x, self.y, self.angle)
        return box(float(x), float(y), 0.75 * self.width, 0.42 * self.length, self.angle + np.pi / 2)


@dataclass(frozen=True, slots=True, eq=False)
class Grove:
    """Trees within an outline. `density` 255: all that fit, 0: none, which cuts a clearing into groves before it."""

    outline: Points
    density: int
    dense: bool = True


@dataclass(frozen=True, slots=True)
class Things:
    """Everything that stands on the ground, by kind and in the order in which it is drawn."""

    patches: tuple[Patch, ...] = ()
    ponds: tuple[Pond, ...] = ()
    roads: tuple[Road, ...] = ()
    lots: tuple[Lot, ...] = ()
    buildings: tuple[Building, ...] = ()
    groves: tuple[Grove, ...] = ()

    def plus(self, other: "Things") -> "Things":
        """These things and others, the others later in the order."""
        return Things(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


NOTHING = Things()


@dataclass(frozen=True, slots=True)
class Scene:
    """A place at one date, without the weather.

    Attributes:
        floor: Kind of the land everywhere: "bareland" or "meadow".
        color: Its mean RGB color in the season of neither rain nor drought.
        origin: Where the land is cut from its bank, (x, y) below 512.
        flip: How it is flipped, 0 to 7.
        wood: Where the trees are cut from their banks, (x, y) below 384.
        things: What stands on it.
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
    """A house of 20 to 31 by 15 to 22 pixels around (x, y), its ridge along `angle`."""
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
    """A large building of 50 to 70 by 32 to 44 pixels around (x, y)."""
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
    """A car park of 60 to 74 by 40 to 54 pixels around (x, y)."""
    gray = float(rng.uniform(96, 128))
    length, width = float(rng.uniform(60, 74)), float(rng.uniform(40, 54))
    return Lot(x, y, length, width, angle, (gray, gray, gray + 2), int(rng.integers(1 << 30)))


def draw_pond(rng: np.random.Generator, x: float, y: float) -> Pond:
    """A pond of 48 to 76 pixels across around (x, y)."""
    return Pond(blob(rng, x, y, float(rng.uniform(26, 38)), float(rng.uniform(24, 34))))


def draw_road(rng: np.random.Generator, line: Points) -> Road:
    """A road of 10 to 15 pixels along a line."""
    return Road(line, float(rng.uniform(10, 15)), _SURFACES[rng.integers(len(_SURFACES))], bool(rng.random() < 0.5))


def draw_path(rng: np.random.Generator, line: Points) -> Road:
    """A foot path or a dirt track of 3 to 5 pixels along a line."""
    color = ((168, 148, 120), (150, 132, 106), (180, 174, 162))[rng.integers(3)]
    return Road(line, float(rng.uniform(3, 5)), color, False, cars=False)


def draw_container(rng: np.random.Generator, x: float, y: float, angle: float) -> Building:
    """A container or shed of 9 to 12 by 4 to 6 pixels."""
    colors: tuple[Color, ...] = ((60, 92, 140), (150, 66, 50), (196, 196, 192), (96, 112, 84), (170, 140, 70))
    length, width = float(rng.uniform(9, 12)), float(rng.uniform(4, 6))
    return Building(x, y, length, width, angle, 3.0, "flat", colors[rng.integers(len(colors))])
