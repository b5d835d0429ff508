"""Optimization profiles in the user's terms: how many pairs at once, how many beams."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rsicrc.errors import ArgumentError
from rsicrc.manifest import TEXT_ENCODER, GraphSpec

MOST_SENTENCES = 256  # in one run of the text encoder or the scorer, as the engine and the C++ library cut them
_TYPICAL_SENTENCES = 8
_TERMS = "MIN:OPT:MAX pairs, and MIN:OPT:MAX beams after a comma, for example 1:8:64,1:3:8"

Range = tuple[int, int, int]
Shape = tuple[int, ...]
Shapes = tuple[Shape, Shape, Shape]


@dataclass(frozen=True)
class Profile:
    """For which sizes a plan is built; it runs with no others.

    Attributes:
        pairs: fewest, typical and most pairs in a batch. Batches are filled up to a power of two: 64, not 50, should be
            the most.
        beams: fewest, typical and most beams.
    """

    pairs: Range = (1, 8, 64)
    beams: Range = (1, 3, 8)

    def __post_init__(self) -> None:
        for name in ("pairs", "beams"):
            least, typical, most = getattr(self, name)
            if not 1 <= least <= typical <= most:
                raise ArgumentError(f"{name} {least}:{typical}:{most}: must be MIN:OPT:MAX with 1 ≤ MIN ≤ OPT ≤ MAX")

    @classmethod
    def parse(cls, text: str) -> Profile:
        """Read "1:8:64,1:3:8": pairs, then beams. A single number stands for three, and beams may be left out.

        Raises:
            ArgumentError: not of this form.
        """
        parts = [part.strip() for part in text.split(",")]
        if len(parts) > 2 or not all(re.fullmatch(r"\d{1,6}(:\d{1,6}:\d{1,6})?", part) for part in parts):
            raise ArgumentError(f"profile {text!r}: write {_TERMS}")
        return cls(*(_range(part) for part in parts))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Profile:
        """Read what `to_dict` wrote."""
        pairs, beams = (tuple(int(value) for value in fields[name]) for name in ("pairs", "beams"))
        if len(pairs) != 3 or len(beams) != 3:
            raise ValueError(f"not a profile: {dict(fields)}")
        return cls(pairs, beams)

    def to_dict(self) -> dict[str, list[int]]:
        """Return plain containers for JSON."""
        return {"pairs": list(self.pairs), "beams": list(self.beams)}

    def __str__(self) -> str:
        return ",".join(":".join(map(str, each)) for each in (self.pairs, self.beams))

    def admits(self, other: Profile) -> bool:
        """Whether a plan for this profile runs all that one for the other runs."""
        mine, theirs = (self.pairs, self.beams), (other.pairs, other.beams)
        return all(own[0] <= asked[0] and asked[2] <= own[2] for own, asked in zip(mine, theirs, strict=True))

    def shapes(self, name: str, graph: GraphSpec, max_len: int) -> dict[str, Shapes]:
        """Return the least, typical and largest shape of every input of a graph that varies.

        Caches are full-length from the first step: (max_len - 1) · beams places, so that a search needs one shape.

        Args:
            name: the graph's name in the manifest.
            graph: its inputs.
            max_len: longest sequence of ids, of the manifest.

        Raises:
            ArgumentError: an axis of the graph is none of B, K, P, N and n.
        """
        sentences = (1, _TYPICAL_SENTENCES, MOST_SENTENCES)
        axes = {
            "B": sentences if name == TEXT_ENCODER else self.pairs,
            "K": self.beams,
            "P": tuple((max_len - 1) * beams for beams in self.beams),
            "N": sentences,
            "n": (2, max(2, max_len // 2), max_len),  # START and END at least
        }
        shapes = {}
        for key, spec in graph.inputs.items():
            if unknown := [axis for axis in spec.shape if isinstance(axis, str) and axis not in axes]:
                raise ArgumentError(f"{name}: {key} varies in {unknown[0]}, which no profile knows: export it again")
            if any(isinstance(axis, str) for axis in spec.shape):
                least, typical, most = (
                    tuple(axis if isinstance(axis, int) else axes[axis][which] for axis in spec.shape)
                    for which in range(3)
                )
                shapes[key] = (least, typical, most)
        return shapes


def _range(text: str) -> Range:
    values = [int(value) for value in text.split(":")]
    return (values[0], values[0], values[0]) if len(values) == 1 else (values[0], values[1], values[2])
