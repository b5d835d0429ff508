"""ONNX Runtime bound to addresses of GPU memory, with the CPU provider over the memory of a fake GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsicrc
from rsicrc import BackendError, DeviceMemoryError, Engine, ModelFolderError
from rsicrc.backends import cuda, onnxruntime_cuda
from rsicrc.backends.host_loop import shape_of
from rsicrc.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend
from rsicrc.backends.tensorrt.profiles import Profile
from rsicrc.decoding.beam_search import _first_state
from rsicrc.manifest import DECODER, Manifest
from tests.runtime.fake_cuda import FakeCuda


class CpuProviderBackend(OnnxRuntimeCudaBackend):
    """The backend with the CPU provider."""

    _device_type = "cpu"

    def _require_provider(self) -> None:
        pass

    def _providers(self, limits: Any, captures: bool, cache: Path | None) -> list[tuple[str, dict[str, str]]]:
        self.settings = super()._providers(limits, captures, cache)
        return [("CPUExecutionProvider", {})]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda(is_eager=True)
    monkeypatch.setattr(cuda, "_runtime", lambda: fake)
    return fake


@pytest.fixture(scope="module")
def exact(model_folder: Path) -> Engine:
    return rsicrc.load(model_folder, "cpu", backend="onnxruntime", threads=1)


@pytest.fixture(scope="module")
def pairs() -> list[Any]:
    from tests.models import random_images

    return [tuple(pair) for pair in random_images(7, seed=5)]


def engine_of(folder: Path, profile: Profile | None = None) -> Engine:
    manifest = Manifest.load(folder)
    return Engine(folder, manifest, CpuProviderBackend(folder, manifest, "cuda:0", 1, profile))


@pytest.mark.parametrize("profile", [None, Profile((1, 4, 8), (1, 3, 4))], ids=["cuda", "tensorrt"])
def test_results_match_the_cpu(
    fake: FakeCuda, model_folder: Path, exact: Engine, pairs: list[Any], profile: Profile | None
) -> None:
    engine = engine_of(model_folder, profile)
    assert engine.backend.name == ("onnxruntime" if profile is None else "onnxruntime-tensorrt")
    for beams, batch_size in ((1, 7), (3, 3)):
        found = engine.caption(pairs, beams=beams, n_best=beams, batch_size=batch_size)
        expected = exact.caption(pairs, beams=beams, n_best=beams, batch_size=batch_size)
        for one, other in zip(found, expected, strict=True):
            assert [each.text for each in one.n_best] == [each.text for each in other.n_best]
            assert one.score == pytest.approx(other.score, abs=1e-4)
    np.testing.assert_allclose(engine.embed_images(pairs), exact.embed_images(pairs), atol=1e-5)
    np.testing.assert_allclose(engine.score(pairs, ["trees"]), exact.score(pairs, ["trees"]), atol=1e-4)


def test_step_copies_no_cache_to_the_host(fake: FakeCuda, model_folder: Path, pairs: list[Any]) -> None:
    """A step copies the position to the device and one small block to the host."""
    engine = engine_of(model_folder)
    engine.warmup(7, 3)
    spec = engine.manifest.graphs[DECODER]
    axes = {"B": 7, "K": 3, "P": 3}
    cross = {
        name: np.zeros(shape_of(each, {"B": 7}), np.float32) for name, each in spec.inputs.items() if "cross" in name
    }
    settings = {
        "length_penalty": np.array(1, np.float32),
        "early_stopping": np.array(True),
        "max_length": np.array(engine.manifest.max_len),
    }
    loop = engine.backend.loop(DECODER, axes, _first_state(axes), {**cross, **settings})
    copies, copied = fake.copies.copy(), fake.copied.copy()
    for position in range(5):
        loop.step(position)
        assert loop.read("tokens").shape == (7, 3)
        assert 0 < loop.read("unfinished") <= 7
    assert fake.copies - copies == {"up": 5, "down": 5}
    assert (fake.copied - copied)["up"] == 5 * 8
    assert (fake.copied - copied)["down"] <= 5 * (4 * 256)
    # Both directions use the same caches, which are updated in place.
    cache = spec.inputs["self_keys_0"]
    size = 8 * int(cache.shape[1]) * 3 * (engine.manifest.max_len - 1) * int(cache.shape[3]) * 4
    layers = sum(name.startswith("self_") for name in spec.inputs)
    assert max(fake.allocated.values()) < 1.9 * size * layers
    loop.select_rows(np.array([1, 4]), {})
    assert loop.read("done").shape == (2,)
    with pytest.raises(ValueError, match="step 3 does not follow 4"):
        loop.step(3)
    loop.close()


def test_providers_get_their_settings(fake: FakeCuda, model_folder: Path, pairs: list[Any]) -> None:
    engine = engine_of(model_folder)
    engine.caption(pairs[:1])
    ((name, cuda_settings),) = engine.backend.settings  # type: ignore[attr-defined]
    assert name == "CUDAExecutionProvider"
    assert cuda_settings["use_tf32"] == "0"
    assert cuda_settings["user_compute_stream"] == str(engine.backend.stream)
    assert cuda_settings["enable_cuda_graph"] == "1"  # the decoder was opened last
    engine = engine_of(model_folder, Profile((1, 2, 4), (1, 2, 3)))
    engine.embed_texts(["trees"])
    (name, settings), _ = engine.backend.settings  # type: ignore[attr-defined]
    assert name == "TensorrtExecutionProvider"
    assert settings["trt_profile_max_shapes"] == "input_ids:256x12"
    assert settings["trt_fp16_enable"] == settings["trt_cuda_graph_enable"] == "0"
    cache = Path(settings["trt_engine_cache_path"])
    assert cache.is_relative_to(os.environ["RSICRC_CACHE"])
    assert cache.parent.name == engine.manifest.files["text_encoder.onnx"].sha256
    assert settings["trt_timing_cache_path"] == str(cache)
    (cache / "planted.engine").write_bytes(b"not recorded")
    engine_of(model_folder, Profile((1, 2, 4), (1, 2, 3))).embed_texts(["trees"])
    assert [path.name for path in cache.iterdir()] == ["record.json"]
    with pytest.raises(BackendError, match=r"profile of image_encoder takes images from \[1, 2.* lower batch size"):
        engine.embed_images(pairs[:5])


def test_cpu_package_of_onnxruntime_is_refused(fake: FakeCuda, model_folder: Path) -> None:
    with pytest.raises(BackendError, match=r"no CUDAExecutionProvider: `pip uninstall .*rsicrc\[gpu\]"):
        rsicrc.load(model_folder, "cuda", backend="onnxruntime")
    with pytest.raises(BackendError, match="no TensorrtExecutionProvider"):
        rsicrc.load(model_folder, "cuda", backend="onnxruntime-tensorrt")


def test_session_that_fell_back_to_the_cpu_is_refused(
    fake: FakeCuda, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a library of CUDA is missing, onnxruntime-gpu only logs a message and continues on the CPU."""
    import onnxruntime

    class FallenBackSession:
        def __init__(self, *_args: Any, **_options: Any) -> None:
            pass

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", FallenBackSession)
    engine = rsicrc.load(model_folder, "cuda", backend="onnxruntime")
    with pytest.raises(BackendError, match=r"took CPUExecutionProvider instead of CUDAExecutionProvider.*doctor"):
        engine.embed_texts(["trees"])


def test_out_of_memory_has_its_own_error() -> None:
    failure = onnxruntime_cuda._failure
    out_of_memory = failure("a graph failed", RuntimeError("Failed to allocate memory for requested buffer of size 9"))
    assert isinstance(out_of_memory, DeviceMemoryError)
    assert type(failure("a graph failed", RuntimeError("bad shape"))) is BackendError
    assert type(failure("ONNX Runtime cannot open this graph", RuntimeError("bad"))) is ModelFolderError


def test_missing_onnxruntime_is_reported(fake: FakeCuda, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendError, match=r"ONNX Runtime is not installed: `pip install 'rsicrc\[gpu\]'`"):
        rsicrc.load(model_folder, "cuda", backend="onnxruntime")
