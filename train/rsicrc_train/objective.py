"""What a run minimizes: captioning and contrast of a batch, whichever processes its parts lie on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from rsicrc.text.encoding import pad
from rsicrc.text.vocabulary import PAD
from rsicrc_train import distributed
from rsicrc_train.batches import Batches
from rsicrc_train.data import Batch, PairDataset
from rsicrc_train.losses import Contrast, caption_loss
from rsicrc_train.model import RSICRC
from rsicrc_train.negatives import Mined, SentenceSimilarity, mine
from rsicrc_train.recipes import Training


class Losses(NamedTuple):
    """What a batch costs: `loss` = `captioning` + weight × `contrastive`, each a scalar."""

    loss: Tensor
    captioning: Tensor
    contrastive: Tensor


class Objective:
    """The losses on one split, and the hard negatives that join its batches.

    Attributes:
        mined: int64 [P, k], the pairs whose first sentences join a batch for each of its pairs; None without mining.
    """

    def __init__(self, fabric: Fabric, dataset: PairDataset, training: Training, alike: SentenceSimilarity) -> None:
        """Judge batches of `dataset`; `alike` compares its sentences."""
        self.fabric = fabric
        self.dataset = dataset
        self.training = training
        self.contrast = Contrast(training, alike)
        self.mined: Tensor | None = None

    def of_share(self, model: nn.Module, chosen: list[int], batch: Batch) -> Losses:
        """The losses of this process's part of a batch, with the parts of all processes to contrast it with.

        DDP's mean of the processes' gradients is the gradient that one process would get from the whole batch.

        Args:
            model: the model as Fabric wrapped it.
            chosen: the numbers of the pairs.
            batch: the pairs.
        """
        captions, ids, mined = len(batch.ids), batch.ids, None
        if self.mined is not None:
            ids, mined = self._join(batch.ids, self.mined[chosen].flatten().tolist())
        image, text, logits = model(batch.images, ids, captions)
        captioning = caption_loss(logits[:, : batch.ids.shape[1]], batch.ids)  # mined ones may be longer
        if self.fabric.world_size > 1:  # from the mean over this part's words to that over all words
            words = (batch.ids[:, 1:] != PAD).sum()
            captioning = captioning * words * self.fabric.world_size / distributed.total(self.fabric, words)
        texts = torch.split(text.embedding, [captions, len(ids) - captions])
        contrastive = self.contrast(
            distributed.gather(self.fabric, image.embedding),
            torch.cat([distributed.gather(self.fabric, part) for part in texts if len(part)]),
            distributed.gather(self.fabric, batch.labels),
            distributed.gather(self.fabric, batch.sentences),
            mined,
        )
        return self._joint(captioning, contrastive)

    @torch.no_grad()
    def of_whole(self, model: RSICRC, batch: Batch) -> Losses:
        """The losses of a batch that this process holds alone, without mined sentences."""
        with self.fabric.autocast():
            image, text, logits = model(batch.images, batch.ids)
        contrastive = self.contrast(image.embedding, text.embedding, batch.labels, batch.sentences)
        return self._joint(caption_loss(logits, batch.ids), contrastive)

    @torch.no_grad()
    def mine(self, model: RSICRC, batches: Batches, epoch: int) -> None:
        """Index the embeddings of an epoch's pairs, as the model now makes them, and find each one's hard negatives."""
        model.eval()
        index = torch.zeros(len(self.dataset), model.config.d_model, device=self.fabric.device)
        for chosen, batch in batches.turns(epoch):
            with self.fabric.autocast():
                index[chosen] = model.encode_images(batch.images).embedding.float()
        self.mined = mine(
            distributed.total(self.fabric, index),
            torch.tensor(self.dataset.labels, device=index.device),
            torch.tensor(self.dataset.sentences, device=index.device),
            min(self.training.mined, len(self.dataset)),
            self.training.false_negatives,
            self.contrast.alike,
        ).cpu()

    def _join(self, ids: Tensor, pairs: list[int]) -> tuple[Tensor, Mined]:
        """Word ids followed by those of the first sentences of `pairs`, and what all processes so joined."""
        numbers = [self.dataset.sentences[pair][0] for pair in pairs]
        more = torch.from_numpy(pad([self.dataset.ids[number] for number in numbers])).to(ids.device)
        width = max(ids.shape[1], more.shape[1])
        joined = torch.cat([nn.functional.pad(part, (0, width - part.shape[1]), value=PAD) for part in (ids, more)])
        labels = [self.dataset.labels[pair] for pair in pairs]
        both = torch.tensor([labels, numbers], device=ids.device).T
        return joined, Mined(*distributed.gather(self.fabric, both).unbind(1))

    def _joint(self, captioning: Tensor, contrastive: Tensor) -> Losses:
        return Losses(captioning + self.training.contrastive_weight * contrastive, captioning, contrastive)
