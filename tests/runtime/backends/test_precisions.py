"""Precisions and backends of the trained example model: accuracy, batching, choice of a backend and file sizes."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import rsicrc
from rsicrc import ArgumentError, BackendError, ModelFolderError
from rsicrc.backends import table
from rsicrc.cpu import has_bf16
from rsicrc.manifest import EXACT, Manifest, sha256_file
from tests.runtime.conftest import Command

PAIRS = 12
needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16")
CASES = [
    pytest.param("onnxruntime", "fp32", id="onnxruntime-fp32"),
    pytest.param("openvino", "fp32", id="openvino-fp32"),
    pytest.param("onnxruntime", "fp16", id="onnxruntime-fp16"),
    pytest.param("openvino", "bf16", marks=needs_bf16, id="openvino-bf16"),
    pytest.param("onnxruntime", "int8", id="onnxruntime-int8"),
    pytest.param("openvino", "int8", id="openvino-int8"),
]


@pytest.fixture(scope="module", autouse=True)
def both_cpu_backends() -> None:
    """Skip the module unless both backends on a CPU are installed."""
    pytest.importorskip("onnxruntime", reason="needs rsicrc[cpu]")
    pytest.importorskip("openvino", reason="needs rsicrc[openvino]")


@pytest.fixture(scope="module")
def folder(variants_folder: Path) -> Path:
    return variants_folder


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    from rsicrc_train.synth import make_pair

    return np.stack([np.stack([pair.before, pair.after]) for pair in (make_pair(900, n) for n in range(PAIRS))])


def pairs_of(images: NDArray[np.uint8]) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    return [(before, after) for before, after in images]


@pytest.mark.parametrize(("backend", "precision"), CASES)
def test_results_do_not_depend_on_the_batch(
    folder: Path, images: NDArray[np.uint8], backend: str, precision: str
) -> None:
    """Captions and scores are equal for every batch size, up to the rounding of the precision."""
    engine = rsicrc.load(folder, backend=backend, precision=precision, threads=1)
    assert engine.manifest.precision == precision
    assert engine.backend.name == backend
    pairs = pairs_of(images)
    allowed = 1e-3 if precision == EXACT else 2e-2
    single = engine.caption(pairs, batch_size=1)
    for batch_size in (5, PAIRS):
        together = engine.caption(pairs, batch_size=batch_size)
        assert [caption.text for caption in together] == [caption.text for caption in single]
        for one, other in zip(single, together, strict=True):
            assert other.token_log_probs == pytest.approx(one.token_log_probs, abs=allowed)
            assert other.change_score == pytest.approx(one.change_score, abs=allowed)
    embeddings = engine.embed_images(pairs, batch_size=1)
    np.testing.assert_allclose(engine.embed_images(pairs), embeddings, atol=allowed)


@pytest.mark.parametrize(("backend", "precision"), CASES[1:])
def test_precisions_stay_within_their_tolerances(
    folder: Path, images: NDArray[np.uint8], backend: str, precision: str
) -> None:
    exact = rsicrc.load(folder, backend="onnxruntime", threads=1)
    other = rsicrc.load(folder, backend=backend, precision=precision, threads=1)
    pairs = pairs_of(images)
    least, loss = {"fp32": (0.999999, 1e-4), "fp16": (0.9999, 0.02), "bf16": (0.999, 0.15), "int8": (0.99, 0.3)}[
        precision
    ]
    assert (exact.embed_images(pairs) * other.embed_images(pairs)).sum(axis=1).min() > least
    texts = ["a house is built on the meadow", "the scene is the same as before"]
    assert (exact.embed_texts(texts) * other.embed_texts(texts)).sum(axis=1).min() > least
    # The error of a log-probability grows with its magnitude.
    expected = exact.score(pairs, texts)
    np.testing.assert_allclose(other.score(pairs, texts), expected, atol=1e-3, rtol=0 if precision == EXACT else 0.3)
    captions = [caption.text for caption in other.caption(pairs)]
    best = [sum(caption.token_log_probs) for caption in exact.caption(pairs)]
    scores = exact.score(pairs, captions)
    # Rounding may exchange captions of nearly equal score; clearly worse captions must not win.
    assert np.mean([best[row] - scores[row, row] for row in range(PAIRS)]) < loss
    if precision == EXACT:
        assert captions == [caption.text for caption in exact.caption(pairs)]


def test_openvino_equals_onnx_runtime_on_every_shape(folder: Path) -> None:
    """Attention over any number of keys, in the beam search and in the scorer."""
    golden = np.load(folder / "golden.npz")
    engines = [rsicrc.load(folder, backend=name, threads=1) for name in ("onnxruntime", "openvino")]
    pairs = pairs_of(golden["images"])
    for beams, length in ((1, 5), (3, None), (5, 17), (8, None)):
        found = [engine.caption(pairs, beams=beams, n_best=beams, max_length=length) for engine in engines]
        for one, other in zip(*found, strict=True):
            assert [each.text for each in one.n_best] == [each.text for each in other.n_best]
            assert [each.score for each in one.n_best] == pytest.approx([each.score for each in other.n_best], abs=1e-4)
    texts = [" ".join(["road"] * length) for length in (1, 13, 14, 15, 20)]
    for text in texts:
        scores = [engine.score(pairs, [text]) for engine in engines]
        assert scores[1] == pytest.approx(scores[0], abs=1e-3)
        vectors = [engine.embed_texts([text]) for engine in engines]
        assert vectors[1] == pytest.approx(vectors[0], abs=1e-5)


def test_streams_give_the_same_embeddings(folder: Path, images: NDArray[np.uint8]) -> None:
    pairs = pairs_of(images)
    one = rsicrc.load(folder, backend="openvino", threads=2).embed_images(pairs)
    two = rsicrc.load(folder, backend="openvino", threads=2, streams=2).embed_images(pairs)
    np.testing.assert_allclose(two, one, atol=1e-5)


def test_auto_logs_its_choice(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="rsicrc"):
        assert rsicrc.load(folder).backend.name == "openvino"
        assert rsicrc.load(folder, precision="fp16").backend.name == "onnxruntime"
    assert "fp32, openvino on cpu" in caplog.text
    assert "fp16, onnxruntime on cpu" in caplog.text


def test_auto_uses_installed_libraries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert rsicrc.load(folder, precision="int8").backend.name == "onnxruntime"
    assert rsicrc.load(folder).backend.name == "onnxruntime"
    with pytest.raises(BackendError, match=r"^OpenVINO is not installed: `pip install 'rsicrc\[openvino\]'`$"):
        rsicrc.load(folder, precision="bf16")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert rsicrc.load(folder, precision="int8").backend.name == "openvino"
    assert rsicrc.load(folder).backend.name == "openvino"
    with pytest.raises(BackendError, match=r"^ONNX Runtime is not installed: `pip install 'rsicrc\[cpu\]'`$"):
        rsicrc.load(folder, backend="onnxruntime")


def test_impossible_settings_are_refused(folder: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"no precision 'fp64': there is fp32, fp16, bf16, int8"):
        rsicrc.load(folder, precision="fp64")
    with pytest.raises(BackendError, match=r"no graphs in int8, only in fp32: export it again .*--calibration DATA"):
        rsicrc.load(model_folder, precision="int8")
    with pytest.raises(BackendError, match=r"no graphs in fp16, only in fp32: export it again .* --precision fp16`$"):
        rsicrc.load(model_folder, precision="fp16")
    with pytest.raises(BackendError, match="OpenVINO does not compute in fp16 on a CPU: choose the backend onnx"):
        rsicrc.load(folder, backend="openvino", precision="fp16")
    with pytest.raises(BackendError, match="ONNX Runtime does not compute in bf16 on a CPU"):
        rsicrc.load(folder, backend="onnxruntime", precision="bf16")
    monkeypatch.setattr(table, "has_bf16", lambda: False)
    with pytest.raises(BackendError, match="this processor has no instructions for bf16"):
        rsicrc.load(folder, precision="bf16")
    with pytest.raises(ArgumentError, match="streams is a setting of OpenVINO"):
        rsicrc.load(folder, backend="onnxruntime", streams=2)
    with pytest.raises(ArgumentError, match="streams must be at least 1, not 0"):
        rsicrc.load(folder, backend="openvino", streams=0)


def test_openvino_quantizes_activations_in_the_blocks_of_the_weights(folder: Path) -> None:
    """With other blocks the products are slower and the results nearly equal, which no other test detects."""
    import onnx

    backend = rsicrc.load(folder, backend="openvino", precision="int8", threads=1).backend
    graphs = Manifest.load(folder).at("int8").graphs
    for name in ("text_encoder", "decoder", "scorer"):
        nodes = onnx.load(folder / graphs[name].file).graph.node
        blocks = {
            attribute.i
            for node in nodes
            if node.op_type == "MatMulNBits"
            for attribute in node.attribute
            if attribute.name == "block_size"
        }
        model = backend._models[name]  # type: ignore[attr-defined]
        assert int(model.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")) == min(blocks)


def test_openvino_errors_name_the_graph(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = rsicrc.load(model_folder, backend="openvino", threads=1).backend
    with pytest.raises(BackendError, match=r"graph 'text_encoder' failed in OpenVINO: .*f32"):
        backend.run("text_encoder", {"input_ids": np.zeros((1, 3), np.float32)})
    monkeypatch.setenv("RSICRC_CACHE", str(tmp_path / "cache"))  # a compiled graph would be used without the file
    copy = shutil.copytree(model_folder, tmp_path / "model")
    engine = rsicrc.load(copy, backend="openvino", threads=1)
    (copy / "text_encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelFolderError, match=r"text_encoder\.onnx: OpenVINO cannot open this graph: "):
        engine.embed_texts(["the road"])


def test_cached_graph_is_not_used_for_a_changed_file(model_folder: Path, tmp_path: Path) -> None:
    """The file has the same path, size and time, as in machine images that set all times to one value."""
    import onnx

    copy = shutil.copytree(model_folder, tmp_path / "model", ignore=shutil.ignore_patterns("engines"))
    first = rsicrc.load(copy, backend="openvino", threads=1).embed_texts(["the road"])
    path = copy / "text_encoder.onnx"
    before = path.stat()
    graph = onnx.load(path)
    for weights in graph.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT and len(weights.dims) == 2:
            weights.raw_data = onnx.numpy_helper.to_array(weights)[::-1].tobytes()
    onnx.save(graph, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    manifest = Manifest.load(copy, verify=False)
    record = replace(manifest.files[path.name], sha256=sha256_file(path))
    replace(manifest, files={**manifest.files, path.name: record}).write(copy)
    other = rsicrc.load(copy, backend="openvino", threads=1).embed_texts(["the road"])
    exact = rsicrc.load(copy, backend="onnxruntime", threads=1).embed_texts(["the road"])
    assert not np.allclose(other, first, atol=1e-3)
    np.testing.assert_allclose(other, exact, atol=1e-5)


def test_signal_handler_works_after_openvino(model_folder: Path) -> None:
    """OpenVINO installs an alternate signal stack, which must not be freed while it is installed."""
    code = """
import gc, os, signal, sys, rsicrc
signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
engines = [rsicrc.load(sys.argv[1], backend="openvino", threads=1) for _ in range(2)]
for engine in engines:
    engine.embed_texts(["the road"])
del engine
while engines:
    engines.pop(0)
    gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", code, model_folder], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "handled\n")


def test_manifest_lists_the_precisions(folder: Path) -> None:
    manifest = Manifest.load(folder)
    assert manifest.precisions == ("fp32", "fp16", "bf16", "int8", "int8-fp16")
    at = manifest.at("int8")
    assert at.graphs["decoder"].file == "decoder.int8.onnx"
    assert at.graphs["decoder"].inputs == manifest.graphs["decoder"].inputs
    assert Manifest.from_json(json.dumps(manifest.to_dict()), folder) == manifest
    broken = replace(manifest, variants={"int8": replace(manifest.variants["int8"], graphs={})})
    with pytest.raises(ModelFolderError, match="graphs not declared: image_encoder"):
        Manifest.from_json(json.dumps(broken.to_dict()), folder)


def test_info_shows_the_accuracy_of_each_precision(folder: Path, rsicrc_run: Command) -> None:
    shown = rsicrc_run("info", "--model", folder).out
    for precision, variant in Manifest.load(folder).variants.items():
        section = shown.split(f"What {precision} costs")[1].split("\n\n")[0]
        assert str(variant.parity["compared_on"]) in section
        assert f"{variant.parity['image_embedding_cosine']['least']:.6g}" in section
        assert f"{variant.parity['word_log_prob_difference']['largest']:.6g}" in section


def test_half_precision_halves_the_size(folder: Path) -> None:
    manifest = Manifest.load(folder)
    for precision in ("fp16", "bf16"):
        for name, graph in manifest.graphs.items():
            small = manifest.files[manifest.variants[precision].graphs[name].file]
            assert 0.45 < small.bytes / manifest.files[graph.file].bytes < 0.55


def test_int8_halves_the_size(folder: Path) -> None:
    manifest = Manifest.load(folder)
    for name, graph in manifest.graphs.items():
        small = manifest.files[manifest.variants["int8"].graphs[name].file]
        assert small.bytes < 0.6 * manifest.files[graph.file].bytes


def test_int8_runtime_needs_neither_torch_nor_nncf(folder: Path) -> None:
    code = """
import sys, numpy as np, rsicrc
engine = rsicrc.load(sys.argv[1], precision="int8", threads=1)
image = np.full((224, 224, 3), 90, np.uint8)
engine.caption([(image, image)])
print([name for name in ("torch", "nncf", "onnx", "rsicrc_export") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == "[]\n"
