"""Tables of pairs: supported content, refused tables, and problems of single rows."""

from __future__ import annotations

import csv
import io
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
        (",\n,,\n", "no rows"),
        ("before,after\n", "no rows"),
        ("before,then\na,b\n", "no column 'after' in the header, only 'before', 'then'"),
        ("before|after\na|b\n", "separated by commas"),
        ("a.png,b.png\n", "no column 'before'"),
        ("before,after,after\na,b,c\n", "occurs twice in the header"),
        ("id,before,after\n1,a,b\n2,a,b\n1,c,d\n", "id '1' occurs in lines 2 and 4"),
        ("id,before,after\n ,a,b\n", "line 2: the id is empty"),
        ("before,after,caption\na,b,c\n", "'caption' is a column of the results"),
        ('before,after\n"a,b\n', "is not CSV"),
        (b"before,after\n\x81,b\n", "not UTF-8"),
        ("before,after\na,b\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        ("Before,BEFORE,after\na,b,c\n", "occurs twice in the header"),
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


EXCEL = [["id", "Before ", " AFTER", "Jahr", "Ort", "", ""], ["07", "t1\\ä.png", "t2\\ä.png", "2020", "Köln", "", ""]]
EXCEL += [
    ["", "", "", "", "", "", ""],
    ["8", "b.png", "c.png", "", "Linz; Wels", "", ""],
    ["", " ", "", "", "", "", ""],
]


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize(("separator", "head"), [(",", ""), (";", ""), ("\t", ""), (";", "sep=;\r\n")])
def test_tables_of_spreadsheets_are_read(separator: str, head: str, encoding: str, end: str, tmp_path: Path) -> None:
    lines = [separator.join(f'"{cell}"' if separator in cell else cell for cell in cells) for cells in EXCEL]
    (tmp_path / "t1").mkdir()
    (tmp_path / "t1/ä.png").touch()
    first, second = read_pairs(write(tmp_path, (head + end.join(lines) + end).encode(encoding)))
    assert (first.id, first.paths) == ("07", (tmp_path / "t1/ä.png", tmp_path / "t2/ä.png"))
    assert first.extra == {"Jahr": 2020, "Ort": "Köln"}
    assert second.to_dict() == {
        "id": "8", "before": "b.png", "after": "c.png", "Jahr": None, "Ort": "Linz; Wels"
    }  # fmt: skip
    assert (first.problem, second.problem) == (None, None)


def test_file_with_a_backslash_in_its_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "a\\b.png").touch()
    (row,) = read_pairs(write(tmp_path, "before,after\na\\b.png,c\\d.png\n"))
    assert row.paths == (tmp_path / "a\\b.png", tmp_path / "c/d.png")


def test_cells_without_a_column_are_a_problem_of_their_row(tmp_path: Path) -> None:
    good, bad, long = read_pairs(write(tmp_path, "before,after,,\na,b,,\na,b,,x\na,b,,,,\n"))
    assert (good.problem, long.problem) == (None, None)
    assert bad.problem is not None


def test_large_cells_are_read_and_the_limit_is_restored(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (row,) = read_pairs(write(tmp_path, f"before,after,note\na,b,{'x' * 1_000_000}\n"))
    assert len(row.extra["note"]) == 1_000_000
    assert csv.field_size_limit() == limit


def test_numbers_that_would_lose_digits_stay_text(tmp_path: Path) -> None:
    (row,) = read_pairs(write(tmp_path, "before,after,n,x\na,b,12345678901234567890,1e999\n"))
    assert row.extra == {"n": "12345678901234567890", "x": "1e999"}


@pytest.mark.parametrize("content", ["before;after;n\na;b;1\n", '{"Before": "a", "after": "b", "n": 1}\n'])
def test_table_is_read_from_standard_input(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    (row,) = read_pairs(Path("-"))
    assert (row.paths, row.extra) == ((Path("a"), Path("b")), {"n": 1})
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(PairsError, match="standard input: no rows"):
        read_pairs(Path("-"))


def test_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="line 1 is not JSON"):
        read_pairs(write(tmp_path, '{"before": ' + "[" * 200_000, "p.jsonl"))


def test_damaged_parquet_is_one_short_message(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs rsicrc[search]")
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"before": ["a.png"], "after": ["b.png"], "place": ["Graz"]}), path)
    content = path.read_bytes()
    for changed in (
        content.replace(b"Graz", b"\xffraz"),
        content[: len(content) // 2],
        content.replace(b"place", b"\xfflace"),
    ):
        path.write_bytes(changed)
        with pytest.raises(PairsError, match=r"t\.parquet: not a Parquet file, or damaged \(") as caught:
            read_pairs(path)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500


def test_names_of_many_columns_are_not_all_listed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(",".join(f"column {number}" for number in range(1000)) + "\n1,2\n")
    with pytest.raises(PairsError, match=r"no column 'before' in the header, only 'column 0', .*, …\. The") as caught:
        read_pairs(path)
    assert len(str(caught.value)) < 1000
