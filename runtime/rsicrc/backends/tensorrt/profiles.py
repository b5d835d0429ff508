"""Optimization profiles of TensorRT, given as ranges of pairs and beams."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rsicrc.errors import ArgumentError
from rsicrc.manifest import TEXT_ENCODER, GraphSpec

MAX_SENTENCES = 256  # in one run of the text encoder or the scorer, as in the engine and the C++ library
_TYPICAL_SENTENCES = 8
_TERMS = "MIN:OPT:MAX pairs, and MIN:OPT:MAX beams after a comma, for example 1:8:64,1:3:8"

Range = tuple[int, int, int]
Shape = tuple[int, ...]
Shapes = tuple[Shape, Shape, Shape]


@dataclass(frozen=True)
class Profile:
    """Sizes that a plan is built for; the plan does not run with other sizes.

    Attributes:
        pairs: Minimum, typical and maximum number of pairs in a batch. Batches are padded to a power of two, so the
            maximum should be a power of two: 64, not 50.
        beams: Minimum, typical and maximum number of beams.
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
        """Read "1:8:64,1:3:8": pairs, then beams. A single number stands for all three, and beams may be left out.

        Raises:
            ArgumentError: The text has another form.
        """
        parts = [part.strip() for part in text.split(",")]
        if len(parts) > 2 or not all(re.fullmatch(r"\d{1,6}(:\d{1,6}:\d{1,6})?", part) for part in parts):
            raise ArgumentError(f"profile {text!r}: write {_TERMS}")
        return cls(*(_range(part) for part in parts))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Profile:
        """Return the profile that `to_dict` wrote."""
        pairs, beams = (tuple(int(value) for value in fields[name]) for name in ("pairs", "beams"))
        if len(pairs) != 3 or len(beams) != 3:
            raise ValueError(f"not a profile: {dict(fields)}")
        return cls(pairs, beams)

    def to_dict(self) -> dict[str, list[int]]:
        """Return plain containers for JSON."""
        return {"pairs": list(self.pairs), "beams": list(self.beams)}

    def __str__(self) -> str:
        return ",".join(":".join(map(str, each)) for each in (self.pairs, self.beams))

    def covers(self, other: Profile) -> bool:
        """Return True if a plan for this profile runs with all sizes of the other profile."""
        ranges = zip((self.pairs, self.beams), (other.pairs, other.beams), strict=True)
        return all(own[0] <= required[0] and required[2] <= own[2] for own, required in ranges)

    def shapes(self, name: str, graph: GraphSpec, max_len: int) -> dict[str, Shapes]:
        """Return the minimum, typical and maximum shape of every input with a variable axis.

        Caches have their full length from the first step on, (max_len - 1) · beams slots, so that all steps of a search
        have the same shapes.

        Args:
            name: Name of the graph in the manifest.
            graph: The graph.
            max_len: Maximum length of a sequence of ids, from the manifest.

        Raises:
            ArgumentError: An axis of the graph is none of B, K, P, N and n.
        """
        sentences = (1, _TYPICAL_SENTENCES, MAX_SENTENCES)
        axes = {
            "B": sentences if name == TEXT_ENCODER else self.pairs,
            "K": self.beams,
            "P": tuple((max_len - 1) * beams for beams in self.beams),
            "N": sentences,
            "n": (2, max(2, max_len // 2), max_len),  # at least START and END
        }
        shapes = {}
        for key, spec in graph.inputs.items():
            if unknown := [axis for axis in spec.shape if isinstance(axis, str) and axis not in axes]:
                raise ArgumentError(
                    f"{name}: {key} has the axis {unknown[0]}, which profiles do not support: export the model again"
                )
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
