"""Encoding of sentences as ids for a graph: checks, tokenization and padding."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rsicrc.errors import ArgumentError, shortened
from rsicrc.text.vocabulary import PAD, Vocabulary
from rsicrc.untrusted.fields import shown

logger = logging.getLogger("rsicrc")


def encode_sentences(vocabulary: Vocabulary, texts: Sequence[str], *, warn: bool = True) -> list[list[int]]:
    """Return the ids of each sentence, including START and END.

    Unknown words become UNK, and sentences that are too long are truncated.

    Args:
        vocabulary: The vocabulary of the model.
        texts: The sentences.
        warn: Log a warning about unknown words and truncated sentences.

    Raises:
        ArgumentError: A sentence has no words, or `texts` is a single string.
    """
    if isinstance(texts, str):
        raise ArgumentError("texts is a list of sentences: put the one sentence into a list")
    unknown: dict[str, None] = {}
    encoded = []
    for text in texts:
        ids = vocabulary.encode(text)
        if len(ids) == 2:
            raise ArgumentError(f"an empty sentence ({shown(text)}) has nothing to be compared with")
        if warn:
            if vocabulary.is_cut(text):
                logger.warning("cut to the model's %d words: %s", vocabulary.max_len - 2, shortened(text, 300))
            unknown.update(dict.fromkeys(vocabulary.unknown_words(text)))
        encoded.append(ids)
    if unknown:
        logger.warning("not in the model's vocabulary, read as UNK: %s", shortened(", ".join(unknown), 300))
    return encoded


def pad(sentences: Sequence[list[int]]) -> NDArray[np.int64]:
    """Return sentences as int64 [N, longest]; shorter sentences are padded with PAD on the right."""
    longest = max((len(ids) for ids in sentences), default=0)
    padded = np.full((len(sentences), longest), PAD, np.int64)
    for row, ids in zip(padded, sentences, strict=True):
        row[: len(ids)] = ids
    return padded
