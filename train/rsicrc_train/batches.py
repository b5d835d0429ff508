"""Order of the batches, and their distribution over the processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from rsicrc_train.data import PairDataset, TrainingBatch, collate
from rsicrc_train.recipes import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Part(NamedTuple):
    """This process's part of a training batch.

    Attributes:
        items: Numbers of the items in the data set.
        batch: The items.
        shared: True if the processes hold different, equally large parts; False if each holds the whole batch.
    """

    items: list[int]
    batch: TrainingBatch
    shared: bool


class BatchLoader:
    """Loader of one split's batches; their order depends only on seed and epoch, not on the number of processes."""

    def __init__(self, fabric: Fabric, dataset: PairDataset, training: Training) -> None:
        """Load the batches of this process of `fabric`."""
        self.fabric = fabric
        self.dataset = dataset
        self.training = training

    def shuffled(self, epoch: int, skip: int = 0, mined: Tensor | None = None) -> Iterator[Part]:
        """Yield this process's part of each shuffled batch of an epoch.

        Items that do not fill a step are left out. With `partial_batch` they are the last batch, which every process
        computes as a whole, because it may not be divisible by the number of processes.

        Args:
            epoch: Number of the epoch, from 0.
            skip: Number of batches at the beginning of the epoch to leave out.
            mined: Items that are added to a batch for each of its items, int64 [len(dataset), k], or None.
        """
        self.dataset.epoch = epoch
        size = self.training.batch_size
        step = size * self.training.accumulate
        generator = torch.Generator().manual_seed(self.training.seed + 1_000_003 * (epoch + 1))
        order = torch.randperm(len(self.dataset), generator=generator)
        if not self.training.partial_batch:
            order = order[: len(order) // step * step]
        share = size // self.fabric.world_size
        own = slice(self.fabric.global_rank * share, (self.fabric.global_rank + 1) * share)
        chunks = torch.split(order, size)[skip:]
        shared = [len(chunk) == size for chunk in chunks]
        parts = [chunk[own] if equal else chunk for chunk, equal in zip(chunks, shared, strict=True)]
        if mined is not None:
            parts = [torch.cat([part, mined[part].flatten()]) for part in parts]
        loaded = self.load([part.tolist() for part in parts])
        for (items, batch), equal in zip(loaded, shared, strict=True):
            yield Part(items, batch, equal)

    def in_order(self, epoch: int, items: list[int] | None = None) -> Iterator[tuple[list[int], TrainingBatch]]:
        """Yield items in the given order, augmented as in `epoch`; processes take whole batches by turns.

        Args:
            epoch: Number of the epoch, from 0.
            items: Numbers of the items; None yields all in the order of the data set.

        Yields:
            The numbers of the items, and the items.
        """
        self.dataset.epoch = epoch
        order = torch.arange(len(self.dataset)) if items is None else torch.tensor(items)
        chunks = torch.split(order, self.training.batch_size)
        return self.load([chunk.tolist() for chunk in chunks[self.fabric.global_rank :: self.fabric.world_size]])

    def load(self, batches: list[list[int]]) -> Iterator[tuple[list[int], TrainingBatch]]:
        """Yield batches of the given items, on the device of this process."""
        loader: DataLoader[TrainingBatch] = DataLoader(
            self.dataset,  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=collate,
            # Reading cached features costs less than passing them between processes.
            num_workers=0 if self.dataset.features is not None else self.training.workers,
            # By default every pass would draw from torch's global generator, and a resumed run would draw once more.
            generator=torch.Generator(),
        )
        for indices, batch in zip(batches, loader, strict=True):
            yield indices, TrainingBatch(*(tensor.to(self.fabric.device) for tensor in batch))
