"""Generated bad model folders and indexes: an error of rsicrc or a usable result, without crash or hang."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rsicrc
from rsicrc.errors import IndexFolderError, RsicrcError
from rsicrc.manifest import FileRecord, Manifest
from tests.fuzz.mutation import mutate_bytes, mutate_json

LONGEST = 60.0  # seconds for one folder: more is a hang


def outcome(action: Callable[[], object]) -> str:
    """Run an action and return "accepted" or the class of its error; other errors than those of rsicrc pass."""
    started = time.perf_counter()
    try:
        action()
        return "accepted"
    except RsicrcError as error:
        return type(error).__name__
    finally:
        assert time.perf_counter() - started < LONGEST


def use_model(folder: Path) -> None:
    engine = rsicrc.load(folder, backend="onnxruntime", threads=1)
    images = np.zeros((1, 2, engine.manifest.preprocessing.size, engine.manifest.preprocessing.size, 3), np.uint8)
    assert np.isfinite(engine.embed_texts(["a road is built"])).all()
    assert isinstance(engine.caption([(images[0, 0], images[0, 1])])[0].text, str)


@pytest.fixture
def folder(model_copy: Path) -> Path:
    """Return a copy of a model folder that works."""
    use_model(model_copy)
    return model_copy


def test_changed_manifests(folder: Path) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    results = Counter[str]()
    for number in range(200):
        path.write_bytes(mutate_json(random.Random(number), document).encode(errors="replace"))
        results[outcome(lambda: use_model(folder))] += 1
    assert results["ModelFolderError"] > 100
    assert results.keys() <= {"ModelFolderError", "BackendError", "accepted"}


def test_changed_tokenizers(folder: Path) -> None:
    path = folder / "tokenizer.json"
    manifest = Manifest.load(folder)
    document = json.loads(path.read_text())
    results = Counter[str]()
    for number in range(60):
        path.write_bytes(mutate_json(random.Random(number), document).encode(errors="replace"))
        record = FileRecord.of(path)
        replace(manifest, files={**manifest.files, path.name: record}).write(folder)
        results[outcome(lambda: use_model(folder))] += 1
    assert results["ModelFolderError"] > 30
    assert results.keys() <= {"ModelFolderError", "accepted"}


def test_changed_files(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    results = Counter[str]()
    for number in range(60):
        rng = random.Random(number)
        path = folder / rng.choice(names)
        content = path.read_bytes()
        action = rng.randrange(4)
        path.unlink()
        if action == 0:
            path.mkdir()
        elif action == 1:
            path.symlink_to(rng.choice(("/dev/zero", "/nowhere", "..", path.name)))
        elif action == 2:
            path.write_bytes(mutate_bytes(rng, content, content))
        results[outcome(lambda: use_model(folder))] += 1
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        path.write_bytes(content)
    assert results.keys() <= {"ModelFolderError", "accepted"}
    assert results["ModelFolderError"] >= 55
    use_model(folder)


def test_changed_indexes(tmp_path: Path) -> None:
    pytest.importorskip("lancedb", reason="needs rsicrc[search]")
    from rsicrc.index.store import Identity, Store

    good = tmp_path / "good"
    vectors = np.eye(20, 8, dtype=np.float32)
    rows = [
        {
            **dict.fromkeys(("before_sha256", "after_sha256", "stamp", "caption"), "x"),
            "id": f"p{number}",
            "before": f"{number}a.png",
            "after": f"{number}b.png",
            "vector": vector,
            "year": 2000 + number,
        }
        for number, vector in enumerate(vectors)
    ]
    import pyarrow as pa

    store = Store.create(good, Identity("0" * 64, "model", 8))
    store.add_columns({"year": pa.int64()})
    store.upsert(rows[:10])
    store.upsert(rows[5:])

    def use_index(folder: Path) -> None:
        opened = Store.open(folder)
        assert len(opened) >= 0
        opened.columns(["id", "before", "year"])
        matrix, numbers = opened.vectors()
        assert matrix.shape == (8, len(numbers))
        opened.take(opened.matching("year > 2005"))
        opened.nearest(vectors[0], 3, "year > 2001")
        opened.upsert(rows[:3])

    results = Counter[str]()
    folder = tmp_path / "index"
    for number in range(60):
        rng = random.Random(number)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
        path = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        content = path.read_bytes()
        path.unlink()
        action = rng.randrange(5)
        if action == 0:
            path.mkdir()
        elif action > 1:
            path.write_bytes(mutate_bytes(rng, content, content))
        results[outcome(lambda: use_index(folder))] += 1
    assert results.keys() <= {"IndexFolderError", "IndexWriteError", "ArgumentError", "accepted"}
    assert results["IndexFolderError"] > 10


def test_index_that_is_removed_while_it_is_open(tmp_path: Path) -> None:
    pytest.importorskip("lancedb", reason="needs rsicrc[search]")
    from rsicrc.index.store import Identity, Store

    store = Store.create(tmp_path / "index", Identity("0" * 64, "model", 8))
    row = dict.fromkeys(("id", "before", "after", "before_sha256", "after_sha256", "stamp"), "x")
    store.upsert([{**row, "vector": np.ones(8, np.float32)}])
    shutil.rmtree(tmp_path / "index")
    actions: tuple[Callable[[], object], ...] = (
        store.vectors,
        lambda: store.columns(["id"]),
        lambda: store.matching("id = 'x'"),
        lambda: store.nearest(np.ones(8, np.float32), 1, None),
        lambda: store.nearest(np.ones(8, np.float32), 1, "id = 'x'"),
        lambda: store.take(np.zeros(1, np.int64)),
        lambda: Store.open(tmp_path / "index"),
    )
    for action in actions:
        with pytest.raises(IndexFolderError, match="index"):
            action()
    with pytest.raises(RsicrcError, match="index"):
        store.upsert([{**row, "vector": np.ones(8, np.float32)}])
