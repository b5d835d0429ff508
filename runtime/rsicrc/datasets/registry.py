"""The table of known data set layouts; the content of a folder decides which layout it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rsicrc.datasets import captioned_table, clevr_change, dubai_cc, levir_cc
from rsicrc.datasets.levir_cc import SPLITS, CaptionedPair
from rsicrc.errors import DataError, EmptySplitError


@dataclass(frozen=True)
class Layout:
    """Layout of a data set on disk.

    Attributes:
        name: Name of the data set.
        description: Files by which the layout is recognized, for messages.
        matches: Function that returns True if a path has this layout.
        read: Function that reads the pairs of one split; raises `DataError` if there are none.
        splits: Function that returns the split of every pair or scene; None if the layout has no other splits than
            those of `SPLITS`.
    """

    name: str
    description: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, str], list[CaptionedPair]]
    splits: Callable[[Path], list[str]] | None = None


LAYOUTS = (
    Layout(
        "LEVIR-CC",
        f"a folder with {levir_cc.CAPTIONS_FILE}",
        lambda path: (path / levir_cc.CAPTIONS_FILE).is_file(),
        levir_cc.read_levir,
        levir_cc.levir_splits,
    ),
    Layout(
        "SECOND-CC",
        f"a folder with {levir_cc.SECOND_FILE}",
        lambda path: (path / levir_cc.SECOND_FILE).is_file(),
        levir_cc.read_second,
        levir_cc.second_splits,
    ),
    Layout(
        "Dubai-CC",
        f"a folder with {dubai_cc.BEFORE}",
        lambda path: (path / dubai_cc.BEFORE).is_dir(),
        dubai_cc.read_dubai,
    ),
    Layout(
        "CLEVR-Change",
        f"a folder with {clevr_change.CHANGED_FILE} and {clevr_change.SPLITS_FILE}",
        lambda path: (path / clevr_change.CHANGED_FILE).is_file() and (path / clevr_change.SPLITS_FILE).is_file(),
        clevr_change.read_clevr_change,
        clevr_change.clevr_splits,
    ),
    Layout(
        "a table of pairs",
        "a CSV, JSON lines or Parquet file with before, after, captions and split",
        lambda path: path.is_file() and path.suffix.lower() in captioned_table.SUFFIXES,
        captioned_table.read_table,
        captioned_table.table_splits,
    ),
)


def find_layout(path: Path) -> Layout | None:
    """Return the layout of a folder or file, or None if it has no known layout."""
    return next((layout for layout in LAYOUTS if layout.matches(path)), None)


def read_split(path: Path, split: str) -> list[CaptionedPair]:
    """Read the captioned pairs of one split of a data set in any known layout; images are not opened.

    Args:
        path: Folder in one of the `LAYOUTS`, or a table.
        split: Name of the split: "train", "val" or "test".

    Raises:
        DataError: `path` is not a known data set, is damaged, or has no pairs in the split.
        PairsError: The table cannot be used.
    """
    layout = find_layout(path)
    if layout is None:
        problem = "no such file or folder" if not path.exists() else "not a data set that can be read"
        known = "; ".join(f"{layout.name}: {layout.description}" for layout in LAYOUTS)
        raise DataError(f"{path}: {problem}. Known are {known}")
    return layout.read(path, split)


def read_splits(path: Path) -> dict[str, list[CaptionedPair]]:
    """Read the captioned pairs of all splits that have any, by the name of the split.

    Raises:
        DataError: The data set is unknown or damaged, or has no pairs in any split.
    """
    splits: dict[str, list[CaptionedPair]] = {}
    absent: EmptySplitError | None = None
    for split in SPLITS:
        try:
            splits[split] = read_split(path, split)
        except EmptySplitError as error:
            absent = error
    if absent is not None and not splits:
        raise absent
    return splits


def unknown_splits(path: Path) -> dict[str, int]:
    """Return the number of pairs or scenes in splits other than train, val and test, by the name of the split.

    Raises:
        DataError: The data set is damaged.
    """
    layout = find_layout(path)
    names = layout.splits(path) if layout is not None and layout.splits is not None else []
    return {name: count for name, count in Counter(names).items() if name not in SPLITS}
