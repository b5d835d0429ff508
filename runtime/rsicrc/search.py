"""The host side of the beam search: the `decoder` graph takes the steps, this walks the finished sentences back.

The graph holds the search itself, and a loop of the backend feeds its state back in. Of each step the host only keeps
which word each beam took, from which beam, and looks at one number: how many pairs are unfinished.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends import Backend
from rsicrc.errors import ArgumentError
from rsicrc.manifest import DECODER, Manifest
from rsicrc.tuning import CACHE_STEPS, SHRINK_SHARE
from rsicrc.vocabulary import START

IMPOSSIBLE = np.float32(-1.0e9)
_BEAMS = ("tokens", "parents", "scores")
_FINISHED = "finished_"


@dataclass(frozen=True)
class SearchOptions:
    """Beam search settings; they mean what they mean to `generate` of Hugging Face transformers.

    Attributes:
        beams: how many sentences are followed at once; 1 is greedy search.
        n_best: how many finished sentences are returned, at most `beams`.
        length_penalty: a sentence's score is its summed log-probability / length**length_penalty.
        early_stopping: stop as soon as `beams` sentences are finished, instead of when no better one is likely.
        max_length: longest sequence of ids, START included.
    """

    beams: int
    n_best: int
    length_penalty: float
    early_stopping: bool
    max_length: int

    @classmethod
    def resolve(
        cls,
        manifest: Manifest,
        beams: int | None,
        n_best: int,
        length_penalty: float | None,
        early_stopping: bool | None,
        max_length: int | None,
    ) -> SearchOptions:
        """Fill in a model's defaults and check the ranges.

        Raises:
            ArgumentError: a setting is out of its range.
        """
        defaults = manifest.search
        options = cls(
            beams=defaults.beams if beams is None else beams,
            n_best=n_best,
            length_penalty=float(defaults.length_penalty if length_penalty is None else length_penalty),
            early_stopping=defaults.early_stopping if early_stopping is None else early_stopping,
            max_length=manifest.max_len if max_length is None else max_length,
        )
        # Each step keeps the best 2 × beams continuations, and the first step has one beam to take them from.
        most = manifest.vocab_size // 2
        if not 1 <= options.beams <= most:
            raise ArgumentError(f"beams must be from 1 to {most} for this model, not {options.beams}")
        if not 1 <= options.n_best <= options.beams:
            raise ArgumentError(f"n_best must be from 1 to beams ({options.beams}), not {options.n_best}")
        if options.beams == 1:
            # `generate` is greedy for one beam, whatever early_stopping says.
            options = replace(options, early_stopping=True)
        if not np.isfinite(options.length_penalty):
            raise ArgumentError(f"length_penalty must be a finite number, not {options.length_penalty}")
        if not 2 <= options.max_length <= manifest.max_len:
            raise ArgumentError(f"max_length must be from 2 to {manifest.max_len}, not {options.max_length}")
        return options


@dataclass(frozen=True)
class FinishedBeam:
    """A sentence that the search finished.

    Attributes:
        ids: the generated words, then END (unless cut at the maximum length); no START.
        score: summed log-probability / length**length_penalty.
        token_log_probs: one for each of `ids`.
    """

    ids: tuple[int, ...]
    score: float
    token_log_probs: tuple[float, ...]


class Found(NamedTuple):
    """What a search found.

    Attributes:
        sentences: for each pair its `n_best` sentences, best first.
        steps: how many steps were taken.
        seconds: time in the `decoder` graph.
    """

    sentences: list[list[FinishedBeam]]
    steps: int
    seconds: float


@dataclass(frozen=True)
class _Step:
    """What one step left: int64, int64 and float32 [B, K]; zeros for pairs that had left the batch before."""

    tokens: NDArray[np.int64]
    parents: NDArray[np.int64]
    scores: NDArray[np.float32]


def beam_search(backend: Backend, cross: Mapping[str, Any], pairs: int, options: SearchOptions) -> Found:
    """Search the best sentences of a batch of pairs.

    Pairs whose sentences are finished leave the batch once they are a good part of it, and the caches grow with the
    sentences: a search costs what its captions need and not what the longest possible ones would.

    Args:
        backend: runs the `decoder` graph.
        cross: `cross_keys_*` and `cross_values_*` of the pairs, as the image encoder gave them.
        pairs: how many pairs the batch holds (B).
        options: the settings.

    Returns:
        For each pair its `n_best` sentences, and what the search took.
    """
    fixed = {
        **cross,
        "length_penalty": np.array(options.length_penalty, np.float32),
        "early_stopping": np.array(options.early_stopping, np.bool_),
        "max_length": np.array(options.max_length, np.int64),
    }
    longest = options.max_length - 1
    room = min(CACHE_STEPS, longest)
    axes = {"B": pairs, "K": options.beams, "P": room * options.beams}
    first = _first_state(axes)
    finished = {name: np.zeros_like(values) for name, values in first.items() if name.startswith(_FINISHED)}
    steps: list[_Step] = []
    decoding = 0.0
    here = np.arange(pairs)  # the pair that each row of the batch belongs to
    with closing(backend.loop(DECODER, axes, first, fixed)) as loop:
        for position in range(longest):
            if position == room:
                room = min(room + CACHE_STEPS, longest)
                loop.regroup(np.arange(len(here)), {"P": room * options.beams})
            started = time.perf_counter()
            loop.step(position)
            decoding += time.perf_counter() - started
            unfinished = int(loop.read("unfinished"))
            steps.append(_Step(*(_scatter(loop.read(name), here, first[name]) for name in _BEAMS)))
            if unfinished <= SHRINK_SHARE * len(here):
                for name, values in finished.items():
                    values[here] = loop.read(name)
                if unfinished == 0:
                    break
                rows = np.flatnonzero(~loop.read("done"))
                loop.regroup(rows, {})
                here = here[rows]
    sentences = [[_follow(finished, steps, pair, rank) for rank in range(options.n_best)] for pair in range(pairs)]
    return Found(sentences, len(steps), decoding)


def _first_state(axes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    shape = (axes["B"], axes["K"])
    scores = np.full(shape, IMPOSSIBLE, np.float32)
    scores[:, 0] = 0.0  # all beams are START: only one of them may be continued
    return {
        "tokens": np.full(shape, START, np.int64),
        "parents": np.zeros(shape, np.int64),
        "scores": scores,
        "lineage": np.zeros((*shape, axes["P"]), np.bool_),
        "finished_scores": np.full(shape, IMPOSSIBLE, np.float32),
        "finished_sums": np.full(shape, IMPOSSIBLE, np.float32),
        "finished_lengths": np.zeros(shape, np.int64),
        "finished_tokens": np.zeros(shape, np.int64),
        "finished_parents": np.zeros(shape, np.int64),
        "done": np.zeros(axes["B"], np.bool_),
    }


def _scatter(values: NDArray[Any], here: NDArray[np.int64], like: NDArray[Any]) -> NDArray[Any]:
    """The rows of a batch at the places of their pairs."""
    scattered = np.zeros_like(like)
    scattered[here] = values
    return scattered


def _follow(finished: Mapping[str, NDArray[Any]], steps: list[_Step], pair: int, rank: int) -> FinishedBeam:
    at = (pair, rank)
    ids = [int(finished["finished_tokens"][at])]
    sums = [float(finished["finished_sums"][at])]
    beam = int(finished["finished_parents"][at])
    for step in reversed(steps[: int(finished["finished_lengths"][at]) - 1]):
        ids.append(int(step.tokens[pair, beam]))
        sums.append(float(step.scores[pair, beam]))
        beam = int(step.parents[pair, beam])
    ids.reverse()
    sums.reverse()
    log_probs = tuple(later - earlier for earlier, later in zip([0.0, *sums], sums, strict=False))
    return FinishedBeam(tuple(ids), float(finished["finished_scores"][at]), log_probs)
