"""Real pairs for a precision that needs some: most of them to find its scales, the others to see what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsicrc.datasets.registry import find_layout, read_splits
from rsicrc.errors import ExportError, ImageError
from rsicrc.inputs.pair_table import read_pairs
from rsicrc.inputs.prefetch import prepare_pair
from rsicrc.preprocessing import Preprocessing

PAIRS = 300  # of more than these the rest is left alone: scales do not change any more
_FEWEST = 16
_JUDGED = 4  # one pair in so many is kept for judging


class Calibration(NamedTuple):
    """Pairs as the image encoder takes them, uint8 [N, 2, size, size, 3].

    Attributes:
        source: where they are from, for the record.
        scaling: for the scales.
        judging: for the comparison with the exact graphs; no pair is in both.
    """

    source: str
    scaling: NDArray[np.uint8]
    judging: NDArray[np.uint8]


def read_calibration(data: Path, preprocessing: Preprocessing) -> Calibration:
    """Read calibration pairs.

    Args:
        data: Folder of a data set that `rsicrc.datasets.registry` knows (its training split is taken if it has one), or
            a table of pairs.
        preprocessing: what the model wants.

    Raises:
        DataError: the folder cannot be read.
        PairsError: the table cannot be read.
        ExportError: too few pairs can be read.
    """
    paths = _paths(data)
    # Spread over all there is: a data set may be sorted.
    chosen = [paths[index] for index in np.unique(np.linspace(0, len(paths) - 1, PAIRS).astype(int))]
    images = []
    for pair in chosen:
        try:
            images.append(prepare_pair(pair, preprocessing))
        except ImageError:
            continue
    if len(images) < _FEWEST:
        raise ExportError(
            f"{data}: {len(images)} pairs can be read, and at least {_FEWEST} are needed for calibration; "
            "give a couple of hundred like those that the model is for"
        )
    stacked = np.stack(images)
    judged = np.arange(len(stacked)) % _JUDGED == 0
    return Calibration(data.name, stacked[~judged], stacked[judged])


def _paths(data: Path) -> list[tuple[Path, Path]]:
    if not data.is_dir():
        return [row.paths for row in read_pairs(data) if row.problem is None]
    if find_layout(data) is None:
        raise ExportError(f"{data}: neither a table of pairs nor a folder in the layout of a data set such as LEVIR-CC")
    first = next(iter(read_splits(data).values()))
    return [(pair.before, pair.after) for pair in first]
