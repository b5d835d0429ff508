"""Tests of reading and batching training data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsicrc.datasets.levir_cc import CaptionedPair, read_levir
from rsicrc.errors import DataError, ImageError
from rsicrc.preprocessing import Preprocessing
from rsicrc.text.vocabulary import SPECIAL_WORDS, Vocabulary
from rsicrc_train.data import PairDataset, build_vocabulary, collate, describe_unused, no_change_sentences


def test_vocabulary_has_words_seen_more_than_five_times_by_frequency_then_alphabet() -> None:
    sentences = ["a road"] * 6 + ["b road"] * 6 + ["rare word"] * 5
    assert build_vocabulary(sentences) == (*SPECIAL_WORDS, "road", "a", "b")
    assert build_vocabulary(reversed(sentences)) == build_vocabulary(sentences)


def test_levir_cc_layout_is_read_by_split(scenes: Path) -> None:
    train, val = read_levir(scenes, "train"), read_levir(scenes, "val")
    assert (len(train), len(val)) == (48, 12)
    assert all(pair.before.is_file() and pair.after.is_file() for pair in train + val)
    assert all(len(pair.sentences) == 5 for pair in train)
    assert len(no_change_sentences(train)) == 5
    assert set(no_change_sentences(train)).isdisjoint(s for pair in train if pair.changed for s in pair.sentences)


def test_batch_holds_prepared_pixels_and_padded_sentences(scenes: Path) -> None:
    pairs = read_levir(scenes, "train")[:6]
    tokens = build_vocabulary(sentence for pair in pairs * 6 for sentence in pair.sentences)
    vocabulary, preprocessing = Vocabulary.from_words(tokens, 24), Preprocessing(size=64)
    dataset = PairDataset(pairs, vocabulary, preprocessing, captions=5)
    batch = collate([dataset[i] for i in range(6)])

    assert batch.images.shape == (6, 2, 64, 64, 3)
    with Image.open(pairs[2].after) as image:
        assert np.array_equal(batch.images[2, 1].numpy(), preprocessing.prepare(image))
    decoded = [vocabulary.decode(row.tolist()) for row in batch.ids]
    assert decoded == [sentence for pair in pairs for sentence in pair.sentences]
    assert [label >= 0 for label in batch.labels.tolist()] == [pair.changed for pair in pairs]
    unchanged = [i for i, pair in enumerate(pairs) if not pair.changed]
    assert len(unchanged) > 1
    assert torch.equal(batch.sentences[unchanged[0]], batch.sentences[unchanged[1]])


def test_pair_with_fewer_sentences_repeats_them() -> None:
    pair = CaptionedPair(Path("a.png"), Path("b.png"), ("a road", "b road"), changed=True)
    dataset = PairDataset([pair], Vocabulary.from_words((*SPECIAL_WORDS, "a", "b", "road")), Preprocessing(64), 5)
    assert dataset.sentences == [[0, 1, 0, 1, 0]]


def test_broken_image_is_named(scenes: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(scenes, data)
    pair = read_levir(data, "train")[0]
    pair.before.write_bytes(pair.before.read_bytes()[:200])
    dataset = PairDataset([pair], Vocabulary.from_words((*SPECIAL_WORDS, "a")), Preprocessing(64), 5)
    with pytest.raises(ImageError, match=pair.before.name):
        dataset[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no LevirCCcaptions.json"),
        ("{", "not JSON"),
        ("[]", "LEVIR-CC's layout"),
        (json.dumps({"images": [{"split": "train", "filename": "a.png", "changeflag": 1}]}), "'sentences'"),
        (json.dumps({"images": []}), "no pairs in the split 'train'"),
    ],
)
def test_unusable_data_sets_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "LevirCCcaptions.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_levir(tmp_path, "train")


def test_unused_pairs_and_rare_words_are_described() -> None:
    pairs = [CaptionedPair(Path("a.png"), Path("b.png"), ("a road", f"villa{number} a"), True) for number in range(8)]
    vocabulary = Vocabulary.from_words(build_vocabulary(text for pair in pairs for text in pair.sentences))
    assert vocabulary.words == (*SPECIAL_WORDS, "a", "road")
    (left, rare) = describe_unused(PairDataset(pairs, vocabulary, Preprocessing(64), 1), vocabulary, 3)
    assert left.startswith("each epoch leaves out 2 of the 8 training pairs")
    assert rare.startswith("8 of the 32 words in the training captions are too rare")
    known = Vocabulary.from_words((*vocabulary.words, "villa0"))
    assert describe_unused(PairDataset([pairs[0]] * 8, known, Preprocessing(64), 1), known, 4) == []
