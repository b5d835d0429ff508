"""Facts of a change, from which both the images and the captions are made."""

from dataclasses import dataclass

PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
"""Possible places of a change, row by row."""
GROUNDS = ("bareland", "meadow", "woods")
"""Kinds of scene: the ground before the change."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Visible facts of a change that a caption may mention.

    Attributes:
        kind: Key of the caption patterns, such as "houses" or "trees to parking".
        ground: Ground before the change: "bareland", "meadow" or "woods".
        place: One of `PLACES`, or "" if the change extends over the whole scene.
        count: Number of houses; 0 if the change has no countable houses.
        way: Direction of a road: "horizontal" or "vertical", or "".
        roof: Color of the only roof: "red", "blue" or "white", or "".
        beside: Unchanged object close to the change: "road", "pond" or "woods", or "".
        parts: Facts of two simultaneous changes, in the order of their places; else empty.
    """

    kind: str
    ground: str
    place: str = ""
    count: int = 0
    way: str = ""
    roof: str = ""
    beside: str = ""
    parts: tuple["Facts", ...] = ()


def roof_of(color: tuple[float, float, float]) -> str:
    """Return the name of a roof's color ("red", "blue" or "white"), or "" for colors without a common name."""
    red, green, blue = color
    if red > 1.5 * green and red > 1.5 * blue:
        return "red"
    if blue > 1.25 * red:
        return "blue"
    return "white" if min(color) > 205 else ""
