"""The layout of the Dubai-CC data set (Hoxha et al. 2022, https://doi.org/10.1109/TGRS.2022.3195692).

Files as in the archive and as Chg2Cap (https://github.com/ShizhenChang/Chg2Cap) reads them:

    imgs_tiles/RGB/{500_2000,500_2010}/*.tif     500 names, the same for 2000 and 2010, 50 × 50 pixels
    description_jsontr_te_val/{Train,Validation,Test}_*.json    {"images": [{"filename", "sentences": [{"raw"}]}]}

The data set has no change flag; a pair is unchanged if most of its captions say that nothing has changed.
"""

from __future__ import annotations

from pathlib import Path

from rsicrc.datasets.levir_cc import CaptionedPair, raw_sentence, read_json, read_sentences
from rsicrc.errors import DataError, EmptySplitError, shortened
from rsicrc.text.no_change import mostly_unchanged

BEFORE, AFTER = Path("imgs_tiles/RGB/500_2000"), Path("imgs_tiles/RGB/500_2010")
_PREFIX = {"train": "Train", "val": "Validation", "test": "Test"}
_LAYOUT = "Dubai-CC"


def read_dubai(directory: Path, split: str) -> list[CaptionedPair]:
    """Read the pairs of one split, in the order of its captions file; images are not opened.

    Raises:
        DataError: The split has no captions file or more than one, the file has another layout, or the split is empty.
    """
    prefix = _PREFIX.get(split)
    # The name of the folder differs between copies of the data set; the prefixes of the files do not.
    files = sorted(directory.glob(f"*/{prefix}_*.json")) if prefix else []
    if not files:
        raise EmptySplitError(
            f"{directory} has no pairs in the split {split!r}: no {prefix or split}_*.json in its folders"
        )
    if len(files) > 1:
        raise DataError(
            f"{directory} holds {prefix}_*.json {len(files)} times. Keep the captions that belong to the images"
        )
    (path,) = files
    document = read_json(path, _LAYOUT)
    pairs = []
    try:
        for entry in document["images"]:
            sentences = read_sentences(entry, path, raw_sentence)
            before, after = (directory / folder / entry["filename"] for folder in (BEFORE, AFTER))
            pairs.append(CaptionedPair(before, after, sentences, changed=not mostly_unchanged(sentences)))
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not in {_LAYOUT}'s layout: {shortened(repr(error))} is missing or misplaced"
        ) from error
    if not pairs:
        raise EmptySplitError(f"{path} has no pairs in the split {split!r}")
    return pairs
