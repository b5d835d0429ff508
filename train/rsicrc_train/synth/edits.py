"""A change before it is in a scene, and the site where it is to be."""

from dataclasses import dataclass

import numpy as np

from rsicrc_train.synth.change_facts import PLACES, Facts
from rsicrc_train.synth.layout import BARE
from rsicrc_train.synth.objects import NOTHING, Building, Grove, Patch, Points, Things, blob, box, draw_house
from rsicrc_train.synth.terrain import Color

QUARTER = float(np.pi / 2)
# Far from any color of bare land, on which it must be seen too.
_RUBBLE: tuple[Color, ...] = ((208, 204, 198), (92, 88, 84))


@dataclass(frozen=True, slots=True)
class Edit:
    """A change before it is in a scene.

    Attributes:
        facts: What a caption may tell.
        reserved: Outlines which nothing else may enter.
        before: Things of the first date alone.
        after: Things of the second date alone.
        both: Things that the change needs and that stay, such as the road along which houses are built.
    """

    facts: Facts
    reserved: tuple[Points, ...]
    before: Things = NOTHING
    after: Things = NOTHING
    both: Things = NOTHING


@dataclass(frozen=True, slots=True)
class Site:
    """Where a change is to be: the ground and the angle of roads and buildings in radians."""

    rng: np.random.Generator
    ground: str
    tilt: float

    def place(self) -> str:
        """One of the nine places."""
        return PLACES[self.rng.integers(len(PLACES))]

    def spot(self, place: str, inset: float) -> tuple[float, float]:
        """A point well inside a place; `inset` is its distance from the frame where the place lies at one."""
        # The jitter keeps centers of different places apart by a quarter of the scene.
        middle = 128 + self.rng.uniform(-12, 12, 2)
        edge = inset + self.rng.uniform(-6, 6, 2)
        x = edge[0] if "left" in place else 256 - edge[0] if "right" in place else middle[0]
        y = edge[1] if "top" in place else 256 - edge[1] if "bottom" in place else middle[1]
        return float(x), float(y)

    def angle(self) -> float:
        """Angle of a building."""
        return self.tilt + float(self.rng.choice([0.0, QUARTER]))

    def earth(self, x: float, y: float, radius: float, kind: str = "bareland") -> Patch:
        """Ground that work has laid bare."""
        outline = blob(self.rng, x, y, radius, radius * float(self.rng.uniform(0.8, 1)), 0.12)
        colors = _RUBBLE if kind == "rubble" else BARE
        return Patch(kind, outline, colors[self.rng.integers(len(colors))])


def around(x: float, y: float, radius: float) -> Points:
    """A square around (x, y) that nothing else may enter."""
    return box(x, y, 2 * radius, 2 * radius, 0.0)


def cluster(site: Site, count: int, x: float, y: float) -> tuple[Building, ...]:
    """Houses close together around (x, y)."""
    patterns = {
        1: ((0, 0),),
        2: ((-0.52, 0), (0.52, 0)),
        3: ((-0.52, -0.5), (0.52, -0.5), (0, 0.5)),
        4: ((-0.52, -0.5), (0.52, -0.5), (-0.52, 0.5), (0.52, 0.5)),
        5: ((-1, -0.5), (0, -0.5), (1, -0.5), (-0.52, 0.5), (0.52, 0.5)),
    }
    angle = site.angle()
    c, s = np.cos(angle), np.sin(angle)
    houses = []
    for u, v in patterns[count]:
        dx, dy = 37 * u + site.rng.uniform(-2, 2), 38 * v + site.rng.uniform(-2, 2)
        turn = angle + float(site.rng.normal(0, 0.06))
        houses.append(draw_house(site.rng, float(x + c * dx - s * dy), float(y + s * dx + c * dy), turn))
    return tuple(houses)


def wood(site: Site, x: float, y: float) -> Grove:
    """Trees that are to go: a grove of about 80 pixels, or a part of the wood that is everywhere."""
    outline = blob(site.rng, x, y, float(site.rng.uniform(38, 46)), float(site.rng.uniform(38, 46)), 0.08)
    return Grove(outline, 255)
