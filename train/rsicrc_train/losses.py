"""The two losses that RSICRC learns from jointly: captioning and image-text contrast."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rsicrc.vocabulary import PAD


def caption_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy of each next word given the words before it; PAD targets do not count.

    Args:
        logits: [N, n, V], the scores of the word after each position.
        ids: int64 [N, n], START … END, right-padded.
    """
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), ignore_index=PAD)


def matching(labels: Tensor, sentences: Tensor) -> Tensor:
    """Which sentences of a batch describe which pairs.

    A sentence matches the pairs of its own label (the data give all unchanged pairs one label), and every pair that one
    annotator described by the very same words: a false negative otherwise, which the published model attracts (FNA with
    threshold 1).

    Args:
        labels: int64 [B].
        sentences: int64 [B, r], the number of each of the r sentences of a pair; equal numbers are equal sentences.

    Returns:
        bool [B, B·r].
    """
    repeats = sentences.shape[1]
    same_label = labels.unsqueeze(1) == labels.repeat_interleave(repeats)
    same_words = (sentences.unsqueeze(2) == sentences.flatten()).any(dim=1)
    return same_label | same_words


def contrastive_loss(queries: Tensor, keys: Tensor, matches: Tensor, temperature: float) -> Tensor:
    """InfoNCE over cosines: each match of a query is contrasted with that query's own non-matches.

    Args:
        queries: [B, d].
        keys: [N, d].
        matches: bool [B, N], at least one in each row.
        temperature: what the cosines are divided by.

    Returns:
        The mean over the queries of the mean over each one's matches; a query without non-matches adds 0.
    """
    cosines = functional.normalize(queries.float(), dim=-1) @ functional.normalize(keys.float(), dim=-1).T / temperature
    against = cosines.masked_fill(matches, -torch.inf).logsumexp(dim=1, keepdim=True)
    losses = torch.logaddexp(cosines, against) - cosines
    per_query = (losses * matches).sum(dim=1) / matches.sum(dim=1)
    return per_query.mean()
