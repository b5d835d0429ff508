"""Training data: captioned pairs as batches of pixels and token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.errors import DataError, ImageError
from rsicrc.inputs.prefetch import prepare_pair
from rsicrc.preprocessing import Preprocessing
from rsicrc.text.encoding import pad
from rsicrc.text.vocabulary import SPECIAL_WORDS, Vocabulary
from rsicrc_train.augment import TURNS, Augmentation, Turn, jitter, turn_images, turn_sentence

_RARE = 5  # tokens of the published vocabulary occur more often than this
_MANY_UNKNOWN = 0.2  # share of the words of all training captions


class TrainingBatch(NamedTuple):
    """B pairs with r sentences each.

    Attributes:
        images: Pixels of the before and after images, uint8 [B, 2, size, size, 3].
        ids: Token ids of the sentences, pair by pair and right-padded, int64 [B·r, n].
        labels: Labels of the pairs, int64 [B]; all unchanged pairs share the label −1.
        sentences: Numbers of the sentences, int64 [B, r]; equal numbers mean equal sentences.
    """

    images: Tensor
    ids: Tensor
    labels: Tensor
    sentences: Tensor


class Item(NamedTuple):
    """One pair of a `TrainingBatch`, before collation."""

    images: NDArray[np.uint8]
    ids: list[list[int]]
    label: int
    sentences: list[int]


class BrokenPairError(ImageError):
    """An image of a training pair cannot be read.

    The message is one line, also if the error comes from a worker process: PyTorch then raises the error again with the
    whole traceback as its message, of which only the last line is used.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().splitlines()[-1].rpartition(f"{type(self).__name__}: ")[2])


class PairDataset(Dataset[Item]):
    """Captioned pairs whose images are read on access.

    Attributes:
        labels: Label of each pair; all unchanged pairs share −1.
        sentences: Numbers of each pair's sentences, in the order of the data set.
        texts: Distinct sentences by number, including the sentences that augmentation produces.
        ids: Token ids of the sentences in `texts`.
        epoch: Pass over the data, on which augmentation depends. Set it before the worker processes start.
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
        images, sentences = self._augment(images, sentences, index)
        return Item(images, [self.ids[s] for s in sentences], self.labels[index], sentences)

    def _augment(
        self, images: NDArray[np.uint8], sentences: list[int], index: int
    ) -> tuple[NDArray[np.uint8], list[int]]:
        options = self.augmentation
        rng = options.generator(self.epoch, index)
        if options.turns:
            turns = [turn for turn in TURNS if all((number, turn) in self._turned for number in sentences)]
            turn = turns[rng.integers(len(turns))]
            images = turn_images(images, turn)
            sentences = [self._turned[number, turn] for number in sentences]
        if options.swap and self.labels[index] < 0 and rng.random() < 0.5:
            images = images[::-1]
        if options.jitter:
            images = np.stack([jitter(image, options.jitter, rng) for image in images])
        return np.ascontiguousarray(images), sentences


def collate(items: Sequence[Item]) -> TrainingBatch:
    """Stack pairs into a batch; sentences are padded to the longest sentence of the batch."""
    return TrainingBatch(
        images=torch.from_numpy(np.stack([item.images for item in items])),
        ids=torch.from_numpy(pad([row for item in items for row in item.ids])),
        labels=torch.tensor([item.label for item in items]),
        sentences=torch.tensor([item.sentences for item in items]),
    )


def build_vocabulary(sentences: Iterable[str]) -> tuple[str, ...]:
    """Return the tokens of a vocabulary by id, by the published rule: words that occur more than five times.

    The special tokens come first, then the words by falling frequency. Words of equal frequency are sorted
    alphabetically, so that the ids do not depend on the order of the sentences.
    """
    counts = Counter(word for sentence in sentences for word in sentence.split())
    frequent = (word for word, count in counts.items() if count > _RARE)
    return (*SPECIAL_WORDS, *sorted(frequent, key=lambda word: (-counts[word], word)))


def training_vocabulary(pairs: Sequence[CaptionedPair], data: Path) -> tuple[str, ...]:
    """Return the vocabulary of a training split, as from `build_vocabulary`.

    Args:
        pairs: Pairs of the training split.
        data: Path of the data set, for messages.

    Raises:
        DataError: No word is frequent enough, so a model could not say anything.
    """
    sentences = [sentence for pair in pairs for sentence in pair.sentences]
    vocabulary = build_vocabulary(sentences)
    if len(vocabulary) == len(SPECIAL_WORDS):
        raise DataError(
            f"{data}: no word occurs more than {_RARE} times in the {len(sentences)} captions of the training split, "
            "so the vocabulary would be empty: add pairs with captions"
        )
    return vocabulary


def describe_unused(pairs: Sequence[CaptionedPair], vocabulary: Vocabulary, step: int) -> list[str]:
    """Return warnings about training data that have no effect: pairs that fill no step, and rare words if many.

    Args:
        pairs: Pairs of the training split.
        vocabulary: Vocabulary of the model.
        step: Number of pairs in an optimizer step.
    """
    warnings = []
    if left := len(pairs) % step:
        warnings.append(
            f"each epoch leaves out {left} of the {len(pairs)} training pairs, other pairs each time, because they do "
            f"not fill a step of {step} pairs"
        )
    known = set(vocabulary.words)
    words = [word for pair in pairs for sentence in pair.sentences for word in sentence.split()]
    unknown = sum(word not in known for word in words)
    if unknown > _MANY_UNKNOWN * len(words):
        warnings.append(
            f"{unknown} of the {len(words)} words in the training captions are too rare for the vocabulary and become "
            "UNK: more captions would help"
        )
    return warnings


def no_change_sentences(pairs: Iterable[CaptionedPair]) -> tuple[str, ...]:
    """Return the distinct sentences of unchanged pairs, the most frequent first."""
    counts = Counter(sentence for pair in pairs if not pair.changed for sentence in pair.sentences)
    return tuple(sorted(counts, key=lambda sentence: (-counts[sentence], sentence)))


def _number_turned(numbers: dict[str, int], vocabulary: Vocabulary) -> dict[tuple[int, Turn], int]:
    """Return the number of the turned sentence by sentence number and turn, and add new sentences to `numbers`.

    A turn is left out if the sentence cannot be turned, or only with words that are not in the vocabulary.
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
    """Return the first `count` sentences; fewer sentences are repeated."""
    return [sentences[i % len(sentences)] for i in range(count)]
