"""Tiles: overlapping square crops that together cover an image."""

from __future__ import annotations

import math

Box = tuple[int, int, int, int]


def tile_boxes(width: int, height: int, side: int, overlap: float) -> list[Box]:
    """Return the boxes of square tiles that cover an image.

    The last tile of a row or column is moved back to the border of the image, so that no pixel is left out and no tile
    exceeds the image.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        side: Side of a tile in pixels, at most the shorter side of the image.
        overlap: Smallest overlap of neighboring tiles as a share of the side, in [0, 1).

    Returns:
        (left, top, right, bottom) of each tile in pixels, row by row.
    """
    return [
        (left, top, left + side, top + side)
        for top in _starts(height, side, overlap)
        for left in _starts(width, side, overlap)
    ]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Return the first pixels of evenly distributed tiles along one axis."""
    step = max(1, math.floor(side * (1 - overlap)))
    count = 1 + max(0, math.ceil((length - side) / step))
    if count == 1:
        return [0]
    return [round(number * (length - side) / (count - 1)) for number in range(count)]
