"""Captions of composites: five sentences in the vocabulary and manner of LEVIR-CC's annotators."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rsicrc_train.composites.land import BARE, HOUSES, MEADOW, UNKNOWN, WOODS


@dataclass(frozen=True)
class Facts:
    """Visible facts of a change.

    Attributes:
        thing: Object that appears or disappears, a key of `SUBJECTS`.
        count: Number of objects; 0 if it is not certain.
        removed: True if the object disappears.
        ground: Ground around the object before the change: a key of `GROUNDS`.
        place: Place of the change as from `outlines.place_of`; "" for a large change.
        road: `new` for a road that appears with the object, `old` for an object along a road that was there, or "".
        cleared: True if trees had to give way to the object.
        whole: True if the change covers most of the image.
    """

    thing: str
    count: int = 0
    removed: bool = False
    ground: str = UNKNOWN
    place: str = ""
    road: str = ""
    cleared: bool = False
    whole: bool = False


class Subject(NamedTuple):
    """Words for an object, plural if they are so in grammar."""

    words: str
    plural: bool


_MANY = (
    "many houses|many houses|many villas|rows of houses|many residential buildings|many detached houses|lots of houses"
)
_SOME = (
    "some houses|some houses|several houses|some villas|several villas|some detached houses|some residential buildings"
)
SUBJECTS: dict[str, tuple[str, str]] = {  # singular and plural choices; an empty choice does not occur
    "many houses": ("", _MANY),
    "houses": ("a row of houses", _SOME),
    "house": ("a house|a villa|a house|a small house", "some houses|several houses|some villas"),
    "building": ("a large building|a building|a building|a big building", "some large buildings|several buildings"),
    "buildings": ("", "several buildings|some buildings|some large buildings|many buildings"),
    "car park": ("a parking lot|a large parking lot", "parking lots|some parking lots"),
    "tanks": ("", "some storage tanks|several round buildings"),
    "crossroad": ("a crossroad|an intersection", "two roads|some roads"),
    "road": ("a road|a road|a wide road|a cement road", "some roads|two roads"),
    "court": ("a playground|a tennis court", "some tennis courts"),
    "trees": ("", "some trees|several trees|trees|plants"),
}
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "several", 6: "several"}
GROUNDS: dict[str, str] = {
    WOODS: "in the woods|in the forest|among the trees",
    BARE: "on the bareland|on the bareland|in the bareland|on the wasteland|in the open space|in the desert",
    MEADOW: "on the meadow|on the grass|on the grassland",
    HOUSES: "in the residential area|near the houses|next to the houses",
    UNKNOWN: "",
}
_LANDS = {
    WOODS: (("the trees", True), ("the woods", True), ("the forest", False), ("the vegetation", False)),
    BARE: (("the bareland", False), ("the bareland", False), ("the wasteland", False), ("the desert", False)),
    MEADOW: (("the grass", False), ("the meadow", False), ("the grassland", False)),
    HOUSES: (("the houses", True), ("some houses", True)),
}
_PLACES = {
    "top left": "in the top left corner|at the top left corner|in the upper left corner of the scene",
    "top right": "in the top right corner|at the top right corner|in the upper right corner of the scene",
    "bottom left": "in the bottom left corner|at the bottom left corner|in the lower left corner of the scene",
    "bottom right": "in the bottom right corner|at the bottom right corner|in the lower right corner of the scene",
    "top": "at the top|at the top of the scene",
    "bottom": "at the bottom|at the bottom of the scene",
    "left": "on the left|on the left side of the scene",
    "right": "on the right|on the right side of the scene",
    "center": "in the middle|in the middle of the scene|in the center",
}
_ALONG = (
    "along the road|along the road|beside the road|next to the road|on both sides of the road|along the roads|"
    "near the road"
)
_BUILT = ("built", "built", "constructed")
_SPACES = re.compile(" +")


def describe(rng: np.random.Generator, facts: Facts) -> tuple[str, ...]:
    """Return five sentences about a change, in lower case and without punctuation; they may be equal."""
    return tuple(_SPACES.sub(" ", _sentence(rng, facts)).strip() for _ in range(5))


def _sentence(rng: np.random.Generator, facts: Facts) -> str:
    subject = _subject(rng, facts)
    where = _where(rng, facts)
    if facts.removed:
        return _removal(rng, facts, subject, where)
    draw = rng.random()
    if facts.road == "new" and draw < 0.7:
        return _with_road(rng, facts, subject, where)
    if facts.road == "old" and draw < 0.6:
        around = _pick(rng, _ALONG)
        near = where if rng.random() < 0.35 else ""
        return f"{_clearing(rng, facts, 0.35)}{subject.words} {_appearance(rng, subject)} {around} {near}"
    if facts.cleared and draw < 0.8:
        return f"{_clearing(rng, facts, 1.0)}{subject.words} {_appearance(rng, subject)} {_place(rng, facts)}"
    if facts.whole and facts.ground in _LANDS and draw < 0.9:
        return _replacement(rng, facts, subject)
    return f"{subject.words} {_appearance(rng, subject)} {where}"


def _with_road(rng: np.random.Generator, facts: Facts, subject: Subject, where: str) -> str:
    """Describe an object that appears together with a road."""
    road = Subject(*(("a road", False), ("some roads", True), ("a road", False))[rng.integers(3)])
    draw = rng.random()
    if draw < 0.35:
        verb = ("are built", "appear", "are constructed")[rng.integers(3)]
        first, second = (road.words, subject.words) if rng.random() < 0.4 else (subject.words, road.words)
        return f"{_clearing(rng, facts, 0.3)}{first} and {second} {verb} {where}"
    if draw < 0.65:
        sides = ("along it", "on both sides", "along the road", "on both sides of the road")[rng.integers(4)]
        if road.plural:
            sides = "along the roads"
        return f"{road.words} {_appearance(rng, road)} and {subject.words} {_appearance(rng, subject)} {sides}"
    if draw < 0.85:
        return f"{_clearing(rng, facts, 0.4)}{subject.words} {_appearance(rng, subject)} along the new road"
    return f"{road.words} with {subject.words} {_appearance(rng, road)} {where}"


def _removal(rng: np.random.Generator, facts: Facts, subject: Subject, where: str) -> str:
    verb = _pick(
        rng, "are removed|disappear|are demolished" if subject.plural else "is removed|disappears|is demolished"
    )
    if facts.thing == "trees":
        verb = _pick(rng, "are removed|disappear|are cut down")
    words = re.sub("^(a|an) ", "the ", subject.words)
    return f"{words} {verb} {where}"


def _replacement(rng: np.random.Generator, facts: Facts, subject: Subject) -> str:
    lands = _LANDS[facts.ground]
    land = Subject(*lands[rng.integers(len(lands))])
    if rng.random() < 0.5:
        return f"{land.words} {_be(land)} replaced by {subject.words}"
    if rng.random() < 0.5:
        return f"{subject.words} {'replace' if subject.plural else 'replaces'} {land.words}"
    return f"{subject.words} {_appearance(rng, subject)} {_pick(rng, GROUNDS[facts.ground])}"


def _subject(rng: np.random.Generator, facts: Facts) -> Subject:
    singular, plural = SUBJECTS[facts.thing]
    if facts.count > 1 and rng.random() < 0.6:
        noun = {"house": "houses|villas|houses", "building": "buildings|large buildings", "trees": "trees"}
        if facts.thing in noun and facts.count in _NUMBERS:
            return Subject(f"{_NUMBERS[facts.count]} {_pick(rng, noun[facts.thing])}", True)
    one = facts.count == 1 or (facts.count == 0 and bool(singular) and (not plural or rng.random() < 0.2))
    if facts.thing in ("car park", "road", "crossroad", "court") and facts.count <= 1:
        one = True
    if one and singular:
        return Subject(_pick(rng, singular), False)
    return Subject(_pick(rng, plural), True)


def _appearance(rng: np.random.Generator, subject: Subject) -> str:
    """Return a verb of building or appearing for a subject."""
    natural = subject.words.endswith(("trees", "plants"))
    draw = rng.random()
    if natural:
        return _pick(rng, "are planted|appear|have grown up")
    built = _BUILT[rng.integers(len(_BUILT))]
    if draw < 0.5:
        return f"{_be(subject)} {built}"
    if draw < 0.8:
        return "appear" if subject.plural else "appears"
    return f"{'have' if subject.plural else 'has'} been {built}"


def _clearing(rng: np.random.Generator, facts: Facts, share: float) -> str:
    if not facts.cleared or rng.random() >= share:
        return ""
    return (
        _pick(
            rng, "some trees are removed and|the trees are removed and|trees are removed and|the forest is cleared and"
        )
        + " "
    )


def _where(rng: np.random.Generator, facts: Facts) -> str:
    """Return the ground, the place, both or neither."""
    ground, place = _pick(rng, GROUNDS[facts.ground]), _place(rng, facts)
    draw = rng.random()
    if not place or draw < 0.4:
        return ground
    return place if draw < 0.75 or not ground else f"{ground} {place}"


def _place(rng: np.random.Generator, facts: Facts) -> str:
    return _pick(rng, _PLACES[facts.place]) if facts.place else ""


def _be(subject: Subject) -> str:
    return "are" if subject.plural else "is"


def _pick(rng: np.random.Generator, choices: str) -> str:
    options = choices.split("|")
    return options[rng.integers(len(options))]
