"""An index of pairs with a real model: addition, search and refused input."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import rsicrc
from rsicrc.engine import Engine
from rsicrc.index import fingerprint
from rsicrc.index.index import Index
from rsicrc.index.rerank import LOG_PROB_WEIGHT, rank_scores

QUERY = "a road is built with many trees"


@pytest.fixture(scope="module")
def engine(model_folder: Path) -> Engine:
    return rsicrc.load(model_folder, threads=1)


@pytest.fixture
def images(pictures: Path, tmp_path: Path) -> Path:
    """Return a copy of the pictures, which may be changed."""
    return shutil.copytree(pictures, tmp_path / "images")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    # Times of files that a test has just written are reliable, unless the test changes this setting.
    monkeypatch.setattr(fingerprint, "_SETTLED_NS", 0)


def rows_of(folder: Path, count: int = 5) -> list[dict[str, object]]:
    return [
        {
            "id": f"p{number}",
            "before": folder / f"{number}a.png",
            "after": folder / f"{number}b.png",
            "year": 2018 + number % 3,
            "place": ["Graz", "Lyon"][number % 2],
        }
        for number in range(1, count + 1)
    ]


@pytest.fixture(scope="module")
def filled(engine: Engine, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Return an index of five pairs with captions, which must not be changed."""
    index = Index.create(tmp_path_factory.mktemp("filled") / "index", engine)
    index.add(rows_of(pictures), captions=True)
    return index


def test_search_ranks_by_cosine(filled: Index, engine: Engine, pictures: Path) -> None:
    pairs = [(pictures / f"{number}a.png", pictures / f"{number}b.png") for number in range(1, 6)]
    expected = engine.embed_images(pairs) @ engine.embed_texts([QUERY])[0]
    order = np.argsort(-expected)
    hits = filled.search(QUERY)
    assert [row["id"] for row in hits] == [f"p{number + 1}" for number in order]
    assert [row["rank"] for row in hits] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose([row["similarity"] for row in hits], expected[order], atol=1e-5)
    captions = engine.caption(pairs)
    first = hits.to_list()[0]
    best = captions[order[0]]
    assert (first["caption"], first["change_score"]) == (best.text, pytest.approx(best.change_score, abs=1e-6))
    assert (first["before"], first["year"]) == (str(pairs[order[0]][0]), 2018 + int(first["id"][1]) % 3)
    assert "vector" not in first
    assert len(filled.search(QUERY, k=2)) == 2


def test_hits_convert_to_arrow_and_pandas(filled: Index) -> None:
    hits = filled.search(QUERY, where="year = 2018")
    assert isinstance(hits.to_arrow(), pa.Table)
    assert hits.to_arrow().column("id").to_pylist() == ["p3"]
    pytest.importorskip("pandas")
    assert list(hits.to_pandas()["id"]) == ["p3"]


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("year = 2020", {"p2", "p5"}),
        ("change_score >= 0 and year >= 2019 and place = 'Lyon'", {"p1", "p5"}),
        ("place in ('Graz') or id = 'p1'", {"p1", "p2", "p4"}),
        ("year = 1999", set()),
    ],
)
def test_search_with_a_condition(filled: Index, where: str, ids: set[str]) -> None:
    assert {row["id"] for row in filled.search(QUERY, where=where)} == ids


@pytest.mark.parametrize("where", ["", "year = 2020 and", "yeer = 2020", "year = 'x y'", "id", "vector > 3"])
def test_invalid_condition_is_refused(filled: Index, where: str) -> None:
    with pytest.raises(rsicrc.ArgumentError) as caught:
        filled.search(QUERY, where=where)
    message = str(caught.value)
    assert message.startswith(f"where {where!r}: ")
    assert message.endswith("change_score, year, place")
    assert "\n" not in message
    assert ".rs" not in message


@pytest.mark.parametrize(
    "rest",
    [" AN place = 'Graz'", ", place = 'Graz'", "; place = 'Graz'", "\nplace = 'Graz'", " limit 1", " -- x", ")", "\0"],
)
def test_text_after_a_condition_is_refused(filled: Index, rest: str) -> None:
    with pytest.raises(rsicrc.ArgumentError, match=r"at character 12|at character 13"):
        filled.search(QUERY, where=f"year > 1900{rest}")


def test_failure_during_a_condition_is_an_argument_error(filled: Index) -> None:
    with pytest.raises(rsicrc.ArgumentError, match=r"Divide by zero"):
        filled.search(QUERY, where="year / 0 = 1")


def test_rerank_orders_the_first_hits_by_log_probability(filled: Index, engine: Engine, pictures: Path) -> None:
    plain = filled.search(QUERY).to_list()
    hits = filled.search(QUERY, rerank=3).to_list()
    assert {row["id"] for row in hits[:3]} == {row["id"] for row in plain[:3]}
    assert [row["id"] for row in hits[3:]] == [row["id"] for row in plain[3:]]
    assert [row["log_prob"] for row in hits[3:]] == [None, None]
    for row in hits[:3]:
        (expected,) = engine.score([(row["before"], row["after"])], [QUERY])[0]
        assert row["log_prob"] == pytest.approx(expected, rel=1e-4)
        assert row["rank_score"] == pytest.approx(row["similarity"] + LOG_PROB_WEIGHT * row["log_prob"])
    assert sorted((row["rank_score"] for row in hits[:3]), reverse=True) == [row["rank_score"] for row in hits[:3]]
    assert [row["id"] for row in filled.search(QUERY, k=1, rerank=3)] == [hits[0]["id"]]


def test_scores_without_a_log_probability_are_last() -> None:
    scores = rank_scores(np.array([0.9, 0.1, 0.8], np.float32), np.array([np.nan, -20.0, np.nan]))
    assert list(np.argsort(-scores)) == [1, 0, 2]
    scores = rank_scores(np.array([0.1, 0.9], np.float32), np.array([np.nan, np.nan]))
    assert list(np.argsort(-scores)) == [1, 0]


def test_rerank_keeps_pairs_without_images(
    engine: Engine, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = Index.create(tmp_path / "index", engine)
    index.add(rows_of(images, 2))
    (images / "1a.png").unlink()
    hits = index.search(QUERY, rerank=2).to_list()
    assert [(row["id"], row["log_prob"] is None) for row in hits] == [("p2", False), ("p1", True)]
    assert "not reranked" in caplog.text


def test_search_by_example(filled: Index, pictures: Path) -> None:
    hits = filled.search((pictures / "4a.png", pictures / "4b.png"), k=2)
    assert hits.query is None
    assert hits.to_list()[0]["id"] == "p4"
    assert hits.to_list()[0]["similarity"] == pytest.approx(1, abs=1e-5)
    with pytest.raises(rsicrc.ArgumentError, match="reranked"):
        filled.search((pictures / "4a.png", pictures / "4b.png"), rerank=2)
    with pytest.raises(rsicrc.ImageError, match="no such file"):
        filled.search((pictures / "absent.png", pictures / "4b.png"))


def test_unknown_words_are_left_out_of_the_query(filled: Index, caplog: pytest.LogCaptureFixture) -> None:
    known = filled.search("a road is built").to_list()
    hits = filled.search("a zeppelin road is built, Zeppelin quux")
    assert hits.unknown == ("zeppelin", "quux")
    assert hits.query == "a road is built"
    assert hits.to_list() == known
    assert "left out of the query: zeppelin, quux" in caplog.text
    with pytest.raises(rsicrc.ArgumentError, match=r"none of the query's words \(zeppelin, quux\)"):
        filled.search("zeppelin quux")


def test_empty_and_long_queries(filled: Index, caplog: pytest.LogCaptureFixture) -> None:
    for empty in ("", "  ", "?!"):
        with pytest.raises(rsicrc.ArgumentError, match="empty query"):
            filled.search(empty)
    longest = filled.engine.manifest.max_len - 2
    assert filled.search(" ".join(["road"] * 99)).query == " ".join(["road"] * longest)
    assert f"cut to its first {longest} words" in caplog.text
    for k, rerank in ((0, 0), (1, -1)):
        with pytest.raises(rsicrc.ArgumentError, match="k must be"):
            filled.search("road", k, rerank=rerank)


def test_add_embeds_only_new_and_changed_pairs(engine: Engine, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    index = Index.create(folder, engine)
    assert index.add(rows_of(images, 3)).new == 3
    index = Index.open(folder, engine)
    before = index.search((images / "2a.png", images / "2b.png"), k=1).to_list()[0]
    assert (before["id"], before["caption"]) == ("p2", None)

    shutil.copyfile(images / "5a.png", images / "2a.png")
    os.utime(images / "1a.png")
    rows = rows_of(images, 4)
    rows[2]["year"] = 1900
    done = index.add(rows)
    assert (done.new, done.changed, done.updated, done.unchanged) == (1, 1, 1, 1)
    assert len(index) == 4
    hits = index.search((images / "2a.png", images / "2b.png"), k=4).to_list()
    assert (hits[0]["id"], hits[0]["similarity"]) == ("p2", pytest.approx(1, abs=1e-5))
    assert [row["id"] for row in index.search(QUERY, where="year = 1900")] == ["p3"]

    done = index.add(rows[:2], captions=True)
    assert (done.captioned, done.unchanged) == (2, 0)
    assert {row["id"] for row in index.search(QUERY, where="caption is not null")} == {"p1", "p2"}
    assert index.add(rows[:2], captions=True).unchanged == 2


def test_times_of_recent_files_are_not_trusted(
    engine: Engine, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "_SETTLED_NS", 3_600_000_000_000)
    index = Index.create(tmp_path / "index", engine)
    index.add(rows_of(images, 1))
    assert index.store.columns(["stamp"]).column("stamp").to_pylist() == [""]
    monkeypatch.setattr(fingerprint, "_SETTLED_NS", 0)
    time.sleep(0.01)
    assert index.add(rows_of(images, 1)).unchanged == 1
    assert index.store.columns(["stamp"]).column("stamp").to_pylist() != [""]


def test_damaged_pairs_are_reported_and_left_out(engine: Engine, images: Path, tmp_path: Path) -> None:
    (images / "2a.png").write_bytes(b"no picture")
    (images / "4b.png").unlink()
    Image.new("RGB", (50, 60)).save(images / "3b.png")
    index = Index.create(tmp_path / "index", engine)
    done = index.add(rows_of(images))
    assert (done.new, len(index)) == (2, 2)
    assert list(done.failures) == ["p4", "p2", "p3"]
    assert "no such file" in done.failures["p4"]
    assert "not an image" in done.failures["p2"]
    assert "the same grid" in done.failures["p3"]


def test_columns_can_be_added_but_not_change_type(engine: Engine, images: Path, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", engine)
    index.add(rows_of(images, 2))
    more: dict[str, object] = {"id": "p3", "before": images / "3a.png", "after": images / "3b.png", "cloud": 0.5}
    index.add([more])
    assert [row["cloud"] for row in index.search(QUERY, where="cloud < 1")] == [0.5]
    assert [row["id"] for row in index.search(QUERY, where="year is null")] == ["p3"]
    with pytest.raises(rsicrc.PairsError, match="column 'year' of the index holds whole numbers, not 'n/a'"):
        index.add([{**more, "id": "p4", "year": "n/a"}])
    assert len(index) == 3


def test_index_refuses_another_model(filled: Index, model_copy: Path) -> None:
    manifest = json.loads((model_copy / "manifest.json").read_text())
    manifest["checkpoint"]["sha256"] = "0" * 64
    (model_copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(rsicrc.IndexFolderError, match=r"made with another model .*checkpoint 000000000000"):
        Index.open(filled.store.folder, model_copy)
    with pytest.raises(rsicrc.IndexFolderError, match="made with another model"):
        Index.create(filled.store.folder, model_copy)


def test_index_opens_its_model(filled: Index) -> None:
    assert Index.open(filled.store.folder).engine.folder == filled.engine.folder


def test_empty_index_has_no_hits(engine: Engine, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", engine)
    assert len(index) == 0
    assert index.search(QUERY, rerank=5).to_list() == []
    assert index.search(QUERY, where="id = 'p1'").to_list() == []


def test_other_folders_are_refused(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(rsicrc.IndexFolderError, match="no index here"):
        Index.open(tmp_path / "absent", engine)
    (tmp_path / "file").touch()
    with pytest.raises(rsicrc.IndexFolderError, match="a file"):
        Index.create(tmp_path / "file", engine)
    with pytest.raises(rsicrc.IndexFolderError, match="not an index, and not empty"):
        Index.create(tmp_path, engine)


def test_damaged_index_is_refused(engine: Engine, images: Path, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", engine)
    index.add(rows_of(images, 2))
    for manifest in (tmp_path / "index" / "pairs.lance" / "_versions").glob("*.manifest"):
        manifest.write_bytes(b"damaged")
    with pytest.raises(rsicrc.IndexFolderError, match="damaged"):
        Index.open(tmp_path / "index", engine)


def test_index_and_search_log_no_warnings(
    engine: Engine, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        index = Index.create(tmp_path / "index", engine)
        index.add(rows_of(images, 2))
        index.search(QUERY)
    assert caplog.text == ""


def test_hostile_paths_and_values_are_failures_of_their_rows(engine: Engine, images: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes((images / "1a.png").read_bytes())
    names = ["a\0b.png", "\ud800.png", "/dev/zero", str(tmp_path / "fifo.png"), "x" * 5000, str(tmp_path)]
    names.append(str(tmp_path / os.fsdecode(b"caf\xe9.png")))
    bad = [{"id": f"bad{n}", "before": images / "1a.png", "after": name} for n, name in enumerate(names)]
    bad.append({"id": "text", "before": images / "1a.png", "after": images / "1b.png", "place": "\ud800"})
    index = Index.create(tmp_path / "index", engine)
    added = index.add([*bad, *rows_of(images)])
    assert set(added.failures) == {row["id"] for row in bad}
    assert all(problem.isprintable() for problem in added.failures.values())
    assert len(index) == 5
