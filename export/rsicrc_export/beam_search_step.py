"""One step of batched beam search as tensor operations: from the words' log-probabilities to the next state.

The semantics are those of `transformers` (5.x) `GenerationMixin._beam_search`, per pair: the 2K best continuations are
looked at; those that end (END, or the maximum length reached) count as hypotheses if they are among the best K; the
others go on. A pair that is done keeps its hypotheses as they are, so its result does not depend on its batch.

Where two scores are equal, ONNX's TopK takes the lower index first and `torch.topk`, which `transformers` uses, any of
them: only then can the two disagree.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rsicrc.text.vocabulary import END
from rsicrc_export.decoder_layers import IMPOSSIBLE


class Finished(NamedTuple):
    """The K best hypotheses of each pair so far, best first; all [B, K].

    Attributes:
        scores: summed log-probability / length**length_penalty; IMPOSSIBLE where empty.
        sums: summed log-probability.
        lengths: generated words, END included; 0 where empty.
        tokens: the last word.
        parents: the beam of the step before that the last word continued.
    """

    scores: Tensor
    sums: Tensor
    lengths: Tensor
    tokens: Tensor
    parents: Tensor


class Settings(NamedTuple):
    """The search's settings: `length_penalty` float [], `early_stopping` bool [], `max_length` int64 [] with START."""

    length_penalty: Tensor
    early_stopping: Tensor
    max_length: Tensor


class Step(NamedTuple):
    """What a step gives: the beams that go on [B, K], the hypotheses, which pairs are done [B]."""

    tokens: Tensor
    parents: Tensor
    scores: Tensor
    finished: Finished
    done: Tensor


def advance(
    log_probs: Tensor, scores: Tensor, position: Tensor, finished: Finished, done: Tensor, settings: Settings
) -> Step:
    """Select the next words.

    Args:
        log_probs: [B, K, V] of the next word of every beam.
        scores: [B, K] running sums of the beams.
        position: int64 [], index of the beams' last word; START is 0.
        finished: the hypotheses so far.
        done: bool [B].
        settings: the search's settings.
    """
    beams, vocabulary = log_probs.shape[1:]
    sums, flat = (log_probs + scores.unsqueeze(-1)).flatten(1).topk(2 * beams, dim=-1)
    parents = torch.div(flat, vocabulary, rounding_mode="floor")  # in float32: exact up to K·V = 2²⁴
    tokens = flat - parents * vocabulary
    at_limit = position + 2 >= settings.max_length
    ends = (tokens == END) | at_limit

    next_scores, going_on = torch.where(ends, sums + IMPOSSIBLE, sums).topk(beams, dim=-1)

    generated = position + 1
    divisor = generated.to(sums.dtype) ** settings.length_penalty
    in_reach = torch.arange(2 * beams, device=sums.device) < beams  # what ranks lower only stands by to go on
    counts = ends & in_reach & ~done.unsqueeze(-1)
    merged_scores = torch.cat([finished.scores, torch.where(counts, sums / divisor, IMPOSSIBLE)], dim=1)
    best_scores, best = merged_scores.topk(beams, dim=-1)
    lengths = torch.where(counts, generated, 0)
    candidates = (sums, lengths, tokens, parents)
    pool = Finished(
        best_scores,
        *(torch.cat([old, new], dim=1).gather(1, best) for old, new in zip(finished[1:], candidates, strict=True)),
    )

    # As in `transformers`, the best beam's score at its present length stands for the best it can still reach.
    improvable = next_scores[:, 0] / divisor > best_scores[:, -1]
    full = (pool.lengths > 0).all(dim=-1)
    next_done = done | ~improvable | (full & settings.early_stopping) | at_limit
    return Step(tokens.gather(1, going_on), parents.gather(1, going_on), next_scores, pool, next_done)
