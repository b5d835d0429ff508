"""A batched beam search in PyTorch, for contestants that have none of their own.

The results are those of `generate` in transformers with early_stopping and a length penalty of 1: per pair, the 2K best
continuations are looked at; those that end count as finished if they are among the best K, the others go on.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rsicrc.text.vocabulary import END, PAD, START

IMPOSSIBLE = -1.0e9
Step = Callable[[Tensor, Tensor], Tensor]
"""All words so far [R, n] and, for caches, the row that each row continues [R] → logits of the next words [R, V]."""


def search(step: Step, pairs: int, beams: int, max_length: int, device: torch.device | str = "cpu") -> list[list[int]]:
    """The best sentence of every pair.

    Args:
        step: the model; its rows are the beams of the first pair, then those of the second, …
        pairs: B.
        beams: K; 1 is greedy.
        max_length: longest sequence of ids, START included.
        device: where the step is computed, and the search with it.

    Returns:
        For each pair the generated ids, END included where the sentence ended.
    """
    if beams == 1:
        return _greedy(step, pairs, max_length, device)
    return _beams(step, pairs, beams, max_length, device)


def _greedy(step: Step, pairs: int, max_length: int, device: torch.device | str) -> list[list[int]]:
    words = torch.full((pairs, 1), START, device=device)
    rows = torch.arange(pairs, device=device)
    done = torch.zeros(pairs, dtype=torch.bool, device=device)
    while words.shape[1] < max_length and not done.all():
        best = torch.where(done, PAD, step(words, rows).argmax(dim=-1))
        words = torch.cat([words, best.unsqueeze(1)], dim=1)
        done |= best == END
    return [_cut(sentence) for sentence in words[:, 1:].tolist()]


def _beams(step: Step, pairs: int, beams: int, max_length: int, device: torch.device | str) -> list[list[int]]:
    words = torch.full((pairs, beams, 1), START, device=device)
    scores = torch.full((pairs, beams), IMPOSSIBLE, device=device)
    scores[:, 0] = 0.0  # all beams are START: only one of them may be continued
    first_rows = beams * torch.arange(pairs, device=device).unsqueeze(1)
    parents = torch.arange(beams, device=device).expand(pairs, beams)
    finished = torch.full((pairs, beams, max_length), PAD, device=device)
    finished_scores = torch.full((pairs, beams), IMPOSSIBLE, device=device)
    done = torch.zeros(pairs, dtype=torch.bool, device=device)
    for length in range(1, max_length):  # words generated after this step
        logits = step(words.flatten(0, 1), (first_rows + parents).flatten())
        log_probs = logits.float().log_softmax(dim=-1).view(pairs, beams, -1)
        sums, flat = (scores.unsqueeze(-1) + log_probs).flatten(1).topk(2 * beams)
        parents, best = flat // log_probs.shape[-1], flat % log_probs.shape[-1]
        longer = torch.cat([_rows(words, parents), best.unsqueeze(-1)], dim=-1)
        ends = (best == END) | (length + 1 == max_length)

        counts = ends & (torch.arange(2 * beams, device=device) < beams) & ~done.unsqueeze(-1)
        candidates = torch.full((pairs, 2 * beams, max_length), PAD, device=device)
        candidates[:, :, : length + 1] = longer
        merged = torch.cat([finished_scores, torch.where(counts, sums / length, IMPOSSIBLE)], dim=1)
        finished_scores, kept = merged.topk(beams)
        finished = _rows(torch.cat([finished, candidates], dim=1), kept)

        scores, going_on = torch.where(ends, sums + IMPOSSIBLE, sums).topk(beams)
        words, parents = _rows(longer, going_on), parents.gather(1, going_on)
        full = (finished_scores > IMPOSSIBLE / 2).all(dim=1)
        done |= full | (scores[:, 0] / length <= finished_scores[:, -1])
        if done.all():
            break
    return [_cut(sentence) for sentence in finished[:, 0, 1:].tolist()]


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """From values [B, N, n] the rows [B, M] of each pair."""
    return values.gather(1, rows.unsqueeze(-1).expand(*rows.shape, values.shape[-1]))


def _cut(sentence: list[int]) -> list[int]:
    """Up to END; what fills the rest of a row goes."""
    if END in sentence:
        return sentence[: sentence.index(END) + 1]
    while sentence and sentence[-1] == PAD:
        sentence.pop()
    return sentence
