"""The layouts of the LEVIR-CC data set (Liu et al. 2022) and of SECOND-CC, which is similar.

LEVIR-CC (https://github.com/Chen-Yang-Liu/RSICC): `images/{split}/{A,B}/*.png` and `LevirCCcaptions.json`.
SECOND-CC (Karaca et al. 2025, https://doi.org/10.5281/zenodo.16937571): `{split}/rgb/{A,B}/*.png` and
`SECOND-CC-AUG.json`; the semantic maps in `{split}/sem` are not read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsicrc.errors import DataError, EmptySplitError, shortened
from rsicrc.text.vocabulary import normalize_text

CAPTIONS_FILE = "LevirCCcaptions.json"
SECOND_FILE = "SECOND-CC-AUG.json"
SPLITS = ("train", "val", "test")
# The captions of every unchanged pair of LEVIR-CC.
NO_CHANGE_SENTENCES = (
    "there is no difference",
    "the two scenes seem identical",
    "the scene is the same as before",
    "no change has occurred",
    "almost nothing has changed",
)


@dataclass(frozen=True)
class CaptionedPair:
    """Two images of one place and captions of the change, written by people.

    Attributes:
        before: File of the earlier image.
        after: File of the later image.
        sentences: The captions, lower case, without punctuation.
        changed: Change flag of the data set; True if anything has changed.
    """

    before: Path
    after: Path
    sentences: tuple[str, ...]
    changed: bool


def read_levir(directory: Path, split: str) -> list[CaptionedPair]:
    """Read the pairs of one split of LEVIR-CC, in the order of the captions file; images are not opened.

    Raises:
        DataError: The captions file is missing or has another layout, or the split is empty.
    """
    folder = directory / "images" / split
    return _read(directory / CAPTIONS_FILE, "LEVIR-CC", split, folder, _tokens)


def read_second(directory: Path, split: str) -> list[CaptionedPair]:
    """Read the pairs of one split of SECOND-CC, in the order of the captions file; images are not opened.

    Raises:
        DataError: As from `read_levir`.
    """
    return _read(directory / SECOND_FILE, "SECOND-CC", split, directory / split / "rgb", raw_sentence)


def levir_splits(directory: Path) -> list[str]:
    """Return the split of every pair in the captions file of LEVIR-CC.

    Raises:
        DataError: The captions file is missing or has another layout.
    """
    return _splits(directory / CAPTIONS_FILE, "LEVIR-CC")


def second_splits(directory: Path) -> list[str]:
    """Return the split of every pair in the captions file of SECOND-CC.

    Raises:
        DataError: As from `levir_splits`.
    """
    return _splits(directory / SECOND_FILE, "SECOND-CC")


def _splits(path: Path, layout: str) -> list[str]:
    try:
        return [str(entry["split"]) for entry in read_json(path, layout)["images"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not in {layout}'s layout: {error!r} is missing or misplaced") from error


def read_json(path: Path, layout: str) -> Any:
    """Read a JSON file of a data set; `layout` is the name of the data set, for messages.

    Raises:
        DataError: The file does not exist or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no {path.name} in {path.parent}: name a folder in {layout}'s layout") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error}): copy the data set again") from error


def read_sentences(entry: Any, path: Path, sentence: Callable[[Any], str]) -> tuple[str, ...]:
    """Read the `sentences` of one entry of a captions file; `sentence` turns each of them into text.

    Raises:
        DataError: The entry has no sentences, or they do not have the structure that `sentence` expects.
    """
    where = f"{path}, {shortened(entry['filename'])}"
    found = entry["sentences"]
    if not isinstance(found, list):
        raise DataError(f"{where}: 'sentences' is a {type(found).__name__}, not a list of sentences")
    try:
        sentences = tuple(map(sentence, found))
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{where}: a sentence of another shape ({shortened(error)}): copy the data set again"
        ) from error
    if not sentences or not all(sentences):
        raise DataError(f"{where}: no sentence, or an empty one. Every pair needs a caption")
    return sentences


def raw_sentence(sentence: Any) -> str:
    """Return the normalized `raw` text of a sentence of a captions file."""
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
        raise DataError(
            f"{path} is not in {layout}'s layout: {shortened(repr(error))} is missing or misplaced"
        ) from error
    if not pairs:
        raise EmptySplitError(f"{path} has no pairs in the split {split!r}")
    return pairs


def _tokens(sentence: Any) -> str:
    """Return the `tokens` of a sentence of LEVIR-CC, which are the words of the published vocabulary."""
    tokens = sentence["tokens"]
    if not isinstance(tokens, list):  # a text is a sequence of letters, which would be read as words
        raise TypeError(f"'tokens' is a {type(tokens).__name__}, not a list of words")
    return " ".join(tokens)
