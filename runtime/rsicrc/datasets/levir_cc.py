"""Captioned pairs in the layout of the LEVIR-CC data set (Liu et al. 2022), and in SECOND-CC's, which is built alike.

LEVIR-CC (https://github.com/Chen-Yang-Liu/RSICC): `images/{split}/{A,B}/*.png` and `LevirCCcaptions.json`.
SECOND-CC (Karaca et al. 2025, https://doi.org/10.5281/zenodo.16937571): `{split}/rgb/{A,B}/*.png`, semantic maps under
`{split}/sem`, which are not read, and `SECOND-CC-AUG.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsicrc.errors import DataError, EmptySplitError
from rsicrc.text.vocabulary import normalize_text

CAPTIONS_FILE = "LevirCCcaptions.json"
SECOND_FILE = "SECOND-CC-AUG.json"
SPLITS = ("train", "val", "test")
# Every unchanged pair of LEVIR-CC carries these five.
NO_CHANGE_SENTENCES = (
    "there is no difference",
    "the two scenes seem identical",
    "the scene is the same as before",
    "no change has occurred",
    "almost nothing has changed",
)


@dataclass(frozen=True)
class CaptionedPair:
    """Two images of one place and what people wrote about the change.

    Attributes:
        before: The earlier image's file.
        after: The later image's file.
        sentences: The captions, lower case, without punctuation.
        changed: Whether anything changed, as the data set flags it.
    """

    before: Path
    after: Path
    sentences: tuple[str, ...]
    changed: bool


def read_levir(directory: Path, split: str) -> list[CaptionedPair]:
    """The pairs of one split of LEVIR-CC, in the order of the captions file; images are not opened.

    Raises:
        DataError: No such folder, no captions file, one of another layout, or an empty split.
    """
    folder = directory / "images" / split
    return _read(directory / CAPTIONS_FILE, "LEVIR-CC", split, folder, _tokens)


def read_second(directory: Path, split: str) -> list[CaptionedPair]:
    """The pairs of one split of SECOND-CC, in the order of the captions file; images are not opened.

    Raises:
        DataError: As from `read_levir`.
    """
    return _read(directory / SECOND_FILE, "SECOND-CC", split, directory / split / "rgb", raw_sentence)


def read_json(path: Path, layout: str) -> Any:
    """The content of a JSON file of a data set.

    Raises:
        DataError: There is no such file, or it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no {path.name} in {path.parent}: name a folder in {layout}'s layout") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error}): copy the data set again") from error


def read_sentences(entry: Any, path: Path, sentence: Callable[[Any], str]) -> tuple[str, ...]:
    """The sentences of one entry of a captions file: its `sentences`, each turned into text by `sentence`.

    Raises:
        DataError: There are none, or they are not of the shape that `sentence` expects.
    """
    where = f"{path}, {entry['filename']}"
    found = entry["sentences"]
    if not isinstance(found, list):
        raise DataError(f"{where}: 'sentences' is a {type(found).__name__}, not a list of sentences")
    try:
        sentences = tuple(map(sentence, found))
    except (KeyError, TypeError) as error:
        raise DataError(f"{where}: a sentence of another shape ({error}): copy the data set again") from error
    if not sentences or not all(sentences):
        raise DataError(f"{where}: no sentence, or an empty one. Every pair needs a caption")
    return sentences


def raw_sentence(sentence: Any) -> str:
    """A sentence of a captions file by its `raw` text."""
    raw = sentence["raw"]
    if not isinstance(raw, str):
        raise TypeError(f"'raw' is a {type(raw).__name__}, not text")
    return normalize_text(raw)


def _read(path: Path, layout: str, split: str, folder: Path, sentence: Callable[[Any], str]) -> list[CaptionedPair]:
    document = read_json(path, layout)
    try:
        pairs = [
            CaptionedPair(
                before=folder / "A" / entry["filename"],
                after=folder / "B" / entry["filename"],
                sentences=read_sentences(entry, path, sentence),
                changed=bool(entry["changeflag"]),
            )
            for entry in document["images"]
            if entry["split"] == split
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not in {layout}'s layout: {error!r} is missing or misplaced") from error
    if not pairs:
        raise EmptySplitError(f"{path} has no pairs in the split {split!r}")
    return pairs


def _tokens(sentence: Any) -> str:
    """A sentence of LEVIR-CC by its `tokens`: the words that the published vocabulary counts."""
    tokens = sentence["tokens"]
    if not isinstance(tokens, list):  # the letters of a text would pass for words
        raise TypeError(f"'tokens' is a {type(tokens).__name__}, not a list of words")
    return " ".join(tokens)
