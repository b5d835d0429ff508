"""Pairs of images in folders, by their names."""

from __future__ import annotations

import glob
import re
from collections import Counter
from pathlib import Path

from rsicrc.errors import PairsError, printable, shortened
from rsicrc.inputs.pair_table import PairRow

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"})
_ID = "{id}"
_PATTERN_ADVICE = "Give patterns of the names, for example --match 't1_{id}.png' 't2_{id}.png'"


def rows_from_folders(before: Path, after: Path) -> list[PairRow]:
    """Pair the images of two folders by name, then by a stem that is unique among the other images of both folders.

    An image without a counterpart becomes a row with a problem. The rows have no ids.

    Raises:
        PairsError: A folder has no images, or no image has a counterpart.
    """
    first, second = _image_names(before), _image_names(after)
    if not first or not second:
        raise PairsError(f"{after if first else before}: no images (PNG, JPEG, TIFF, WebP or BMP) in this folder")
    names = {name: name for name in first & second}
    earlier, later = _by_unique_stem(first - second), _by_unique_stem(second - first)
    names |= {earlier[stem]: later[stem] for stem in earlier.keys() & later.keys()}
    if not names:
        raise PairsError(f"{before} and {after}: no image has a counterpart of the same name. {_PATTERN_ADVICE}")
    pairs: list[tuple[str, str, str | None]] = [(name, other, None) for name, other in names.items()]
    pairs += [(name, name, f"{printable(name)}: only in {before}") for name in first - names.keys()]
    pairs += [(name, name, f"{printable(name)}: only in {after}") for name in second - set(names.values())]
    return [
        PairRow("", str(before / name), str(after / other), Path(), {}, problem, named=False)
        for name, other, problem in sorted(pairs, key=lambda pair: pair[:2])
    ]


def rows_from_patterns(before: Path, after: Path, patterns: tuple[str, str]) -> list[PairRow]:
    """Pair the images of two folders by patterns of their names.

    An image without a counterpart becomes a row with a problem.

    Args:
        before: Folder of the earlier images.
        after: Folder of the later images; may be the same folder.
        patterns: Paths of the earlier and the later images in their folders, with `{id}` for the common part.

    Raises:
        PairsError: A pattern has no `{id}`, or no two images match.
    """
    folders = before, after
    for folder in folders:
        _require_folder(folder)
    first, second = (_matches(folder, pattern) for folder, pattern in zip(folders, patterns, strict=True))
    if not first.keys() & second.keys():
        raise PairsError(
            f"{before}: no images of the names '{shortened(patterns[0])}' and '{shortened(patterns[1])}' with the same "
            f"{_ID} ({len(first)} and {len(second)} images match). Check the patterns"
        )
    rows = []
    for name in sorted({*first, *second}):
        problem = None
        if name not in first or name not in second:
            problem = f"{shortened(name)}: no image '{shortened(patterns[name in first].replace(_ID, name), 300)}'"
        paths = [
            found.get(name, folder / pattern.replace(_ID, name))
            for found, folder, pattern in zip((first, second), folders, patterns, strict=True)
        ]
        rows.append(PairRow(name, str(paths[0]), str(paths[1]), Path(), {}, problem))
    return rows


def _matches(folder: Path, pattern: str) -> dict[str, Path]:
    """Return the files that match a pattern by their ids."""
    if _ID not in pattern or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise PairsError(
            f"--match '{shortened(pattern)}': a pattern is a name in the folder with {_ID} for the common part"
        )
    first, *rest = (re.escape(part) for part in pattern.split(_ID))
    expression = re.compile(f"{first}(?P<id>[^/]+){'(?P=id)'.join(rest)}", re.DOTALL)
    found = {}
    for path in folder.glob(glob.escape(pattern).replace(_ID, "*")):
        matched = expression.fullmatch(path.relative_to(folder).as_posix())
        if matched is not None and not path.name.startswith("."):
            found[matched["id"]] = path
    return found


def _by_unique_stem(names: set[str]) -> dict[str, str]:
    """Return the names whose stem no other name has, by stem."""
    counts = Counter(Path(name).stem for name in names)
    return {Path(name).stem: name for name in names if counts[Path(name).stem] == 1}


def _image_names(folder: Path) -> set[str]:
    _require_folder(folder)
    names = {path.name for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
    return {name for name in names if not name.startswith(".")}


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise PairsError(f"{folder}: no such folder" if not folder.exists() else f"{folder}: not a folder")
