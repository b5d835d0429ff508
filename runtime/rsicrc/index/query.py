"""A query: a sentence that the model can read, or a pair as an example."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from rsicrc.errors import ArgumentError
from rsicrc.text.vocabulary import UNK, Vocabulary

logger = logging.getLogger("rsicrc")


@dataclass(frozen=True)
class TextQuery:
    """A sentence as the model gets it.

    Attributes:
        given: What was asked for.
        text: The words of it that the model knows.
        unknown: The words that it does not know; they are left out.
    """

    given: str
    text: str
    unknown: tuple[str, ...]


def read_query(text: str, vocabulary: Vocabulary) -> TextQuery:
    """Make a sentence into a query. What is left out of it is said in the log `rsicrc`.

    Unknown words are left out, not read as UNK: the model learned what UNK stands for from rare words, and an unknown
    word in a query is rarely one of those.

    Raises:
        ArgumentError: It has no words, or none that the model knows.
    """
    unknown = tuple(vocabulary.unknown_words(text))
    ids = vocabulary.encode(text)[1:-1]
    if not ids:
        raise ArgumentError(f"an empty query ({text!r:.80}): say what to look for")
    known = [number for number in ids if number != UNK]
    if not known:
        names = ", ".join(unknown)
        raise ArgumentError(f"the model knows none of the query's words ({names:.200}): say it with other words")
    if unknown:
        logger.warning("not in the model's vocabulary, left out of the query: %s", ", ".join(unknown))
    if vocabulary.is_cut(text):
        logger.warning("the query is cut to its first %d words, the most that the model reads", len(ids))
    return TextQuery(text, vocabulary.decode(known), unknown)
