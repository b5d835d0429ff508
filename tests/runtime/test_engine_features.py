"""`Engine.encode_images`: images of several pairs are encoded once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsicrc
from rsicrc.manifest import IMAGE_ENCODER, IMAGE_TRUNK, PAIR_FUSION
from rsicrc.results import EncodedPair, PairFailure

BACKENDS = ["onnxruntime", "openvino"]


@pytest.fixture
def dates(pictures: Path) -> list[Path]:
    """Return five images of one size."""
    return [pictures / name for name in ("1a.png", "1b.png", "2a.png", "2b.png", "3a.png")]


@pytest.mark.parametrize("backend", BACKENDS)
def test_features_give_the_results_of_images(
    backend: str, per_image_folder: Path, dates: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="needs rsicrc[openvino]: openvino is not installed")
    engine = rsicrc.load(per_image_folder, "cpu", backend=backend, threads=1)
    pairs = list(itertools.pairwise(dates))
    expected = list(engine.encode_stream(pairs, captions=True))
    runs: list[tuple[str, int]] = []
    run = engine.backend.run

    def counted(graph: str, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        if graph in (IMAGE_ENCODER, IMAGE_TRUNK, PAIR_FUSION):
            runs.append((graph, len(next(iter(feeds.values())))))
        return run(graph, feeds, outputs)

    monkeypatch.setattr(engine.backend, "run", counted)
    features = engine.encode_images(dates)
    found = list(engine.encode_stream(itertools.pairwise(features), captions=True))
    # Two images in a row of the trunk; every image only once.
    assert runs == [(IMAGE_TRUNK, 3), (PAIR_FUSION, 4)]
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, EncodedPair)
        assert isinstance(other, EncodedPair)
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-5)
        assert one.caption is not None
        assert other.caption is not None
        assert (one.caption.text, one.caption.seen) == (other.caption.text, other.caption.seen)
        assert one.caption.change_score == pytest.approx(other.caption.change_score, abs=1e-4)


def test_features_without_the_graphs_give_the_results_of_images(model_folder: Path, dates: list[Path]) -> None:
    engine = rsicrc.load(model_folder, threads=1)
    features = engine.encode_images(dates[:3], batch_size=2)
    assert [each.values.dtype for each in features] == [np.uint8] * 3
    pairs = [(0, 1), (1, 2), (0, 2)]
    found = engine.embed_images([(features[i], features[j]) for i, j in pairs])
    assert np.array_equal(found, engine.embed_images([(dates[i], dates[j]) for i, j in pairs]))


def test_features_are_accepted_by_every_method(per_image_folder: Path, dates: list[Path]) -> None:
    engine = rsicrc.load(per_image_folder, threads=1)
    pair = (dates[0], dates[1])
    before, after = engine.encode_images(pair)
    assert engine.caption([(before, after)])[0].text == engine.caption([pair])[0].text
    found, expected = (engine.score([each], ["a road"]) for each in ((before, after), pair))
    assert np.allclose(found, expected, rtol=1e-4)
    assert engine.explain((before, after)).tokens == engine.explain(pair).tokens
    with pytest.raises(rsicrc.ArgumentError, match="pairs is a list of pairs"):
        engine.caption((before, after))  # type: ignore[arg-type]


def test_wrong_features_are_refused(per_image_folder: Path, model_folder: Path, dates: list[Path]) -> None:
    engine = rsicrc.load(per_image_folder, threads=1)
    before, after = engine.encode_images(dates[:2])
    stranger = replace(after, model="other")
    with pytest.raises(rsicrc.ArgumentError, match="features of an image come from another model"):
        engine.caption([(before, stranger)])
    with pytest.raises(rsicrc.ArgumentError, match="features of an image come from another model"):
        rsicrc.load(model_folder, threads=1).explain((before, after))
    wide = replace(after, view=replace(after.view, size=(9, 9)))
    first, second, third = engine.encode_stream([(before, dates[1]), (before, wide), (before, after)])
    assert isinstance(first, PairFailure)
    assert "not an image and features" in str(first.error)
    assert isinstance(second, PairFailure)
    assert "different sizes" in str(second.error)
    assert isinstance(third, EncodedPair)
    with pytest.raises(rsicrc.ArgumentError, match="cannot be in one call"):
        engine.caption([(before, after), (dates[0], dates[1])])
    with pytest.raises(rsicrc.ImageError, match="no pixels to cut"):
        engine.caption_tiles((before, after))


def test_encode_images_names_the_unusable_image(model_folder: Path, dates: list[Path]) -> None:
    engine = rsicrc.load(model_folder, threads=1)
    with pytest.raises(rsicrc.ImageError, match=r"absent\.png"):
        engine.encode_images([dates[0], "absent.png"])
    with pytest.raises(rsicrc.ArgumentError, match="batch_size"):
        engine.encode_images(dates, batch_size=0)
    assert engine.encode_images([]) == []
