"""Kinds of land in photographs, by the names of their folders or files."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Role = Literal["ground", "built", "other"]
WOODS, BARE, MEADOW, HOUSES, UNKNOWN = "woods", "bareland", "meadow", "houses", ""

_LETTERS = re.compile("[^a-z]")


class Land(NamedTuple):
    """Meaning of a kind of land for composites.

    Attributes:
        role: `ground` can be built on, `built` can be the result of a change, `other` only surrounds a change.
        ground: Ground that captions name: `woods`, `bareland`, `meadow`, `houses` or "" for none.
        thing: Object that captions name if the land is new, a key of `sentences.SUBJECTS`; "" for none.
    """

    role: Role
    ground: str = UNKNOWN
    thing: str = ""


_OTHER = Land("other")
_LANDS = {
    Land("ground", WOODS): ("forest", "woods", "woodland", "river"),
    Land("ground", BARE): ("chaparral", "bareland", "bare", "desert", "wasteland", "rangeland"),
    Land("ground", MEADOW): ("golfcourse", "meadow", "grass", "grassland", "pasture", "park"),
    # Fields are green or brown; the color of the photograph decides.
    Land("ground", "field"): ("agricultural", "agriculture", "farmland", "field", "crop", "annualcrop"),
    Land("built", HOUSES, "many houses"): ("denseresidential", "mobilehomepark", "residential", "residentialarea"),
    Land("built", HOUSES, "houses"): ("mediumresidential",),
    Land("built", WOODS, "house"): ("sparseresidential",),
    Land("built", UNKNOWN, "buildings"): ("buildings", "building", "commercial", "commercialarea", "industrial"),
    Land("built", UNKNOWN, "car park"): ("parkinglot", "parking", "carpark"),
    Land("built", UNKNOWN, "tanks"): ("storagetanks", "storagetank"),
    Land("built", UNKNOWN, "crossroad"): ("intersection", "crossroad"),
    Land("built", UNKNOWN, "road"): ("freeway", "highway", "road"),
    Land("built", UNKNOWN, "court"): ("tenniscourt", "tenniscourts", "basketballcourt"),
}
_BY_NAME = {name: land for land, names in _LANDS.items() for name in names}


def find_land(name: str) -> Land:
    """Return the land of a folder or file name such as `forest`, `dense-residential` or `parkinglot07`."""
    return _BY_NAME.get(_LETTERS.sub("", name.lower()), _OTHER)
