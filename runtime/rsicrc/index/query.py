"""Text queries: removal of words that are not in the vocabulary."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from rsicrc.errors import ArgumentError
from rsicrc.text.vocabulary import UNK, Vocabulary

logger = logging.getLogger("rsicrc")


@dataclass(frozen=True)
class TextQuery:
    """A text query.

    Attributes:
        text: The known words of the query.
        unknown: The words of the query that are not in the vocabulary.
    """

    text: str
    unknown: tuple[str, ...]


def read_query(text: str, vocabulary: Vocabulary) -> TextQuery:
    """Make a query from a sentence; unknown words and truncation are logged as warnings.

    Unknown words are removed instead of being replaced by UNK: the model learned UNK from the rare words of the
    training data, and an unknown word of a query is rarely one of these words.

    Raises:
        ArgumentError: The sentence has no words, or no known words.
    """
    unknown = tuple(vocabulary.unknown_words(text))
    ids = vocabulary.encode(text)[1:-1]
    if not ids:
        raise ArgumentError(f"an empty query ({text!r:.80}): describe a change")
    known = [number for number in ids if number != UNK]
    if not known:
        names = ", ".join(unknown)
        raise ArgumentError(f"the model knows none of the query's words ({names:.200}): use other words")
    if unknown:
        logger.warning("not in the model's vocabulary, left out of the query: %s", ", ".join(unknown))
    if vocabulary.is_cut(text):
        logger.warning("the query is cut to its first %d words, the most that the model reads", len(ids))
    return TextQuery(vocabulary.decode(known), unknown)
