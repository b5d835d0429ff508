"""Batched beam search in PyTorch, for baselines that have none of their own.

Its results are those of `generate` in transformers with early stopping and a length penalty of 1: the 2K best
continuations of a pair are candidates; those that end are finished if they are among the best K, the others continue.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rsicrc.text.vocabulary import END, PAD, START

IMPOSSIBLE = -1.0e9
Step = Callable[[Tensor, Tensor], Tensor]
"""All token ids so far [R, n] and the row that each row continues [R], for caches → logits of the next token [R, V]."""


def beam_search(
    step: Step, pairs: int, beams: int, max_length: int, device: torch.device | str = "cpu"
) -> list[list[int]]:
    """Find the best caption of every pair.

    The rows of `step` are the beams of the first pair, then those of the second, and so on. One beam is greedy search.

    Returns:
        Token ids for each pair, with END if the caption ended, without START; START and these are at most `max_length`.
    """
    if beams == 1:
        return _greedy(step, pairs, max_length, device)
    ids = torch.full((pairs, beams, 1), START, device=device)
    scores = torch.full((pairs, beams), IMPOSSIBLE, device=device)
    scores[:, 0] = 0.0  # all beams are START: only one of them may be continued
    first_rows = beams * torch.arange(pairs, device=device).unsqueeze(1)
    parents = torch.arange(beams, device=device).expand(pairs, beams)
    finished = torch.full((pairs, beams, max_length), PAD, device=device)
    finished_scores = torch.full((pairs, beams), IMPOSSIBLE, device=device)
    done = torch.zeros(pairs, dtype=torch.bool, device=device)
    for length in range(1, max_length):  # tokens generated after this step
        logits = step(ids.flatten(0, 1), (first_rows + parents).flatten())
        log_probs = logits.float().log_softmax(dim=-1).view(pairs, beams, -1)
        sums, flat = (scores.unsqueeze(-1) + log_probs).flatten(1).topk(2 * beams)
        parents, best = flat // log_probs.shape[-1], flat % log_probs.shape[-1]
        longer = torch.cat([_select(ids, parents), best.unsqueeze(-1)], dim=-1)
        ends = (best == END) | (length + 1 == max_length)

        counts = ends & (torch.arange(2 * beams, device=device) < beams) & ~done.unsqueeze(-1)
        candidates = torch.full((pairs, 2 * beams, max_length), PAD, device=device)
        candidates[:, :, : length + 1] = longer
        merged = torch.cat([finished_scores, torch.where(counts, sums / length, IMPOSSIBLE)], dim=1)
        finished_scores, order = merged.topk(beams)
        finished = _select(torch.cat([finished, candidates], dim=1), order)

        scores, continued = torch.where(ends, sums + IMPOSSIBLE, sums).topk(beams)
        ids, parents = _select(longer, continued), parents.gather(1, continued)
        full = (finished_scores > IMPOSSIBLE / 2).all(dim=1)
        done |= full | (scores[:, 0] / length <= finished_scores[:, -1])
        if done.all():
            break
    return [cut(caption) for caption in finished[:, 0, 1:].tolist()]


def cut(ids: list[int]) -> list[int]:
    """Remove the ids after END, or the padding of a caption that did not end."""
    if END in ids:
        return ids[: ids.index(END) + 1]
    while ids and ids[-1] == PAD:
        ids.pop()
    return ids


def _greedy(step: Step, pairs: int, max_length: int, device: torch.device | str) -> list[list[int]]:
    ids = torch.full((pairs, 1), START, device=device)
    rows = torch.arange(pairs, device=device)
    done = torch.zeros(pairs, dtype=torch.bool, device=device)
    while ids.shape[1] < max_length and not done.all():
        best = torch.where(done, PAD, step(ids, rows).argmax(dim=-1))
        ids = torch.cat([ids, best.unsqueeze(1)], dim=1)
        done |= best == END
    return [cut(caption) for caption in ids[:, 1:].tolist()]


def _select(values: Tensor, rows: Tensor) -> Tensor:
    """Return the rows [B, M] of values [B, N, n], as [B, M, n]."""
    return values.gather(1, rows.unsqueeze(-1).expand(*rows.shape, values.shape[-1]))
