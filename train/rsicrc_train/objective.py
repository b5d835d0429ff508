"""Training objective: captioning and contrastive loss of a batch, also when its parts lie on several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from rsicrc.text.encoding import pad
from rsicrc.text.vocabulary import PAD
from rsicrc_train import distributed
from rsicrc_train.batches import BatchLoader
from rsicrc_train.data import PairDataset, TrainingBatch
from rsicrc_train.losses import ContrastiveLoss, caption_loss
from rsicrc_train.model import RSICRC
from rsicrc_train.negatives import MinedSentences, SentenceSimilarity, mine_negatives
from rsicrc_train.recipes import Training
from rsicrc_train.sentence_embeddings import embed_sentences

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Losses(NamedTuple):
    """Losses of a batch: `loss` = `captioning` + weight × `contrastive`, each a scalar."""

    loss: Tensor
    captioning: Tensor
    contrastive: Tensor


def sentence_similarity(fabric: Fabric, dataset: PairDataset, training: Training) -> SentenceSimilarity:
    """Return the comparison of a split's sentences that the recipe names; the main process fills the embedding cache.

    Raises:
        DataError: The sentence encoder cannot be loaded.
    """
    if training.false_negatives == "none" or training.threshold == 1:
        return SentenceSimilarity()
    if not fabric.is_global_zero:
        fabric.barrier()
    embeddings = embed_sentences(dataset.texts, training.sentence_encoder, str(fabric.device))
    if fabric.is_global_zero:
        fabric.barrier()
    return SentenceSimilarity(torch.from_numpy(embeddings).to(fabric.device), training.threshold)


class Objective:
    """Losses on one split, and the hard negatives that are added to its batches.

    Attributes:
        mined: Indices of the pairs whose first sentences are added to a batch for each of its pairs, int64 [P, k]; None
            without mining.
    """

    def __init__(
        self, fabric: Fabric, dataset: PairDataset, training: Training, similarity: SentenceSimilarity
    ) -> None:
        """Use the options of `training` for batches of `dataset`; `similarity` compares the sentences of `dataset`."""
        self.fabric = fabric
        self.dataset = dataset
        self.training = training
        self.contrastive_loss = ContrastiveLoss(training, similarity)
        self.mined: Tensor | None = None

    def training_losses(self, model: nn.Module, indices: list[int], batch: TrainingBatch) -> Losses:
        """Compute the losses of this process's part of a batch, contrasted with the parts of all processes.

        DDP's mean of the processes' gradients is the gradient that one process would compute from the whole batch.

        Args:
            model: Model as wrapped by Fabric.
            indices: Indices of the pairs in the data set.
            batch: The pairs.
        """
        captions, ids, mined = len(batch.ids), batch.ids, None
        if self.mined is not None:
            ids, mined = self._append_mined(batch.ids, self.mined[indices].flatten().tolist())
        image, text, logits = model(batch.images, ids, captions)
        captioning = caption_loss(logits[:, : batch.ids.shape[1]], batch.ids)  # mined sentences may be longer
        if self.fabric.world_size > 1:  # turn the mean over this part's tokens into the mean over all tokens
            tokens = (batch.ids[:, 1:] != PAD).sum()
            captioning = captioning * tokens * self.fabric.world_size / distributed.total(self.fabric, tokens)
        texts = torch.split(text.embedding, [captions, len(ids) - captions])
        contrastive = self.contrastive_loss(
            distributed.gather(self.fabric, image.embedding),
            torch.cat([distributed.gather(self.fabric, part) for part in texts if len(part)]),
            distributed.gather(self.fabric, batch.labels),
            distributed.gather(self.fabric, batch.sentences),
            mined,
        )
        return self._combine(captioning, contrastive)

    @torch.no_grad()
    def validation_losses(self, model: RSICRC, batch: TrainingBatch) -> Losses:
        """Compute the losses of a whole batch in this process, without mined sentences."""
        with self.fabric.autocast():
            image, text, logits = model(batch.images, batch.ids)
        contrastive = self.contrastive_loss(image.embedding, text.embedding, batch.labels, batch.sentences)
        return self._combine(caption_loss(logits, batch.ids), contrastive)

    @torch.no_grad()
    def mine_negatives(self, model: RSICRC, loader: BatchLoader, epoch: int) -> None:
        """Embed an epoch's pairs with the present weights, and find the hard negatives of each pair."""
        model.eval()
        embeddings = torch.zeros(len(self.dataset), model.config.d_model, device=self.fabric.device)
        for indices, batch in loader.in_order(epoch):
            with self.fabric.autocast():
                embeddings[indices] = model.encode_images(batch.images).embedding.float()
        self.mined = mine_negatives(
            distributed.total(self.fabric, embeddings),
            torch.tensor(self.dataset.labels, device=embeddings.device),
            torch.tensor(self.dataset.sentences, device=embeddings.device),
            min(self.training.mined, len(self.dataset)),
            self.training.false_negatives,
            self.contrastive_loss.similarity,
        ).cpu()

    def _append_mined(self, ids: Tensor, pairs: list[int]) -> tuple[Tensor, MinedSentences]:
        """Append the first sentences of `pairs` to token ids; also return the sentences that all processes append."""
        numbers = [self.dataset.sentences[pair][0] for pair in pairs]
        more = torch.from_numpy(pad([self.dataset.ids[number] for number in numbers])).to(ids.device)
        width = max(ids.shape[1], more.shape[1])
        joined = torch.cat([nn.functional.pad(part, (0, width - part.shape[1]), value=PAD) for part in (ids, more)])
        labels = [self.dataset.labels[pair] for pair in pairs]
        both = torch.tensor([labels, numbers], device=ids.device).T
        return joined, MinedSentences(*distributed.gather(self.fabric, both).unbind(1))

    def _combine(self, captioning: Tensor, contrastive: Tensor) -> Losses:
        return Losses(captioning + self.training.contrastive_weight * contrastive, captioning, contrastive)
