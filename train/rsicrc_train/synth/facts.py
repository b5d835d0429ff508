"""What can be told of a change: the one thing that pictures and captions share."""

from dataclasses import dataclass

PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
"""Where a change can be, row by row."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What has changed, as far as it can be seen and told.

    Attributes:
        kind: Key of the caption's patterns, such as "houses" or "trees to parking".
        ground: What was there before: "bareland", "meadow" or "woods".
        place: One of `PLACES`, or "" where the change goes through the whole scene.
        count: How many houses, 0 where there are none to count.
        way: Direction of a road: "horizontal" or "vertical", or "".
    """

    kind: str
    ground: str
    place: str = ""
    count: int = 0
    way: str = ""
