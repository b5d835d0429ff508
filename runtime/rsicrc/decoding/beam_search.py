"""The host side of the beam search: runs the `decoder` graph step by step and reconstructs the finished sentences.

The `decoder` graph holds the search itself, and a loop of the backend feeds its state back in. From each step the host
keeps the token and the parent of each beam, and reads one number: how many pairs are unfinished.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsicrc.backends import Backend
from rsicrc.decoding.numbers import require_numbers
from rsicrc.decoding.options import BeamSearchOptions
from rsicrc.errors import BackendError
from rsicrc.manifest import DECODER
from rsicrc.text.vocabulary import START
from rsicrc.tuning import CACHE_STEPS, SHRINK_SHARE

IMPOSSIBLE = np.float32(-1.0e9)  # finite, so that sums with other scores stay finite
_BEAMS = ("tokens", "parents", "scores")
_FINISHED = "finished_"


@dataclass(frozen=True)
class FinishedBeam:
    """A sentence that the beam search finished.

    Attributes:
        ids: Ids of the generated tokens, then END (unless cut at the maximum length); no START.
        score: Summed log-probability / length**length_penalty.
        token_log_probs: Log-probability of each of `ids`.
    """

    ids: tuple[int, ...]
    score: float
    token_log_probs: tuple[float, ...]


class BeamSearchResult(NamedTuple):
    """The result of a beam search over a batch.

    Attributes:
        sentences: The `n_best` sentences of each pair, best first.
        steps: Number of decoder steps.
        seconds: Time spent in the `decoder` graph.
    """

    sentences: list[list[FinishedBeam]]
    steps: int
    seconds: float


@dataclass(frozen=True)
class _Step:
    """Beams after one step: int64, int64 and float32 [B, K]; zeros for pairs that had left the batch before."""

    tokens: NDArray[np.int64]
    parents: NDArray[np.int64]
    scores: NDArray[np.float32]


def beam_search(
    backend: Backend,
    cross: Mapping[str, Any],
    pairs: int,
    options: BeamSearchOptions,
    vocab_size: int | None = None,
) -> BeamSearchResult:
    """Find the best sentences for a batch of pairs.

    Finished pairs leave the batch when they are a large part of it, and the caches grow with the sentences, so the cost
    follows the length of the captions and not the maximum length.

    Args:
        backend: Backend that runs the `decoder` graph.
        cross: `cross_keys_*` and `cross_values_*` of the pairs, from the image encoder.
        pairs: Number of pairs in the batch (B).
        options: Options of the search.
        vocab_size: Number of tokens in the vocabulary; None accepts every token id from 0.

    Returns:
        The `n_best` sentences of each pair, with the number of steps and the time in the graph.

    Raises:
        BackendError: The graph failed, gave NaN, or its results are out of their ranges: the model folder is damaged.
    """
    limits = _Limits(options.beams, sys.maxsize if vocab_size is None else vocab_size)
    fixed = {
        **cross,
        "length_penalty": np.array(options.length_penalty, np.float32),
        "early_stopping": np.array(options.early_stopping, np.bool_),
        "max_length": np.array(options.max_length, np.int64),
    }
    longest = options.max_length - 1
    capacity = min(CACHE_STEPS, longest)
    axes = {"B": pairs, "K": options.beams, "P": capacity * options.beams}
    first = _first_state(axes)
    finished = {name: np.zeros_like(values) for name, values in first.items() if name.startswith(_FINISHED)}
    steps: list[_Step] = []
    decoding = 0.0
    active_rows = np.arange(pairs)  # index of the pair that each row of the batch belongs to
    with closing(backend.loop(DECODER, axes, first, fixed)) as loop:
        for position in range(longest):
            if position == capacity:
                capacity = min(capacity + CACHE_STEPS, longest)
                loop.select_rows(np.arange(len(active_rows)), {"P": capacity * options.beams})
            started = time.perf_counter()
            loop.step(position)
            decoding += time.perf_counter() - started
            unfinished = int(loop.read("unfinished"))
            require_numbers(loop.read("scores"), "the score of a beam")
            # The graph reads its own results in the next step, and libraries crash at an index out of range.
            _check_range("unfinished", unfinished, 0, len(active_rows))
            limits.check(loop.read("tokens"), loop.read("parents"))
            steps.append(_Step(*(_scatter(loop.read(name), active_rows, first[name]) for name in _BEAMS)))
            if unfinished <= SHRINK_SHARE * len(active_rows):
                for name, values in finished.items():
                    values[active_rows] = loop.read(name)
                if unfinished == 0:
                    break
                rows = np.flatnonzero(~loop.read("done"))
                _check_range("unfinished", unfinished, len(rows), len(rows))
                loop.select_rows(rows, {})
                active_rows = active_rows[rows]
    best = {name: values[:, : options.n_best] for name, values in finished.items()}
    limits.check(best["finished_tokens"], best["finished_parents"])
    _check_range("finished_lengths", best["finished_lengths"], 1, len(steps))
    sentences = [[_backtrack(finished, steps, pair, rank) for rank in range(options.n_best)] for pair in range(pairs)]
    return BeamSearchResult(sentences, len(steps), decoding)


@dataclass(frozen=True)
class _Limits:
    """Ranges of the results of a decoder graph.

    Attributes:
        beams: Number of beams.
        tokens: Number of tokens in the vocabulary.
    """

    beams: int
    tokens: int

    def check(self, tokens: NDArray[np.int64], parents: NDArray[np.int64]) -> None:
        _check_range("tokens", tokens, 0, self.tokens - 1)
        _check_range("parents", parents, 0, self.beams - 1)


def _check_range(name: str, values: Any, least: int, most: int) -> None:
    """Raise an error if one of the results with this name is out of its range."""
    lowest, highest = int(np.min(values)), int(np.max(values))
    if lowest < least or highest > most:
        raise BackendError(
            f"the decoder returned {name} of {lowest if lowest < least else highest}, not {least} to {most}: "
            "its graph is damaged, export the model again"
        )


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


def _scatter(values: NDArray[Any], active_rows: NDArray[np.int64], like: NDArray[Any]) -> NDArray[Any]:
    """Return an array like `like` with the rows of the batch at the indices of their pairs, and zeros elsewhere."""
    scattered = np.zeros_like(like)
    scattered[active_rows] = values
    return scattered


def _backtrack(finished: Mapping[str, NDArray[Any]], steps: list[_Step], pair: int, rank: int) -> FinishedBeam:
    """Follow the parents of a finished beam back to START."""
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
