"""Results of the C++ library compared with the Python engine: captions, scores, embeddings, tokens and pixels."""

from __future__ import annotations

import ctypes as c
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import rsicrc
from rsicrc.cpu import has_bf16
from rsicrc.manifest import GOLDEN_FILE
from rsicrc.preprocessing import Preprocessing
from rsicrc.text.vocabulary import Vocabulary
from rsicrc.tuning import CACHE_STEPS
from tests.cpp import binding
from tests.cpp.binding import CallError, Engine
from tests.cpp.conftest import Build, run, smooth_pairs

pytestmark = pytest.mark.slow
# The tolerances of the export for the graphs: float32 sums depend on the order of summation.
VECTOR_TOLERANCE = 1e-5
LOG_PROB_TOLERANCE = 1e-3
EXAMPLE_IMAGES = ("changed_before", "changed_after", "unchanged_before", "unchanged_after")
SENTENCES = ("the scene is the same as before", "a road is built, with trees", "nothing - at all - has changed")


@pytest.fixture(scope="session")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose texts are longer than CACHE_STEPS, so that the caches of the beam search grow."""
    from rsicrc_export.model_folder import export_checkpoint
    from rsicrc_export.source import Source
    from tests.models import save_checkpoint, with_options

    folder = tmp_path_factory.mktemp("long")
    export_checkpoint(Source.read(save_checkpoint(folder, 3, with_options(max_len=26))), folder / "model")
    return folder / "model"


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


def texts_of_every_length(max_length: int) -> list[str]:
    """Return texts of one to `max_length` tokens, the last two of which must be cut."""
    return [" ".join(["road"] * count) for count in range(1, max_length + 1)]


def test_results_match_golden_file(engine: Engine, golden: dict[str, NDArray[Any]]) -> None:
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


def test_results_match_onnx_runtime(engine: Engine, folder: Path) -> None:
    python = rsicrc.load(folder, backend="onnxruntime", threads=1)
    pairs = smooth_pairs(5, 150, 110)  # more than a batch, and of another size than the model's images
    np.testing.assert_allclose(engine.embed_pairs(pairs), python.embed_images(pairs), atol=VECTOR_TOLERANCE)
    texts = [*SENTENCES, *texts_of_every_length(engine.info.max_length)]
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


def test_openvino_matches_onnx_runtime_at_every_length(library: c.CDLL, long_model: Path) -> None:
    """Compare every text length and several batch sizes and beams, in changing order, as key lengths vary in use.

    OpenVINO fuses the attention of the text graphs. A fused kernel that fails for some key length fails here.
    """
    python = rsicrc.load(long_model, backend="onnxruntime", threads=1)
    engine = Engine(library, long_model)
    chooser = random.Random(3)
    longest = 0
    try:
        for count in (1, 4, 9):
            pairs = smooth_pairs(count, 96, 96)
            texts = texts_of_every_length(engine.info.max_length)
            chooser.shuffle(texts)
            expected = python.score(pairs, texts)
            for index, text in enumerate(texts):  # one text in each run, so that each run has another key length
                np.testing.assert_allclose(
                    engine.score(pairs, [text]), expected[:, index : index + 1], atol=LOG_PROB_TOLERANCE
                )
            vectors = python.embed_texts(texts)
            for index, text in enumerate(texts):
                np.testing.assert_allclose(
                    engine.embed_texts([text]), vectors[index : index + 1], atol=VECTOR_TOLERANCE
                )
            for beams in (1, 2, 5, 8):
                engine.caption(pairs, beams, beams, early_stopping=0)
                captions = python.caption(pairs, beams=beams, n_best=beams, early_stopping=False)
                for index, caption in enumerate(captions):
                    for rank, hypothesis in enumerate(caption.n_best):
                        found = engine.sentence(index, rank)
                        longest = max(longest, found.token_count)
                        assert found.text.decode() == hypothesis.text
                        np.testing.assert_allclose(
                            found.token_log_probs[: found.token_count],
                            hypothesis.token_log_probs,
                            atol=LOG_PROB_TOLERANCE,
                        )
    finally:
        engine.close()
    assert longest > CACHE_STEPS, "no caption is long enough for the caches to grow"


def test_large_batch_is_split_for_the_image_encoder(library: c.CDLL, model_folder: Path) -> None:
    python = rsicrc.load(model_folder, backend="onnxruntime", threads=1)
    pairs = smooth_pairs(19, 96, 96)
    whole = Engine(library, model_folder)
    try:
        np.testing.assert_allclose(whole.embed_pairs(pairs), python.embed_images(pairs), atol=VECTOR_TOLERANCE)
        whole.caption(pairs, 2, 1)
        texts = [whole.sentence(pair, 0).text.decode() for pair in range(len(pairs))]
        assert texts == [caption.text for caption in python.caption(pairs, beams=2)]
    finally:
        whole.close()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_precisions_match_python(library: c.CDLL, variants_folder: Path, precision: str) -> None:
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
        # The best sentences of the unchanged pair differ too little: rounding can change their order.
        engine.caption(pairs[:1], 3, 1)
        assert engine.sentence(0, 0).text.decode() == python.caption(pairs[:1], beams=3)[0].text
        texts = ["at the bottom three houses are built in the woods", "the two scenes seem identical"]
        tokens = [len(text.split()) + 1 for text in texts]
        per_token = np.abs(engine.score(pairs, texts) - python.score(pairs, texts)) / tokens
        assert per_token.max() < 0.02
    finally:
        engine.close()


def test_missing_precisions_are_refused(library: c.CDLL, model_folder: Path) -> None:
    for precision, message in (
        ("int8", "no graphs in int8, only in fp32"),
        ("fp16", "openvino has no precision 'fp16'"),
    ):
        with pytest.raises(CallError, match=message) as caught:
            Engine(library, model_folder, precision=precision)
        assert caught.value.status == binding.BACKEND


def test_length_penalty_changes_the_score(engine: Engine) -> None:
    pairs = smooth_pairs(2, 96, 96)
    engine.caption(pairs, 3, 1, use_length_penalty=1, length_penalty=0.0)
    found = engine.sentence(0, 0)
    assert found.score == pytest.approx(sum(found.token_log_probs[: found.token_count]), abs=1e-4)


def test_stride_may_exceed_the_row(engine: Engine) -> None:
    ((before, after),) = smooth_pairs(1, 140, 120)
    wide = [np.ascontiguousarray(np.pad(image, ((0, 0), (0, 9), (0, 0))))[:, :140] for image in (before, after)]
    np.testing.assert_array_equal(engine.embed_pairs([(wide[0], wide[1])]), engine.embed_pairs([(before, after)]))


SIZES = [(200, 300), (300, 200), (96, 96), (97, 96), (96, 99), (1000, 777), (60, 70), (37, 41), (16, 256), (1021, 97)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pixels_match_pillow(gcc_build: Build, width: int, height: int) -> None:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[: height // 2] = np.where(pixels[: height // 2] > 127, 255, 0)  # bicubic edges overshoot and must be clipped
    command = [str(gcc_build.program("probe")), "resize", "96", str(width), str(height)]
    square = subprocess.run(command, input=pixels.tobytes(), capture_output=True, check=True).stdout
    prepared = np.frombuffer(square, np.uint8).reshape(96, 96, 3)
    np.testing.assert_array_equal(prepared, Preprocessing(96).prepare(Image.fromarray(pixels)))


def test_tokens_match_python(gcc_build: Build, model_folder: Path) -> None:
    tokenizer = model_folder / "tokenizer.json"
    vocabulary = Vocabulary.load(tokenizer)
    pieces = [*"aB9-'--''. ,;éÉßİǅσΣΑ中\u0301\u093e\u0488½Ⅷ_\u00a0\u2003\u0085²’—\U0001f600\U00010400",
              "road", "T-shaped", "lower-right", " ", " the ", "houses"]  # fmt: skip
    chooser = random.Random(5)
    lines = ["".join(chooser.choices(pieces, k=chooser.randint(1, 24))) for _ in range(3000)]
    command = [str(gcc_build.program("probe")), "encode", str(tokenizer)]
    answer = subprocess.run(command, input="\n".join(lines).encode(), capture_output=True, check=True).stdout.decode()
    expected = [vocabulary.encode(line) for line in lines]
    got = [None if line == "-" else [int(number) for number in line.split()] for line in answer.splitlines()]
    assert got == [None if len(ids) == 2 else ids for ids in expected]


def test_repeated_call_allocates_nothing(gcc_build: Build, model_folder: Path) -> None:
    run(gcc_build.program("allocations"), model_folder)


def test_contexts_give_equal_results_in_parallel(gcc_build: Build, model_folder: Path) -> None:
    run(gcc_build.program("stress"), model_folder)
