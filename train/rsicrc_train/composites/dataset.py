"""Data sets of composites: photographs divided into splits, and pairs of each split's own photographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from rsicrc.errors import ArgumentError
from rsicrc_train.composites.pairs import compose_pair
from rsicrc_train.composites.photographs import Photograph, PhotographLibrary, divide, find_photographs
from rsicrc_train.synth.change_facts import GROUNDS
from rsicrc_train.synth.dataset import SPLITS, split_counts, write_pairs
from rsicrc_train.synth.pairs import Pair, make_pair


@dataclass(frozen=True)
class ComposedPairs:
    """Source of composites, mixed with drawn scenes.

    Attributes:
        photographs: Photographs of each split.
        seed: Seed of the data set.
        drawn: Share of drawn scenes, from 0 to 1.
    """

    has_masks: ClassVar[bool] = True
    photographs: Mapping[str, list[Photograph]]
    seed: int
    drawn: float = 0.0
    _libraries: dict[str, PhotographLibrary] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, index: int, split: str) -> Pair:
        """Return the pair of an index: a composite of the split's photographs, or a drawn scene."""
        if np.random.default_rng(np.random.SeedSequence((self.seed, index // 2, 5))).random() < self.drawn:
            return make_pair(self.seed, index, GROUNDS)
        if split not in self._libraries:
            self._libraries[split] = PhotographLibrary(self.photographs[split])
        return compose_pair(self._libraries[split], self.seed, index)


def compose(
    directory: Path,
    photographs: Path,
    pairs: int,
    seed: int,
    splits: Mapping[str, float] | None = None,
    drawn: float = 0.0,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a data set of pairs composed from single-date photographs, in LEVIR-CC's layout.

    Masks of the changes are written to `images/{split}/label/`. The same photographs, seed and numbers give the same
    bytes, whatever the number of workers. Half of the pairs is unchanged. No photograph occurs in two splits.

    Args:
        directory: Directory to write to; created if it does not exist.
        photographs: Folder of the photographs, as for `find_photographs`.
        pairs: Number of pairs, from 1.
        seed: Seed of the generator, from 0.
        splits: Share of each split, summing to 1; `SPLITS` if None.
        drawn: Share of the pairs that are drawn scenes instead of composites, from 0 to 1.
        workers: Number of processes; 1 composes in this process.
        progress: Callback with the number of pairs done since the last call.

    Raises:
        FileExistsError: The directory is not empty.
        ArgumentError: An argument is out of range.
        DataError: There are too few photographs.
        ImageError: A photograph cannot be read, or is too small.
    """
    counts = split_counts(pairs, SPLITS if splits is None else splits)
    if seed < 0:
        raise ArgumentError(f"seed must be 0 or more, not {seed}")
    if not 0 <= drawn <= 1:
        raise ArgumentError(f"the share of drawn scenes is from 0 to 1, not {drawn}")
    divided = divide(find_photographs(photographs), counts, seed)
    write_pairs(Path(directory), counts, ComposedPairs(divided, seed, drawn), workers, progress)
