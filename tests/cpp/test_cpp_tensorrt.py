"""The TensorRT backend of the C++ library over stand-ins for TensorRT and CUDA, compared with the OpenVINO backend."""

from __future__ import annotations

import ctypes as c
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rsicrc.backends.tensorrt.plans import plan_folder
from rsicrc.manifest import Manifest, sha256_file
from tests.cpp import binding
from tests.cpp.binding import CallError, Engine
from tests.cpp.conftest import Build, smooth_pairs

pytestmark = pytest.mark.slow
GRAPHS = ("image_encoder", "text_encoder", "decoder", "scorer")
TEXTS = ("the scene is the same as before", "a road", "houses are built along the road")


@pytest.fixture(scope="session")
def plans(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of plans for the stand-in: each plan is the path of its graph."""
    folder = tmp_path_factory.mktemp("plans")
    manifest = Manifest.load(model_folder)
    entries = []
    for graph in GRAPHS:
        onnx = manifest.graphs[graph].file
        plan = folder / f"{graph}.plan"
        plan.write_text(str(model_folder / onnx))
        entries.append(
            {
                "graph": graph,
                "library": "tensorrt",
                "version": "10.13.3",
                "device": "Fake GPU 9.0",
                "graph_sha256": manifest.files[onnx].sha256,
                "file": plan.name,
                "sha256": sha256_file(plan),
            }
        )
    (folder / "engines.json").write_text(json.dumps({"engines": entries}))
    return folder


@pytest.fixture
def fake(gcc_build: Build) -> c.CDLL:
    """Return the library with the TensorRT backend over the stand-ins."""
    return binding.open_library(gcc_build.folder / "tests" / "librsicrc_fake_tensorrt.so")


@pytest.fixture
def engines(fake: c.CDLL, library: c.CDLL, model_folder: Path, plans: Path) -> Iterator[tuple[Engine, Engine]]:
    """Return an engine on the stand-in for TensorRT, and one on OpenVINO."""
    opened = Engine(fake, model_folder, max_batch=3, engines=plans), Engine(library, model_folder, max_batch=3)
    assert opened[0].info.backend == b"tensorrt"
    yield opened
    for engine in opened:
        engine.close()


def test_tensorrt_captions_match_openvino(engines: tuple[Engine, Engine]) -> None:
    # The last batch is filled up to a power of two, and the sizes change and return.
    for count, beams in ((5, 3), (1, 3), (3, 1), (5, 3), (2, 4)):
        pairs = smooth_pairs(count, 120, 110)
        for engine in engines:
            engine.caption(pairs, beams, beams)
        for pair in range(count):
            for rank in range(beams):
                tensorrt, openvino = (engine.sentence(pair, rank) for engine in engines)
                assert tensorrt.text == openvino.text
                assert tensorrt.score == pytest.approx(openvino.score, abs=1e-4)
                assert tensorrt.change_score == pytest.approx(openvino.change_score, abs=1e-4)


def test_tensorrt_embeddings_and_scores_match_openvino(engines: tuple[Engine, Engine]) -> None:
    for count, texts in ((1, TEXTS), (5, TEXTS[:2]), (4, TEXTS)):
        pairs = smooth_pairs(count, 120, 110)
        for name, arguments in (("embed_pairs", (pairs,)), ("embed_texts", (texts,)), ("score", (pairs, texts))):
            tensorrt, openvino = (getattr(engine, name)(*arguments) for engine in engines)
            np.testing.assert_allclose(tensorrt, openvino, atol=1e-3 if name == "score" else 1e-5)


def test_plans_are_read_from_the_cache_and_never_from_the_model_folder(
    fake: c.CDLL, model_folder: Path, plans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSICRC_CACHE", str(tmp_path / "cache"))
    folder = shutil.copytree(model_folder, tmp_path / "model")
    shutil.copytree(plans, folder / "engines")
    engine = Engine(fake, folder)
    with pytest.raises(CallError, match="the user's cache: no plan of text_encoder fits") as caught:
        engine.embed_texts(TEXTS)
    assert caught.value.status == binding.BACKEND
    place = plan_folder(Manifest.load(folder).files["text_encoder.onnx"].sha256, "tensorrt", "10.13.3", "Fake GPU 9.0")
    assert place is not None
    shutil.copytree(plans, place)
    assert engine.embed_texts(TEXTS).shape == (len(TEXTS), engine.info.embedding_width)
    engine.close()


def test_engines_of_another_backend_are_refused(library: c.CDLL, model_folder: Path, plans: Path) -> None:
    with pytest.raises(CallError, match="engines is an option of tensorrt") as caught:
        Engine(library, model_folder, backend="openvino", engines=plans)
    assert caught.value.status == binding.INVALID_ARGUMENT
    with pytest.raises(CallError, match="built without tensorrt, which reads engines"):
        Engine(library, model_folder, engines=plans)
