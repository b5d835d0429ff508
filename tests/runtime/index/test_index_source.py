"""Sources of an index: tables with typed columns, data sets and folders; and unique ids."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from rsicrc.errors import DataError, PairsError
from rsicrc.index.columns import column_types, convert
from rsicrc.index.source import read_source, rows_from_pairs
from rsicrc.inputs.pair_table import PairRow


def extras(path: Path) -> list[dict[str, object]]:
    return [dict(row.extra) for row in read_source(path)]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_csv_columns_have_inferred_types(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(
        "id,before,after,year,cloud,ok,tile,date,empty\n"
        "1,a,b,2020,0.5,TRUE,007,2020-01-01,\n"
        "2,c,d,,1,false,12,2021-01-01,\n"
    )
    first, second = extras(table)
    assert first == {
        "year": 2020,
        "cloud": 0.5,
        "ok": True,
        "tile": "007",
        "date": "2020-01-01",
        "empty": None,
    }
    assert second == {"year": None, "cloud": 1.0, "ok": False, "tile": "12", "date": "2021-01-01", "empty": None}
    assert column_types(read_source(table)) == {
        "year": pa.int64(),
        "cloud": pa.float64(),
        "ok": pa.bool_(),
        "tile": pa.string(),
        "date": pa.string(),
    }


def test_json_and_parquet_columns_keep_their_types(tmp_path: Path) -> None:
    lines = tmp_path / "t.jsonl"
    lines.write_text(json.dumps({"before": "a", "after": "b", "year": "2020", "n": 1, "tags": ["x"]}) + "\n")
    assert extras(lines) == [{"year": "2020", "n": 1, "tags": ["x"]}]
    table = tmp_path / "t.parquet"
    columns = {"id": ["p"], "before": ["a"], "after": ["b"], "day": [datetime.date(2020, 1, 2)], "n": [1.5]}
    parquet.write_table(pa.table(columns), table)
    (row,) = read_source(table)
    assert (row.id, row.paths) == ("p", (tmp_path / "a", tmp_path / "b"))
    assert column_types([row]) == {"day": pa.date32(), "n": pa.float64()}


def test_wrong_parquet_files_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    table.write_text("before,after\n")
    with pytest.raises(PairsError, match="not a Parquet file"):
        read_source(table)
    parquet.write_table(pa.table({"before": ["a"]}), table)
    with pytest.raises(PairsError, match="no column 'after', only 'before'"):
        read_source(table)
    with pytest.raises(FileNotFoundError):
        read_source(tmp_path / "absent.parquet")


def test_pairs_without_an_id_get_a_unique_id(tmp_path: Path) -> None:
    names = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        table = tmp_path / folder / "t.csv"
        table.write_text("before,after\na.png,b.png\nc.png,b.png\n")
        names += [row.id for row in read_source(table)]
        assert [row.id for row in read_source(table)] == names[-2:]
    assert len(set(names)) == 4
    assert all(name.startswith("b-") for name in names)


def test_duplicates_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("id,before,after\n1,a,b\n1,c,d\n")
    with pytest.raises(PairsError, match="id '1' occurs in lines 2 and 3"):
        read_source(table)
    table.write_text("before,after\na,b\na,b\n")
    with pytest.raises(PairsError, match="a and b occur twice"):
        read_source(table)
    with pytest.raises(PairsError, match="id 'x' stands for two pairs"):
        rows_from_pairs([{"id": "x", "before": "a", "after": "b"}, {"id": "x", "before": "c", "after": "d"}])


def test_pairs_from_python_objects() -> None:
    rows = rows_from_pairs([("a", Path("b")), {"before": "c", "after": "d", "id": 7, "year": 2020}])
    assert [row.paths for row in rows] == [(Path("a"), Path("b")), (Path("c"), Path("d"))]
    assert (rows[1].id, rows[1].extra) == ("7", {"year": 2020})
    for wrong in ("ab", ("a",), {"before": "a"}, (1, 2)):
        with pytest.raises(PairsError, match="pair 1: a pair to index is two paths"):
            rows_from_pairs([wrong])  # type: ignore[list-item]
    with pytest.raises(PairsError, match="no pairs"):
        rows_from_pairs([])


def test_levir_cc_folder_is_read(tmp_path: Path) -> None:
    sentence = {"raw": "a road", "tokens": ["a", "road"]}
    entries = [
        {"filename": f"{split}_1.png", "split": split, "changeflag": flag, "sentences": [sentence]}
        for split, flag in (("train", 1), ("test", 0))
    ]
    (tmp_path / "LevirCCcaptions.json").write_text(json.dumps({"images": entries}))
    rows = read_source(tmp_path)
    assert [dict(row.extra) for row in rows] == [
        {"split": "train", "changed": True},
        {"split": "test", "changed": False},
    ]
    assert rows[1].paths == (tmp_path / "images/test/A/test_1.png", tmp_path / "images/test/B/test_1.png")
    (tmp_path / "LevirCCcaptions.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_source(tmp_path)


def test_two_folders_are_paired_by_name(tmp_path: Path) -> None:
    touch(tmp_path / "A/1.png", tmp_path / "A/2.png", tmp_path / "A/.hidden.png", tmp_path / "A/notes.txt")
    touch(tmp_path / "B/1.png", tmp_path / "B/3.png")
    rows = read_source(tmp_path)
    assert [row.paths[0].name for row in rows] == ["1.png", "2.png", "3.png"]
    assert [row.problem for row in rows] == [
        None,
        f"2.png: only in {tmp_path / 'A'}",
        f"3.png: only in {tmp_path / 'B'}",
    ]
    assert [row.paths for row in read_source(tmp_path / "A", tmp_path / "B")] == [row.paths for row in rows]


def test_unsuitable_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PairsError, match="neither a data set of a known layout"):
        read_source(tmp_path)
    touch(tmp_path / "A/1.png")
    (tmp_path / "B").mkdir()
    with pytest.raises(PairsError, match="B: no images"):
        read_source(tmp_path)
    with pytest.raises(PairsError, match="C: no such folder"):
        read_source(tmp_path / "A", tmp_path / "C")


@pytest.mark.parametrize("name", ["vector", "stamp", "similarity", "_rowid", "a.b", ""])
def test_reserved_column_names_are_refused(name: str) -> None:
    with pytest.raises(PairsError, match=f"column '{name}'"):
        column_types([PairRow("1", "a", "b", Path(), {name: 1})])


def test_values_are_converted_or_refused() -> None:
    assert convert(3, pa.float64(), "n", "1") == 3.0
    assert convert(3.0, pa.int64(), "n", "1") == 3
    assert convert(3, pa.string(), "n", "1") == "3"
    assert convert(["x"], pa.string(), "n", "1") == '["x"]'
    assert convert(None, pa.int64(), "n", "1") is None
    noon = datetime.datetime(2020, 1, 1, 12, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    assert convert(noon, pa.timestamp("us"), "n", "1") == datetime.datetime(2020, 1, 1, 10)
    for value in ("n/a", 0.5, True):
        with pytest.raises(PairsError, match="id '1': column 'year' of the index holds whole numbers, not"):
            convert(value, pa.int64(), "year", "1")
