"""Calibration pairs for int8: most of them determine the scales, the rest measure the loss of accuracy."""

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

PAIRS = 300  # more pairs do not change the scales
_FEWEST = 16
_HELD_OUT = 4  # one pair in four is held out for the comparison


class Calibration(NamedTuple):
    """Prepared pairs, uint8 [N, 2, size, size, 3].

    Attributes:
        source: Name of the data set or table, for the manifest.
        scaling: The pairs that determine the scales.
        judging: Held-out pairs for the comparison with the float32 graphs.
    """

    source: str
    scaling: NDArray[np.uint8]
    judging: NDArray[np.uint8]


def read_calibration(data: Path, preprocessing: Preprocessing) -> Calibration:
    """Read calibration pairs.

    Args:
        data: Folder of a data set in a layout of `rsicrc.datasets.registry` (the first split is used, which is the
            training split if there is one), or a table of pairs.
        preprocessing: Preprocessing of the model.

    Raises:
        DataError: The folder cannot be read.
        PairsError: The table cannot be read.
        ExportError: Fewer than 16 pairs can be read.
    """
    paths = _paths(data)
    # Spread over the whole data set, which may be sorted.
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
            "give about 300 pairs of the intended kind"
        )
    stacked = np.stack(images)
    held_out = np.arange(len(stacked)) % _HELD_OUT == 0
    return Calibration(data.name, stacked[~held_out], stacked[held_out])


def _paths(data: Path) -> list[tuple[Path, Path]]:
    if not data.is_dir():
        return [row.paths for row in read_pairs(data, taken=()) if row.problem is None]
    if find_layout(data) is None:
        raise ExportError(f"{data}: neither a table of pairs nor a folder in the layout of a data set such as LEVIR-CC")
    first = next(iter(read_splits(data).values()))
    return [(pair.before, pair.after) for pair in first]
