from __future__ import annotations

import itertools
import json
import logging
import shutil
import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import rsicrc
from rsicrc import ArgumentError, BackendError, Caption, Engine, ImageError, ModelFolderError, PairFailure
from rsicrc.decoding.options import CaptionOptions, CaptionSettings
from rsicrc.manifest import FileRecord, Manifest
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_train import checkpoint
from rsicrc_train.model import RSICRC
from tests.models import NO_CHANGE, random_images

PAIRS = 7
TEXTS = [
    "the road is built",
    "trees",
    "nothing has changed",
    "two houses appear at the corner with many trees along the road",
]


@pytest.fixture(scope="module")
def engine(model_folder: Path) -> Engine:
    return rsicrc.load(model_folder, threads=1)


@pytest.fixture(scope="module")
def model(checkpoint_file: Path) -> RSICRC:
    return checkpoint.load(checkpoint_file).build_model().requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return random_images(PAIRS, seed=11)


@pytest.fixture(scope="module")
def pairs(images: NDArray[np.uint8]) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    return [(before, after) for before, after in images]


def torch_scores(model: RSICRC, vocabulary: Vocabulary, images: NDArray[np.uint8], text: str) -> NDArray[np.float64]:
    """Return log p(text | pair) of the plain PyTorch model, [pairs]."""
    ids = torch.tensor([vocabulary.encode(text)]).repeat(len(images), 1)
    tokens = model.encode_images(torch.from_numpy(images)).tokens
    log_probs = model.decode(model.encode_text(ids).hidden, tokens)[:, :-1].log_softmax(-1)
    return log_probs.gather(2, ids[:, 1:, None]).squeeze(2).sum(1).double().numpy()


def torch_attention(model: RSICRC, images: NDArray[np.uint8], ids: list[int]) -> NDArray[np.float32]:
    """Return the attention of the plain PyTorch model after each token, rows and columns swapped, [tokens, h, w]."""
    attention = model.decoder.multimodal[-1].get_submodule("cross_attention")
    asked: list[Any] = []
    hook = attention.register_forward_hook(lambda _module, inputs, _output: asked.append(inputs))
    image = model.encode_images(torch.from_numpy(images))
    model.decode(model.encode_text(torch.tensor([ids])).hidden, image.tokens)
    hook.remove()
    weights: NDArray[np.float32] = attention(*asked[0], need_weights=True)[1][0].numpy()
    return weights.reshape(-1, *image.similarity.shape[1:])


def test_captions_are_consistent(engine: Engine, pairs: list[Any]) -> None:
    captions = engine.caption(pairs, beams=4, n_best=3, length_penalty=0.7)
    assert len({caption.text for caption in captions}) > 3
    for caption in captions:
        assert (caption.text, caption.score) == (caption.n_best[0].text, caption.n_best[0].score)
        assert len({hypothesis.text for hypothesis in caption.n_best}) == 3
        scores = [hypothesis.score for hypothesis in caption.n_best]
        assert scores == sorted(scores, reverse=True)
        for hypothesis in caption.n_best:
            length = len(hypothesis.token_log_probs)
            assert len(hypothesis.text.split()) in (length - 1, length)  # without END where the limit cut it
            assert sum(hypothesis.token_log_probs) / length**0.7 == pytest.approx(hypothesis.score, abs=1e-5)
        assert json.loads(json.dumps(caption.to_dict()))["n_best"][2]["caption"] == caption.n_best[2].text


def test_paths_pillow_images_and_arrays_give_equal_results(engine: Engine, pairs: list[Any], tmp_path: Path) -> None:
    files = []
    for number, pair in enumerate(pairs):
        files.append(tuple(tmp_path / f"{number}{date}.png" for date in "ab"))
        for path, image in zip(files[-1], pair, strict=True):
            Image.fromarray(image).save(path)
    expected = engine.caption(pairs)
    assert engine.caption(files) == expected
    assert engine.caption([(str(before), str(after)) for before, after in files]) == expected
    assert engine.caption([(Image.fromarray(before), after) for before, after in pairs]) == expected


@pytest.mark.parametrize("batch_size", [1, 3])
def test_results_do_not_depend_on_the_batch(engine: Engine, pairs: list[Any], batch_size: int) -> None:
    together = engine.caption(pairs, beams=3, n_best=2)
    apart = engine.caption(pairs, beams=3, n_best=2, batch_size=batch_size)
    for one, other in zip(together, apart, strict=True):
        assert [hypothesis.text for hypothesis in one.n_best] == [hypothesis.text for hypothesis in other.n_best]
        np.testing.assert_allclose(one.token_log_probs, other.token_log_probs, atol=1e-5)
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert one.change_score == pytest.approx(other.change_score, abs=1e-5)
    np.testing.assert_allclose(engine.embed_images(pairs), engine.embed_images(pairs, batch_size=batch_size), atol=1e-5)
    scores = engine.score(pairs, TEXTS)
    np.testing.assert_allclose(scores, engine.score(pairs, TEXTS, batch_size=batch_size), atol=1e-4)


def test_scores_equal_pytorch(engine: Engine, model: RSICRC, images: NDArray[np.uint8], pairs: list[Any]) -> None:
    scores = engine.score(pairs, TEXTS)
    assert (scores.dtype, scores.shape) == (np.dtype(np.float64), (PAIRS, len(TEXTS)))
    for column, text in enumerate(TEXTS):
        np.testing.assert_allclose(scores[:, column], torch_scores(model, engine.vocabulary, images, text), atol=1e-3)


def test_scores_of_many_texts_equal_scores_of_few(engine: Engine, pairs: list[Any]) -> None:
    texts = [f"{first} {second}" for first in engine.vocabulary.words[4:11] for second in engine.vocabulary.words[4:12]]
    scores = engine.score(pairs, texts)  # more rows than one run of the graph takes
    assert scores.size > 256
    np.testing.assert_allclose(
        scores[[0, -1]][:, [0, 31, -1]],
        engine.score([pairs[0], pairs[-1]], [texts[0], texts[31], texts[-1]]),
        atol=1e-4,
    )


def test_caption_score_is_its_log_probability(engine: Engine, pairs: list[Any]) -> None:
    captions = engine.caption(pairs)
    finished = [
        index for index, caption in enumerate(captions) if len(caption.text.split()) < len(caption.token_log_probs)
    ]
    assert finished
    for index in finished:
        if captions[index].text:
            (score,) = engine.score([pairs[index]], [captions[index].text])[0]
            assert score == pytest.approx(sum(captions[index].token_log_probs), abs=1e-3)


def test_change_score_is_one_minus_the_no_change_probability(
    engine: Engine, model: RSICRC, images: NDArray[np.uint8], pairs: list[Any]
) -> None:
    unchanged = sum(np.exp(torch_scores(model, engine.vocabulary, images, text)) for text in NO_CHANGE)
    found = [caption.change_score for caption in engine.caption(pairs)]
    np.testing.assert_allclose(np.array(found, np.float64), 1 - np.asarray(unchanged), atol=1e-6)


def test_change_score_counts_a_sentence_once_and_stays_in_range(engine: Engine, pairs: list[Any]) -> None:
    likely = [caption.text for caption in engine.caption(pairs, beams=5, n_best=5)[1].n_best if caption.text]
    once, twice = (
        Engine(engine.folder, replace(engine.manifest, no_change_sentences=tuple(likely * times)), engine.backend)
        for times in (1, 2)
    )
    change = once.caption([pairs[1]])[0].change_score
    assert change is not None
    assert change == twice.caption([pairs[1]])[0].change_score
    assert 0 <= change < 0.999


def test_change_score_is_none_without_no_change_sentences(engine: Engine, pairs: list[Any]) -> None:
    silent = Engine(engine.folder, replace(engine.manifest, no_change_sentences=()), engine.backend)
    assert silent.caption(pairs[:1])[0].change_score is None


def test_embeddings_equal_pytorch(engine: Engine, model: RSICRC, images: NDArray[np.uint8], pairs: list[Any]) -> None:
    expected = torch.nn.functional.normalize(model.encode_images(torch.from_numpy(images)).embedding, dim=-1)
    found = engine.embed_images(pairs)
    assert found.dtype == np.dtype(np.float32)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    texts = engine.embed_texts(TEXTS)
    for row, text in zip(texts, TEXTS, strict=True):
        ids = torch.tensor([engine.vocabulary.encode(text)])
        one = torch.nn.functional.normalize(model.encode_text(ids).embedding, dim=-1)
        np.testing.assert_allclose(row, one[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)


def test_empty_input_gives_empty_output(engine: Engine) -> None:
    assert engine.caption([]) == []
    assert list(engine.caption_stream(iter([]))) == []
    assert engine.embed_images([]).shape == engine.embed_texts([]).shape == (0, 64)
    assert engine.score([], ["the road"]).shape == (0, 1)


def test_score_of_no_texts_is_empty(engine: Engine, pairs: list[Any]) -> None:
    assert engine.score(pairs, []).shape == (PAIRS, 0)


def test_explanation_equals_pytorch(engine: Engine, model: RSICRC, images: NDArray[np.uint8], pairs: list[Any]) -> None:
    found = engine.explain(pairs[2], "The road is BUILT.")
    assert (found.text, found.tokens) == ("the road is built", ("the", "road", "is", "built"))
    assert (found.attention.shape, found.similarity.shape) == ((4, 3, 3), (3, 3))
    np.testing.assert_allclose(found.attention.sum(axis=(1, 2)), 1, atol=1e-5)
    # The PyTorch model swaps rows and columns.
    similarity = model.encode_images(torch.from_numpy(images[2:3])).similarity[0].T
    np.testing.assert_allclose(found.similarity, similarity.numpy(), atol=1e-4)
    expected = torch_attention(model, images[2:3], engine.vocabulary.encode("the road is built"))
    # The map of "the" is at START, the map of "built" at "is".
    np.testing.assert_allclose(found.attention, expected[:4].swapaxes(1, 2), atol=1e-4)


def test_explanation_defaults_to_the_caption(engine: Engine, pairs: list[Any]) -> None:
    caption = engine.caption([pairs[1]])[0]
    assert caption.text
    own, given = engine.explain(pairs[1]), engine.explain(pairs[1], caption.text)
    assert own.text == caption.text
    np.testing.assert_allclose(own.attention, given.attention, atol=1e-5)


def test_broken_pair_is_reported_in_its_place(engine: Engine, pairs: list[Any], tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    expected = engine.caption(pairs)
    mixed = [
        ("none.png", "none.png"),
        *pairs[:3],
        (tmp_path / "empty.png", pairs[0][1]),
        (pairs[0][0], pairs[0][1][:50]),
        *pairs[3:],
    ]
    for batch_size in (1, 2, 4, 32):
        results = list(engine.caption_stream(mixed, batch_size=batch_size))
        failures = [result for result in results if isinstance(result, PairFailure)]
        assert [(failure.index, type(failure.error)) for failure in failures] == [
            (0, ImageError),
            (4, ImageError),
            (5, ImageError),
        ]
        assert [str(failure.error).partition(":")[2][:9] for failure in failures[:2]] == [" no such ", " the file"]
        captions = [result for result in results if isinstance(result, Caption)]
        assert [caption.text for caption in captions] == [caption.text for caption in expected]
        assert [results.index(failure) for failure in failures] == [0, 4, 5]


def test_broken_pair_in_a_list_is_named_by_index(engine: Engine, pairs: list[Any]) -> None:
    broken = [*pairs[:2], ("none.png", "none.png")]
    for call in (engine.caption, engine.embed_images, lambda pairs: engine.score(pairs, ["trees"])):
        with pytest.raises(ImageError, match=r"none\.png") as caught:
            call(broken)
        assert caught.value.__notes__ == ["in pair 2, counted from 0"]


def test_stream_is_lazy_and_bounded(engine: Engine, pairs: list[Any]) -> None:
    taken = itertools.count()
    last = 0

    def endless() -> Iterator[Any]:
        nonlocal last
        for last in taken:
            yield pairs[last % PAIRS]

    threads = threading.active_count()
    stream = engine.caption_stream(endless(), batch_size=2, workers=2)
    assert last == 0  # no pair is read before the first result is requested
    expected = [caption.text for caption in engine.caption(pairs)]
    for number in range(2 * PAIRS):
        caption = next(stream)
        assert isinstance(caption, Caption)
        assert caption.text == expected[number % PAIRS]
        assert last <= number + 2 * 2 + 2
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads


def test_error_of_the_source_is_raised(engine: Engine, pairs: list[Any]) -> None:
    def failing() -> Iterator[Any]:
        yield pairs[0]
        raise RuntimeError("the disk was pulled out")

    threads = threading.active_count()
    with pytest.raises(RuntimeError, match="the disk was pulled out"):
        list(engine.caption_stream(failing(), batch_size=1, workers=1))
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 0}, "beams must be from 1 to 20"),
        ({"beams": 21}, "beams must be from 1 to 20"),
        ({"n_best": 0}, "n_best must be from 1"),
        ({"beams": 2, "n_best": 3}, r"n_best must be from 1 to beams \(2\), not 3"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"max_length": 1}, "max_length must be from 2 to 12"),
        ({"max_length": 13}, "max_length must be from 2 to 12"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused_at_the_call(engine: Engine, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        engine.caption_stream([], **settings)
    assert isinstance(caught.value, ValueError)


def test_default_options_are_in_the_manifest(engine: Engine, pairs: list[Any]) -> None:
    search = engine.manifest.search
    spelled_out = engine.caption(
        pairs,
        beams=search.beams,
        length_penalty=search.length_penalty,
        early_stopping=search.early_stopping,
        max_length=engine.manifest.max_len,
    )
    assert engine.caption(pairs) == spelled_out
    assert engine.caption(pairs, beams=1) != spelled_out


def test_one_beam_is_greedy_for_any_early_stopping(engine: Engine, pairs: list[Any]) -> None:
    assert engine.caption(pairs, beams=1, early_stopping=False) == engine.caption(pairs, beams=1, early_stopping=True)


def test_unknown_words_are_named(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "rsicrc"):
        engine.embed_texts(["the Volcano", "a glacier, the volcano"])
        assert caplog.messages == ["not in the model's vocabulary, read as UNK: volcano, glacier"]
        caplog.clear()
        engine.embed_texts(["the road " * 6])
        assert caplog.messages[0].startswith("cut to the model's 10 words: the road")
        caplog.clear()
        engine.embed_texts(TEXTS[:3])
        assert not caplog.messages


def test_empty_text_and_single_string_are_refused(engine: Engine, pairs: list[Any]) -> None:
    for texts in ([""], ["the road", " . "]):
        with pytest.raises(ArgumentError, match="empty sentence"):
            engine.embed_texts(texts)
    with pytest.raises(ArgumentError, match="empty sentence"):
        engine.explain(pairs[0], "!")
    with pytest.raises(ArgumentError, match="put the one sentence into a list"):
        engine.score(pairs, "the road")


def test_graphs_are_opened_at_their_first_use(
    model_folder: Path, pairs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSICRC_CACHE", str(tmp_path / "cache"))  # a compiled graph would be used without the file
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    engine = rsicrc.load(folder, threads=1)
    for name in ("image_encoder", "decoder", "scorer"):
        (folder / f"{name}.onnx").unlink()
    assert engine.embed_texts(["the road"]).shape == (1, 64)
    with pytest.raises(ModelFolderError, match=r"image_encoder\.onnx: OpenVINO cannot open this graph"):
        engine.caption(pairs)


def test_tokenizer_that_does_not_match_the_manifest_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    manifest = Manifest.load(folder)
    Vocabulary.from_words(Vocabulary.load(folder / "tokenizer.json").words[:-1], 12).save(folder / "tokenizer.json")
    replace(manifest, files={**manifest.files, "tokenizer.json": FileRecord.of(folder / "tokenizer.json")}).write(
        folder
    )
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json: 39 words.*manifest says 40"):
        rsicrc.load(folder)


@pytest.mark.parametrize("pairs", [("a.png", "b.png"), ["a.png", "b.png"], "a.png", (b"1", b"2")])
def test_single_pair_in_place_of_a_list_is_refused(engine: Engine, pairs: Any) -> None:
    with pytest.raises(ArgumentError, match=r"pairs is a list of pairs: pass \[\(before, after\)\]"):
        engine.caption(pairs)
    with pytest.raises(ArgumentError, match="pairs is a list of pairs"):
        engine.embed_images(pairs)


def test_options_equal_single_settings(engine: Engine, pairs: list[Any]) -> None:
    options = rsicrc.CaptionOptions(beams=4, n_best=2, length_penalty=0.5)
    assert engine.caption(pairs, options) == engine.caption(pairs, beams=4, n_best=2, length_penalty=0.5)
    with pytest.raises(ArgumentError, match="beams: give either options, or single settings"):
        engine.caption(pairs, options, beams=2)


def test_caption_settings_are_the_fields_of_caption_options() -> None:
    assert [field.name for field in fields(CaptionOptions)] == list(CaptionSettings.__annotations__)


def test_explanation_takes_caption_options(engine: Engine, pairs: list[Any]) -> None:
    explanation = engine.explain(pairs[0], beams=4, n_best=2, length_penalty=0.5)
    assert explanation.caption == engine.caption(pairs[:1], beams=4, n_best=2, length_penalty=0.5)[0]
    assert engine.explain(pairs[0], explanation.text).caption is None


def test_engine_repr_names_its_settings(engine: Engine) -> None:
    assert repr(engine) == (
        f"Engine(model='{engine.folder}', backend='{engine.backend.name}', device='cpu', precision='fp32', "
        f"threads={engine.backend.threads})"
    )


def test_closed_engine_refuses_work(model_folder: Path, pairs: list[Any]) -> None:
    with rsicrc.load(model_folder, device="cpu") as engine:
        engine.caption(pairs[:1])
    with pytest.raises(BackendError, match="the engine has been closed"):
        engine.caption(pairs[:1])


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [(96, 96, (0, 0, 96, 96)), (384, 96, (144, 0, 240, 96)), (96, 240, (0, 72, 96, 168))],
)
def test_caption_names_the_part_that_was_seen(
    engine: Engine, width: int, height: int, box: tuple[int, int, int, int]
) -> None:
    before = np.zeros((height, width, 3), np.uint8)
    after = before.copy()
    whole = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    left, top, right, bottom = box
    after[top:bottom, left:right] = whole[top:bottom, left:right]
    caption, same = engine.caption([(before, after), (before, whole)], beams=2)
    assert caption.to_dict()["seen"] == list(box)
    # Pixels outside of the box do not change the result.
    assert caption.text == same.text
    assert caption.change_score == pytest.approx(same.change_score, abs=1e-6)
    partial = box != (0, 0, width, height)
    assert [line for line in caption.warnings if "pixels were seen" in line] == (
        [
            f"only columns {left} to {right} and rows {top} to {bottom} of {width} x {height} pixels were seen; "
            "caption tiles (--tile) to cover the whole image"
        ]
        if partial
        else []
    )


def test_change_decision_follows_the_threshold(model_folder: Path, pairs: list[Any], tmp_path: Path) -> None:
    engine = rsicrc.load(model_folder, device="cpu")
    scores = sorted(caption.change_score or 0.0 for caption in engine.caption(pairs))
    threshold = scores[len(scores) // 2]
    folder = shutil.copytree(model_folder, tmp_path / "model", ignore=shutil.ignore_patterns("engines"))
    replace(Manifest.load(folder), change_threshold=threshold).write(folder)
    captions = rsicrc.load(folder, device="cpu").caption(pairs)
    assert [caption.changed for caption in captions] == [
        (caption.change_score or 0.0) >= threshold for caption in captions
    ]
    assert {caption.changed for caption in captions} == {True, False}


@pytest.mark.parametrize(
    ("text", "score", "changed", "says_change", "warning"),
    [
        ("a house is built", 0.9, True, True, None),
        ("there is no difference", 0.1, False, False, None),
        (
            "there is no difference",
            0.655,
            True,
            False,
            "the caption says that nothing has changed, but the pair is changed by its change score 0.655",
        ),
        (
            "a house is built",
            0.2,
            False,
            True,
            "the caption describes a change, but the pair is unchanged by its change score 0.200",
        ),
    ],
)
def test_contradiction_of_caption_and_decision_is_a_warning(
    text: str, score: float, changed: bool, says_change: bool, warning: str | None
) -> None:
    caption = Caption(text, -0.5, (-0.5,), (), score, changed, says_change)
    assert list(caption.warnings) == ([] if warning is None else [warning])
    assert caption.to_dict()["changed"] == changed
    assert caption.to_dict()["warnings"] == list(caption.warnings)


def test_tiles_find_a_change_outside_of_the_center(engine: Engine) -> None:
    random = np.random.default_rng(3)
    before = random.integers(0, 256, (96, 480, 3), dtype=np.uint8)
    after = before.copy()
    after[:, :96] = random.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    tiles = engine.caption_tiles((before, after), overlap=0.0, beams=2)
    assert {tile.to_dict()["seen"][0] for tile in tiles} == {0, 96, 192, 288, 384}
    assert all((tile.seen is not None and not tile.warnings) or tile.changed != tile.says_change for tile in tiles)
    scores = [tile.change_score or 0.0 for tile in tiles]
    assert scores == sorted(scores, reverse=True)
    # Each tile has the caption of its crop.
    for tile in tiles:
        left = tile.to_dict()["seen"][0]
        crop = engine.caption([(before[:, left : left + 96], after[:, left : left + 96])], beams=2)[0]
        assert tile.text == crop.text
        assert tile.change_score == pytest.approx(crop.change_score, abs=1e-6)
    with pytest.raises(ArgumentError, match=r"overlap must be from 0 to 0\.9"):
        engine.caption_tiles((before, after), overlap=1.0)
