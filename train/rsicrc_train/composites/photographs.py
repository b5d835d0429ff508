"""Photographs of a folder, divided into splits, and views of them: random crops, turns and mosaics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import DataError, ImageError
from rsicrc.inputs.images import load_image
from rsicrc_train.composites.land import BARE, MEADOW, Land, find_land

SIZE = 256
Image = NDArray[np.float32]
"""RGB image, float32 [height, width, 3], from 0 to 255."""

Pixels = NDArray[np.uint8]
"""RGB image, uint8 [height, width, 3]."""

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp"})
_SMALLEST = 128
_SEAM = 7  # width of the blur at the seams of a mosaic, in pixels


@dataclass(frozen=True)
class Photograph:
    """One photograph: its file and its land."""

    path: Path
    land: Land


def find_photographs(folder: Path) -> list[Photograph]:
    """Find the photographs of a folder and its subfolders, in the order of their names.

    The land of a photograph is that of its subfolder (`forest/1.jpg`), or, in the folder itself, that of the letters in
    front of the number in its name (`forest01.jpg`).

    Raises:
        DataError: The folder does not exist, or holds fewer than two photographs.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: name a folder of aerial photographs with --photos")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if len(paths) < 2:
        raise DataError(f"{folder} holds {len(paths)} photographs, but needs at least 2")
    return [Photograph(path, find_land(path.stem if path.parent == folder else path.parent.name)) for path in paths]


def divide(photographs: Sequence[Photograph], counts: Mapping[str, int], seed: int) -> dict[str, list[Photograph]]:
    """Divide photographs into splits in the proportions of the numbers of pairs, each land for itself.

    Args:
        photographs: All photographs.
        counts: Number of pairs of each split.
        seed: Seed of the division.

    Raises:
        DataError: There are fewer photographs than splits.
    """
    counts = {split: count for split, count in counts.items() if count}
    rng = np.random.default_rng(np.random.SeedSequence((seed, 4)))
    shares = np.cumsum([count / sum(counts.values()) for count in counts.values()])
    divided: dict[str, list[Photograph]] = {split: [] for split in counts}
    by_land: dict[Land, list[Photograph]] = {}
    for photograph in photographs:
        by_land.setdefault(photograph.land, []).append(photograph)
    for group in by_land.values():
        order = rng.permutation(len(group))
        # The offset lets every split take part in lands of few photographs.
        places = (np.arange(len(group)) + rng.uniform()) / len(group)
        for position, split in zip(order, np.searchsorted(shares, np.minimum(places, 0.999999)), strict=True):
            divided[list(counts)[split]].append(group[position])
    for split in [split for split, members in divided.items() if not members]:
        largest = max(divided.values(), key=len)
        if len(largest) < 2:
            raise DataError(
                f"{len(photographs)} photographs are too few for {len(counts)} splits, as none may occur in two of "
                "them: add photographs, or use fewer splits with --splits"
            )
        divided[split].append(largest.pop())
    return divided


class PhotographLibrary:
    """Photographs of one split by land, and random views of them."""

    def __init__(self, photographs: Sequence[Photograph]) -> None:
        self.by_land: dict[Land, list[Photograph]] = {}
        for photograph in photographs:
            self.by_land.setdefault(photograph.land, []).append(photograph)

    def lands(self, role: str) -> list[Land]:
        """Return the lands of one role, or all lands if there is none of this role."""
        return [land for land in self.by_land if land.role == role] or list(self.by_land)

    def view(self, rng: np.random.Generator, land: Land, zoom: float = 1.0) -> Image:
        """Return a random view [SIZE, SIZE, 3] of a photograph of a land, turned at random.

        Args:
            rng: Random generator.
            land: Land of the photograph.
            zoom: Edge of the view's content relative to the photograph's pixels; below 1, the view is a mosaic of
                several reduced photographs of the same land if one photograph is too small.
        """
        edge = round(SIZE / zoom)
        first = self._open(rng, land)
        if min(first.shape[:2]) < edge and zoom < 1:
            return self._mosaic(rng, land, first, zoom)
        edge = min(edge, *first.shape[:2])
        y, x = (int(rng.integers(length - edge + 1)) for length in first.shape[:2])
        return _resized(first[y : y + edge, x : x + edge], SIZE).astype(np.float32)

    def _mosaic(self, rng: np.random.Generator, land: Land, first: Pixels, zoom: float) -> Image:
        """Return four photographs next to each other, reduced by `zoom`, with soft seams at random places."""
        cut = rng.integers(round(0.35 * SIZE), round(0.65 * SIZE), 2)
        view = np.empty((SIZE, SIZE, 3), np.uint8)
        images = [first, *(self._open(rng, land) for _ in range(3))]
        for image, (top, left) in zip(images, ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
            rows = slice(cut[0], SIZE) if top else slice(0, cut[0])
            columns = slice(cut[1], SIZE) if left else slice(0, cut[1])
            height, width = rows.stop - rows.start, columns.stop - columns.start
            edge = max(round(min(image.shape[:2]) * zoom), height, width)
            reduced = _resized(image[: min(image.shape[:2]), : min(image.shape[:2])], edge)
            y, x = int(rng.integers(edge - height + 1)), int(rng.integers(edge - width + 1))
            view[rows, columns] = reduced[y : y + height, x : x + width]
        soft = cv2.GaussianBlur(view, (_SEAM, _SEAM), 0)
        for axis in (0, 1):
            seam = [slice(None), slice(None)]
            seam[axis] = slice(cut[axis] - 2, cut[axis] + 2)
            view[tuple(seam)] = soft[tuple(seam)]
        return view.astype(np.float32)

    def _open(self, rng: np.random.Generator, land: Land) -> Pixels:
        group = self.by_land[land]
        return turned(rng, read_photograph(group[rng.integers(len(group))].path))


def ground_of(land: Land, image: Image) -> str:
    """Return the ground that captions name for a view of a land: a field is a meadow if it is green."""
    if land.ground != "field":
        return land.ground
    red, green, blue = image.mean(axis=(0, 1))
    return MEADOW if 2 * green - red - blue > 12 else BARE


def read_photograph(path: Path) -> Pixels:
    """Read a photograph as uint8 [height, width, 3].

    Raises:
        ImageError: The file cannot be read, or an edge is shorter than 128 pixels.
    """
    image = np.asarray(load_image(path))
    if min(image.shape[:2]) < _SMALLEST:
        raise ImageError(f"{path} has {image.shape[1]} × {image.shape[0]} pixels: remove it, {_SMALLEST} is the least")
    return image


def turned(rng: np.random.Generator, image: Pixels) -> Pixels:
    """Return an image flipped and turned at random."""
    if rng.random() < 0.5:
        image = image.swapaxes(0, 1)
    steps = 1 - 2 * rng.integers(0, 2, 2)
    return np.ascontiguousarray(image[:: steps[0], :: steps[1]])


def _resized(image: Pixels, edge: int) -> Pixels:
    if image.shape[0] == edge == image.shape[1]:
        return image
    method = cv2.INTER_AREA if edge < image.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (edge, edge), interpolation=method), np.uint8)
