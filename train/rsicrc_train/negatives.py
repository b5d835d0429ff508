"""Positives, negatives and false negatives of the contrastive loss, and mining of hard negatives."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

FalseNegatives = Literal["none", "eliminate", "attract"]
# A sentence's cosine with itself is computed as 0.999999 or 1.000001, depending on the other sentences of its batch.
_TOLERANCE = 1e-5


class Masks(NamedTuple):
    """Masks bool [B, N] of the `positives` and `negatives` of B queries among N keys."""

    positives: Tensor
    negatives: Tensor


class MinedSentences(NamedTuple):
    """M sentences from outside a batch to contrast with: their pairs' `labels` and their numbers, int64 [M] each."""

    labels: Tensor
    sentences: Tensor


class Embedded(NamedTuple):
    """Embeddings [M, d] of pairs or sentences, with their pairs' `labels` [M] and numbers of `sentences` [M, r]."""

    embeddings: Tensor
    labels: Tensor
    sentences: Tensor


class SentenceSimilarity:
    """Test for sentences that say the same: the same text or, with embeddings, a similar meaning."""

    def __init__(self, embeddings: Tensor | None = None, threshold: float = 1.0) -> None:
        """Compare the texts only, or the embeddings too.

        Args:
            embeddings: Embeddings [U, e] of unit length; row u belongs to sentence number u.
            threshold: Lowest cosine of two sentences that say the same.
        """
        self.embeddings = embeddings
        self.threshold = threshold

    def __call__(self, sentences: Tensor, others: Tensor) -> Tensor:
        """Find the sentences among `others` that say the same as one of a pair's own sentences.

        Args:
            sentences: Numbers of the r sentences of each pair, int64 [B, r].
            others: Numbers of the sentences to compare with, int64 [N].

        Returns:
            bool [B, N], true if any of the r sentences says the same.
        """
        same = (sentences.unsqueeze(2) == others).any(dim=1)
        if self.embeddings is not None:
            cosines = self.embeddings[sentences] @ self.embeddings[others].T
            same = same | (cosines >= self.threshold - _TOLERANCE).any(dim=1)
        return same


def contrast_masks(
    labels: Tensor,
    sentences: Tensor,
    other_labels: Tensor,
    others: Tensor,
    mode: FalseNegatives,
    similarity: SentenceSimilarity,
) -> Masks:
    """Return the positives and negatives of pairs among sentences.

    A sentence of a pair's own label (all unchanged pairs share one label) is a positive. A sentence of another label
    that says the same is a false negative: `none` leaves it a negative, `eliminate` makes it neither positive nor
    negative, `attract` makes it a positive (FNE and FNA in the published work).

    Args:
        labels: Labels of the pairs, int64 [B].
        sentences: Numbers of the pairs' own sentences, int64 [B, r].
        other_labels: Labels of the pairs that the N sentences describe, int64 [N].
        others: Numbers of the N sentences, int64 [N].
        mode: Treatment of false negatives.
        similarity: Test for sentences that say the same.
    """
    own = labels.unsqueeze(1) == other_labels
    if mode == "none":
        return Masks(own, ~own)
    related = own | similarity(sentences, others)
    return Masks(related if mode == "attract" else own, ~related)


def mine_negatives(
    queries: Embedded,
    pairs: Embedded,
    count: int,
    mode: FalseNegatives,
    similarity: SentenceSimilarity,
    chunk: int = 128,
) -> Tensor:
    """Find the hard negatives of every query: the most similar pairs of those whose first sentence is a negative.

    Args:
        queries: The Q queries.
        pairs: The P pairs to search.
        count: Number of hard negatives for each query, at most P.
        mode: Treatment of false negatives; sentences that are no negatives are not mined.
        similarity: Test for sentences that say the same.
        chunk: Number of queries that are compared with all pairs at a time; limits the memory.

    Returns:
        Numbers of pairs, int64 [Q, count], the most similar first. If there are fewer negatives, a row ends with other
        pairs, which the masks of the batch exclude from the negatives.
    """
    vectors, index = (functional.normalize(each.embeddings.float(), dim=-1) for each in (queries, pairs))
    rows = []
    for part in torch.split(torch.arange(len(vectors), device=index.device), chunk):
        own = queries.labels[part], queries.sentences[part]
        negatives = contrast_masks(*own, pairs.labels, pairs.sentences[:, 0], mode, similarity).negatives
        cosines = (vectors[part] @ index.T).masked_fill(~negatives, -torch.inf)
        rows.append(cosines.topk(count, dim=1).indices)
    return torch.cat(rows)
