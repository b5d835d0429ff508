"""Features of single images, for images that belong to several pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import ImageError
from rsicrc.results import View


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """One image, encoded once for all pairs that it belongs to; made by `Engine.encode_images`.

    Attributes:
        values: Visual tokens of the image [S, d]; or its prepared pixels, uint8 [size, size, 3], where the model folder
            or the device has no graphs for single images.
        view: Seen part of the image.
        model: Identity of the graphs that the features belong to.
    """

    values: NDArray[Any]
    view: View
    model: str

    def __repr__(self) -> str:
        return f"ImageFeatures(shape={self.values.shape}, dtype={self.values.dtype})"


def join_features(before: object, after: object) -> tuple[NDArray[Any], View]:
    """Return the features of a pair as one array, the input of an image graph, and the seen part of the pair.

    Args:
        before: Features of the first image.
        after: Features of the second image.

    Returns:
        Visual tokens [S, 2, d], or pixels uint8 [2, size, size, 3].

    Raises:
        ImageError: Only one of the images is encoded, or their sizes differ.
    """
    if not isinstance(before, ImageFeatures) or not isinstance(after, ImageFeatures):
        raise ImageError("a pair is two images, or the features of two images, not an image and features")
    if before.view.size != after.view.size:
        sizes = " and ".join(f"{width} × {height}" for width, height in (before.view.size, after.view.size))
        raise ImageError(f"the images of a pair of features have different sizes, {sizes}: cut them to the same area")
    axis = 0 if before.values.dtype == np.uint8 else 1
    return np.stack([before.values, after.values], axis=axis), before.view
