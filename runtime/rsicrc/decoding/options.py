"""Options of captioning: as a caller gives them, and as the beam search takes them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

from rsicrc.errors import ArgumentError
from rsicrc.manifest import Manifest


class CaptionSettings(TypedDict, total=False):
    """The fields of `CaptionOptions` as keyword arguments."""

    beams: int | None
    n_best: int
    length_penalty: float | None
    early_stopping: bool | None
    max_length: int | None


@dataclass(frozen=True)
class CaptionOptions:
    """Options of captioning. They have the meaning that they have in `generate` of Hugging Face transformers.

    A field that is None takes the model's default, which the manifest holds.

    Attributes:
        beams: Number of beams; 1 is greedy search.
        n_best: Number of captions to return for each pair, at most `beams`.
        length_penalty: A caption's score is its summed log-probability / length**length_penalty; values above 0 favor
            longer captions. `length` counts the generated tokens and END.
        early_stopping: Stop as soon as `beams` captions are finished, instead of when no better caption is likely.
        max_length: Largest number of tokens of a caption, START and END included; at most the model's.
    """

    beams: int | None = None
    n_best: int = 1
    length_penalty: float | None = None
    early_stopping: bool | None = None
    max_length: int | None = None

    def resolve(self, manifest: Manifest) -> BeamSearchOptions:
        """Fill in the model's defaults and check the ranges.

        Raises:
            ArgumentError: An option is out of its range.
        """
        defaults = manifest.search
        beams = defaults.beams if self.beams is None else self.beams
        penalty = float(defaults.length_penalty if self.length_penalty is None else self.length_penalty)
        early = defaults.early_stopping if self.early_stopping is None else self.early_stopping
        longest = manifest.max_len if self.max_length is None else self.max_length
        # Each step keeps the best 2 × beams continuations, and the first step has one beam to take them from.
        most = manifest.vocab_size // 2
        if not 1 <= beams <= most:
            raise ArgumentError(f"beams must be from 1 to {most} for this model, not {beams}")
        if not 1 <= self.n_best <= beams:
            raise ArgumentError(f"n_best must be from 1 to beams ({beams}), not {self.n_best}")
        if not math.isfinite(penalty):
            raise ArgumentError(f"length_penalty must be a finite number, not {penalty}")
        if not 2 <= longest <= manifest.max_len:
            raise ArgumentError(f"max_length must be from 2 to {manifest.max_len}, not {longest}")
        # `generate` is greedy for one beam, whatever early_stopping says.
        return BeamSearchOptions(beams, self.n_best, penalty, early or beams == 1, longest)


@dataclass(frozen=True)
class BeamSearchOptions:
    """Options of the beam search, complete and checked; made by `CaptionOptions.resolve`.

    Attributes:
        beams: Number of beams (K).
        n_best: Number of finished sentences to return for each pair.
        length_penalty: Exponent of the length in a score.
        early_stopping: Stop as soon as `beams` sentences are finished.
        max_length: Largest number of tokens, START included.
    """

    beams: int
    n_best: int
    length_penalty: float
    early_stopping: bool
    max_length: int

    def __str__(self) -> str:
        return f"beams={self.beams} n_best={self.n_best} length_penalty={self.length_penalty:g}"
