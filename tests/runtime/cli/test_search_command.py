"""`rsicrc-run index` and `rsicrc-run search`: results, and the message of each wrong use."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from rsicrc.cli.console import FAILED, WRONG_USAGE
from tests.runtime.conftest import Command

QUERY = "a road is built"


@pytest.fixture
def table(pictures: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(pictures, tmp_path / "data")
    lines = [f"p{number},{number}a.png,{number}b.png,{2018 + number}\n" for number in range(1, 4)]
    (folder / "pairs.csv").write_text("id,before,after,year\n" + "".join(lines))
    return folder / "pairs.csv"


@pytest.fixture
def index(rsicrc_run: Command, table: Path, model_folder: Path, tmp_path: Path) -> Path:
    settings = ("--threads", 1, "--device", "cpu", "--backend", "onnxruntime")
    ended = rsicrc_run("index", table, "-o", tmp_path / "index", "--captions", "--model", model_folder, *settings)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{tmp_path / 'index'}: 3 pairs (3 new)\n"
    return tmp_path / "index"


def test_index_grows_and_is_searched(rsicrc_run: Command, index: Path, table: Path, auto_line: str) -> None:
    with table.open("a") as file:
        file.write("p4,4a.png,4b.png,2030\np5,absent.png,4b.png,2030\n")
    ended = rsicrc_run("index", table, "-o", index)
    assert ended.code == FAILED
    assert ended.out == f"{index}: 4 pairs (1 new, 3 unchanged, 1 failed)\n"
    assert ended.err == f"{auto_line}failed: p5: {table.parent / 'absent.png'}: no such file. Check the path\n"

    ended = rsicrc_run("search", index, QUERY, "-k", 2)
    assert (ended.code, ended.err) == (0, auto_line)
    lines = ended.out.splitlines()
    assert len(lines) == 4
    assert re.fullmatch(r"  1  +-?\d\.\d{4}  p\d  .*", lines[0])
    assert re.fullmatch(r"     /.*a\.png → /.*b\.png", lines[1])
    ended = rsicrc_run("search", index, QUERY, "--where", "year = 2030")
    assert ended.out.startswith("  1 ")
    assert "p4" in ended.out.splitlines()[0]


def test_json_search_lists_reranked_hits(rsicrc_run: Command, index: Path) -> None:
    ended = rsicrc_run("search", index, f"{QUERY} zeppelin", "--json", "--rerank", 2, "--where", "year > 2018")
    document = json.loads(ended.out)
    assert {name: document[name] for name in ("query", "unknown_words", "where", "index", "pairs")} == {
        "query": QUERY,
        "unknown_words": ["zeppelin"],
        "where": "year > 2018",
        "index": str(index),
        "pairs": 3,
    }
    first = document["hits"][0]
    assert list(first)[:5] == ["rank", "similarity", "log_prob", "rank_score", "id"]
    assert document["hits"][2]["log_prob"] is None
    ended = rsicrc_run("search", index, QUERY, "--rerank", 2)
    assert len(ended.out.splitlines()) == 6


def test_search_writes_a_report_and_a_sheet(rsicrc_run: Command, index: Path, auto_line: str, tmp_path: Path) -> None:
    page, picture = tmp_path / "report.html", tmp_path / "sheet.png"
    ended = rsicrc_run("search", index, QUERY, "--html", page, "--sheet", picture)
    assert (ended.code, ended.err) == (0, f"{auto_line}report: {page}\nsheet: {picture}\n")
    assert page.read_text().count("<img ") == 9
    assert Image.open(picture).width > 900


def test_search_by_example_finds_the_example(rsicrc_run: Command, index: Path, table: Path, tmp_path: Path) -> None:
    pair = table.parent / "2a.png", table.parent / "2b.png"
    ended = rsicrc_run("search", index, "--like", *pair, "-k", 1, "--html", tmp_path / "r.html")
    assert ended.code == 0
    assert "1.0000  p2" in ended.out
    assert "Changes like the example" in (tmp_path / "r.html").read_text()


def test_index_takes_two_folders(rsicrc_run: Command, pictures: Path, model_folder: Path, tmp_path: Path) -> None:
    for side, date in (("A", "a"), ("B", "b")):
        (tmp_path / side).mkdir()
        for number in (1, 2):
            shutil.copyfile(pictures / f"{number}{date}.png", tmp_path / side / f"{number}.png")
    ended = rsicrc_run("index", tmp_path / "A", tmp_path / "B", "-o", tmp_path / "i", "--model", model_folder)
    assert (ended.code, ended.out) == (0, f"{tmp_path / 'i'}: 2 pairs (2 new)\n")


def test_search_without_hits_is_no_failure(rsicrc_run: Command, index: Path, auto_line: str, tmp_path: Path) -> None:
    ended = rsicrc_run("search", index, QUERY, "--where", "year = 1", "--html", tmp_path / "r.html")
    assert (ended.code, ended.out) == (0, "")
    assert ended.err.splitlines()[:2] == [auto_line.strip(), "no pair for which year = 1"]
    assert "No pair to show" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], WRONG_USAGE, "give either a TEXT or --like"),
        (["road", "--like", "a.png", "b.png"], WRONG_USAGE, "give either a TEXT or --like"),
        (["--like", "a.png", "b.png", "--rerank", "5"], WRONG_USAGE, "--rerank goes with a TEXT"),
        (["--like", "a.png", "b.png"], FAILED, "a.png: no such file"),
        (["road", "--html", "r.pdf"], WRONG_USAGE, "must end in one of .html"),
        (["road", "--sheet", "absent/r.png"], FAILED, "absent: No such file"),
        (["road", "--where", "year ="], WRONG_USAGE, "where 'year =': expected a column or a value, not the end"),
        ([""], WRONG_USAGE, "an empty query"),
        (["zeppelin"], WRONG_USAGE, "none of the query's words (zeppelin)"),
    ],
)
def test_wrong_searches_are_one_line(
    rsicrc_run: Command, index: Path, args: list[str], code: int, message: str
) -> None:
    ended = rsicrc_run("search", index, *args)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith("rsicrc-run: error: ")
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_wrong_indexes_are_one_line(
    rsicrc_run: Command, index: Path, model_copy: Path, table: Path, tmp_path: Path
) -> None:
    def error_of(*args: str | Path) -> str:
        ended = rsicrc_run(*args)
        assert ended.code == FAILED
        assert ended.err.count("\n") == 1
        return ended.err

    empty = tmp_path / "empty.csv"
    empty.write_text("before,after\n")
    assert "no rows" in error_of("index", empty, "-o", tmp_path / "new", "--model", model_copy)
    assert not (tmp_path / "new").exists()
    assert "absent.csv: No such file" in error_of("index", tmp_path / "absent.csv", "-o", tmp_path / "new")
    assert "no index here" in error_of("search", tmp_path / "new", QUERY)
    assert "not an index, and not empty" in error_of("index", table, "-o", table.parent, "--model", model_copy)
    manifest = json.loads((model_copy / "manifest.json").read_text())
    manifest["checkpoint"]["sha256"] = "0" * 64
    (model_copy / "manifest.json").write_text(json.dumps(manifest))
    assert "made with another model" in error_of("index", table, "-o", index, "--model", model_copy)
    assert "made with another model" in error_of("search", index, QUERY, "--model", model_copy)
