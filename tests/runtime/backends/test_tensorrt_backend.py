"""The backend `tensorrt` over a fake GPU: captions equal to those of the CPU, and the copies of a step.

The fake runs queued work as late as CUDA allows, and runs the real graphs on the given addresses.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsicrc
from rsicrc import BackendError, DeviceMemoryError, Engine
from rsicrc.backends import cuda
from rsicrc.backends.tensorrt import backend as tensorrt
from rsicrc.backends.tensorrt.plan import Plan
from rsicrc.backends.tensorrt.plan_list import PlanFile, add_plan
from rsicrc.backends.tensorrt.profiles import Profile
from rsicrc.manifest import DECODER, IMAGE_ENCODER, Manifest
from tests.runtime.fake_cuda import FakeCuda, FakeLogger, FakeTensorRt, onnx_plans

PAIRS = 11


@dataclass(frozen=True)
class Setup:
    """An engine on a fake GPU, and the fakes."""

    engine: Engine
    backend: tensorrt.TensorRtBackend
    cuda: FakeCuda
    tensorrt: FakeTensorRt


MakeSetup = Callable[..., Setup]


@pytest.fixture
def make(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSetup:
    def make(folder: Path = model_folder, **options: Any) -> Setup:
        manifest = Manifest.load(folder)
        fake = FakeCuda()
        monkeypatch.setattr(cuda, "_runtime", lambda: fake)
        monkeypatch.setattr(tensorrt, "make_logger", lambda _library: FakeLogger())
        library = FakeTensorRt(fake, dict(manifest.graphs), **options)
        plans = onnx_plans(folder, manifest)
        backend = tensorrt.TensorRtBackend(folder, manifest, "cuda", 1, library.library, lambda _title: plans)
        return Setup(Engine(folder, manifest, backend), backend, fake, library)

    return make


@pytest.fixture(scope="module")
def exact(model_folder: Path) -> Engine:
    pytest.importorskip("onnxruntime", reason="needs rsicrc[cpu]")
    return rsicrc.load(model_folder, "cpu", backend="onnxruntime", threads=1)


@pytest.fixture(scope="module")
def pairs() -> list[Any]:
    from tests.models import random_images

    return [tuple(pair) for pair in random_images(PAIRS, seed=3)]


def assert_same_captions(found: list[rsicrc.Caption], expected: list[rsicrc.Caption]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert [each.text for each in one.n_best] == [each.text for each in other.n_best]
        assert [each.score for each in one.n_best] == pytest.approx([each.score for each in other.n_best], abs=1e-4)
        assert one.change_score == pytest.approx(other.change_score, abs=1e-5)


@pytest.mark.parametrize("uses_cuda_graphs", [True, False])
def test_results_match_the_cpu(make: MakeSetup, exact: Engine, pairs: list[Any], uses_cuda_graphs: bool) -> None:
    setup = make()
    setup.backend.uses_cuda_graphs = uses_cuda_graphs
    for beams, batch_size, length in ((1, 1, None), (3, 4, None), (4, 32, 9), (3, 4, None)):
        settings: dict[str, Any] = {"beams": beams, "n_best": beams, "batch_size": batch_size, "max_length": length}
        assert_same_captions(setup.engine.caption(pairs, **settings), exact.caption(pairs, **settings))
    assert (setup.cuda.calls["cudaGraphLaunch"] > 0) == uses_cuda_graphs
    np.testing.assert_allclose(setup.engine.embed_images(pairs), exact.embed_images(pairs), atol=1e-5)
    texts = ["the road is built", "trees"]
    np.testing.assert_allclose(setup.engine.embed_texts(texts), exact.embed_texts(texts), atol=1e-5)
    np.testing.assert_allclose(setup.engine.score(pairs, texts), exact.score(pairs, texts), atol=1e-4)
    one, other = (engine.explain(pairs[0], texts[0]) for engine in (setup.engine, exact))
    np.testing.assert_allclose(one.attention, other.attention, atol=1e-5)


def test_search_settings_are_not_captured(make: MakeSetup, exact: Engine, pairs: list[Any]) -> None:
    setup = make()
    for penalty, early, length in ((0.0, True, None), (2.0, False, None), (1.0, True, 4)):
        settings: dict[str, Any] = {
            "beams": 4,
            "n_best": 4,
            "length_penalty": penalty,
            "early_stopping": early,
            "max_length": length,
        }
        assert_same_captions(setup.engine.caption(pairs, **settings), exact.caption(pairs, **settings))
    assert setup.cuda.calls["cudaGraphInstantiate"] == 2


def test_step_is_one_launch_and_one_small_copy(make: MakeSetup, pairs: list[Any]) -> None:
    """After a batch of the same size, a step also allocates nothing."""
    setup = make()
    setup.engine.warmup(8, 3)
    before = {name: dict(vars(setup.cuda)[name]) for name in ("calls", "copies", "copied")}
    runs = setup.tensorrt.runs[DECODER]
    (caption, *_) = setup.engine.caption(pairs[:8], beams=3, batch_size=8)
    steps = caption.timings.decoder_steps
    assert steps > 3

    def count(name: str, counter: str = "calls") -> int:
        return int(vars(setup.cuda)[counter][name] - before[counter].get(name, 0))

    assert count("cudaGraphLaunch") in (steps, steps + 1)  # one is queued ahead
    assert setup.tensorrt.runs[DECODER] - runs <= steps + 1
    assert count("cudaMalloc") == count("cudaMallocHost") == count("cudaGraphInstantiate") == 0
    assert count("cudaEventSynchronize") <= 2 * steps + 3
    # Other copies: scores of the no-change sentences, and the finished sentences when a part of the batch ends.
    assert steps <= count("down", "copies") <= steps + 5
    # Each of the four tensors that the host reads is aligned to 256 bytes.
    assert count("down", "copied") / steps < 4 * 256 * 3
    # Uploads are pixels, sentences and the initial state; the caches would be larger.
    pixels = 8 * np.asarray(pairs[0]).nbytes
    assert count("up", "copied") < pixels + 20_000


def test_padding_rows_of_a_batch_do_not_count(make: MakeSetup, exact: Engine, pairs: list[Any]) -> None:
    setup = make()
    for rows in (3, 5, 6, 8, 1):
        assert_same_captions(
            setup.engine.caption(pairs[:rows], beams=2, batch_size=16), exact.caption(pairs[:rows], beams=2)
        )
    # Padded batch sizes 4, 8 and 1: two CUDA graphs each.
    assert setup.cuda.calls["cudaGraphInstantiate"] == 6


def test_warmup_captures_all_steps(make: MakeSetup, pairs: list[Any]) -> None:
    setup = make()
    setup.engine.warmup(4, 2)
    captured = setup.cuda.calls["cudaGraphInstantiate"]
    assert captured == 2
    setup.engine.caption(pairs[:4], beams=2, batch_size=4)
    setup.engine.caption(pairs[:3], beams=2, batch_size=4)
    assert setup.cuda.calls["cudaGraphInstantiate"] == captured
    with pytest.raises(rsicrc.ArgumentError, match="pairs must be at least 1"):
        setup.engine.warmup(0)


def test_warmup_on_a_cpu_opens_every_graph(exact: Engine, pairs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = rsicrc.load(exact.folder, "cpu", backend="onnxruntime", threads=1)
    opened: list[str] = []
    sessions: Any = engine.backend._sessions  # type: ignore[attr-defined]
    open_graph = sessions._open

    def logged(graph: str) -> Any:
        opened.append(graph)
        return open_graph(graph)

    monkeypatch.setattr(sessions, "_open", logged)
    engine.warmup(2, 2)
    assert sorted(opened) == sorted(engine.manifest.graphs)
    assert_same_captions(engine.caption(pairs[:2], beams=2), exact.caption(pairs[:2], beams=2))
    assert len(opened) == len(engine.manifest.graphs)


def test_next_batch_is_uploaded_during_the_current_batch(
    make: MakeSetup, pairs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = make()
    order: list[str] = []
    take, run, loop = setup.backend.take, setup.backend.run, setup.backend.loop

    def logged(method: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if name != "run" or args[0] == IMAGE_ENCODER:
                order.append(name)
            return method(*args)

        return call

    for name, method in (("take", take), ("run", run), ("loop", loop)):
        monkeypatch.setattr(setup.backend, name, logged(method, name))
    images = np.stack([np.stack(pair) for pair in pairs[:6]])
    captions = setup.engine.caption(images, beams=1, batch_size=2)
    # The upload of the next batch is queued before the work on the current batch, on a stream of its own.
    assert order == ["take", *["take", "run", "loop"] * 2, "run", "loop"]
    assert [each.text for each in captions] == [
        each.text for each in setup.engine.caption(pairs[:6], beams=1, batch_size=6)
    ]
    # Uploads are double-buffered: pinned memory for two batches of 2, and one of 6.
    batch = 2 * images[0].nbytes
    assert sum(size >= batch for size in setup.cuda.pinned.values()) <= 3


def test_reader_error_is_raised_after_earlier_results(make: MakeSetup, pairs: list[Any]) -> None:
    def failing() -> Any:
        yield from pairs[:4]
        raise RuntimeError("the disk was removed")

    setup = make()
    stream = setup.engine.caption_stream(failing(), beams=1, batch_size=2, workers=1)
    assert [next(stream) for _ in range(2)]
    with pytest.raises(RuntimeError, match="the disk was removed"):
        list(stream)


def test_batch_is_halved_once_if_memory_is_short(
    make: MakeSetup, exact: Engine, pairs: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    large = make()
    large.engine.caption(pairs[:8], beams=4, batch_size=8)
    setup = make()
    setup.cuda.capacity = large.cuda.peak - 1
    with caplog.at_level(logging.WARNING, "rsicrc"):
        assert_same_captions(setup.engine.caption(pairs[:8], beams=4, batch_size=8), exact.caption(pairs[:8], beams=4))
        assert_same_captions(setup.engine.caption(pairs[:8], beams=4, batch_size=8), exact.caption(pairs[:8], beams=4))
    (line,) = caplog.messages
    assert line.startswith("batches are halved, to 4 pairs at once: allocating ")
    setup.cuda.capacity //= 4
    with pytest.raises(DeviceMemoryError, match="out of memory: lower the batch size or the number of beams"):
        setup.engine.caption(pairs[:8], beams=4, batch_size=8)
    setup.cuda.capacity = 1 << 33
    assert_same_captions(setup.engine.caption(pairs[:8], beams=4, batch_size=8), exact.caption(pairs[:8], beams=4))


def test_batches_outside_the_profile_are_refused(make: MakeSetup, exact: Engine, pairs: list[Any]) -> None:
    setup = make(max_pairs=6)
    # 6 is not a power of two: batches are padded to 6 only.
    assert_same_captions(setup.engine.caption(pairs[:5], beams=2), exact.caption(pairs[:5], beams=2))
    with pytest.raises(BackendError, match=r"profile of image_encoder takes 1 to 6 on axis B of images, not 7: lower"):
        setup.engine.embed_images(pairs[:7])
    with pytest.raises(BackendError, match=r"profile of decoder takes 1 to 8 on axis K of tokens, not 9"):
        setup.engine.caption(pairs[:5], beams=9)
    assert_same_captions(setup.engine.caption(pairs[:5], beams=2), exact.caption(pairs[:5], beams=2))


def test_plan_that_reads_inputs_from_the_host_is_not_captured(
    make: MakeSetup, exact: Engine, pairs: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    setup = make(host_tensors=frozenset({"position"}))
    with caplog.at_level(logging.WARNING, "rsicrc"):
        assert_same_captions(setup.engine.caption(pairs[:3], beams=2), exact.caption(pairs[:3], beams=2))
    assert "cannot be captured as a CUDA graph" in caplog.text
    assert setup.cuda.calls["cudaGraphLaunch"] == 0


def test_memory_does_not_grow(make: MakeSetup, pairs: list[Any]) -> None:
    setup = make()
    generator = np.random.default_rng(0)
    for beams in (1, 3):
        setup.engine.caption(pairs[:8], beams=beams, batch_size=8)
    sizes = [1, 2, 4, 8]
    for rows in sizes:
        setup.engine.caption(pairs[:rows], beams=3, batch_size=8)
    before = sum(setup.cuda.allocated.values()), sum(setup.cuda.pinned.values())
    for _ in range(12):
        rows = int(generator.choice(sizes))
        setup.engine.caption(pairs[:rows], beams=3, batch_size=rows)
    gc.collect()
    # Results of each size are allocated once.
    assert sum(setup.cuda.allocated.values()) - before[0] <= 4 << 20
    assert sum(setup.cuda.pinned.values()) - before[1] <= 1 << 20
    fake = setup.cuda
    del setup
    gc.collect()
    assert fake.allocated == fake.pinned == {}


def test_two_threads_share_one_backend(make: MakeSetup, exact: Engine, pairs: list[Any]) -> None:
    setup = make()
    found: dict[int, list[rsicrc.Caption]] = {}

    def work(beams: int) -> None:
        found[beams] = setup.engine.caption(pairs, beams=beams, batch_size=4)

    threads = [threading.Thread(target=work, args=(beams,)) for beams in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for beams in (2, 3):
        assert_same_captions(found[beams], exact.caption(pairs, beams=beams, batch_size=4))


def test_plan_that_cannot_be_used_is_reported(make: MakeSetup, model_folder: Path, tmp_path: Path) -> None:
    setup = make()
    copy = shutil.copytree(model_folder, tmp_path / "model")
    setup.backend._runtime = type("Runtime", (), {"deserialize_cuda_engine": lambda _self, _plan: None})()
    with pytest.raises(BackendError, match=r"tensorrt refuses this plan: remove .* it gave no reason"):
        setup.engine.embed_texts(["the road"])
    setup.backend._plans = {"text_encoder": PlanFile(copy / "none.plan", "0")}
    with pytest.raises(BackendError, match=r"none\.plan: cannot be read"):
        setup.engine.embed_texts(["the road"])
    setup.backend._plans = {"text_encoder": PlanFile(copy / "decoder.onnx", "0")}
    with pytest.raises(BackendError, match=r"decoder\.onnx: missing, or changed since it was built"):
        setup.engine.embed_texts(["the road"])


def write_plans(engines: Path, folder: Path, contents: dict[str, bytes]) -> None:
    """Write plans for the fake GPU: ONNX files, by name of the graph."""
    manifest = Manifest.load(folder)
    engines.mkdir()
    for name, content in contents.items():
        digest = manifest.files[manifest.graphs[name].file].sha256
        key = (name, "tensorrt", "10.13.3", cuda.Device(0).title, digest)
        add_plan(engines, Plan(*key, f"{name}.plan", hashlib.sha256(content).hexdigest(), "fp32", Profile()), content)


def test_named_plans_lack_the_graphs_for_single_images(
    make: MakeSetup, per_image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = make()
    monkeypatch.setattr("rsicrc.backends.tensorrt.library.open_library", lambda: setup.tensorrt.library)
    contents = {name: (per_image_folder / graph.file).read_bytes() for name, graph in setup.tensorrt.graphs.items()}
    write_plans(tmp_path / "plans", per_image_folder, contents)
    engine = rsicrc.load(per_image_folder, "cuda", backend="tensorrt", engines=tmp_path / "plans")
    expected = rsicrc.load(per_image_folder, "cpu", threads=1).embed_texts(["the road is built"])
    np.testing.assert_allclose(engine.embed_texts(["the road is built"]), expected, atol=1e-5)


def test_only_plans_that_the_user_names_are_loaded(
    make: MakeSetup, exact: Engine, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plans of other weights are shipped in `engines` of the model folder, with their own hashes."""
    onnx: Any = pytest.importorskip("onnx", reason="needs rsicrc[export]")
    monkeypatch.setenv("RSICRC_CACHE", str(tmp_path / "cache"))
    setup = make()
    monkeypatch.setattr("rsicrc.backends.tensorrt.library.open_library", lambda: setup.tensorrt.library)
    monkeypatch.setattr(
        "rsicrc.backends.tensorrt.plans.build_plan",
        lambda _library, graph, _shapes, **_options: (graph.read_bytes(), b"measured times"),
    )
    folder = shutil.copytree(model_folder, tmp_path / "model")
    contents = {name: (folder / graph.file).read_bytes() for name, graph in setup.tensorrt.graphs.items()}
    model = onnx.load(folder / "text_encoder.onnx")
    for weights in model.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT and len(weights.dims) == 2:
            weights.raw_data = onnx.numpy_helper.to_array(weights)[::-1].tobytes()
    contents["text_encoder"] = model.SerializeToString()
    write_plans(folder / "engines", folder, contents)

    texts, expected = ["the road is built"], exact.embed_texts(["the road is built"])
    built = rsicrc.load(folder, "cuda", backend="tensorrt").embed_texts(texts)
    np.testing.assert_allclose(built, expected, atol=1e-5)
    named = rsicrc.load(folder, engines=folder / "engines")
    assert named.backend.name == "tensorrt"
    assert not np.allclose(named.embed_texts(texts), expected, atol=1e-3)

    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BackendError, match=r"absent: no plan of image_encoder fits\. Build plans"):
        rsicrc.load(folder, engines=tmp_path / "absent")
    assert sorted(tmp_path.rglob("*")) == before


def test_engines_of_another_backend_are_refused(model_folder: Path, tmp_path: Path) -> None:
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(rsicrc.ArgumentError, match="engines is a setting of tensorrt: leave it out"):
            rsicrc.load(model_folder, backend=backend, engines=tmp_path)
    with pytest.raises(BackendError, match="tensorrt is for GPUs"):
        rsicrc.load(model_folder, "cpu", engines=tmp_path)


def test_wrong_inputs_of_a_graph_are_refused(make: MakeSetup) -> None:
    backend = make().backend
    with pytest.raises(BackendError, match=r"takes input_ids as int64 \['B', 'n'\], not float32 \[1, 3\]"):
        backend.run("text_encoder", {"input_ids": np.zeros((1, 3), np.float32)})
    with pytest.raises(rsicrc.ArgumentError, match="needs cross_keys_0, too"):
        backend.run("scorer", {"input_ids": np.zeros((1, 3), np.int64)})


def test_backend_repr_names_device_and_precision(make: MakeSetup) -> None:
    assert repr(make().backend) == "TensorRtBackend(device='cuda:0', precision='fp32', threads=1)"
