"""Captions from facts: five sentences in the style and vocabulary of five LEVIR-CC annotators."""

import re

import numpy as np

from rsicrc_train.synth.change_facts import Facts
from rsicrc_train.synth.patterns import CLAUSES, PATTERNS

_PLACES: dict[str, tuple[str, ...]] = {
    "top left": ("in the top left corner", "in the upper left corner", "on the upper left"),
    "top right": ("in the top right corner", "in the upper right corner", "on the upper right"),
    "bottom left": ("in the bottom left corner", "in the lower left corner", "on the lower left"),
    "bottom right": ("in the bottom right corner", "in the lower right corner", "on the lower right"),
    "top": ("at the top", "at the top of the scene", "in the top"),
    "bottom": ("at the bottom", "at the bottom of the scene", "in the bottom"),
    "left": ("on the left", "on the left side", "on the left side of the scene"),
    "right": ("on the right", "on the right side", "on the right side of the scene"),
    "center": ("in the center", "in the middle", "in the middle of the scene"),
    "": ("", "", ""),
}
_GROUNDS: dict[str, tuple[str, ...]] = {
    "bareland": ("on the bareland", "on the wasteland", "in the open space"),
    "meadow": ("on the meadow", "on the grass", "on the grassland"),
    "woods": ("in the woods", "in the forest", "among the trees"),
}
_COUNTS: dict[int, tuple[str, ...]] = {
    0: ("",),
    1: ("a",),
    2: ("two", "some"),
    3: ("three", "some"),
    4: ("several", "some", "many"),
    5: ("several", "some", "many"),
    6: ("many", "several"),
    12: ("many",),
}

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_BESIDE = {
    "": ("",),
    "road": ("beside the road", "near the road", "along the road", ""),
    "pond": ("next to the pond", "near the pond", "beside the lake", ""),
}
# Places that the first pattern puts at the beginning of the sentence.
_PLACE_FIRST = frozenset({"top right", "right", "bottom", "bottom left"})


def describe(rng: np.random.Generator, facts: Facts) -> tuple[str, ...]:
    """Return five sentences that describe a change, in lower case and without punctuation.

    The first sentence is complete and determined by the facts; the other sentences omit facts or use synonyms.
    """
    if facts.parts:
        return _describe_two(rng, facts)
    first, *others = PATTERNS[facts.kind]
    if facts.place in _PLACE_FIRST and first.endswith(" {place}"):
        first = "{place} " + first.removesuffix(" {place}")
    return tuple(_fill_pattern(rng, facts, pattern) for pattern in (first, *others))


def _describe_two(rng: np.random.Generator, facts: Facts) -> tuple[str, ...]:
    one, other = facts.parts
    sentences = [
        f"{_fill_pattern(rng, one, CLAUSES[one.kind][0])} and {_fill_pattern(rng, other, CLAUSES[other.kind][0])}"
    ]
    for _ in range(4):
        first, second = (one, other) if rng.random() < 0.7 else (other, one)
        clauses = [_fill_pattern(rng, part, CLAUSES[part.kind][rng.integers(2)]) for part in (first, second)]
        sentences.append(f" {('and', 'while')[rng.integers(2)]} ".join(clauses))
    return tuple(sentences)


def _fill_pattern(rng: np.random.Generator, facts: Facts, pattern: str) -> str:
    def choose(match: re.Match[str]) -> str:
        options = match[1].split("|")
        return options[rng.integers(len(options))]

    places, grounds, counts = _PLACES[facts.place], _GROUNDS[facts.ground], _COUNTS[facts.count]
    besides = _BESIDE[facts.beside]
    words = _CHOICE.sub(choose, pattern).format(
        place=places[0],
        near=places[rng.integers(len(places))],
        ground=grounds[0],
        land=grounds[rng.integers(len(grounds))],
        count=counts[0],
        some=counts[rng.integers(len(counts))],
        way=facts.way,
        side=facts.place,
        roof=f"with a {facts.roof} roof" if facts.roof and rng.random() < 0.7 else "",
        beside=besides[rng.integers(len(besides))],
    )
    return " ".join(words.split())
