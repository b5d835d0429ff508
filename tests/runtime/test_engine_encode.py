"""`Engine.encode_stream`: embeddings, captions and log-probabilities from one run of the image encoder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsicrc
from rsicrc.errors import BackendError
from rsicrc.manifest import IMAGE_ENCODER, FileRecord, Manifest
from rsicrc.results import EncodedPair, PairFailure

TEXTS = ["a road is built", "no change"]


def test_encode_stream_runs_the_image_encoder_once(
    model_folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = rsicrc.load(model_folder, threads=1)
    pairs = [(pictures / f"{number}a.png", pictures / f"{number}b.png") for number in range(1, 6)]
    embeddings, captions, scores = engine.embed_images(pairs), engine.caption(pairs), engine.score(pairs, TEXTS)
    runs = []
    run = engine.backend.run

    def counted(graph: str, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        runs.append(graph)
        return run(graph, feeds, outputs)

    monkeypatch.setattr(engine.backend, "run", counted)
    results = list(engine.encode_stream(pairs, captions=True, texts=TEXTS, batch_size=2))
    assert runs.count(IMAGE_ENCODER) == 3
    for result, embedding, caption, score in zip(results, embeddings, captions, scores, strict=True):
        assert isinstance(result, EncodedPair)
        np.testing.assert_allclose(result.embedding, embedding, atol=1e-5)
        np.testing.assert_allclose(result.log_probs, score, rtol=1e-4)
        assert result.caption is not None
        assert result.caption.text == caption.text


def test_encode_stream_returns_only_the_requested_results(model_folder: Path, pictures: Path) -> None:
    engine = rsicrc.load(model_folder, threads=1)
    good = (pictures / "1a.png", pictures / "1b.png")
    first, second = engine.encode_stream([(pictures / "absent.png", pictures / "1b.png"), good])
    assert isinstance(first, PairFailure)
    assert isinstance(second, EncodedPair)
    assert (second.caption, second.log_probs) == (None, ())


def test_encode_stream_refuses_wrong_settings_at_the_call(model_folder: Path) -> None:
    engine = rsicrc.load(model_folder, threads=1)
    with pytest.raises(rsicrc.ArgumentError, match="batch_size"):
        engine.encode_stream([], batch_size=0)
    with pytest.raises(rsicrc.ArgumentError, match="empty"):
        engine.encode_stream([], texts=[""])


def test_nan_from_a_model_is_an_error_and_not_a_caption(model_copy: Path, pictures: Path) -> None:
    for graph, calls in {
        "image_encoder": ("caption", "embed_images", "score", "encode_stream"),
        "text_encoder": ("embed_texts",),
        "decoder": ("caption",),
        "scorer": ("score",),
    }.items():
        folder = shutil.copytree(model_copy, model_copy.with_name(f"nan-{graph}"))
        _fill_with_nan(folder, graph)
        engine = rsicrc.load(folder, backend="onnxruntime", threads=1)
        pair = (pictures / "1a.png", pictures / "1b.png")
        arguments = {
            "caption": ([pair],),
            "embed_images": ([pair],),
            "score": ([pair], ["a road is built"]),
            "encode_stream": ([pair],),
            "embed_texts": (["a road is built"],),
        }
        for call in calls:
            with pytest.raises(BackendError, match=r"the model gave NaN \(not a number\) for "):
                list(getattr(engine, call)(*arguments[call]))


def _fill_with_nan(folder: Path, graph: str) -> None:
    onnx = pytest.importorskip("onnx", reason="needs rsicrc[export]")
    path = folder / f"{graph}.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.raw_data = np.full(len(tensor.raw_data) // 4, np.nan, np.float32).tobytes()
    manifest = Manifest.load(folder)
    path.write_bytes(model.SerializeToString())
    replace(manifest, files={**manifest.files, path.name: FileRecord.of(path)}).write(folder)
