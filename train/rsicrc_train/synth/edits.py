"""A change that is not yet in a scene, and the site for it."""

from dataclasses import dataclass

import numpy as np

from rsicrc_train.synth.change_facts import PLACES, Facts
from rsicrc_train.synth.layout import BARE
from rsicrc_train.synth.objects import NOTHING, Building, Grove, Patch, Points, Things, blob, box, draw_house
from rsicrc_train.synth.terrain import Color

QUARTER = float(np.pi / 2)
# Colors far from those of bare land, on which rubble must be visible, too.
_RUBBLE: tuple[Color, ...] = ((208, 204, 198), (92, 88, 84))


@dataclass(frozen=True, slots=True)
class Edit:
    """A change that is not yet in a scene.

    Attributes:
        facts: Facts that a caption may mention.
        reserved: Outlines that no other object may enter.
        before: Objects that are only in the before image.
        after: Objects that are only in the after image.
        both: Objects in both images that the change needs, such as the road along which houses are built.
    """

    facts: Facts
    reserved: tuple[Points, ...]
    before: Things = NOTHING
    after: Things = NOTHING
    both: Things = NOTHING


@dataclass(frozen=True, slots=True)
class Site:
    """Site of a change: random generator, kind of ground, and angle of roads and buildings in radians."""

    rng: np.random.Generator
    ground: str
    tilt: float

    def place(self) -> str:
        """Draw one of the nine places."""
        return PLACES[self.rng.integers(len(PLACES))]

    def spot(self, place: str, inset: float) -> tuple[float, float]:
        """Draw a point well inside a place, about `inset` pixels from the image edges that the place touches."""
        # With this jitter, centers of different places are at least a quarter of the scene apart.
        middle = 128 + self.rng.uniform(-12, 12, 2)
        edge = inset + self.rng.uniform(-6, 6, 2)
        x = edge[0] if "left" in place else 256 - edge[0] if "right" in place else middle[0]
        y = edge[1] if "top" in place else 256 - edge[1] if "bottom" in place else middle[1]
        return float(x), float(y)

    def angle(self) -> float:
        """Draw the angle of a building in radians."""
        return self.tilt + float(self.rng.choice([0.0, QUARTER]))

    def bare_patch(self, x: float, y: float, radius: float, kind: str = "bareland") -> Patch:
        """Draw a patch of ground that construction work has cleared."""
        outline = blob(self.rng, x, y, radius, radius * float(self.rng.uniform(0.8, 1)), 0.12)
        colors = _RUBBLE if kind == "rubble" else BARE
        return Patch(kind, outline, colors[self.rng.integers(len(colors))])


def around(x: float, y: float, radius: float) -> Points:
    """Return a square around (x, y), as outline of a reserved area."""
    return box(x, y, 2 * radius, 2 * radius, 0.0)


def cluster(site: Site, count: int, x: float, y: float) -> tuple[Building, ...]:
    """Draw 1 to 5 houses close together around (x, y)."""
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
    """Draw a grove of about 80 pixels across; in a wood, it is a part of the wood."""
    outline = blob(site.rng, x, y, float(site.rng.uniform(38, 46)), float(site.rng.uniform(38, 46)), 0.08)
    return Grove(outline, 255)
