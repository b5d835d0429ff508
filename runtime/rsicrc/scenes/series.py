"""Series of dates: the image of a date between two others is encoded once for both of its pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from rsicrc.engine import Engine
from rsicrc.inputs.features import ImageFeatures
from rsicrc.scenes.reader import Pixels


def encode_series(
    engine: Engine, pairs: Iterable[tuple[Pixels, Pixels]], batch_size: int
) -> Iterator[tuple[ImageFeatures, ImageFeatures]]:
    """Encode the images of consecutive pairs, in order; an image that the next pair has too is encoded once.

    The images of two pairs can differ although they show the same date, where other pixels are invalid at the third
    date; such images are encoded separately.

    Args:
        engine: The engine.
        pairs: Pairs of images of one size: all pairs of dates of a tile, then those of the next tile.
        batch_size: Number of pairs that are read before their images are encoded.

    Yields:
        The features of both images of each pair.
    """
    source = iter(pairs)
    last: Pixels | None = None
    known: list[ImageFeatures] = []  # features of the last image, then those of the new images
    while batch := list(islice(source, batch_size)):
        images: list[Pixels] = []
        places: list[tuple[int, int]] = []
        for before, after in batch:
            if last is None or not np.array_equal(before, last):
                images.append(before)
            earlier = len(known) + len(images) - 1
            images.append(after)
            places.append((earlier, earlier + 1))
            last = after
        known += engine.encode_images(images, batch_size=batch_size)
        for first, second in places:
            yield known[first], known[second]
        known = known[-1:]
