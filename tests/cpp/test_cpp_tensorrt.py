"""The TensorRT backend of the C++ library over stand-ins for TensorRT and CUDA, compared with the OpenVINO backend."""

from __future__ import annotations

import ctypes as c
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rsicrc.manifest import Manifest, sha256_file
from tests.cpp import binding
from tests.cpp.binding import Engine
from tests.cpp.conftest import Build, smooth_pairs

pytestmark = pytest.mark.slow
GRAPHS = ("image_encoder", "text_encoder", "decoder", "scorer")
TEXTS = ("the scene is the same as before", "a road", "houses are built along the road")


@pytest.fixture(scope="session")
def planned_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder with plans for the stand-in: each plan is the path of its graph."""
    folder = shutil.copytree(model_folder, tmp_path_factory.mktemp("planned") / "model")
    (folder / "engines").mkdir()
    manifest = Manifest.load(folder)
    plans = []
    for graph in GRAPHS:
        onnx = manifest.graphs[graph].file
        plan = folder / "engines" / f"{graph}.plan"
        plan.write_text(str(folder / onnx))
        plans.append(
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
    (folder / "engines" / "engines.json").write_text(json.dumps({"engines": plans}))
    return folder


@pytest.fixture
def engines(gcc_build: Build, library: c.CDLL, planned_folder: Path) -> Iterator[tuple[Engine, Engine]]:
    """Return an engine on the stand-in for TensorRT, and one on OpenVINO."""
    fake = binding.open_library(gcc_build.folder / "tests" / "librsicrc_fake_tensorrt.so")
    opened = Engine(fake, planned_folder, backend="tensorrt", max_batch=3), Engine(library, planned_folder, max_batch=3)
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
