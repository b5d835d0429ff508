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

from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.errors import ImageError
from rsicrc.inputs.prefetch import prepare_pair
from rsicrc.preprocessing import Preprocessing
from rsicrc.text.encoding import pad
from rsicrc.text.vocabulary import SPECIAL_WORDS, Vocabulary
from rsicrc_train.augment import TURNS, Augmentation, Turn, jitter, turn_images, turn_sentence

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


class BrokenPairError(ImageError):
    """An image of a training pair cannot be used.

    It says so in one line, also out of a worker process, where PyTorch hands the whole traceback on as the message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().splitlines()[-1].rpartition(f"{type(self).__name__}: ")[2])


class PairDataset(Dataset[Item]):
    """Captioned pairs, read when they are asked for.

    Attributes:
        labels: one for each pair; all unchanged pairs share −1.
        sentences: the numbers of each pair's sentences, as the data set has them.
        texts: the distinct sentences by number, those that augmentation turns among them.
        ids: their word ids.
        epoch: the pass over the data, which augmentation depends on. Set it before the workers start.
    """

    def __init__(
        self,
        pairs: Sequence[CaptionedPair],
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
        captions: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Prepare `pairs` with the first `captions` sentences of each."""
        self.pairs = pairs
        self.preprocessing = preprocessing
        self.augmentation = augmentation or Augmentation()
        self.epoch = 0
        self.labels = [number if pair.changed else -1 for number, pair in enumerate(pairs)]
        numbers: dict[str, int] = {}
        self.sentences = [
            [numbers.setdefault(text, len(numbers)) for text in _cycle(pair.sentences, captions)] for pair in pairs
        ]
        self._turned = _number_turned(numbers, vocabulary) if self.augmentation.turns else {}
        self.texts = tuple(numbers)
        self.ids = [vocabulary.encode(text) for text in numbers]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Item:
        pair, sentences = self.pairs[index], self.sentences[index]
        try:
            images = prepare_pair((pair.before, pair.after), self.preprocessing)
        except ImageError as error:
            raise BrokenPairError(f"{error}. `rsicrc-train check-data` lists all such images") from error
        images, sentences = self._augmented(images, sentences, index)
        return Item(images, [self.ids[s] for s in sentences], self.labels[index], sentences)

    def _augmented(
        self, images: NDArray[np.uint8], sentences: list[int], index: int
    ) -> tuple[NDArray[np.uint8], list[int]]:
        options = self.augmentation
        rng = options.draws(self.epoch, index)
        if options.turns:
            ways = [turn for turn in TURNS if all((number, turn) in self._turned for number in sentences)]
            turn = ways[rng.integers(len(ways))]
            images = turn_images(images, turn)
            sentences = [self._turned[number, turn] for number in sentences]
        if options.swap and self.labels[index] < 0 and rng.random() < 0.5:
            images = images[::-1]
        if options.jitter:
            images = np.stack([jitter(image, options.jitter, rng) for image in images])
        return np.ascontiguousarray(images), sentences


def collate(items: Sequence[Item]) -> Batch:
    """Put pairs together; the sentences are padded to the longest of the batch."""
    return Batch(
        images=torch.from_numpy(np.stack([item.images for item in items])),
        ids=torch.from_numpy(pad([row for item in items for row in item.ids])),
        labels=torch.tensor([item.label for item in items]),
        sentences=torch.tensor([item.sentences for item in items]),
    )


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


def _number_turned(numbers: dict[str, int], vocabulary: Vocabulary) -> dict[tuple[int, Turn], int]:
    """Give every sentence that turns with its pictures a number in `numbers`; by the sentence's number and the turn.

    A turn is absent where the sentence cannot follow, or only in words that the model does not know.
    """
    turned = {}
    for text, number in list(numbers.items()):
        unknown = len(vocabulary.unknown_words(text))
        for turn in TURNS:
            other = turn_sentence(text, turn)
            if other is not None and len(vocabulary.unknown_words(other)) <= unknown:
                turned[number, turn] = numbers.setdefault(other, len(numbers))
    return turned


def _cycle(sentences: Sequence[str], count: int) -> list[str]:
    """The first `count` sentences; a pair that has fewer repeats its own."""
    return [sentences[i % len(sentences)] for i in range(count)]
