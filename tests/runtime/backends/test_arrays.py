"""Exchange of arrays with other libraries without a copy."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rsicrc
from rsicrc import ArgumentError, Engine
from rsicrc.backends import cuda
from rsicrc.backends.arrays import DeviceArray, is_array, take_array, take_pixels
from rsicrc.backends.dlpack import make_capsule, read_capsule
from rsicrc.backends.tensorrt import backend as tensorrt
from rsicrc.manifest import Manifest
from tests.runtime.fake_cuda import FakeCuda, FakeLogger, FakeTensorRt, onnx_plans


class Owner:
    """An owner that supports weak references."""


class ForeignArray:
    """An array of another library on the fake GPU, which supports one of the two protocols."""

    def __init__(self, fake: FakeCuda, content: NDArray[Any], **changes: Any) -> None:
        self.fake, self.stream, self.changes = fake, cuda.Stream(), changes
        self.memory = cuda.Memory(content.nbytes)
        self.shape, self.dtype = content.shape, content.dtype
        # Written on a stream of its own, without a wait.
        self.stream.upload(self.memory.address, content.ctypes.data, content.nbytes)


class CudaInterfaceArray(ForeignArray):
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        fields = {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.memory.address, False),
            "version": 3,
            "stream": self.stream.handle,
        }
        return {**fields, **self.changes}


class DlpackArray(ForeignArray):
    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, int(self.changes.get("device", 0)))

    def __dlpack__(self, *, stream: int) -> Any:
        cuda.wait(stream, self.stream.handle)
        return make_capsule(self.memory.address, self.shape, self.dtype.name, self.__dlpack_device__(), self)


def results(captions: list[rsicrc.Caption]) -> list[dict[str, Any]]:
    """Return the fields of captions that do not depend on how the images were given."""
    return [
        {name: value for name, value in vars(caption).items() if name not in ("seen", "timings")}
        for caption in captions
    ]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "_runtime", lambda: fake)
    monkeypatch.setattr(tensorrt, "make_logger", lambda _library: FakeLogger())
    return fake


@pytest.fixture
def engine(fake: FakeCuda, model_folder: Path) -> Engine:
    manifest = Manifest.load(model_folder)
    library = FakeTensorRt(fake, dict(manifest.graphs)).library
    plans = onnx_plans(model_folder, manifest)
    backend = tensorrt.TensorRtBackend(model_folder, manifest, "cuda", 1, library, lambda _title: plans)
    return Engine(model_folder, manifest, backend)


@pytest.fixture(scope="module")
def exact(model_folder: Path) -> Engine:
    return rsicrc.load(model_folder, "cpu", backend="onnxruntime", threads=1)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    from tests.models import random_images

    return random_images(3, seed=9)


def test_host_arrays_give_the_same_results_as_pairs(exact: Engine, images: NDArray[np.uint8]) -> None:
    import torch

    pairs = [(before, after) for before, after in images]
    expected, vectors, scores = exact.caption(pairs), exact.embed_images(pairs), exact.score(pairs, ["trees"])
    for batch in (images, torch.from_numpy(images)):
        assert results(exact.caption(batch, batch_size=2)) == results(exact.caption(pairs, batch_size=2))
        assert [each.text for each in exact.caption(batch)] == [each.text for each in expected]
        np.testing.assert_allclose(exact.embed_images(batch), vectors, atol=1e-6)
        np.testing.assert_allclose(exact.score(batch, ["trees"]), scores, atol=1e-5)
        assert len(list(exact.encode_stream(batch, captions=True))) == 3
    given = exact.embed_images(images, on_device=True)
    assert np.from_dlpack(given).tolist() == given.tolist()  # type: ignore[union-attr]


def test_host_arrays_are_not_copied(images: NDArray[np.uint8]) -> None:
    import torch

    for batch in (images, torch.from_numpy(images)):
        taken = take_pixels(batch, images.shape[2], "cpu", None)
        assert isinstance(taken, np.ndarray)
        assert np.shares_memory(taken, images)


@pytest.mark.parametrize("kind", [CudaInterfaceArray, DlpackArray])
def test_device_arrays_give_the_same_results_without_an_upload(
    engine: Engine, exact: Engine, fake: FakeCuda, images: NDArray[np.uint8], kind: Callable[..., ForeignArray]
) -> None:
    batch = kind(fake, images)
    fake.copied.clear()
    captions = engine.caption(batch, beams=2, batch_size=2)  # type: ignore[arg-type]
    assert [each.text for each in captions] == [each.text for each in exact.caption(images, beams=2, batch_size=2)]
    moved = fake.copied["up"] - images.nbytes  # the owner's own upload
    assert moved < images[0].nbytes // 2
    vectors = engine.embed_images(batch, on_device=True)  # type: ignore[call-overload]
    assert isinstance(vectors, DeviceArray)
    np.testing.assert_allclose(engine.backend.numpy(vectors), exact.embed_images(images), atol=1e-5)


def test_embeddings_stay_on_the_device(
    engine: Engine, exact: Engine, images: NDArray[np.uint8], fake: FakeCuda
) -> None:
    vectors = engine.embed_images(images, batch_size=2, on_device=True)
    assert isinstance(vectors, DeviceArray)
    assert (vectors.shape, vectors.dtype, vectors.device) == ((3, 64), "float32", 0)
    fields = vectors.__cuda_array_interface__
    assert (fields["version"], fields["typestr"], fields["stream"]) == (3, "<f4", None)
    assert fields["data"] == (vectors.address, False)
    contents = read_capsule(vectors.__dlpack__(stream=2))
    assert (contents.address, contents.shape, contents.dtype) == (vectors.address, (3, 64), "float32")
    assert (contents.device, vectors.__dlpack_device__(), contents.strides) == ((2, 0), (2, 0), None)
    with pytest.raises(BufferError):
        vectors.__dlpack__(copy=True)
    # The array is complete: the fake runs only work that something waits for, and nothing waits here.
    there = cuda._array_at(vectors.address, vectors.nbytes).view(np.float32).reshape(vectors.shape)
    np.testing.assert_allclose(there, exact.embed_images(images), atol=1e-5)
    assert (len(vectors[1:]), vectors[1:].address) == (2, vectors.address + 64 * 4)
    texts = engine.embed_texts(["trees"], on_device=True)
    np.testing.assert_allclose(engine.backend.numpy(texts), exact.embed_texts(["trees"]), atol=1e-5)
    assert engine.embed_texts([], on_device=True).shape == (0, 64)


def test_receiver_waits_for_incomplete_arrays(engine: Engine, exact: Engine, images: NDArray[np.uint8]) -> None:
    value = engine.backend.run("image_encoder", {"images": images})["image_embedding"]
    assert value.__cuda_array_interface__["stream"] == engine.backend.stream
    there = cuda._array_at(value.address, value.nbytes).view(np.float32).reshape(value.shape)
    other = cuda.Stream()
    value.__dlpack__(stream=-1)
    other.synchronize()
    expected = exact.embed_images(images)
    assert not np.allclose(there, expected)
    value.__dlpack__(stream=other.handle)
    other.synchronize()
    np.testing.assert_allclose(there, expected, atol=1e-5)


def test_unsuitable_arrays_are_refused(
    engine: Engine, exact: Engine, fake: FakeCuda, images: NDArray[np.uint8]
) -> None:
    wrong: list[tuple[Engine, Any, str]] = [
        (exact, images[:, :, :50], r"uint8 \[N, 2, 96, 96, 3\] for this model, not uint8 \[3, 2, 50, 96, 3\]"),
        (exact, images.astype(np.float32), "not float32"),
        (exact, CudaInterfaceArray(fake, images), "the array is on a GPU and the engine works on cpu"),
        (exact, DlpackArray(fake, images), "the array is on cuda:0 and the engine works on cpu"),
        (engine, DlpackArray(fake, images, device=1), "the array is on cuda:1 and the engine works on cuda:0"),
        (engine, CudaInterfaceArray(fake, images, strides=(1, 2, 3, 4, 5)), "make it contiguous"),
        (engine, CudaInterfaceArray(fake, images, typestr="<i8"), "not int64"),
    ]
    for engine_, value, message in wrong:
        assert is_array(value)
        with pytest.raises(ArgumentError, match=message):
            engine_.embed_images(value)


def test_older_interface_waits_for_the_default_stream(fake: FakeCuda, images: NDArray[np.uint8]) -> None:
    ours = cuda.Stream()
    waited: list[str] = []
    fake.queue(1, lambda: waited.append("default"))
    given = [CudaInterfaceArray(fake, images, **changes) for changes in ({"stream": None}, {"version": 2})]
    take_array(given[0], "cuda:0", ours.handle)
    ours.synchronize()
    assert waited == []
    take_array(given[1], "cuda:0", ours.handle)
    ours.synchronize()
    assert waited == ["default"]


def test_capsules_are_read_and_created() -> None:
    import torch

    half = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3).t()
    contents = read_capsule(half.__dlpack__())
    assert (contents.shape, contents.strides, contents.dtype) == ((3, 2), (1, 3), "bfloat16")
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    owner = Owner()
    watched = weakref.ref(owner)
    capsule = make_capsule(numbers.ctypes.data, numbers.shape, "float32", (1, 0), owner)
    del owner
    tensor = torch.utils.dlpack.from_dlpack(capsule)
    assert tensor.tolist() == numbers.tolist()
    with pytest.raises(TypeError, match="not an unused DLPack capsule"):
        read_capsule(capsule)
    del capsule
    gc.collect()
    assert watched() is not None  # the tensor still uses the memory
    del tensor
    gc.collect()
    assert watched() is None
    unused = Owner()
    watched = weakref.ref(unused)
    make_capsule(numbers.ctypes.data, (6,), "bool", (1, 0), unused)
    del unused
    gc.collect()
    assert watched() is None
