"""The layout of the CLEVR-Change data set (Park et al. 2019, https://github.com/Seth-Park/RobustChangeCaptioning).

Every scene has two pairs: one with a changed later image, and one with a later image from another viewpoint only.

    images/CLEVR_default_000000.png             before
    sc_images/CLEVR_semantic_000000.png         after, changed
    nsc_images/CLEVR_nonsemantic_000000.png     after, unchanged
    change_captions.json, no_change_captions.json    {"CLEVR_default_000000.png": ["…", …]}
    splits.json                                 {"train": [0, …], "val": […], "test": […]}, numbers of scenes
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rsicrc.datasets.levir_cc import CaptionedPair, read_json
from rsicrc.errors import DataError, EmptySplitError
from rsicrc.text.vocabulary import normalize_text

SPLITS_FILE, CHANGED_FILE, UNCHANGED_FILE = "splits.json", "change_captions.json", "no_change_captions.json"
_LAYOUT = "CLEVR-Change"


def clevr_splits(directory: Path) -> list[str]:
    """Return the split of every scene in `splits.json`.

    Raises:
        DataError: The file is missing or has another layout.
    """
    numbers = read_json(directory / SPLITS_FILE, _LAYOUT)
    if not isinstance(numbers, dict) or not all(isinstance(scenes, list) for scenes in numbers.values()):
        raise DataError(f"{directory / SPLITS_FILE} is not in {_LAYOUT}'s layout: lists of numbers by split")
    return [str(split) for split, scenes in numbers.items() for _ in scenes]


def read_clevr_change(directory: Path, split: str) -> list[CaptionedPair]:
    """Read the pairs of one split, two per scene in the order of `splits.json`; images are not opened.

    Raises:
        DataError: A JSON file is missing or has another layout, or the split is empty.
    """
    numbers = read_json(directory / SPLITS_FILE, _LAYOUT)
    captions = {changed: directory / (CHANGED_FILE if changed else UNCHANGED_FILE) for changed in (True, False)}
    sentences = {changed: read_json(path, _LAYOUT) for changed, path in captions.items()}
    if not isinstance(numbers, dict) or not all(isinstance(number, int) for number in numbers.get(split, ())):
        raise DataError(f"{directory / SPLITS_FILE} is not in {_LAYOUT}'s layout: lists of numbers by split")
    pairs = []
    for number in numbers.get(split, ()):
        name = f"CLEVR_default_{number:06d}.png"
        for changed, after in (
            (True, f"sc_images/CLEVR_semantic_{number:06d}.png"),
            (False, f"nsc_images/CLEVR_nonsemantic_{number:06d}.png"),
        ):
            texts = _sentences(sentences[changed], name, captions[changed])
            pairs.append(CaptionedPair(directory / "images" / name, directory / after, texts, changed))
    if not pairs:
        raise EmptySplitError(f"{directory / SPLITS_FILE} has no pairs in the split {split!r}")
    return pairs


def _sentences(document: Any, name: str, path: Path) -> tuple[str, ...]:
    texts = document.get(name) if isinstance(document, dict) else None
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(f"{path}, {name}: no list of sentences. Every scene needs at least one caption")
    return tuple(map(normalize_text, texts))
