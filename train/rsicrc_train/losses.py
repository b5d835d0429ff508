"""The two losses that RSICRC learns from jointly: captioning and image-text contrast."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rsicrc.text.vocabulary import PAD
from rsicrc_train.negatives import Masks, Mined, SentenceSimilarity, contrast_masks
from rsicrc_train.recipes import Training


def caption_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy of each next word given the words before it; PAD targets do not count.

    Args:
        logits: [N, n, V], the scores of the word after each position.
        ids: int64 [N, n], START … END, right-padded.
    """
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), ignore_index=PAD)


def contrastive_loss(queries: Tensor, keys: Tensor, masks: Masks, temperature: float, hardest: int = 0) -> Tensor:
    """InfoNCE over cosines: each positive of a query is contrasted with that query's own negatives.

    Args:
        queries: [B, d].
        keys: [N, d].
        masks: bool [B, N] each; at least one positive in each row.
        temperature: what the cosines are divided by.
        hardest: how many negatives of each query count, those of the highest cosine; 0 counts all.

    Returns:
        The mean over the queries of the mean over each one's positives; a query without negatives adds 0.
    """
    cosines = functional.normalize(queries.float(), dim=-1) @ functional.normalize(keys.float(), dim=-1).T / temperature
    against = cosines.masked_fill(~masks.negatives, -torch.inf)
    if hardest:
        against = against.topk(min(hardest, against.shape[1]), dim=1).values
    against = against.logsumexp(dim=1, keepdim=True)
    losses = torch.logaddexp(cosines, against) - cosines
    per_query = (losses * masks.positives).sum(dim=1) / masks.positives.sum(dim=1)
    return per_query.mean()


class Contrast:
    """The contrastive loss of a recipe: what counts as positive and negative, which way, and how hard."""

    def __init__(self, training: Training, alike: SentenceSimilarity) -> None:
        """Take the options from `training`; `alike` tells which sentences say the same."""
        self.training = training
        self.alike = alike

    def __call__(
        self, images: Tensor, texts: Tensor, labels: Tensor, sentences: Tensor, mined: Mined | None = None
    ) -> Tensor:
        """The loss of B pairs among their own N = B·r sentences and M mined ones.

        Args:
            images: [B, d], the pairs' embeddings.
            texts: [N + M, d], the sentences' embeddings: r in a row for each pair, then the mined ones.
            labels: int64 [B], the pairs' labels.
            sentences: int64 [B, r], the numbers of the pairs' sentences.
            mined: labels and numbers of the M mined sentences; they are keys only, images do not come with them.
        """
        options, own = self.training, sentences.numel()
        others, other_labels = sentences.flatten(), labels.repeat_interleave(sentences.shape[1])
        if mined is not None:
            others, other_labels = torch.cat([others, mined.sentences]), torch.cat([other_labels, mined.labels])
        masks = contrast_masks(labels, sentences, other_labels, others, options.false_negatives, self.alike)
        loss = contrastive_loss(images, texts, masks, options.temperature, options.hardest)
        if not options.symmetric:
            return loss
        back = Masks(masks.positives[:, :own].T, masks.negatives[:, :own].T)
        return (loss + contrastive_loss(texts[:own], images, back, options.temperature, options.hardest)) / 2
