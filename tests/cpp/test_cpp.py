"""The C++ library against the Python engine: the same captions, scores, vectors, words and pixels; and its errors."""

from __future__ import annotations

import ctypes as c
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import rsicrc
from rsicrc.cpu import has_bf16
from rsicrc.manifest import GOLDEN_FILE, Manifest, sha256_file
from rsicrc.preprocessing import Preprocessing
from rsicrc.text.vocabulary import Vocabulary
from tests.cpp import binding
from tests.cpp.binding import CallError, Engine
from tests.cpp.conftest import ROOT, Build, run

pytestmark = pytest.mark.slow
# float32 in another order of summation: what the export allows the graphs themselves.
VECTOR_TOLERANCE = 1e-5
LOG_PROB_TOLERANCE = 1e-3
EXAMPLE_IMAGES = ("changed_before", "changed_after", "unchanged_before", "unchanged_after")
SENTENCES = ("the scene is the same as before", "a road is built, with trees", "nothing - at all - has changed")


@pytest.fixture(scope="session")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose captions and sentences are longer than the key length at which OpenVINO's fused attention erred."""
    from rsicrc_export.model_folder import export_checkpoint
    from rsicrc_export.source import Source
    from tests.models import save_checkpoint, with_options

    folder = tmp_path_factory.mktemp("long")
    # And than the caches' first room, so that they grow.
    export_checkpoint(Source.read(save_checkpoint(folder, 3, with_options(max_len=26))), folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def library(gcc_build: Build) -> c.CDLL:
    return binding.open_library(gcc_build.library)


@pytest.fixture(params=["short", "long"])
def folder(request: pytest.FixtureRequest, model_folder: Path, long_model: Path) -> Path:
    return model_folder if request.param == "short" else long_model


@pytest.fixture
def engine(library: c.CDLL, folder: Path) -> Iterator[Engine]:
    opened = Engine(library, folder, max_batch=3)
    yield opened
    opened.close()


@pytest.fixture
def golden(folder: Path) -> dict[str, NDArray[np.generic]]:
    with np.load(folder / GOLDEN_FILE) as file:
        return dict(file)


def photographs(count: int, width: int, height: int) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    generator = np.random.default_rng(width * height)
    coarse = generator.integers(0, 256, (count, 2, 6, 5, 3), dtype=np.uint8)
    resized = [
        [np.asarray(Image.fromarray(date).resize((width, height), Image.Resampling.BICUBIC)) for date in pair]
        for pair in coarse
    ]
    return [(before, after) for before, after in resized]


def test_golden_answers(engine: Engine, golden: dict[str, NDArray[Any]]) -> None:
    pairs = list(golden["images"])
    np.testing.assert_allclose(engine.embed_pairs(pairs), golden["image_embedding"], atol=VECTOR_TOLERANCE)
    for beams in (1, 3, 5):
        engine.caption(pairs, beams, beams)
        for pair, ranks in enumerate(golden[f"caption_ids_{beams}"]):
            for rank, ids in enumerate(ranks):
                found = engine.sentence(pair, rank)
                expected = [number for number in ids[1:].tolist() if number != 0]
                assert found.token_ids[: found.token_count] == expected
                log_probs = found.token_log_probs[: found.token_count]
                assert found.score == pytest.approx(
                    golden[f"caption_scores_{beams}"][pair, rank], abs=LOG_PROB_TOLERANCE
                )
                summed = golden[f"caption_log_probs_{beams}"][pair, rank]
                assert sum(log_probs) == pytest.approx(summed, abs=LOG_PROB_TOLERANCE)


def test_answers_equal_pythons(engine: Engine, folder: Path) -> None:
    python = rsicrc.load(folder, backend="onnxruntime", threads=1)
    pairs = photographs(5, 150, 110)  # more than a batch, and to be resized
    np.testing.assert_allclose(engine.embed_pairs(pairs), python.embed_images(pairs), atol=VECTOR_TOLERANCE)
    # Sentences of all lengths up to the longest, so that every key length is compared.
    words = ("road " * engine.info.max_length).split()
    texts = [*SENTENCES, *(" ".join(words[:count]) for count in range(1, engine.info.max_length + 1))]
    np.testing.assert_allclose(engine.embed_texts(texts), python.embed_texts(texts), atol=VECTOR_TOLERANCE)
    np.testing.assert_allclose(engine.score(pairs, texts), python.score(pairs, texts), atol=LOG_PROB_TOLERANCE)
    for beams, n_best, settings in ((4, 2, {}), (1, 1, {"max_length": 7}), (3, 3, {"early_stopping": 0})):
        engine.caption(pairs, beams, n_best, **settings)
        captions = python.caption(
            pairs,
            beams=beams,
            n_best=n_best,
            max_length=settings.get("max_length"),
            early_stopping=None if "early_stopping" not in settings else bool(settings["early_stopping"]),
        )
        for index, caption in enumerate(captions):
            assert engine.sentence(index, 0).change_score == pytest.approx(caption.change_score, abs=1e-4)
            for rank, hypothesis in enumerate(caption.n_best):
                found = engine.sentence(index, rank)
                assert found.text.decode() == hypothesis.text
                assert found.score == pytest.approx(hypothesis.score, abs=LOG_PROB_TOLERANCE)
                np.testing.assert_allclose(
                    found.token_log_probs[: found.token_count], hypothesis.token_log_probs, atol=LOG_PROB_TOLERANCE
                )


def test_a_large_batch_goes_through_in_parts(library: c.CDLL, model_folder: Path) -> None:
    python = rsicrc.load(model_folder, backend="onnxruntime", threads=1)
    pairs = photographs(19, 96, 96)
    whole = Engine(library, model_folder)
    try:
        np.testing.assert_allclose(whole.embed_pairs(pairs), python.embed_images(pairs), atol=VECTOR_TOLERANCE)
        whole.caption(pairs, 2, 1)
        texts = [whole.sentence(pair, 0).text.decode() for pair in range(len(pairs))]
        assert texts == [caption.text for caption in python.caption(pairs, beams=2)]
    finally:
        whole.close()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_precisions_are_pythons(library: c.CDLL, variants_folder: Path, precision: str) -> None:
    if precision == "bf16" and not has_bf16():
        with pytest.raises(CallError, match="no instructions for bf16"):
            Engine(library, variants_folder, precision=precision)
        return
    python = rsicrc.load(variants_folder, backend="openvino", precision=precision, threads=1)
    examples = Path(__file__).parents[2] / "examples"
    images = [np.asarray(Image.open(examples / f"{name}.png").convert("RGB")) for name in EXAMPLE_IMAGES]
    pairs = [(images[0], images[1]), (images[2], images[3])]
    engine = Engine(library, variants_folder, precision=precision)
    try:
        assert engine.info.precision.decode() == precision
        cosines = (engine.embed_pairs(pairs) * python.embed_images(pairs)).sum(axis=1)
        assert cosines.min() > 0.9999
        # Not the captions of the unchanged pair: of its sentences, any rounding makes another one the best.
        engine.caption(pairs[:1], 3, 1)
        assert engine.sentence(0, 0).text.decode() == python.caption(pairs[:1], beams=3)[0].text
        texts = ["at the bottom three houses are built in the woods", "the two scenes seem identical"]
        words = [len(text.split()) + 1 for text in texts]
        per_word = np.abs(engine.score(pairs, texts) - python.score(pairs, texts)) / words
        assert per_word.max() < 0.02
    finally:
        engine.close()


def test_precisions_that_are_not_there(library: c.CDLL, model_folder: Path) -> None:
    for precision, words in (("int8", "no graphs in int8, only in fp32"), ("fp16", "openvino has no precision 'fp16'")):
        with pytest.raises(CallError, match=words) as caught:
            Engine(library, model_folder, precision=precision)
        assert caught.value.status == binding.BACKEND


def test_length_penalty_is_used(engine: Engine) -> None:
    pairs = photographs(2, 96, 96)
    engine.caption(pairs, 3, 1, use_length_penalty=1, length_penalty=0.0)
    found = engine.sentence(0, 0)
    assert found.score == pytest.approx(sum(found.token_log_probs[: found.token_count]), abs=1e-4)


def test_rows_may_lie_apart(engine: Engine) -> None:
    ((before, after),) = photographs(1, 140, 120)
    wide = [np.ascontiguousarray(np.pad(date, ((0, 0), (0, 9), (0, 0))))[:, :140] for date in (before, after)]
    np.testing.assert_array_equal(engine.embed_pairs([(wide[0], wide[1])]), engine.embed_pairs([(before, after)]))


SIZES = [(200, 300), (300, 200), (96, 96), (97, 96), (96, 99), (1000, 777), (60, 70), (37, 41), (16, 256), (1021, 97)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pixels_equal_pillows(gcc_build: Build, width: int, height: int) -> None:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2] = np.where(pixels[: height // 2] > 127, 255, 0)  # edges overshoot, and must be clipped
    command = [str(gcc_build.program("probe")), "resize", "96", str(width), str(height)]
    square = subprocess.run(command, input=pixels.tobytes(), capture_output=True, check=True).stdout
    ours = np.frombuffer(square, np.uint8).reshape(96, 96, 3)
    np.testing.assert_array_equal(ours, Preprocessing(96).prepare(Image.fromarray(pixels)))


def test_words_equal_pythons(gcc_build: Build, model_folder: Path) -> None:
    tokenizer = model_folder / "tokenizer.json"
    vocabulary = Vocabulary.load(tokenizer)
    pieces = [*"aB9-'--''. ,;éÉßİǅσΣΑ中\u0301\u093e\u0488½Ⅷ_\u00a0\u2003\u0085²’—\U0001f600\U00010400",
              "road", "T-shaped", "lower-right", " ", " the ", "houses"]  # fmt: skip
    chooser = random.Random(5)
    lines = ["".join(chooser.choices(pieces, k=chooser.randint(1, 24))) for _ in range(3000)]
    command = [str(gcc_build.program("probe")), "words", str(tokenizer)]
    answer = subprocess.run(command, input="\n".join(lines).encode(), capture_output=True, check=True).stdout.decode()
    expected = [vocabulary.encode(line) for line in lines]
    got = [None if line == "-" else [int(number) for number in line.split()] for line in answer.splitlines()]
    assert got == [None if len(ids) == 2 else ids for ids in expected]


def test_nothing_is_allocated_in_a_warm_call(gcc_build: Build, model_folder: Path) -> None:
    run(gcc_build.program("allocations"), model_folder)


def test_example_is_built_by_find_package(gcc_build: Build, model_folder: Path, tmp_path: Path) -> None:
    example = ROOT / "runtime" / "cpp" / "examples"
    assert len((example / "caption.cpp").read_text().splitlines()) <= 80
    run("cmake", "-S", example, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={gcc_build.prefix}",
        "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wconversion -Werror")  # fmt: skip
    run("cmake", "--build", tmp_path / "build")
    ((before, after),) = photographs(1, 150, 110)
    paths = []
    for name, date in (("before", before), ("after", after)):
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(date).save(paths[-1])
    text = rsicrc.load(model_folder, backend="onnxruntime", threads=1).caption([(before, after)])[0].text
    assert run(tmp_path / "build" / "caption", model_folder, *paths).stdout == f"{text}\n"
    (tmp_path / "after.png").write_bytes((tmp_path / "after.png").read_bytes()[:200])
    failed = subprocess.run(
        [str(tmp_path / "build" / "caption"), str(model_folder), *map(str, paths)], capture_output=True, text=True
    )
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "after.png" in failed.stderr


def test_pkg_config_and_c(gcc_build: Build, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None or shutil.which("gcc") is None:
        pytest.skip("no pkg-config or no gcc")
    (tmp_path / "version.c").write_text(
        "#include <rsicrc/rsicrc.h>\n#include <stdio.h>\nint main(void) { puts(rsicrc_version()); return 0; }\n"
    )
    (package,) = gcc_build.prefix.rglob("rsicrc.pc")
    flags = run("pkg-config", "--cflags", "--libs", "rsicrc", env={"PKG_CONFIG_PATH": str(package.parent)}).stdout
    program = tmp_path / "version"
    strict = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror")
    run("gcc", *strict, tmp_path / "version.c", "-o", program, *flags.split(), f"-Wl,-rpath,{package.parent.parent}")
    assert run(program).stdout == "0.1.0\n"


def test_only_the_interface_is_visible(gcc_build: Build) -> None:
    listed = run("nm", "--dynamic", "--defined-only", "--extern-only", gcc_build.library).stdout.splitlines()
    functions = {line.split()[-1] for line in listed if line.split()[-2] == "T"}
    header = (ROOT / "runtime" / "cpp" / "include" / "rsicrc" / "rsicrc.h").read_text()
    assert functions == {name for name in functions if f" {name}(" in header or f"*{name}(" in header}
    assert len(functions) == 12


def test_bad_arguments_are_refused(library: c.CDLL, model_folder: Path) -> None:
    engine = Engine(library, model_folder)
    ((before, after),) = photographs(1, 100, 90)
    pair = binding.pair_array([(before, after)])
    one, floats = c.c_size_t(1), (c.c_float * 4096)()

    def refused(status: int, got: int, *words: str) -> None:
        message = library.rsicrc_last_error().decode()
        assert got == status, message
        assert all(word in message for word in words), message

    refused(binding.INVALID_ARGUMENT, library.rsicrc_caption(None, pair, one, None), "context")
    refused(binding.INVALID_ARGUMENT, library.rsicrc_caption(engine.context, None, one, None), "pairs")
    refused(binding.INVALID_ARGUMENT, library.rsicrc_caption(engine.context, pair, c.c_size_t(0), None), "pairs")
    refused(
        binding.INVALID_ARGUMENT, library.rsicrc_embed_pairs(engine.context, pair, one, floats, c.c_size_t(3)), "room"
    )
    refused(
        binding.INVALID_ARGUMENT, library.rsicrc_embed_pairs(engine.context, pair, one, None, c.c_size_t(4096)), "NULL"
    )
    refused(binding.INVALID_ARGUMENT, library.rsicrc_open(None, None, c.byref(c.c_void_p())), "folder")
    refused(binding.INVALID_ARGUMENT, library.rsicrc_open(b"x", None, None), "model")
    refused(binding.NOT_FOUND, library.rsicrc_open(b"/nowhere", None, c.byref(c.c_void_p())), "/nowhere")
    library.rsicrc_close(None)
    library.rsicrc_context_close(None)
    pair[0].after.bytes -= 1
    refused(
        binding.INVALID_ARGUMENT, library.rsicrc_caption(engine.context, pair, one, None), "pair 0", "after", "bytes"
    )
    pair[0].after.bytes, pair[0].after.height = 1 << 63, 1 << 62
    refused(binding.BAD_IMAGE, library.rsicrc_caption(engine.context, pair, one, None), "pixels")
    with pytest.raises(CallError, match="beams"):
        engine.caption([(before, after)], 1000, 1)
    with pytest.raises(CallError, match="n_best"):
        engine.caption([(before, after)], 2, 3)
    with pytest.raises(CallError, match="finite"):
        engine.caption([(before, after)], 2, 1, use_length_penalty=1, length_penalty=float("nan"))
    with pytest.raises(CallError, match="no sentence"):
        engine.sentence(0, 0)
    engine.caption([(before, after)], 2, 2)
    with pytest.raises(CallError, match="no sentence 2"):
        engine.sentence(0, 2)
    with pytest.raises(CallError, match=r"built without tensorrt|TensorRT"):
        Engine(library, model_folder, backend="tensorrt")
    engine.close()


def caption_one(library: c.CDLL, folder: Path) -> None:
    engine = Engine(library, folder)
    engine.caption(photographs(1, 100, 100), 3, 1)


def edit_manifest(folder: Path, **fields: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Change a file and its hash, as a stranger who means harm would."""
    (folder / name).write_bytes(content)
    fields = json.loads((folder / "manifest.json").read_text())
    fields["files"][name] = {"sha256": sha256_file(folder / name), "bytes": len(content)}
    edit_manifest(folder, files=fields["files"])


def test_damaged_folders_are_refused(library: c.CDLL, model_folder: Path, tmp_path: Path) -> None:
    def refused(change: object, *words: str, status: int = binding.BAD_MODEL) -> None:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        shutil.copytree(model_folder, folder)
        change(folder)  # type: ignore[operator]
        with pytest.raises(CallError) as caught:
            caption_one(library, folder)
        assert caught.value.status == status
        assert all(word in str(caught.value) for word in words), caught.value

    refused(lambda folder: (folder / "manifest.json").unlink(), "manifest.json", "missing")
    refused(lambda folder: (folder / "manifest.json").write_text("{"), "not valid JSON")
    refused(lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "not valid JSON")
    refused(lambda folder: (folder / "manifest.json").write_text("{}"), "format")
    refused(lambda folder: edit_manifest(folder, format_version=2), "newer rsicrc")
    refused(lambda folder: edit_manifest(folder, max_len="long"), "max_len")
    refused(lambda folder: edit_manifest(folder, graphs={}), "image_encoder")
    refused(lambda folder: edit_manifest(folder, files={"../x": {"sha256": "", "bytes": 0}}), "plain file name")
    refused(lambda folder: (folder / "decoder.onnx").unlink(), "decoder.onnx", "missing")
    decoder = (model_folder / "decoder.onnx").read_bytes()
    changed = decoder[:1000] + bytes([decoder[1000] ^ 1]) + decoder[1001:]
    refused(lambda folder: (folder / "decoder.onnx").write_bytes(decoder[:-1]), "decoder.onnx", "bytes")
    refused(lambda folder: (folder / "decoder.onnx").write_bytes(changed), "decoder.onnx", "SHA-256")
    refused(lambda folder: replace_file(folder, "decoder.onnx", decoder[:1000]), "decoder.onnx", status=binding.BACKEND)
    refused(lambda folder: replace_file(folder, "tokenizer.json", b"{}"), "tokenizer.json")
    tokenizer = (model_folder / "tokenizer.json").read_text()
    refused(
        lambda folder: replace_file(folder, "tokenizer.json", tokenizer.replace("Lowercase", "NFC").encode()),
        "does not know",
    )
    preprocessing = {**Manifest.load(model_folder).preprocessing.to_dict(), "size": 64}
    refused(lambda folder: edit_manifest(folder, preprocessing=preprocessing), "images")


def test_several_contexts_give_what_one_gives(gcc_build: Build, model_folder: Path) -> None:
    run(gcc_build.program("stress"), model_folder)


def test_a_signal_after_closing_finds_its_handler(gcc_build: Build, model_folder: Path) -> None:
    """Where handlers run is changed by the first model, and must not be changed back by whichever is closed last."""
    code = """
import os, signal, sys
from pathlib import Path
from tests.cpp.binding import Engine, open_library
signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
library = open_library(Path(sys.argv[1]))
engines = [Engine(library, Path(sys.argv[2])) for _ in range(2)]
for engine in engines:
    engine.embed_texts(["the road"])
for engine in engines:
    engine.close()
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = run(sys.executable, "-c", code, gcc_build.library, model_folder, env={"PYTHONPATH": str(ROOT)})
    assert done.stdout == "handled\n"
