"""What can be told of a change: the one thing that pictures and captions share."""

from dataclasses import dataclass

PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
"""Where a change can be, row by row."""
GROUNDS = ("bareland", "meadow", "woods")
"""What a scene is made of before its change: the kinds of scene."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What has changed, as far as it can be seen and told.

    Attributes:
        kind: Key of the caption's patterns, such as "houses" or "trees to parking".
        ground: What was there before: "bareland", "meadow" or "woods".
        place: One of `PLACES`, or "" where the change goes through the whole scene.
        count: How many houses, 0 where there are none to count.
        way: Direction of a road: "horizontal" or "vertical", or "".
        roof: Color of the one roof that there is to name: "red", "blue" or "white", or "".
        beside: What is near at both dates: "road", "pond" or "woods", or "".
        parts: The facts of two changes at once, in the order of their places, else empty.
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
    """The name of a roof's color, where it has one that anybody would name."""
    red, green, blue = color
    if red > 1.5 * green and red > 1.5 * blue:
        return "red"
    if blue > 1.25 * red:
        return "blue"
    return "white" if min(color) > 205 else ""
