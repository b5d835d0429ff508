"""Facts into five sentences: five annotators, each with habits, in the words that people use for LEVIR-CC."""

import re

import numpy as np

from rsicrc_train.synth.facts import Facts

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

# The first pattern has no choice in it: the careful annotator, whose words follow from the facts alone.
# [a|b] is a choice; {place} and {ground} are the careful words, {near} and {land} any; {count} exact, {some} rough.
_PATTERNS: dict[str, tuple[str, str, str, str, str]] = {
    "house": (
        "a house is built {ground} {place}",
        "a house appears {place}",
        "a [house|small house] [has been built|is constructed|appears] {ground}",
        "a [house|villa] [shows up|is constructed|has been built] {land} {near}",
        "[a new house|one house|a residential house] [appears|is built] [{near}|{land}]",
    ),
    "houses": (
        "{count} houses are built {ground} {place}",
        "{count} houses appear {place}",
        "{count} [houses|small houses] [have been built|are constructed|appear] {ground}",
        "{some} [houses|villas] [show up|are constructed|have been built] {land} {near}",
        "{some} [new houses|residential houses|houses] [appear|are built] [{near}|{land}]",
    ),
    "building": (
        "a large building is built {ground} {place}",
        "a large building appears {place}",
        "a [large building|big building] [has been built|is constructed|appears] {ground}",
        "a [building|large building] [shows up|is constructed|has been built] {land} {near}",
        "[a new building|a huge building|one large building] [appears|is erected] [{near}|{land}]",
    ),
    "parking": (
        "a parking lot is built {ground} {place}",
        "a parking lot appears {place}",
        "a [parking lot|large parking lot] [has been built|is constructed|appears] {ground}",
        "a parking lot [shows up|is constructed|has been built] {land} {near}",
        "[a new parking lot|a parking lot with cars] [appears|is built] [{near}|{land}]",
    ),
    "pond": (
        "a pond appears {ground} {place}",
        "a pond appears {place}",
        "a [pond|small pond|lake] [is formed|appears|shows up] {ground}",
        "a [pond|pool] [shows up|has appeared] {land} {near}",
        "[a new pond|one pond|a small lake] [appears|has appeared] [{near}|{land}]",
    ),
    "row": (
        "a row of houses is built along the road {ground} {place}",
        "a row of houses appears along the road {place}",
        "[a row of houses is built|many houses are built|houses are constructed] along the road {ground}",
        "[many|several] [houses|villas] [appear|are constructed|have been built] along the road {near}",
        "[a row of villas|a line of houses|a row of new houses] [appears|shows up] [beside|along] the road {near}",
    ),
    "rows": (
        "many houses are built on both sides of the road {ground}",
        "many houses appear on both sides of the road",
        "[many|massive] houses [are constructed|have been built|appear] on both sides of the road {ground}",
        "[two rows of houses|rows of houses|many villas] [appear|are built] on both sides of the road {land}",
        "[many|massive|lots of] [houses|villas] are [neatly arranged|built|constructed] along the road {land}",
    ),
    "road": (
        "a {way} road is built {ground} {place}",
        "a road appears {place}",
        "a [{way} road|road] [has been built|is constructed|appears] {ground}",
        "a [straight road|road] [shows up|is constructed|has been built] {land} {near}",
        "[a new road|a straight road|a {way} road] [appears|is built|runs] [{near}|{land}]",
    ),
    "winding road": (
        "a winding road is built {ground}",
        "a winding road appears {ground}",
        "a [winding|curved] road [has been built|is constructed|appears] across the scene",
        "a [winding|curved] road [shows up|is constructed|has been built] {land}",
        "[a new road|a winding road] [appears|is built] {land}",
    ),
    "crossroad": (
        "a crossroad is built {ground}",
        "a crossroad appears {ground}",
        "[two crossing roads are|a crossroad is] [built|constructed] {ground}",
        "[two roads are built and cross each other|two intersecting roads appear] {land}",
        "[a new crossroad|a crossroad] [shows up|appears|has been built] {land}",
    ),
    "extension": (
        "the road {ground} is extended to the {side}",
        "the road is extended to the {side}",
        "the road [has been extended|is extended|extends] to the {side} [|of the scene]",
        "the [road|former road] {land} [is extended|becomes longer]",
        "[the road is completed and runs|the old road extends|the road has been extended] to the {side}",
    ),
    "trees": (
        "the trees {place} are removed",
        "the trees {place} disappear",
        "[many|some] trees {place} [are removed|have been removed|are cut down]",
        "the [trees|woods|plants] {near} [become bareland|are cleared|have been removed]",
        "[the trees|many trees|some trees] [are cut down|disappear|have been cleared] {near}",
    ),
    "house gone": (
        "the house {place} is demolished",
        "the house {place} disappears",
        "[a|the] house {place} [is removed|has been removed|disappears]",
        "the [house|villa|small house] {near} [becomes bareland|is removed|has been demolished]",
        "[a house|the house|a small house] [is removed|disappears|has vanished] {near}",
    ),
    "building gone": (
        "the large building {place} is demolished",
        "the large building {place} disappears",
        "[a|the] large building {place} [is removed|has been removed|disappears]",
        "the [building|large building] {near} [becomes bareland|is removed|has been demolished]",
        "[a building|the building|a big building] [is removed|disappears|has vanished] {near}",
    ),
    "houses to building": (
        "the houses {place} are replaced by a large building",
        "the houses {place} are removed and a large building appears",
        "a large building [replaces|is built to replace] the houses {place}",
        "the [small houses|houses|former houses] {near} [have been replaced|are replaced] by a [big|new] building",
        "[some|the old] houses [disappear|are demolished] and a [large|new] building is built {near}",
    ),
    "trees to parking": (
        "the trees {place} are replaced by a parking lot",
        "the trees {place} are removed and a parking lot appears",
        "a parking lot [replaces|is built to replace] the trees {place}",
        "the [trees|woods|plants] {near} [have been replaced|are replaced] by a parking lot",
        "[some|many] trees [disappear|are cut down] and a parking lot is [built|constructed] {near}",
    ),
    "building to parking": (
        "the large building {place} is replaced by a parking lot",
        "the large building {place} is removed and a parking lot appears",
        "a parking lot [replaces|is built to replace] the large building {place}",
        "the [building|former building|big building] {near} [has been replaced|is replaced] by a parking lot",
        "[a|the] building [disappears|is demolished] and a parking lot is [built|constructed] {near}",
    ),
    "road and houses": (
        "a road and several houses are built {ground} {place}",
        "a road and several houses appear {place}",
        "a road with [several|some] houses [is built|appears] {ground}",
        "[several|some] houses are [built|constructed] along a new road {near}",
        "[a road appears and some houses are built|a road is built with houses] along it {land}",
    ),
    "trees to houses": (
        "the trees {place} are removed and two houses are built",
        "the trees {place} are removed and two houses appear",
        "two houses [replace|are built to replace] the trees {place}",
        "the [trees|woods|plants] {near} [have been replaced|are replaced] by [two|some] houses",
        "[some|many] trees [disappear|are cut down] and two houses are [built|constructed] {near}",
    ),
    "building and parking": (
        "a large building and a parking lot are built {ground} {place}",
        "a large building and a parking lot appear {place}",
        "a [large building|building] with a parking lot [is built|appears] {ground}",
        "a [building|big building] and a parking lot [are constructed|show up] {land} {near}",
        "[a new|a large] building [is built|appears] beside a [new|large] parking lot {near}",
    ),
}
_CHOICE = re.compile(r"\[([^\[\]]*)\]")


def describe(rng: np.random.Generator, facts: Facts) -> tuple[str, ...]:
    """Five sentences on a change, in lower case and without punctuation.

    The first is complete and follows from the facts alone; the others leave things out or put them in other words.
    """
    return tuple(_say(rng, facts, pattern) for pattern in _PATTERNS[facts.kind])


def _say(rng: np.random.Generator, facts: Facts, pattern: str) -> str:
    def choose(match: re.Match[str]) -> str:
        options = match[1].split("|")
        return options[rng.integers(len(options))]

    places, grounds, counts = _PLACES[facts.place], _GROUNDS[facts.ground], _COUNTS[facts.count]
    words = _CHOICE.sub(choose, pattern).format(
        place=places[0],
        near=places[rng.integers(len(places))],
        ground=grounds[0],
        land=grounds[rng.integers(len(grounds))],
        count=counts[0],
        some=counts[rng.integers(len(counts))],
        way=facts.way,
        side=facts.place,
    )
    return " ".join(words.split())
