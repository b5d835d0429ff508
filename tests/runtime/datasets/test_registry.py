"""Captioned data sets, each read from a small folder in its published layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rsicrc.datasets.levir_cc import NO_CHANGE_SENTENCES, CaptionedPair
from rsicrc.datasets.registry import LAYOUTS, find_layout, read_split, read_splits
from rsicrc.errors import DataError, EmptySplitError, PairsError
from rsicrc.text.no_change import mostly_unchanged, says_unchanged


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def caption_entries(*texts: str) -> list[dict[str, Any]]:
    """Return sentences in the format of the captions files."""
    return [{"tokens": text.strip(" .").split(), "raw": text, "imgid": 0, "sentid": 0} for text in texts]


@pytest.fixture
def dubai(tmp_path: Path) -> Path:
    folder = tmp_path / "datasetDubaiCCPublic"
    for year in ("500_2000", "500_2010"):
        write(folder / "imgs_tiles/RGB" / year / "37.tif", "")
    for name, texts in {
        "Train_Dubai_CC.json": ("Nothing has changed.", "There is no difference", "New roads, and houses."),
        "Validation_Dubai_CC.json": ("An artificial island was built.", "No change", "A new island"),
        "Test_Dubai_CC.json": ("All remained the same.",),
    }.items():
        entry = {"filename": "37.tif", "imgid": 37, "sentences": caption_entries(*texts)}
        write(folder / "description_jsontr_te_val" / name, {"images": [entry], "dataset": "DubaiCC"})
    return folder


@pytest.fixture
def clevr(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write(folder / "splits.json", {"train": [0, 2], "val": [1], "test": []})
    names = [f"CLEVR_default_{number:06d}.png" for number in range(3)]
    write(folder / "change_captions.json", {name: ["The big red cube moved.", "it moved"] for name in names})
    write(folder / "no_change_captions.json", {name: ["no change was made"] for name in names})
    return folder


def test_levir_cc_and_second_cc_are_read(tmp_path: Path) -> None:
    entry = {"filepath": "train", "filename": "1.png", "imgid": 0, "split": "train", "changeflag": 1}
    entry["sentences"] = caption_entries("A Road is built .")
    write(tmp_path / "levir/LevirCCcaptions.json", {"images": [entry]})
    write(tmp_path / "second/SECOND-CC-AUG.json", {"images": [entry]})
    levir, second = tmp_path / "levir/images/train", tmp_path / "second/train/rgb"
    assert read_split(tmp_path / "levir", "train") == [
        CaptionedPair(levir / "A/1.png", levir / "B/1.png", ("A Road is built",), changed=True)
    ]
    assert read_split(tmp_path / "second", "train") == [
        CaptionedPair(second / "A/1.png", second / "B/1.png", ("a road is built",), changed=True)
    ]


def test_dubai_cc_is_read(dubai: Path) -> None:
    splits = read_splits(dubai)
    assert {name: [pair.changed for pair in pairs] for name, pairs in splits.items()} == {
        "train": [False],
        "val": [True],
        "test": [False],
    }
    (pair,) = splits["train"]
    assert pair.sentences == ("nothing has changed", "there is no difference", "new roads and houses")
    assert (pair.before, pair.after) == (
        dubai / "imgs_tiles/RGB/500_2000/37.tif",
        dubai / "imgs_tiles/RGB/500_2010/37.tif",
    )
    write(dubai / "captions/Test_Dubai_CC.json", {"images": []})
    with pytest.raises(DataError, match=r"holds Test_\*\.json 2 times"):
        read_split(dubai, "test")


def test_clevr_change_is_read(clevr: Path) -> None:
    train = read_split(clevr, "train")
    assert [pair.changed for pair in train] == [True, False, True, False]
    assert train[2] == CaptionedPair(
        clevr / "images/CLEVR_default_000002.png",
        clevr / "sc_images/CLEVR_semantic_000002.png",
        ("the big red cube moved", "it moved"),
        changed=True,
    )
    assert train[3].after == clevr / "nsc_images/CLEVR_nonsemantic_000002.png"
    assert train[3].sentences == ("no change was made",)
    assert list(read_splits(clevr)) == ["train", "val"]
    write(clevr / "no_change_captions.json", {})
    with pytest.raises(DataError, match=r"no_change_captions\.json, CLEVR_default_000001\.png: no list of sentences"):
        read_split(clevr, "val")
    write(clevr / "splits.json", {"val": ["000001"]})
    with pytest.raises(DataError, match="lists of numbers by split"):
        read_split(clevr, "val")


def test_csv_and_json_lines_tables_are_read(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    write(
        table,
        "before,after,split,captions,changed\n"
        "a.png,b.png,train,A road is built. | a new road,\n"
        "/c.png,d.png,train,Nothing has changed|no change,\n"
        "e.png,f.png,val,a house,0\n",
    )
    lines = [
        {"before": "a.png", "after": "b.png", "split": "train", "captions": ["A road is built.", "a new road"]},
        {"before": "/c.png", "after": "d.png", "split": "train", "captions": ["Nothing has changed", "no change"]},
        {"before": "e.png", "after": "f.png", "split": "val", "captions": "a house", "changed": False},
    ]
    write(tmp_path / "pairs.jsonl", "\n".join(map(json.dumps, lines)))
    splits = read_splits(table)
    assert splits == read_splits(tmp_path / "pairs.jsonl")
    assert splits["train"] == [
        CaptionedPair(tmp_path / "a.png", tmp_path / "b.png", ("a road is built", "a new road"), changed=True),
        CaptionedPair(Path("/c.png"), tmp_path / "d.png", ("nothing has changed", "no change"), changed=False),
    ]
    assert [pair.changed for pair in splits["val"]] == [False]
    with pytest.raises(EmptySplitError, match="no pairs in the split 'test', only in 'train', 'val'"):
        read_split(table, "test")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("before,after,captions\na,b,c\n", "no column 'split'"),
        ("before,after,split\na,b,train\n", "no column 'captions'"),
        ("before,after,caption,split\na,b,c,train\n", "'caption' is a column of the results"),
        ("before,after,captions,split\na,b,,train\n", "row 1: no caption, or an empty one"),
        ("before,after,captions,split\na,b,a road| ,train\n", "row 1: no caption, or an empty one"),
        ("before,after,captions,split\na,,a road,train\n", "row 1: no path in 'after'"),
        ("before,after,captions,split,changed\na,b,a road,train,perhaps\n", "not 'perhaps'"),
    ],
)
def test_wrong_tables_are_refused_in_one_line(tmp_path: Path, row: str, message: str) -> None:
    write(tmp_path / "pairs.csv", row)
    with pytest.raises((DataError, PairsError), match=message) as caught:
        read_split(tmp_path / "pairs.csv", "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("captions", [7, [1, 2], {"a": "road"}])
def test_wrong_caption_lists_in_a_table_are_refused(tmp_path: Path, captions: Any) -> None:
    line = {"before": "a.png", "after": "b.png", "split": "train", "captions": captions}
    write(tmp_path / "pairs.jsonl", json.dumps(line))
    with pytest.raises(DataError, match="row 1: 'captions' is a list of sentences"):
        read_split(tmp_path / "pairs.jsonl", "train")


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ("a road is built", "'sentences' is a str, not a list"),
        ([], "no sentence, or an empty one"),
        ([{"tokens": []}], "no sentence, or an empty one"),
        ([{"tokens": "a road"}], "'tokens' is a str, not a list of words"),
        ([{"tokens": ["a", 3]}], "a sentence of another shape"),
        (["a road"], "a sentence of another shape"),
    ],
)
def test_wrong_caption_lists_are_refused(tmp_path: Path, sentences: Any, message: str) -> None:
    entry = {"filename": "1.png", "split": "train", "changeflag": 1, "sentences": sentences}
    write(tmp_path / "LevirCCcaptions.json", {"images": [entry]})
    with pytest.raises(DataError, match=rf"1\.png: .*{message}"):
        read_split(tmp_path, "train")


def test_unknown_data_set_error_names_all_layouts(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"not a data set that can be read\. Known are LEVIR-CC: a folder with"
    ) as caught:
        read_split(tmp_path, "train")
    assert all(layout.name in str(caught.value) for layout in LAYOUTS)
    with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
        read_split(tmp_path / "nowhere", "train")
    assert find_layout(tmp_path) is None
    write(tmp_path / "LevirCCcaptions.json", {"images": []})
    with pytest.raises(EmptySplitError, match="no pairs in the split 'test'"):
        read_splits(tmp_path)


def test_no_change_sentences_are_recognized() -> None:
    more = "all remained the same;nothing changed in this area;no changes to mention;no change was made;no change;"
    more += "the area appears the same;no change occurred in this area;no difference in this area;"
    more += "there is no change to mention;everything remains the same;nothing has changed in this area"
    for sentence in (*NO_CHANGE_SENTENCES, *more.split(";")):
        assert says_unchanged(sentence), sentence
    for sentence in ("no change except for a road", "the houses are the same but a road is built", "a road changed"):
        assert not says_unchanged(sentence), sentence
    assert not mostly_unchanged(("no change", "a road"))
    assert mostly_unchanged(("no change", "a road", "nothing has changed"))


@pytest.mark.shared
def test_captions_agree_with_the_change_flags_of_levir_cc(shared_folder: Path) -> None:
    for pairs in read_splits(shared_folder / "data" / "captions").values():
        assert [pair.changed for pair in pairs] == [not mostly_unchanged(pair.sentences) for pair in pairs]
