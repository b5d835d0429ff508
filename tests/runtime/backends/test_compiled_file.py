"""Compiled graphs of OpenVINO: only from the user's cache, and only as they were recorded."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsicrc
from rsicrc.errors import ModelFolderError
from rsicrc.manifest import FileRecord, Manifest, sha256_file

openvino: Any = pytest.importorskip("openvino", reason="needs rsicrc[openvino]")

TEXTS = ["the road", "a house is built"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a new cache."""
    monkeypatch.setenv("RSICRC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the model folder."""
    return shutil.copytree(model_folder, tmp_path / "model", ignore=shutil.ignore_patterns("engines"))


def embed(folder: Path) -> Any:
    return rsicrc.load(folder, backend="openvino", threads=1).embed_texts(TEXTS)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def other_weights(folder: Path, name: str) -> Path:
    """Return a copy of a model folder in which the weights of one graph are reversed."""
    import onnx

    copy = shutil.copytree(folder, folder.with_name("other"))
    path = copy / f"{name}.onnx"
    graph = onnx.load(path)
    for weights in graph.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT and len(weights.dims) == 2:
            weights.raw_data = onnx.numpy_helper.to_array(weights)[::-1].tobytes()
    onnx.save(graph, path)
    manifest = Manifest.load(copy, verify=False)
    manifest.files[path.name] = FileRecord.of(path)  # type: ignore[index]
    manifest.write(copy)
    return copy


def test_compiled_graph_is_read_again(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(folder)
    first = embed(folder)
    stored = files(cache)
    digest = Manifest.load(folder).files["text_encoder.onnx"].sha256
    assert {Path(name).parts[:2] for name in stored} == {("compiled", digest)}
    assert sorted(Path(name).suffix for name in stored) == [".blob", ".json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (cache / "compiled" / digest).iterdir()} == {0o700}

    from rsicrc.backends.openvino import OpenVinoBackend

    def fail(*_: Any) -> None:
        raise AssertionError("the graph is compiled again")

    monkeypatch.setattr(OpenVinoBackend, "_compile", fail)
    elsewhere = shutil.copytree(folder, folder.with_name("elsewhere"))
    for each in (folder, elsewhere):
        assert np.array_equal(embed(each), first)
    assert files(cache) == stored
    assert files(folder) == before


def test_captions_of_a_restored_decoder_are_the_same(
    folder: Path, cache: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(pictures / f"{number}a.png", pictures / f"{number}b.png") for number in range(1, 4)]
    found = [rsicrc.load(folder, backend="openvino", threads=1).caption(pairs, n_best=2) for _ in range(2)]
    exact = rsicrc.load(folder, backend="onnxruntime", threads=1).caption(pairs, n_best=2)
    for first, again, expected in zip(*found, exact, strict=True):
        assert (again.text, again.score, again.change_score) == (first.text, first.score, first.change_score)
        assert first.text == expected.text
        assert first.score == pytest.approx(expected.score, abs=1e-4)


def test_compiled_graph_in_a_model_folder_is_ignored(folder: Path, tmp_path: Path, cache: Path) -> None:
    """The blob of another network is shipped in every place that a version of rsicrc has read or could read."""
    expected = embed(folder)
    shutil.rmtree(cache)
    planted = other_weights(folder, "text_encoder")
    assert not np.allclose(embed(planted), expected, atol=1e-3)
    digests = [Manifest.load(each).files["text_encoder.onnx"].sha256 for each in (planted, folder)]
    shutil.copytree(cache / "compiled" / digests[0], folder / "engines" / "compiled" / digests[1])
    shutil.copytree(cache / "compiled" / digests[0], folder / "compiled" / digests[1])
    name = f"openvino-{openvino.__version__}-{digests[1][:16]}"
    core, cached = openvino.Core(), folder / "engines" / name
    model = core.read_model(planted / "text_encoder.onnx")
    core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": 1, "CACHE_DIR": str(cached)})
    shutil.rmtree(cache)
    before = files(folder)
    assert np.array_equal(embed(folder), expected)
    assert files(folder) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda blob: blob[: len(blob) // 2],
        lambda blob: blob[:-1],
        lambda blob: b"",
        lambda blob: blob + b"\0",
        *(
            lambda blob, share=share: (
                blob[: (at := int(share * (len(blob) - 1)))] + bytes([blob[at] ^ 16]) + blob[at + 1 :]
            )
            for share in (0.0, 0.01, 0.3, 0.7, 0.99, 1.0)
        ),
    ],
)
def test_damaged_compiled_graph_is_compiled_again(folder: Path, cache: Path, damage: Callable[[bytes], bytes]) -> None:
    expected = embed(folder)
    (path,) = cache.rglob("*.blob")
    path.write_bytes(damage(path.read_bytes()))
    assert np.array_equal(embed(folder), expected)
    (again,) = cache.rglob("*.blob")
    assert sha256_file(again) == again.stem


@pytest.mark.parametrize("record", [b"", b"[", b"[]", b"{}", b'{"sha256": 1}', b"\xff", b'{"sha256": "../../x"}'])
def test_damaged_record_is_not_used(folder: Path, cache: Path, record: bytes) -> None:
    expected = embed(folder)
    (path,) = cache.rglob("record.json")
    path.write_bytes(record)
    assert np.array_equal(embed(folder), expected)
    assert json.loads(next(cache.rglob("record.json")).read_bytes())["bytes"] > 0


def test_unrecorded_file_is_deleted(folder: Path, cache: Path) -> None:
    expected = embed(folder)
    (path,) = cache.rglob("*.blob")
    stray = path.with_name("1234.blob")
    stray.write_bytes(b"stray")
    assert np.array_equal(embed(folder), expected)
    assert not stray.exists()
    assert path.exists()


def test_recorded_content_that_is_no_graph_is_compiled_again(folder: Path, cache: Path) -> None:
    from rsicrc.backends.compiled_file import CompiledFile

    expected = embed(folder)
    (path,) = cache.rglob("record.json")
    CompiledFile(path.parent).write(b"no graph", {"INFERENCE_NUM_THREADS": 1})
    assert np.array_equal(embed(folder), expected)
    assert all(each.stat().st_size > 1000 for each in cache.rglob("*.blob"))


def test_changed_graph_is_not_stored_under_the_old_hash(folder: Path, cache: Path) -> None:
    engine = rsicrc.load(folder, backend="openvino", threads=1)
    shutil.copy(other_weights(folder, "text_encoder") / "text_encoder.onnx", folder)
    with pytest.raises(ModelFolderError, match=r"text_encoder\.onnx: changed since the model was loaded"):
        engine.embed_texts(TEXTS)
    assert not cache.exists()


def test_cache_that_cannot_be_written_is_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("a file instead of a folder")
    monkeypatch.setenv("RSICRC_CACHE", str(tmp_path / "file"))
    first = embed(folder)
    assert np.array_equal(embed(folder), first)


CODE = (
    "import sys, rsicrc; print(rsicrc.load(sys.argv[1], backend='openvino', threads=1).embed_texts(['the road'])[0, 0])"
)


def test_missing_home_is_no_error(folder: Path) -> None:
    """A container may run as a user whose number has no name, without HOME."""
    hidden = ("HOME", "XDG_CACHE_HOME", "RSICRC_CACHE")
    variables = {name: value for name, value in os.environ.items() if name not in hidden}
    code = f"import os, pwd; pwd.getpwuid = {{}}.__getitem__; {CODE}"
    done = subprocess.run([sys.executable, "-c", code, folder], env=variables, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def _embed_into(folder: Path, queue: Any) -> None:
    queue.put(embed(folder))


def test_processes_may_compile_at_the_same_time(folder: Path, cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_embed_into, args=(folder, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert all(np.array_equal(each, found[0]) for each in found)
    assert np.array_equal(embed(folder), found[0])


def test_files_of_a_library_are_kept_as_recorded(tmp_path: Path) -> None:
    from rsicrc.backends.compiled_file import delete_unrecorded, record_files

    delete_unrecorded(tmp_path / "absent")
    for name in ("kept", "changed", "cut"):
        (tmp_path / name).write_bytes(b"content")
    record_files(tmp_path)
    (tmp_path / "changed").write_bytes(b"Content")
    (tmp_path / "cut").write_bytes(b"")
    (tmp_path / "new").write_bytes(b"new")
    delete_unrecorded(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "record.json"}
    (tmp_path / "record.json").write_text("[")
    delete_unrecorded(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"record.json"}
