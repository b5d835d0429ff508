"""Tests of tiles: every pixel is covered, no tile leaves the image, and neighbors overlap."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from rsicrc.inputs.tiles import tile_boxes


@pytest.mark.parametrize(
    ("width", "height", "side", "overlap"),
    [(1024, 256, 256, 0.25), (256, 256, 256, 0.25), (257, 256, 256, 0.0), (1000, 700, 224, 0.5), (17, 90, 16, 0.9)],
)
def test_tiles_cover_the_image_and_overlap(width: int, height: int, side: int, overlap: float) -> None:
    covered = np.zeros((height, width), np.int64)
    boxes = tile_boxes(width, height, side, overlap)
    for left, top, right, bottom in boxes:
        assert (right - left, bottom - top) == (side, side)
        assert left >= 0
        assert top >= 0
        assert right <= width
        assert bottom <= height
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1
    assert len(set(boxes)) == len(boxes)
    lefts = sorted({box[0] for box in boxes})
    assert all(right - left <= side * (1 - overlap) + 1 for left, right in pairwise(lefts))


def test_image_of_the_tile_size_is_one_tile() -> None:
    assert tile_boxes(64, 64, 64, 0.25) == [(0, 0, 64, 64)]
