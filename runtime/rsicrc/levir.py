"""The layout of the LEVIR-CC data set (Liu et al. 2022): `images/{split}/{A,B}/*.png` and `LevirCCcaptions.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rsicrc.errors import DataError

CAPTIONS_FILE = "LevirCCcaptions.json"
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
        before: the earlier image's file.
        after: the later image's file.
        sentences: the captions, lower case, without punctuation.
        changed: whether anything changed, as the data set flags it.
    """

    before: Path
    after: Path
    sentences: tuple[str, ...]
    changed: bool


def read_levir(directory: Path, split: str) -> list[CaptionedPair]:
    """The pairs of one split, in the order of the captions file; images are not opened.

    Raises:
        DataError: no such folder, no captions file, one of another layout, or an empty split.
    """
    path = directory / CAPTIONS_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no {CAPTIONS_FILE} in {directory}: name a folder in LEVIR-CC's layout") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not JSON ({error}): copy the data set again") from error
    try:
        pairs = [
            CaptionedPair(
                before=directory / "images" / split / "A" / entry["filename"],
                after=directory / "images" / split / "B" / entry["filename"],
                sentences=tuple(" ".join(sentence["tokens"]) for sentence in entry["sentences"]),
                changed=bool(entry["changeflag"]),
            )
            for entry in document["images"]
            if entry["split"] == split
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not in LEVIR-CC's layout: {error!r} is missing or misplaced") from error
    if not pairs:
        raise DataError(f"{path} has no pairs in the split {split!r}")
    return pairs
