"""Terse captions: those of generated scenes without places, counts, roofs and neighboring objects.

Many changes then have the same sentence, as those of a data set whose annotators write little. A batch thus contains
many true false negatives, and pairs with equal terse sentences are the true labels of their detection.
"""

from __future__ import annotations

import re

_SIDE = r"(?:top|bottom|upper|lower|left|right|center|middle)"
_PARTS = (
    rf"\b(?:in|at|on) the {_SIDE}(?: {_SIDE})?(?: (?:corner|side))?(?: of the scene)?\b",
    r"\bwith an? \w+ roof\b",
    r"\b(?:beside|near|along|next to) the (?:road|pond|lake)\b",
    r"\b(?:a|an|one|two|three|four|several|some|many|a few)\b",
)
_REMOVED = re.compile("|".join(_PARTS))


def shorten(sentence: str) -> str:
    """Return the terse form of a caption; a caption of which nothing would be left is unchanged."""
    return " ".join(_REMOVED.sub(" ", sentence).split()) or sentence
