"""Vocabulary of a checkpoint, or the vocabulary that a training split would give to a new model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_train import checkpoint as checkpoints
from rsicrc_train.data import split_vocabulary
from rsicrc_train.recipes import load_recipe


def find_vocabulary(
    splits: Mapping[str, Sequence[CaptionedPair]], recipe: str, checkpoint: Path | None = None
) -> Vocabulary:
    """Return the vocabulary against which the captions of a data set are checked.

    Args:
        splits: Captioned pairs of the data set by split.
        recipe: Name or file of a recipe: the maximum caption length, and the splits whose words are counted.
        checkpoint: Checkpoint whose vocabulary and maximum caption length are used instead.

    Raises:
        DataError: There is no such recipe.
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    if checkpoint is not None:
        loaded = checkpoints.load(checkpoint)
        return Vocabulary.from_words(loaded.vocabulary, loaded.config.max_len)
    chosen = load_recipe(recipe)
    return Vocabulary.from_words(split_vocabulary(splits, chosen.training.vocabulary), chosen.model.max_len)
