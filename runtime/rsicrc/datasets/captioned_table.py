"""Tables of captioned pairs: CSV, JSON lines or Parquet (see `rsicrc.inputs.pair_table`).

Columns:
    before, after: Paths of the images, relative to the folder of the table.
    split: "train", "val" or "test".
    captions: A list of sentences, or text with `|` between the sentences.
    changed: Optional, may be empty: 1 or 0, true or false. By default a pair is unchanged if most of its captions say
        that nothing has changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.errors import DataError, EmptySplitError, shortened
from rsicrc.inputs.pair_table import RESULT_COLUMNS, PairRow, read_pairs
from rsicrc.text.no_change import mostly_unchanged
from rsicrc.text.vocabulary import normalize_text
from rsicrc.untrusted.fields import shown

SUFFIXES = frozenset({".csv", ".jsonl", ".ndjson", ".parquet"})
SEPARATOR = "|"
# The flag `changed` of a data set has the name of a result column.
_TAKEN = frozenset(RESULT_COLUMNS) - {"changed"}
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def table_splits(path: Path) -> list[str]:
    """Return the split of every row of a table that has any.

    Raises:
        PairsError: The table as a whole cannot be used.
        OSError: The table cannot be read.
    """
    return [str(row.extra.get("split", "")).strip() for row in read_pairs(path, taken=_TAKEN)]


def read_table(path: Path, split: str) -> list[CaptionedPair]:
    """Read the pairs of one split, in the order of the table; images are not opened.

    Raises:
        DataError: A row has no captions, no split or no paths, or the split is empty.
        PairsError: The table as a whole cannot be used.
        OSError: The table cannot be read.
    """
    rows = read_pairs(path, taken=_TAKEN)
    for column in ("split", "captions"):
        if column not in rows[0].extra:
            raise DataError(f"{path}: no column '{column}'. Training data needs before, after, captions and split")
    chosen = [row for row in rows if str(row.extra.get("split", "")).strip() == split]
    if not chosen:
        found = sorted({str(row.extra.get("split", "")).strip() for row in rows})
        raise EmptySplitError(
            f"{path} has no pairs in the split {shown(split)}, only in {shortened(', '.join(map(repr, found)), 200)}"
        )
    return [_pair(row, f"{path}, row {shortened(row.id)}") for row in chosen]


def _pair(row: PairRow, where: str) -> CaptionedPair:
    if row.problem is not None:
        raise DataError(f"{where}: {row.problem}")
    sentences = _sentences(row.extra.get("captions"), where)
    changed = _flag(row.extra.get("changed"), where)
    return CaptionedPair(*row.paths, sentences, not mostly_unchanged(sentences) if changed is None else changed)


def _sentences(value: Any, where: str) -> tuple[str, ...]:
    texts = value.split(SEPARATOR) if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"{where}: 'captions' is a list of sentences, or text with {SEPARATOR} between them, not {shown(value)}"
        )
    sentences = tuple(map(normalize_text, texts))
    if not sentences or not all(sentences):
        raise DataError(f"{where}: no caption, or an empty one. Every pair needs a sentence")
    return sentences


def _flag(value: Any, where: str) -> bool | None:
    text = "" if value is None else str(value).strip().lower()
    if text and text not in _FLAGS:
        raise DataError(f"{where}: 'changed' is 1 or 0, true or false, not {shown(value)}")
    return _FLAGS.get(text)
