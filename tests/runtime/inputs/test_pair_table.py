"""Tables of pairs: supported content, refused tables, and problems of single rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsicrc.errors import PairsError
from rsicrc.inputs.pair_table import read_pairs


def write(folder: Path, text: str | bytes, name: str = "pairs.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_rows_have_numbers_paths_and_other_columns(tmp_path: Path) -> None:
    rows = read_pairs(write(tmp_path, "city,before,after\nRome,a.png,b.png\n,/data/c.png,sub/d.png\n"))
    assert [row.id for row in rows] == ["1", "2"]
    assert rows[0].paths == (tmp_path / "a.png", tmp_path / "b.png")
    assert rows[1].paths == (Path("/data/c.png"), tmp_path / "sub/d.png")
    assert rows[0].to_dict() == {"id": "1", "before": "a.png", "after": "b.png", "city": "Rome"}
    assert rows[1].problem is None


def test_ids_stay_text(tmp_path: Path) -> None:
    rows = read_pairs(write(tmp_path, "id,before,after\n007,a,b\nx y,c,d\n"))
    assert [row.id for row in rows] == ["007", "x y"]


def test_spreadsheet_csv_is_read(tmp_path: Path) -> None:
    text = '\ufeffbefore, after ,note\r\n"a, b.png",c.png,"two\r\nlines"\r\n\r\nd.png,e.png,\r\n'
    first, second = read_pairs(write(tmp_path, text))
    assert (first.before, first.after, first.extra["note"]) == ("a, b.png", "c.png", "two\r\nlines")
    assert (second.before, second.id) == ("d.png", "2")


def test_json_lines_are_read(tmp_path: Path) -> None:
    text = (
        '{"before": "a", "after": "b", "id": 5, "tags": ["x", "\u2028"]}\n\n{"before": "c", "after": "d", "id": null}\n'
    )
    first, second = read_pairs(write(tmp_path, text, "pairs.jsonl"))
    assert (first.id, first.extra) == ("5", {"tags": ["x", "\u2028"]})
    assert second.id == "2"


def test_csv_row_without_a_path_has_a_problem(tmp_path: Path) -> None:
    good, lacking, short, long = read_pairs(write(tmp_path, "before,after\na,b\n,b\na\na,b,c\n"))
    assert good.problem is None
    assert lacking.problem == "no path in 'before'"
    assert short.problem == "no path in 'after'"
    assert long.problem is not None
    assert "comma" in long.problem


def test_json_row_without_a_path_has_a_problem(tmp_path: Path) -> None:
    good, bad = read_pairs(write(tmp_path, '{"before": "a", "after": "b"}\n{"before": 3, "after": "b"}', "p.jsonl"))
    assert (good.problem, bad.problem) == (None, "no path in 'before'")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("\n \n", "no rows"),
        ("before,after\n", "no rows"),
        ("before,then\na,b\n", "no column 'after' in the header, only 'before', 'then'"),
        ("before;after\na;b\n", "separated by commas"),
        ("a.png,b.png\n", "no column 'before'"),
        ("before,after,after\na,b,c\n", "occurs twice in the header"),
        ("id,before,after\n1,a,b\n2,a,b\n1,c,d\n", "id '1' occurs in lines 2 and 4"),
        ("id,before,after\n ,a,b\n", "line 2: the id is empty"),
        ("before,after,caption\na,b,c\n", "'caption' is a column of the results"),
        ('before,after\n"a,b\n', "is not CSV"),
        (b"before,after\n\xe9,b\n", "not UTF-8"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(PairsError, match=r"pairs\.csv") as caught:
        read_pairs(write(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"before": "a"', "line 1 is not JSON"), ("[1]", "line 1 is not a JSON object"), ("", "no rows")],
)
def test_wrong_json_lines_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PairsError, match=message):
        read_pairs(write(tmp_path, text, "pairs.jsonl"))


def test_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_pairs(tmp_path / "nowhere.csv")
