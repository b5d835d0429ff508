"""One step of batched beam search as tensor operations: from log-probabilities to the state of the next step.

The semantics are those of `transformers` (5.x) `GenerationMixin._beam_search`, per pair. The 2K best continuations are
considered. Continuations that end (END, or the maximum length reached) become hypotheses if they are among the best K;
the best K of the rest become the next beams. A pair that is done keeps its hypotheses unchanged, so its result does not
depend on the other pairs of the batch.

Where two scores are equal, ONNX's TopK takes the lower index first and `torch.topk`, which `transformers` uses, takes
any of them. Results can differ only there.
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
        scores: Summed log-probability / length**length_penalty; IMPOSSIBLE where empty.
        sums: Summed log-probability.
        lengths: Number of generated tokens, END included; 0 where empty.
        tokens: The last token.
        parents: The beam of the preceding step that the last token continued.
    """

    scores: Tensor
    sums: Tensor
    lengths: Tensor
    tokens: Tensor
    parents: Tensor


class Settings(NamedTuple):
    """Settings of the beam search.

    Attributes:
        length_penalty: float [].
        early_stopping: bool [].
        max_length: int64 [], START included.
    """

    length_penalty: Tensor
    early_stopping: Tensor
    max_length: Tensor


class Step(NamedTuple):
    """Result of a step.

    Attributes:
        tokens: Last token of each beam for the next step, int64 [B, K].
        parents: The beam that each of them continues, int64 [B, K].
        scores: Summed log-probability of each beam, [B, K].
        finished: The hypotheses.
        done: The pairs whose hypotheses are final, bool [B].
    """

    tokens: Tensor
    parents: Tensor
    scores: Tensor
    finished: Finished
    done: Tensor


def advance(
    log_probs: Tensor, scores: Tensor, position: Tensor, finished: Finished, done: Tensor, settings: Settings
) -> Step:
    """Select the next tokens.

    Args:
        log_probs: Log-probabilities of the next token of every beam, [B, K, V].
        scores: Summed log-probabilities of the beams, [B, K].
        position: Position of the last token of the beams, int64 []; START has position 0.
        finished: The hypotheses so far.
        done: The pairs whose hypotheses are final, bool [B].
        settings: Settings of the beam search.
    """
    beams, vocabulary = log_probs.shape[1:]
    sums, flat = (log_probs + scores.unsqueeze(-1)).flatten(1).topk(2 * beams, dim=-1)
    parents = torch.div(flat, vocabulary, rounding_mode="floor")  # in float32: exact up to K·V = 2²⁴
    tokens = flat - parents * vocabulary
    at_limit = position + 2 >= settings.max_length
    ends = (tokens == END) | at_limit

    next_scores, continued = torch.where(ends, sums + IMPOSSIBLE, sums).topk(beams, dim=-1)

    generated = position + 1
    divisor = generated.to(sums.dtype) ** settings.length_penalty
    best_half = torch.arange(2 * beams, device=sums.device) < beams  # the lower half can only become beams
    counts = ends & best_half & ~done.unsqueeze(-1)
    merged_scores = torch.cat([finished.scores, torch.where(counts, sums / divisor, IMPOSSIBLE)], dim=1)
    best_scores, best = merged_scores.topk(beams, dim=-1)
    lengths = torch.where(counts, generated, 0)
    candidates = (sums, lengths, tokens, parents)
    pool = Finished(
        best_scores,
        *(torch.cat([old, new], dim=1).gather(1, best) for old, new in zip(finished[1:], candidates, strict=True)),
    )

    # As in `transformers`, the best score that a beam can still reach is estimated by its score at the present length.
    improvable = next_scores[:, 0] / divisor > best_scores[:, -1]
    full = (pool.lengths > 0).all(dim=-1)
    next_done = done | ~improvable | (full & settings.early_stopping) | at_limit
    return Step(tokens.gather(1, continued), parents.gather(1, continued), next_scores, pool, next_done)
