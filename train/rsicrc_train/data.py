"""Training data: captioned pairs as batches of pixels and token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
        images: Pixels of the before and after images, uint8 [B, 2, size, size, 3], or cached features of the trunk,
            float16 [B, 2, C, h, w].
        ids: Token ids of the sentences, pair by pair and right-padded, int64 [B·r, n].
        labels: Labels of the pairs, int64 [B]; all unchanged pairs share the label −1.
        sentences: Numbers of the sentences, int64 [B, r]; equal numbers mean equal sentences.
    """

    images: Tensor
    ids: Tensor
    labels: Tensor
    sentences: Tensor


class Item(NamedTuple):
    """One pair of a `TrainingBatch` with its sentences, before collation."""

    images: NDArray[Any]
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
    """Items of captioned pairs, whose images are read on access.

    An item is a pair with its first sentences, or a pair with one of its sentences.

    Attributes:
        pair_of: Number of the pair of each item; items of a pair follow each other.
        labels: Label of each item, which is that of its pair; all unchanged pairs share −1.
        sentences: Numbers of each item's sentences, in the order of the data set.
        texts: Distinct sentences by number, including the sentences that augmentation produces.
        ids: Token ids of the sentences in `texts`.
        features: Features of a frozen trunk, float16 [pairs, 2, C, h, w], that take the place of the pixels, or None.
        epoch: Pass over the data, on which augmentation depends. Set it before the worker processes start.
    """

    def __init__(
        self,
        pairs: Sequence[CaptionedPair],
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
        captions: int,
        augmentation: Augmentation | None = None,
        item: Literal["pair", "caption"] = "pair",
    ) -> None:
        """Prepare `pairs` with the first `captions` sentences of each, or with one item for each sentence."""
        self.pairs = pairs
        self.preprocessing = preprocessing
        self.augmentation = augmentation or Augmentation()
        self.features: NDArray[np.float16] | None = None
        self.epoch = 0
        texts = [
            (number, sentences)
            for number, pair in enumerate(pairs)
            for sentences in (
                [_cycle(pair.sentences, captions)] if item == "pair" else [[text] for text in pair.sentences]
            )
        ]
        self.pair_of = [number for number, _ in texts]
        self.labels = [number if pairs[number].changed else -1 for number in self.pair_of]
        numbers: dict[str, int] = {}
        self.sentences = [[numbers.setdefault(text, len(numbers)) for text in sentences] for _, sentences in texts]
        self._turned = _number_turned(numbers, vocabulary) if self.augmentation.turns else {}
        self.texts = tuple(numbers)
        self.ids = [vocabulary.encode(text) for text in numbers]

    def __len__(self) -> int:
        return len(self.pair_of)

    def first_items(self) -> list[int]:
        """Return the first item of each pair."""
        return [item for item, pair in enumerate(self.pair_of) if item == 0 or self.pair_of[item - 1] != pair]

    def __getitem__(self, index: int) -> Item:
        images, sentences = self._augment(self._images(self.pair_of[index]), self.sentences[index], index)
        return Item(images, [self.ids[s] for s in sentences], self.labels[index], sentences)

    def _images(self, number: int) -> NDArray[Any]:
        """Return the pixels of a pair, or its features."""
        if self.features is not None:
            features: NDArray[np.float16] = self.features[number]
            return features
        pair = self.pairs[number]
        try:
            return prepare_pair((pair.before, pair.after), self.preprocessing)
        except ImageError as error:
            raise BrokenPairError(f"{error}. `rsicrc-train check-data` lists all such images") from error

    def _augment(self, images: NDArray[Any], sentences: list[int], index: int) -> tuple[NDArray[Any], list[int]]:
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


def split_vocabulary(
    splits: Mapping[str, Sequence[CaptionedPair]], counted: Literal["train", "all"]
) -> tuple[str, ...]:
    """Return the vocabulary of the training split or of all splits, as from `build_vocabulary`."""
    chosen = splits.values() if counted == "all" else [splits.get("train", ())]
    return build_vocabulary(sentence for pairs in chosen for pair in pairs for sentence in pair.sentences)


def training_vocabulary(
    splits: Mapping[str, Sequence[CaptionedPair]], counted: Literal["train", "all"], data: Path
) -> tuple[str, ...]:
    """Return the vocabulary of a new model, as from `split_vocabulary`.

    Args:
        splits: Pairs of the data set by split.
        counted: Splits whose words are counted.
        data: Path of the data set, for messages.

    Raises:
        DataError: No word is frequent enough, so a model could not say anything.
    """
    vocabulary = split_vocabulary(splits, counted)
    if len(vocabulary) == len(SPECIAL_WORDS):
        captions = sum(len(pair.sentences) for pair in splits["train"])
        where = "all splits" if counted == "all" else f"the {captions} captions of the training split"
        raise DataError(
            f"{data}: no word occurs more than {_RARE} times in {where}, so the vocabulary would be empty: "
            "add pairs with captions"
        )
    return vocabulary


def count_items(pairs: Sequence[CaptionedPair], item: Literal["pair", "caption"]) -> int:
    """Return the number of items in an epoch of `pairs`."""
    return len(pairs) if item == "pair" else sum(len(pair.sentences) for pair in pairs)


def describe_unused(dataset: PairDataset, vocabulary: Vocabulary, step: int) -> list[str]:
    """Return warnings about training data that have no effect: items that fill no step, and rare words if many.

    Args:
        dataset: Training split.
        vocabulary: Vocabulary of the model.
        step: Number of items in an optimizer step; 1 if an epoch leaves out nothing.
    """
    warnings, pairs = [], dataset.pairs
    items = "pairs" if len(dataset) == len(pairs) else "captions"
    if left := len(dataset) % step:
        warnings.append(
            f"each epoch leaves out {left} of the {len(dataset)} training {items}, other {items} each time, because "
            f"they do not fill a step of {step} {items}"
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
