"""Vocabulary of a checkpoint, or the vocabulary that a training split would give to a new model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.text.vocabulary import Vocabulary
from rsicrc_train import checkpoint as checkpoints
from rsicrc_train.data import build_vocabulary
from rsicrc_train.recipes import load_recipe


def find_vocabulary(
    splits: Mapping[str, Sequence[CaptionedPair]], recipe: str, checkpoint: Path | None = None
) -> Vocabulary:
    """Return the vocabulary against which the captions of a data set are checked.

    Args:
        splits: Captioned pairs of the data set by split; the split `train` gives the vocabulary of a new model.
        recipe: Name or file of a recipe; its model sets the maximum caption length.
        checkpoint: Checkpoint whose vocabulary and maximum caption length are used instead.

    Raises:
        DataError: There is no such recipe.
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    if checkpoint is not None:
        loaded = checkpoints.load(checkpoint)
        return Vocabulary.from_words(loaded.vocabulary, loaded.config.max_len)
    max_len = load_recipe(recipe).model.max_len
    sentences = (sentence for pair in splits.get("train", ()) for sentence in pair.sentences)
    return Vocabulary.from_words(build_vocabulary(sentences), max_len)
