"""The two losses that RSICRC is trained on jointly: captioning and image-text contrast."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rsicrc.text.vocabulary import PAD
from rsicrc_train.negatives import Masks, MinedSentences, SentenceSimilarity, contrast_masks
from rsicrc_train.recipes import Training


def caption_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the mean cross-entropy of each token given the tokens before it; PAD targets are ignored.

    Args:
        logits: Scores [N, n, V] of the token after each position.
        ids: Token ids, int64 [N, n], START … END, right-padded.
    """
    return functional.cross_entropy(_widened(logits[:, :-1].flatten(0, 1)), ids[:, 1:].flatten(), ignore_index=PAD)


def contrastive_loss(queries: Tensor, keys: Tensor, masks: Masks, training: Training) -> Tensor:
    """Compute InfoNCE over cosines: each positive of a query is contrasted with the negatives of this query.

    Args:
        queries: Embeddings [B, d].
        keys: Embeddings [N, d].
        masks: Positives and negatives, bool [B, N] each; at least one positive in each row.
        training: Options `temperature`, `hardest`, `hardest_of` and `contrast_mean`.

    Returns:
        The mean over the queries of the mean over each query's positives, or the mean over all positives; a query
        without negatives adds 0.
    """
    cosines = functional.normalize(_widened(queries), dim=-1) @ functional.normalize(_widened(keys), dim=-1).T
    cosines = cosines / training.temperature
    negatives = masks.negatives
    if training.hardest:
        negatives = negatives & _hardest(cosines.masked_fill(~negatives, -torch.inf), training)
    against = cosines.masked_fill(~negatives, -torch.inf).logsumexp(dim=1, keepdim=True)
    losses = (torch.logaddexp(cosines, against) - cosines) * masks.positives
    if training.contrast_mean == "positives":
        return losses.sum() / masks.positives.sum()
    return (losses.sum(dim=1) / masks.positives.sum(dim=1)).mean()


def _widened(tensor: Tensor) -> Tensor:
    """Return a tensor of at least float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _hardest(cosines: Tensor, training: Training) -> Tensor:
    """Return the mask of the largest values [B, N] in each row, or in the whole matrix."""
    rows = cosines if training.hardest_of == "query" else cosines.reshape(1, -1)
    largest = rows.topk(min(training.hardest, rows.shape[1]), dim=1).indices
    return torch.zeros_like(rows, dtype=torch.bool).scatter(1, largest, value=True).view_as(cosines)


class ContrastiveLoss:
    """Contrastive loss with the options of a recipe: false negatives, directions, temperature and hard negatives."""

    def __init__(self, training: Training, similarity: SentenceSimilarity) -> None:
        """Take the options from `training`; `similarity` finds sentences of the same meaning."""
        self.training = training
        self.similarity = similarity

    def __call__(
        self, images: Tensor, texts: Tensor, labels: Tensor, sentences: Tensor, mined: MinedSentences | None = None
    ) -> Tensor:
        """Compute the loss of B pairs among their own N = B·r sentences and M mined ones.

        Args:
            images: Embeddings [B, d] of the pairs.
            texts: Embeddings [N + M, d] of the sentences: r in a row for each pair, then the mined sentences.
            labels: Labels of the pairs, int64 [B].
            sentences: Numbers of the pairs' sentences, int64 [B, r].
            mined: Labels and numbers of the M mined sentences, which serve as keys only: they have no images.
        """
        options, own = self.training, sentences.numel()
        others, other_labels = sentences.flatten(), labels.repeat_interleave(sentences.shape[1])
        if mined is not None:
            others, other_labels = torch.cat([others, mined.sentences]), torch.cat([other_labels, mined.labels])
        masks = contrast_masks(labels, sentences, other_labels, others, options.false_negatives, self.similarity)
        loss = contrastive_loss(images, texts, masks, options)
        if not options.symmetric:
            return loss
        transposed = Masks(masks.positives[:, :own].T, masks.negatives[:, :own].T)
        text_loss = contrastive_loss(texts[:own], images, transposed, options)
        return (loss + text_loss) / 2
