"""Objects that captions name, compared with the objects of the reference captions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rsicrc.evaluation.metrics.captioning import strip_period

# Object → the words that name the object.
OBJECTS = {
    "house": "house houses villa villas residential residence residences home homes",
    "building": "building buildings factory factories warehouse warehouses",
    "road": "road roads path paths street streets crossroad crossroads intersection highway roundabout bypass",
    "tree": "tree trees wood woods forest forests woodland plant plants vegetation bushes",
    "car park": "parking",
    "bare land": "bareland wasteland desert moorland clearing",
    "grass": "grass grassland meadow meadows lawn lawns",
    "water": "pool pools pond ponds lake lakes river rivers water",
    "sports ground": "playground court courts track stadium",
}
_OBJECT_OF = {word: name for name, words in OBJECTS.items() for word in words.split()}
_WORD = re.compile("[a-z]+")


def named_objects(sentence: str) -> frozenset[str]:
    """Return the keys of `OBJECTS` that a sentence names."""
    words = _WORD.findall(strip_period(sentence.lower()))
    return frozenset(_OBJECT_OF[word] for word in words if word in _OBJECT_OF)


def object_metrics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Compare the objects that captions name with those of the reference captions.

    An object counts as true if at least half of the pair's reference captions name the object.

    Args:
        hypotheses: N captions.
        references: N lists of one or more reference sentences.

    Returns:
        "object precision", "object recall" and "object F1", over all objects of all captions ("micro").
    """
    right = named = true = 0
    for hypothesis, sentences in zip(hypotheses, references, strict=True):
        found = [named_objects(sentence) for sentence in sentences]
        truth = {name for name in OBJECTS if 2 * sum(name in objects for objects in found) >= len(found)}
        own = named_objects(hypothesis)
        right, named, true = right + len(own & truth), named + len(own), true + len(truth)
    return {
        "object precision": right / max(named, 1),
        "object recall": right / max(true, 1),
        "object F1": 2 * right / max(named + true, 1),
    }
