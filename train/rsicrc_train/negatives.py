"""Which sentences a pair is contrasted with, which of them only look like negatives, and which are the hard ones."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

FalseNegatives = Literal["none", "eliminate", "attract"]
# A sentence's cosine with itself comes out as 0.999999 or 1.000001, depending on what it was batched with.
TOLERANCE = 1e-5


class Masks(NamedTuple):
    """What each of B queries is pulled towards and pushed from: `positives` and `negatives`, bool [B, N]."""

    positives: Tensor
    negatives: Tensor


class Mined(NamedTuple):
    """M sentences from outside a batch to contrast with: their pairs' `labels` and their numbers, int64 [M] each."""

    labels: Tensor
    sentences: Tensor


class SentenceSimilarity:
    """Tells which sentences say the same: those of the same words and, given meanings, those of a similar meaning."""

    def __init__(self, meanings: Tensor | None = None, threshold: float = 1.0) -> None:
        """Compare by words alone, or by meaning too.

        Args:
            meanings: [U, e] of unit length, the embedding of sentence number u in row u.
            threshold: the cosine from which on two sentences say the same.
        """
        self.meanings = meanings
        self.threshold = threshold

    def __call__(self, sentences: Tensor, others: Tensor) -> Tensor:
        """Which of `others` say what a pair's own sentences say.

        Args:
            sentences: int64 [B, r], the numbers of the r sentences of each pair.
            others: int64 [N], the numbers of the sentences to compare with.

        Returns:
            bool [B, N]: whether any of the r says the same.
        """
        same = (sentences.unsqueeze(2) == others).any(dim=1)
        if self.meanings is not None:
            cosines = self.meanings[sentences] @ self.meanings[others].T
            same = same | (cosines >= self.threshold - TOLERANCE).any(dim=1)
        return same


def contrast_masks(
    labels: Tensor,
    sentences: Tensor,
    other_labels: Tensor,
    others: Tensor,
    mode: FalseNegatives,
    alike: SentenceSimilarity,
) -> Masks:
    """The positives and negatives of pairs among sentences.

    A sentence of a pair's own label (the data give all unchanged pairs one label) is a positive. One of another label
    that says the same is a false negative: `none` leaves it a negative, `eliminate` makes it neither, `attract` makes
    it a positive (FNE and FNA in the published work).

    Args:
        labels: int64 [B], the pairs' labels.
        sentences: int64 [B, r], the numbers of the pairs' own sentences.
        other_labels: int64 [N], the labels of the pairs that the N sentences describe.
        others: int64 [N], their numbers.
        mode: what happens to false negatives.
        alike: which sentences say the same.
    """
    own = labels.unsqueeze(1) == other_labels
    if mode == "none":
        return Masks(own, ~own)
    related = own | alike(sentences, others)
    return Masks(related if mode == "attract" else own, ~related)


def mine(
    embeddings: Tensor,
    labels: Tensor,
    sentences: Tensor,
    count: int,
    mode: FalseNegatives,
    alike: SentenceSimilarity,
    chunk: int = 128,
) -> Tensor:
    """The hard negatives of every pair: the pairs that look most like it, of those whose first sentence is a negative.

    Args:
        embeddings: [P, d], an index of all pairs.
        labels: int64 [P].
        sentences: int64 [P, r].
        count: how many to find for each, at most P.
        mode: what happens to false negatives; those that are no negatives are not mined.
        alike: which sentences say the same.
        chunk: pairs that are compared with all at a time; bounds the memory.

    Returns:
        int64 [P, count], the nearest first. Where there are fewer negatives the row ends in other pairs, which the
        masks of the batch keep from counting as negatives.
    """
    index = functional.normalize(embeddings.float(), dim=-1)
    rows = []
    for part in torch.split(torch.arange(len(index), device=index.device), chunk):
        negatives = contrast_masks(labels[part], sentences[part], labels, sentences[:, 0], mode, alike).negatives
        cosines = (index[part] @ index.T).masked_fill(~negatives, -torch.inf)
        rows.append(cosines.topk(count, dim=1).indices)
    return torch.cat(rows)
