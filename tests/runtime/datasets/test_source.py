"""Sources of pairs: folders whose names differ, and one reader for captions and indexes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsicrc.datasets.source import read_source
from rsicrc.errors import PairsError
from rsicrc.inputs.pair_table import RESULT_COLUMNS


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(folder: Path, *args: object) -> list[tuple[str, str, str]]:
    rows = read_source(folder, *args)  # type: ignore[arg-type]
    paths = [tuple(path.relative_to(folder).as_posix() for path in row.paths) for row in rows]
    return [(row.id, before, after) for row, (before, after) in zip(rows, paths, strict=True)]


def test_patterns_pair_images_of_one_folder(tmp_path: Path) -> None:
    touch(tmp_path, "t1_a.png", "t2_a.png", "t1_b[1].png", "t2_b[1].png", "t1_ä_2.png", "t2_ä_2.png", "other.png")
    assert names(tmp_path, None, ("t1_{id}.png", "t2_{id}.png")) == [
        ("a", "t1_a.png", "t2_a.png"),
        ("b[1]", "t1_b[1].png", "t2_b[1].png"),
        ("ä_2", "t1_ä_2.png", "t2_ä_2.png"),
    ]


@pytest.mark.parametrize(
    ("first", "second", "patterns"),
    [
        ("A/t1_{}.png", "B/t2_{}.tif", ("t1_{id}.png", "t2_{id}.tif")),
        ("{}/before.png", "{}/after.png", ("{id}/before.png", "{id}/after.png")),
        ("2019/{0}/{0}_x.png", "2021/{0}.png", ("2019/{id}/{id}_x.png", "2021/{id}.png")),
    ],
)
def test_patterns_pair_images_of_subfolders(first: str, second: str, patterns: tuple[str, str], tmp_path: Path) -> None:
    for number in "12":
        touch(tmp_path, first.format(number), second.format(number))
    assert names(tmp_path, None, patterns) == [(n, first.format(n), second.format(n)) for n in "12"]


def test_patterns_pair_images_of_two_folders_and_report_lonely_images(tmp_path: Path) -> None:
    touch(tmp_path, "old/a_1.png", "old/a_2.png", "new/b_1.png", "new/b_3.png")
    rows = read_source(tmp_path / "old", tmp_path / "new", ("a_{id}.png", "b_{id}.png"))
    assert [row.problem for row in rows] == [None, "2: no image 'b_2.png'", "3: no image 'a_3.png'"]


@pytest.mark.parametrize("pattern", ["t1_*.png", "/{id}.png", "../{id}.png"])
def test_wrong_patterns_are_refused(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="a pattern is a name"):
        read_source(tmp_path, None, (pattern, "{id}.png"))


def test_patterns_without_a_match_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "t1_a.png", "t2_b.png")
    with pytest.raises(PairsError, match="1 and 1 images match"):
        read_source(tmp_path, None, ("t1_{id}.png", "t2_{id}.png"))


def test_folders_are_paired_by_a_unique_stem(tmp_path: Path) -> None:
    touch(tmp_path, "A/1.png", "A/2.png", "A/3.png", "A/3.jpg", "B/1.tif", "B/2.png", "B/3.tif")
    rows = read_source(tmp_path)
    assert [(row.paths[0].name, row.paths[1].name) for row in rows if row.problem is None] == [
        ("1.png", "1.tif"),
        ("2.png", "2.png"),
    ]
    assert sum(row.problem is not None for row in rows) == 3


def test_folders_without_common_names_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "A/t1_1.png", "B/t2_1.png")
    with pytest.raises(PairsError, match="--match"):
        read_source(tmp_path)


def test_types_are_the_same_for_captions_and_indexes(tmp_path: Path) -> None:
    pytest.importorskip("lancedb", reason="needs rsicrc[search]")
    from rsicrc.index.source import read_source as read_index_source

    table = tmp_path / "t.csv"
    table.write_text("before,after,year,share,ok,tile\na,b,2020,0.5,true,007\n")
    (row,), (indexed,) = read_source(table, taken=RESULT_COLUMNS), read_index_source(table)
    assert row.extra == indexed.extra == {"year": 2020, "share": 0.5, "ok": True, "tile": "007"}
    assert row.id == "1"
