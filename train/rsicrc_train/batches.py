"""Order of the batches, and their distribution over the processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader

from rsicrc_train.data import PairDataset, TrainingBatch, collate
from rsicrc_train.recipes import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class BatchLoader:
    """Loader of one split's batches; their order depends only on seed and epoch, not on the number of processes."""

    def __init__(self, fabric: Fabric, dataset: PairDataset, training: Training) -> None:
        """Load the batches of this process of `fabric`."""
        self.fabric = fabric
        self.dataset = dataset
        self.training = training

    def shuffled(self, epoch: int, skip: int = 0) -> Iterator[tuple[list[int], TrainingBatch]]:
        """Yield this process's part of each shuffled batch of an epoch; pairs that do not fill a step are left out.

        Args:
            epoch: Number of the epoch, from 0.
            skip: Number of batches at the beginning of the epoch to leave out.

        Yields:
            The indices of the pairs, and the pairs.
        """
        self.dataset.epoch = epoch
        size = self.training.batch_size
        step = size * self.training.accumulate
        generator = torch.Generator().manual_seed(self.training.seed + 1_000_003 * (epoch + 1))
        order = torch.randperm(len(self.dataset), generator=generator)[: len(self.dataset) // step * step]
        share = size // self.fabric.world_size
        own = slice(self.fabric.global_rank * share, (self.fabric.global_rank + 1) * share)
        return self._load([chunk[own].tolist() for chunk in torch.split(order, size)[skip:]])

    def in_order(self, epoch: int) -> Iterator[tuple[list[int], TrainingBatch]]:
        """Yield all pairs in the order of the data set, augmented as in `epoch`; processes take whole batches by turns.

        Yields:
            The indices of the pairs, and the pairs.
        """
        self.dataset.epoch = epoch
        chunks = torch.split(torch.arange(len(self.dataset)), self.training.batch_size)
        return self._load([chunk.tolist() for chunk in chunks[self.fabric.global_rank :: self.fabric.world_size]])

    def _load(self, batches: list[list[int]]) -> Iterator[tuple[list[int], TrainingBatch]]:
        loader: DataLoader[TrainingBatch] = DataLoader(
            self.dataset,  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.training.workers,
            # By default every pass would draw from torch's global generator, and a resumed run would draw once more.
            generator=torch.Generator(),
        )
        for indices, batch in zip(batches, loader, strict=True):
            yield indices, TrainingBatch(*(tensor.to(self.fabric.device) for tensor in batch))
