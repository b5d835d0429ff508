"""The words that a model knows: those of a checkpoint, or those that its training split would give it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_train import checkpoint as checkpoints
from rsicrc_train.data import build_words
from rsicrc_train.recipes import load_recipe

Splits = Mapping[str, Sequence[CaptionedPair]]


def words_of(recipe: str, checkpoint: Path | None) -> Callable[[Splits], Vocabulary]:
    """How to get from a data set to the words that count for it.

    Args:
        recipe: a recipe's name or file; its model says how long a caption may be.
        checkpoint: a checkpoint whose words and longest caption count instead.

    Raises:
        DataError: no such recipe.
        CheckpointError: no such checkpoint, or a damaged one.
    """
    if checkpoint is not None:
        loaded = checkpoints.load(checkpoint)
        vocabulary = Vocabulary.from_words(loaded.vocabulary, loaded.config.max_len)
        return lambda splits: vocabulary
    longest = load_recipe(recipe).model.max_len

    def from_training_split(splits: Splits) -> Vocabulary:
        sentences = (sentence for pair in splits.get("train", ()) for sentence in pair.sentences)
        return Vocabulary.from_words(build_words(sentences), longest)

    return from_training_split
