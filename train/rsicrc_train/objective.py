"""Training objective: captioning and contrastive loss of a batch, also when its parts lie on several processes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from rsicrc.text.encoding import pad
from rsicrc.text.vocabulary import PAD
from rsicrc_train import distributed
from rsicrc_train.batches import BatchLoader, Part
from rsicrc_train.data import PairDataset, TrainingBatch
from rsicrc_train.losses import ContrastiveLoss, caption_loss
from rsicrc_train.model import RSICRC
from rsicrc_train.negatives import Embedded, MinedSentences, SentenceSimilarity, mine_negatives
from rsicrc_train.recipes import Training
from rsicrc_train.sentence_embeddings import embed_sentences

if TYPE_CHECKING:
    from lightning_fabric import Fabric


_SENTENCES = 1024  # that are embedded at a time


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
    texts = [f"{text} ." for text in dataset.texts] if training.sentence_period else dataset.texts
    embeddings = embed_sentences(texts, training.sentence_encoder, str(fabric.device))
    if fabric.is_global_zero:
        fabric.barrier()
    return SentenceSimilarity(torch.from_numpy(embeddings).to(fabric.device), training.threshold)


class Objective:
    """Losses on one split, and the hard negatives that are added to its batches.

    Attributes:
        mined: Numbers of the pairs that are mined for each item of the data set, int64 [items, k]; None without mining.
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
        self._first_items = torch.tensor(dataset.first_items())

    def training_losses(self, model: nn.Module, part: Part) -> Losses:
        """Compute the losses of this process's part of a batch, contrasted with the parts of all processes.

        DDP's mean of the processes' gradients is the gradient that one process would compute from the whole batch.

        Args:
            model: Model as wrapped by Fabric.
            part: Items of the batch, mined ones included if they are whole items.
        """
        batch = part.batch
        gather = partial(distributed.gather, self.fabric) if part.shared else _unchanged
        captions, ids, mined = len(batch.ids), batch.ids, None
        if self.mined is not None and self.training.mined_by == "image":
            ids, own = self._append_mined(batch.ids, self.mined[part.items].flatten().tolist())
            mined = MinedSentences(*gather(own).unbind(1))
        with distributed.unsynchronized(model, enabled=not part.shared):
            image, text, logits = model(batch.images, ids, captions)
        captioning = caption_loss(logits[:, : batch.ids.shape[1]], batch.ids)  # mined sentences may be longer
        if self.fabric.world_size > 1 and part.shared:
            # Turn the mean over this part's tokens into the mean over all tokens.
            tokens = (batch.ids[:, 1:] != PAD).sum()
            captioning = captioning * tokens * self.fabric.world_size / distributed.total(self.fabric, tokens)
        texts = torch.split(text.embedding, [captions, len(ids) - captions])
        contrastive = self.contrastive_loss(
            gather(image.embedding),
            torch.cat([gather(each) for each in texts if len(each)]),
            gather(batch.labels),
            gather(batch.sentences),
            mined,
        )
        return self._combine(captioning, contrastive)

    def mined_items(self) -> Tensor | None:
        """Return the items that are added to a batch for each of its items, int64 [items, k]; None if there are none.

        If an item is a caption, a mined pair is added with the caption at the position that the item's caption has
        among those of its own pair, counted again from the first one where the mined pair has fewer captions.
        """
        if self.mined is None or self.training.mined_by == "image":
            return None
        first, pair_of = self._first_items, torch.tensor(self.dataset.pair_of)
        position = torch.arange(len(pair_of)) - first[pair_of]
        return first[self.mined] + position.unsqueeze(1) % pair_of.bincount()[self.mined]

    @torch.no_grad()
    def validation_losses(self, model: RSICRC, batch: TrainingBatch) -> Losses:
        """Compute the losses of a whole batch in this process, without mined sentences."""
        with self.fabric.autocast():
            image, text, logits = model(batch.images, batch.ids)
        contrastive = self.contrastive_loss(image.embedding, text.embedding, batch.labels, batch.sentences)
        return self._combine(caption_loss(logits, batch.ids), contrastive)

    @torch.no_grad()
    def mine_negatives(self, model: RSICRC, loader: BatchLoader, epoch: int) -> None:
        """Embed an epoch's pairs with the present weights, and find the hard negatives of each item."""
        model.eval()
        device, first = self.fabric.device, self._first_items.to(self.fabric.device)
        pair_of = torch.tensor(self.dataset.pair_of, device=device)
        images = torch.zeros(len(first), model.config.d_model, device=device)
        for items, batch in loader.in_order(epoch, self._first_items.tolist()):
            with self.fabric.autocast():
                images[pair_of[items]] = model.encode_images(batch.images).embedding.float()
        images = distributed.total(self.fabric, images)
        by_text = self.training.mined_by == "text"
        labels = torch.tensor(self.dataset.labels, device=device)
        sentences = torch.tensor(self.dataset.sentences, device=device)
        queries = self._embed_sentences(model)[sentences[:, 0]] if by_text else images[pair_of]
        self.mined = mine_negatives(
            Embedded(queries, labels, sentences),
            Embedded(images, labels[first], sentences[first]),
            min(self.training.mined, len(first)),
            "none" if by_text else self.training.false_negatives,
            self.contrastive_loss.similarity,
        ).cpu()

    def _embed_sentences(self, model: RSICRC) -> Tensor:
        """Return the text embeddings [U, d] of all sentences of the data set."""
        parts = []
        for start in range(0, len(self.dataset.ids), _SENTENCES):
            ids = torch.from_numpy(pad(self.dataset.ids[start : start + _SENTENCES])).to(self.fabric.device)
            with self.fabric.autocast():
                parts.append(model.encode_text(ids).embedding.float())
        return torch.cat(parts)

    def _append_mined(self, ids: Tensor, pairs: list[int]) -> tuple[Tensor, Tensor]:
        """Append the first sentences of `pairs` to token ids; also return labels and numbers of these sentences."""
        items = self._first_items[pairs].tolist()
        numbers = [self.dataset.sentences[item][0] for item in items]
        more = torch.from_numpy(pad([self.dataset.ids[number] for number in numbers])).to(ids.device)
        width = max(ids.shape[1], more.shape[1])
        joined = torch.cat([nn.functional.pad(part, (0, width - part.shape[1]), value=PAD) for part in (ids, more)])
        labels = [self.dataset.labels[item] for item in items]
        return joined, torch.tensor([labels, numbers], device=ids.device).T

    def _combine(self, captioning: Tensor, contrastive: Tensor) -> Losses:
        return Losses(captioning + self.training.contrastive_weight * contrastive, captioning, contrastive)


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor
