"""Training data: captioned pairs as batches of pixels and word ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rsicrc.images import load_pair
from rsicrc.levir import CaptionedPair
from rsicrc.preprocessing import Preprocessing
from rsicrc.vocabulary import PAD, SPECIAL_WORDS, Vocabulary

RARE = 5  # the published vocabulary keeps words that occur more often than this


class Batch(NamedTuple):
    """B pairs with r sentences each.

    Attributes:
        images: uint8 [B, 2, size, size, 3].
        ids: int64 [B·r, n], the sentences pair by pair, right-padded.
        labels: int64 [B]; all unchanged pairs share the label −1.
        sentences: int64 [B, r]; equal numbers are equal sentences.
    """

    images: Tensor
    ids: Tensor
    labels: Tensor
    sentences: Tensor


class Item(NamedTuple):
    """One pair of a `Batch`, before collation."""

    images: NDArray[np.uint8]
    ids: list[list[int]]
    label: int
    sentences: list[int]


class PairDataset(Dataset[Item]):
    """Captioned pairs, read when they are asked for.

    Attributes:
        labels: one for each pair; all unchanged pairs share −1.
        sentences: the numbers of each pair's sentences.
        texts: the distinct sentences by number.
        ids: their word ids.
    """

    def __init__(
        self, pairs: Sequence[CaptionedPair], vocabulary: Vocabulary, preprocessing: Preprocessing, captions: int
    ) -> None:
        """Prepare `pairs` with the first `captions` sentences of each."""
        self.pairs = pairs
        self.preprocessing = preprocessing
        self.labels = [number if pair.changed else -1 for number, pair in enumerate(pairs)]
        numbers: dict[str, int] = {}
        self.sentences = [
            [numbers.setdefault(text, len(numbers)) for text in _cycle(pair.sentences, captions)] for pair in pairs
        ]
        self.texts = tuple(numbers)
        self.ids = [vocabulary.encode(text) for text in numbers]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Item:
        pair, sentences = self.pairs[index], self.sentences[index]
        images = np.stack([self.preprocessing.prepare(image) for image in load_pair((pair.before, pair.after))])
        return Item(images, [self.ids[s] for s in sentences], self.labels[index], sentences)


def collate(items: Sequence[Item]) -> Batch:
    """Put pairs together; the sentences are padded to the longest of the batch."""
    return Batch(
        images=torch.from_numpy(np.stack([item.images for item in items])),
        ids=pad([row for item in items for row in item.ids]),
        labels=torch.tensor([item.label for item in items]),
        sentences=torch.tensor([item.sentences for item in items]),
    )


def pad(rows: Sequence[Sequence[int]]) -> Tensor:
    """Word ids of several sentences as one int64 tensor, right-padded to the longest."""
    ids = torch.full((len(rows), max(map(len, rows))), PAD)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
    return ids


def build_words(sentences: Iterable[str]) -> tuple[str, ...]:
    """The published vocabulary rule: the special words, then every word that occurs more than five times.

    Words come by falling frequency, equal ones alphabetically, so that the ids do not depend on the data's order.
    """
    counts = Counter(word for sentence in sentences for word in sentence.split())
    kept = sorted((word for word, count in counts.items() if count > RARE), key=lambda word: (-counts[word], word))
    return (*SPECIAL_WORDS, *kept)


def no_change_sentences(pairs: Iterable[CaptionedPair]) -> tuple[str, ...]:
    """The sentences that unchanged pairs carry, each once, the most frequent first."""
    counts = Counter(sentence for pair in pairs if not pair.changed for sentence in pair.sentences)
    return tuple(sorted(counts, key=lambda sentence: (-counts[sentence], sentence)))


def _cycle(sentences: Sequence[str], count: int) -> list[str]:
    """The first `count` sentences; a pair that has fewer repeats its own."""
    return [sentences[i % len(sentences)] for i in range(count)]
