"""The table on disk: commits with a killed writer, concurrent writers and a full disk; approximate search."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rsicrc.errors import BackendError, IndexFolderError, IndexWriteError
from rsicrc.index import store as store_module
from rsicrc.index.exact_search import Vectors
from rsicrc.index.store import Identity, Store

WIDTH = 32
IDENTITY = Identity("0" * 64, "model", WIDTH)


def unit_vectors(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Return clustered vectors, like those of images."""
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(7).standard_normal((20, WIDTH))
    vectors = centers[generator.integers(0, 20, count)] + 0.5 * generator.standard_normal((count, WIDTH))
    unit: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def records(ids: range, vectors: NDArray[np.float32] | None = None) -> list[dict[str, Any]]:
    vectors = unit_vectors(len(ids)) if vectors is None else vectors
    texts = {"before": "a", "after": "b", "before_sha256": "x", "after_sha256": "y", "stamp": ""}
    return [{"id": f"p{number}", **texts, "vector": vector} for number, vector in zip(ids, vectors, strict=True)]


def ids_of(store: Store) -> list[str]:
    ids: list[str] = store.columns(["id"]).column("id").to_pylist()
    return ids


def test_upsert_adds_and_replaces_rows(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "index", IDENTITY)
    store.upsert(records(range(5)))
    store.upsert([{**row, "caption": "new"} for row in records(range(3, 7))])
    assert sorted(ids_of(store)) == [f"p{number}" for number in range(7)]
    assert store.matching("caption = 'new'").size == 4
    store.update([{"id": "p0", "before": "c"}, {"id": "absent", "before": "c"}])
    assert len(store) == 7
    assert store.columns(["before"]).column("before").to_pylist().count("c") == 1
    matrix, numbers = store.vectors()
    rows = store.take(numbers[::-1])
    assert rows.column("id").to_pylist() == ids_of(store)[::-1]
    np.testing.assert_array_equal(np.linalg.norm(matrix, axis=0).round(5), 1)


def test_other_tables_and_versions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "FORMAT_VERSION", 2)
    Store.create(tmp_path / "index", IDENTITY)
    monkeypatch.undo()
    with pytest.raises(IndexFolderError, match="index format 2; this one reads 1"):
        Store.open(tmp_path / "index")
    import lancedb

    lancedb.connect(str(tmp_path / "other")).create_table("pairs", [{"id": "1"}])
    with pytest.raises(IndexFolderError, match="not an index of rsicrc"):
        Store.open(tmp_path / "other")


def test_folder_of_a_killed_process_is_usable(tmp_path: Path) -> None:
    (tmp_path / "index" / "pairs.lance" / "data").mkdir(parents=True)
    (tmp_path / "index" / "pairs.lance" / "data" / "orphan.lance").write_bytes(b"half")
    store = Store.create(tmp_path / "index", IDENTITY)
    store.upsert(records(range(2)))
    assert len(Store.open(tmp_path / "index")) == 2


def test_concurrent_writers_insert_every_row_once(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    Store.create(folder, IDENTITY)
    script = f"""
import sys
from pathlib import Path
from tests.runtime.index.test_index_store import records
from rsicrc.index.store import Store
store = Store.open(Path({str(folder)!r}))
for start in range(0, 60, 6):
    store.upsert(records(range(start, start + 12)))
"""
    other = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[3])
    failures: list[BaseException] = []

    def write() -> None:
        try:
            mine = Store.open(folder)
            for start in range(60, 0, -6):
                mine.upsert(records(range(start - 6, start + 6)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert other.wait() == 0
    assert not failures
    assert sorted(ids_of(Store.open(folder))) == sorted(f"p{number}" for number in range(66))


def test_killed_writer_keeps_its_commits(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    script = f"""
from pathlib import Path
from tests.runtime.index.test_index_store import IDENTITY, records
from rsicrc.index.store import Store
store = Store.create(Path({str(folder)!r}), IDENTITY)
for start in range(0, 100_000, 10):
    store.upsert(records(range(start, start + 10)))
    print(start + 10, flush=True)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    store = Store.open(folder)
    ids = ids_of(store)
    assert len(ids) >= int(lines[-1])
    assert len(ids) % 10 == 0
    store.upsert(records(range(len(ids) + 10)))
    assert sorted(ids_of(store)) == sorted(f"p{number}" for number in range(len(ids) + 10))


def test_full_disk_error_keeps_the_table(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    store = Store.create(folder, IDENTITY)
    store.upsert(records(range(10)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            store.upsert(records(range(5000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.filename == str(folder)
    assert isinstance(caught.value, IndexWriteError)
    assert str(caught.value).startswith(f"{folder}: File too large; earlier commits are kept")
    assert len(Store.open(folder)) == 10
    store.upsert(records(range(20)))
    assert len(Store.open(folder)) == 20


def test_large_table_has_an_approximate_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "APPROXIMATE_FROM", 3000)
    store = Store.create(tmp_path / "index", IDENTITY)
    store.upsert(records(range(2000), unit_vectors(2000)))
    store.tidy()
    assert not store.approximate
    store.upsert(records(range(2000, 4000), unit_vectors(2000, seed=1)))
    store.tidy()
    assert store.approximate
    store.upsert(records(range(4000, 4100), unit_vectors(100, seed=2)))  # not in the approximate index yet
    vectors = Vectors(*store.vectors())
    few = store.matching("id like 'p1%'")
    found = expected = filtered = 0
    for query in unit_vectors(30, seed=3):
        exact = vectors.nearest(query, 10)
        approximate = store.nearest(query, 10, None)
        found += len(set(exact.numbers) & set(approximate.numbers))
        expected += 10
        np.testing.assert_allclose(approximate.similarity[0], exact.similarity[0], atol=0.02)
        assert (np.diff(approximate.similarity) <= 0).all()
        among = store.nearest(query, 10, "id like 'p1%'")
        filtered += len(set(vectors.nearest(query, 10, few).numbers) & set(among.numbers))
    assert found / expected >= 0.97
    assert filtered / expected >= 0.97
    newest = store.nearest(unit_vectors(100, seed=2)[0], 1, None)
    assert store.take(newest.numbers).column("id").to_pylist() == ["p4000"]


def test_missing_lancedb_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[:2] == ["rsicrc", "index"]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(BackendError, match=r"pip install 'rsicrc\[search\]'"):
        import_module("rsicrc.index.index")


def test_exact_search_with_ties_and_conditions() -> None:
    matrix = np.array([[1, 0], [0, 1], [1, 0], [0.6, 0.8], [1, 0]], np.float32)
    vectors = Vectors(np.ascontiguousarray(matrix.T), np.array([3, 5, 8, 9, 12]))
    query = np.array([1, 0], np.float32)
    assert vectors.nearest(query, 2).numbers.tolist() == [3, 8]
    assert vectors.nearest(query, 9).numbers.tolist() == [3, 8, 12, 9, 5]
    assert vectors.nearest(query, 2, np.array([5, 9])).numbers.tolist() == [9, 5]
    assert vectors.nearest(query, 2, np.array([8])).numbers.tolist() == [8]
    assert vectors.nearest(query, 2, np.array([], np.int64)).numbers.tolist() == []
    assert vectors.nearest(query, 3).similarity.tolist() == [1, 1, 1]
