"""Messages about long values from files and arguments are short and printable."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import rsicrc
from rsicrc.datasets.captioned_table import read_table
from rsicrc.datasets.folders import rows_from_patterns
from rsicrc.datasets.levir_cc import read_levir
from rsicrc.datasets.source import with_ids
from rsicrc.errors import RsicrcError, shortened
from rsicrc.inputs.images import load_image
from rsicrc.inputs.pair_table import read_pairs
from rsicrc.text.encoding import encode_sentences
from rsicrc.text.vocabulary import SPECIAL_WORDS, Vocabulary

LONG = "\x1b[2J" + "x" * 5000


def table(folder: Path, *rows: dict[str, object]) -> Path:
    path = folder / "t.jsonl"
    path.write_text("\n".join(json.dumps({"before": "a.png", "after": "b.png", **row}) for row in rows))
    return path


def levir_cc(folder: Path, **fields: object) -> Path:
    entry = {"filename": LONG, "split": "train", "changeflag": 0, "sentences": [{"raw": "a road"}], **fields}
    (folder / "LevirCCcaptions.json").write_text(json.dumps({"images": [entry]}))
    return folder


CASES: dict[str, Callable[[Path], object]] = {
    "double id": lambda folder: read_pairs(table(folder, {"id": LONG}, {"id": LONG})),
    "double id of an index": lambda folder: with_ids(2 * read_pairs(table(folder, {"id": LONG}))),
    "double pair of an index": lambda folder: with_ids(2 * read_pairs(table(folder, {"before": LONG}))),
    "columns": lambda folder: read_pairs(_csv(folder, ",".join(f"{LONG}{n}" for n in range(99)))),
    "captions": lambda folder: read_table(table(folder, {"captions": [LONG, 1], "split": "train"}), "train"),
    "id of captions": lambda folder: read_table(table(folder, {"id": LONG, "captions": "", "split": "train"}), "train"),
    "changed": lambda folder: read_table(
        table(folder, {"captions": "a road", "split": "train", "changed": LONG}), "train"
    ),
    "splits": lambda folder: read_table(
        table(folder, *[dict[str, object](captions="a", split=f"{n}{LONG}") for n in range(50)]), "train"
    ),
    "sentences": lambda folder: read_levir(levir_cc(folder, sentences=3), "train"),
    "sentence": lambda folder: read_levir(levir_cc(folder, sentences=[{LONG: 1}]), "train"),
    "patterns": lambda folder: rows_from_patterns(folder, folder, (LONG, LONG)),
    "image": lambda _: load_image(LONG),
    "vocabulary": lambda _: Vocabulary.from_words([LONG] * 9),
    "word": lambda _: Vocabulary.from_words([*SPECIAL_WORDS, LONG]),
    "sentence without words": lambda _: encode_sentences(Vocabulary.from_words([*SPECIAL_WORDS, "a"]), [" " * 5000]),
    "model": lambda folder: rsicrc.load(folder / LONG[1:]),
}


def _csv(folder: Path, header: str) -> Path:
    path = folder / "t.csv"
    path.write_text(f"{header}\n1\n")
    return path


@pytest.mark.parametrize("case", CASES)
def test_messages_about_long_values_are_short(tmp_path: Path, case: str) -> None:
    with pytest.raises(RsicrcError) as raised:
        CASES[case](tmp_path)
    message = str(raised.value).replace(str(tmp_path), "")
    assert len(message) < 1600
    assert "\x1b" not in message


def test_shortened_text_is_marked() -> None:
    assert (shortened("a\nb"), shortened("abc", 3), shortened("abcd", 3)) == (r"a\nb", "abc", "abc…")
